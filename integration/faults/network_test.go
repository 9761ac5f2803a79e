package faults

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

// network is this test's own bridge with its hosts. Clients are in the root namespace, which
// has the bridge's address.
type network struct {
	t      testing.TB
	id     string // in every name
	prefix string // first three bytes of the addresses
	hosts  []*host
}

// host is a network namespace with one address.
type host struct {
	net  *network
	name string // name of the host's node
	ns   string
	addr string

	// What its firewall does to packets from other hosts, by their name.
	dropped map[string]bool
	lossy   map[string]int // percent
}

// newNetwork makes a bridge with a name and an address range that nothing else on the machine
// has. 198.18/15 is reserved for network tests. It takes a range first and checks it then: if
// two networks choose the same one at the same time, at least one sees the other and chooses
// again.
func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{t: t, id: fmt.Sprintf("okf%05x", rand.IntN(1<<20))}
	undoLater(t, "ip", "link", "del", n.id)
	do(t, "ip", "link", "add", n.id, "type", "bridge")
	for {
		n.prefix = fmt.Sprintf("198.%d.%d.", 18+rand.IntN(2), rand.IntN(256))
		do(t, "ip", "addr", "add", n.own()+"/24", "dev", n.id)
		if holders(t, n.prefix) == 1 {
			break
		}
		do(t, "ip", "addr", "del", n.own()+"/24", "dev", n.id)
	}
	do(t, "ip", "link", "set", n.id, "up")
	return n
}

// holders counts the interfaces with an address that begins with prefix.
func holders(t testing.TB, prefix string) (count int) {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if strings.HasPrefix(a.String(), prefix) {
			count++
		}
	}
	return count
}

// own is the address of clients and proxies.
func (n *network) own() string { return n.prefix + "1" }

// host makes a namespace for a node.
func (n *network) host(name string) *host {
	n.t.Helper()
	h := &host{
		net: n, name: name, ns: n.id + name, addr: fmt.Sprintf("%s%d", n.prefix, 11+len(n.hosts)),
		dropped: map[string]bool{}, lossy: map[string]int{},
	}
	link := n.id + name // interface names have 15 characters at most
	undoLater(n.t, "ip", "netns", "del", h.ns)
	do(n.t, "ip", "netns", "add", h.ns)
	undoLater(n.t, "ip", "link", "del", link) // a namespace stays while its last connections time out, and its link with it
	do(n.t, "ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	do(n.t, "ip", "link", "set", link, "master", n.id, "up")
	h.do("ip", "link", "set", "lo", "up")
	h.do("ip", "addr", "add", h.addr+"/24", "dev", "eth0")
	h.do("ip", "link", "set", "eth0", "up")
	n.hosts = append(n.hosts, h)
	return h
}

// inside returns the command that runs another one in the host's network. It does not use "ip
// netns exec", "ip -n" or "tc -n": these create a mount namespace too, which keeps every
// current mount alive, including those of other episodes.
func (h *host) inside() []string {
	return []string{"nsenter", "--net=/run/netns/" + h.ns, "--"}
}

// do runs a command in the host's network that must succeed.
func (h *host) do(args ...string) {
	h.net.t.Helper()
	do(h.net.t, append(h.inside(), args...)...)
}

// slow limits all traffic in and out of the host.
func (h *host) slow(rate string) {
	h.net.t.Helper()
	shape := []string{"root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms"}
	do(h.net.t, append([]string{"tc", "qdisc", "replace", "dev", h.net.id + h.name}, shape...)...)
	h.do(append([]string{"tc", "qdisc", "replace", "dev", "eth0"}, shape...)...)
}

// fast undoes slow.
func (h *host) fast() {
	h.net.t.Helper()
	do(h.net.t, "tc", "qdisc", "del", "dev", h.net.id+h.name, "root")
	h.do("tc", "qdisc", "del", "dev", "eth0", "root")
}
