package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// setFlag replaces or adds a flag of a process.
func setFlag(p *clustertest.Process, flag, value string) {
	if i := slices.Index(p.Args, flag); i >= 0 {
		p.Args[i+1] = value
		return
	}
	p.Args = append(p.Args, flag, value)
}

// says waits until a process has written a text.
func says(t *testing.T, p *clustertest.Process, text string) {
	t.Helper()
	clustertest.Eventually(t, p.Name+" says "+text, func() error {
		if log := p.Log(); !strings.Contains(log, text) {
			return fmt.Errorf("it says:\n%s", log)
		}
		return nil
	})
}

// Nodes whose data belongs to a cluster move to other peer ports, one after the other, started
// with the command line that formed the cluster. Its list is outdated by now and is ignored.
func TestSettings_OldList_NewPeerPorts(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	cl := clustertest.Client(t, clustertest.URLs(p.DBs...)...)
	for round, list := range []string{"", "n7=http://127.0.0.1:1,n8=http://127.0.0.1:2"} {
		for _, n := range p.DBs {
			n.Terminate()
			n.Peer = clustertest.FreeAddr(t)
			setFlag(n, "--peer-listen", n.Peer)
			if list != "" { // the list no longer names this node
				setFlag(n, "--initial-cluster", list)
			}
			n.Start()
			n.WaitReady()
			clustertest.Eventually(t, "the cluster knows where "+n.Name+" is now", func() error { return knownAt(cl, t, n) })
			key := fmt.Sprintf("k%d/%s", round, n.Name)
			if _, err := cl.PutBytes(clustertest.WithTimeout(t), key, []byte("v"), client.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// All old addresses are gone: the nodes must have found one another again.
	p.WaitReady()
	p.Leader()
	clustertest.SameHistory(t, p.DBs...)
}

func knownAt(cl *client.Client, t *testing.T, n *clustertest.Process) error {
	ms, err := cl.Members(clustertest.WithTimeout(t))
	if err != nil {
		return err
	}
	for _, m := range ms.Members {
		if m.Name == n.Name && m.PeerURL != "http://"+n.Peer {
			return fmt.Errorf("it is at %s, and the cluster has %s", n.Peer, m.PeerURL)
		}
	}
	return nil
}

// With data, a wildcard address needs no --advertise: the cluster knows the URL.
func TestSettings_Wildcard_KeepsThePeerURL(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 1, 0)
	n := p.DBs[0]
	_, port, err := net.SplitHostPort(n.Peer)
	if err != nil {
		t.Fatal(err)
	}
	n.Peer = "127.0.0.1:" + port
	setFlag(n, "--peer-listen", "0.0.0.0:"+port)
	setFlag(n, "--initial-cluster", "n1=http://"+n.Peer)
	p.StartAll()
	n.Terminate()
	setFlag(n, "--initial-cluster", "n1=http://127.0.0.1:9")
	n.Start()
	n.WaitReady()
	cl := clustertest.Client(t, n.URL())
	clustertest.Eventually(t, "n1 is where it was", func() error { return knownAt(cl, t, n) })
}

// wrong starts a node once with a setting that can never work.
func wrong(t *testing.T, words []string, args ...string) {
	t.Helper()
	node := clustertest.NewProcess(t, bin, args[0], "", args...)
	node.Start()
	if code := node.Wait(); code != 2 {
		t.Errorf("%v ends with exit code %d, want 2:\n%s", args, code, node.Log())
	}
	for _, word := range words {
		if !strings.Contains(node.Log(), word) {
			t.Errorf("%v does not say %q:\n%s", args, word, node.Log())
		}
	}
}

// joining returns the command line of a database node that joins.
func joining(t *testing.T, urls ...string) []string {
	return []string{"serve", "--name", "n9", "--data-dir", filepath.Join(t.TempDir(), "n9"), "--listen", clustertest.FreeAddr(t), "--peer-listen", clustertest.FreeAddr(t), "--join", strings.Join(urls, ",")}
}

func TestJoin_SaysWhoIsThere(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 1, 1)
	admin := p.NewAdmin()
	p.StartAll()
	admin.Start()
	admin.WaitReady()
	db, peer := p.DBs[0], "http://"+p.DBs[0].Peer

	wrong(t, []string{"--join", peer + " is the peer port of a database node, n1", db.URL()}, joining(t, peer)...)
	wrong(t, []string{"--join", "is a cache node, c1"}, joining(t, p.Caches[0].URL())...)
	wrong(t, []string{"--join", "is an admin"}, joining(t, admin.URL())...)
	wrong(t, []string{"peer port", "cache node"}, joining(t, peer, p.Caches[0].URL())...)
	line := joining(t, "http://127.0.0.1:1")
	wrong(t, []string{"--join", "this node itself"}, append(line[:len(line)-1], "http://"+line[6])...)

	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	stranger := clustertest.NewProcess(t, bin, "n9", "", joining(t, page.URL)...)
	stranger.Start()
	says(t, stranger, page.URL+" is not an oncekv node")
	nobody := clustertest.NewProcess(t, bin, "n9", "", joining(t, "http://127.0.0.1:1")...)
	nobody.Start()
	says(t, nobody, "http://127.0.0.1:1: connection refused")
	for _, waiting := range []*clustertest.Process{stranger, nobody} {
		if !waiting.Running() {
			t.Errorf("it does not wait:\n%s", waiting.Log())
		}
		waiting.Kill9()
	}

	// One correct URL is enough.
	n2 := p.Joiner("n2", db)
	setFlag(n2, "--join", peer+",http://127.0.0.1:1,"+db.URL())
	n2.Start()
	n2.WaitReady()
	says(t, n2, "is the peer port of a database node, n1")
}

func TestSettings_PeerPort_SaysWhereClientsGo(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 1, 0)
	p.StartAll()
	db, peer := p.DBs[0], "http://"+p.DBs[0].Peer
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost} {
		for _, path := range []string{"/", "/key/k", "/keys", "/members", "/caches", "/stats", "/readyz"} {
			req, err := http.NewRequest(method, peer+path, strings.NewReader("v"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var problem api.Problem
			if method != http.MethodHead {
				err = json.NewDecoder(resp.Body).Decode(&problem)
			}
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusMisdirectedRequest || method != http.MethodHead && !strings.Contains(problem.Detail, db.URL()) {
				t.Errorf("%s %s: %s, %+v, %v", method, path, resp.Status, problem, err)
			}
		}
	}
	out, code := oncekv(t, "get", "k", "--endpoints", peer)
	if code != 1 || !strings.Contains(out, "peer port of the database node n1") || !strings.Contains(out, db.URL()) {
		t.Errorf("get ends with %d and says %s", code, out)
	}
	cache := clustertest.NewProcess(t, bin, "c1", "", "cache", "--listen", clustertest.FreeAddr(t), "--nodes", peer)
	cache.Start()
	says(t, cache, peer+" is the peer port of a database node, n1: use its client URL, "+db.URL())
	admin := clustertest.NewProcess(t, bin, "admin", "", "admin", "--listen", clustertest.FreeAddr(t), "--nodes", peer)
	admin.Start()
	says(t, admin, peer+" is the peer port of a database node, n1: use its client URL, "+db.URL())
	founder := clustertest.NewProcess(t, bin, "n8", "", "serve", "--name", "n8", "--data-dir", filepath.Join(t.TempDir(), "n8"),
		"--listen", clustertest.FreeAddr(t), "--peer-listen", "127.0.0.1:0", "--peer-advertise", "http://127.0.0.1:9", "--initial-cluster", "n8=http://127.0.0.1:9,n1="+db.URL())
	founder.Start()
	says(t, founder, "n1 ("+db.URL()+": that is where clients reach a database node, n1; give the URL at which --peer-listen")
}

// oncekv runs a command and returns its output and its exit code.
func oncekv(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // the exit code says it
	return out.String(), cmd.ProcessState.ExitCode()
}

// Traffic between nodes never uses a proxy. Go uses none for loopback addresses, so the nodes
// go by names, which a hosts file of their own resolves.
func TestProxy_OfTheEnvironment_IsNotUsed(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 4, 2)
	admin := p.NewAdmin()
	n4 := p.DBs[3]
	p.DBs = p.DBs[:3]
	under := withHosts(t, append(p.All(), n4)...)
	for _, n := range append(p.All(), n4, admin) {
		n.Under = under
		for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
			n.Env = append(n.Env, name+"=http://127.0.0.1:1")
		}
		n.Env = append(n.Env, "NO_PROXY=", "no_proxy=")
	}
	named := func(n *clustertest.Process, addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		return "http://" + n.Name + ".kv.test:" + port
	}
	var list []string
	for _, n := range p.DBs {
		list = append(list, n.Name+"="+named(n, n.Peer))
	}
	seeds := named(p.DBs[0], p.DBs[0].Addr)
	for _, n := range p.DBs {
		setFlag(n, "--initial-cluster", strings.Join(list, ","))
	}
	n4.Args = slices.DeleteFunc(n4.Args, func(a string) bool { return a == "--initial-cluster" || strings.HasPrefix(a, "n1=") })
	setFlag(n4, "--join", seeds)
	for _, n := range append(slices.Clone(p.DBs), n4) {
		setFlag(n, "--advertise", named(n, n.Addr))
		setFlag(n, "--peer-advertise", named(n, n.Peer))
	}
	for _, c := range p.Caches {
		setFlag(c, "--advertise", named(c, c.Addr))
		setFlag(c, "--nodes", seeds)
	}
	setFlag(admin, "--nodes", seeds)

	p.StartAll()
	n4.Start()
	becomesVoter(t, "n4", clustertest.URLs(p.DBs...)...)
	admin.Start()
	admin.WaitReady()
	// A put through one cache node is forwarded. The other reads the key from the database or
	// from the owner.
	for i := range 20 {
		key := fmt.Sprintf("k%d", i)
		if _, err := clustertest.Client(t, p.Caches[0].URL()).PutBytes(clustertest.WithTimeout(t), key, []byte("v"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		mustHave(t, map[string]string{key: "v"}, p.Caches...)
	}
	clustertest.Eventually(t, "all nodes are healthy in each other's eyes", func() error {
		ms, err := clustertest.Client(t, p.DBs[0].URL()).Members(clustertest.WithTimeout(t))
		for _, m := range ms.Members {
			if !m.Healthy {
				return fmt.Errorf("%s is not", m.Name)
			}
		}
		return err
	})
	clustertest.SameHistory(t, append(p.DBs, n4)...)
}

// A name that leads to a link-local address is not dialled, whoever resolves it.
func TestJoin_NameOfALinkLocalAddress_IsNotDialled(t *testing.T) {
	t.Parallel()
	n := clustertest.NewProcess(t, bin, "n9", "", joining(t, "http://metadata.kv.test:80")...)
	n.Under = withHosts(t)
	n.Start()
	says(t, n, "nodes do not connect to 169.254.169.254:80: its address is a link-local one")
}

// withHosts returns a command under which NAME.kv.test is a process's address.
func withHosts(t *testing.T, nodes ...*clustertest.Process) []string {
	t.Helper()
	var hosts strings.Builder
	fmt.Fprintln(&hosts, "127.0.0.1 localhost\n169.254.169.254 metadata.kv.test")
	for _, n := range nodes {
		for _, addr := range []string{n.Addr, n.Peer} {
			if host, _, err := net.SplitHostPort(addr); err == nil {
				fmt.Fprintf(&hosts, "%s %s.kv.test\n", host, n.Name)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte(hosts.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	under := []string{"unshare", "--mount", "--map-root-user", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, file}
	if out, err := exec.Command(under[0], append(under[1:], "true")...).CombinedOutput(); err != nil {
		why := fmt.Sprintf("no mount namespace can be made on this %s: %v %s", runtime.GOOS, err, out)
		full(t, why)
		t.Fatal(why)
	}
	return under
}
