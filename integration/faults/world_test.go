package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

const (
	clientPort = "11000"
	peerPort   = "12000"
	cachePort  = "5551"
	cacheNodes = 3
)

// plan is what a row needs of its world.
type plan struct {
	databases  int      // 0: three, or sometimes five
	image      int64    // bytes of each database node's own ext4; 0: a plain directory
	flags      []string // of every database node
	peerProxy  bool     // peers reach each other through proxies that can corrupt
	valueBytes int      // of a value at most; 0: some kilobytes
	chunked    bool     // some values are stored in chunks
	bodies     bool     // some values are large, of one body or several, and some uploads are abandoned
}

// world is a cluster on its own network and disks.
type world struct {
	t      testing.TB
	plan   plan
	net    *network
	logs   string
	dbs    []*node // members, those that are down included
	caches []*node
}

// node is a process, its host, and its disk.
type node struct {
	*clustertest.Process
	host   *host
	disk   *volume    // nil for caches
	proxy  *peerProxy // nil without
	frozen bool
}

// newWorld prepares all nodes; none runs yet.
func newWorld(t testing.TB, p plan, rng *rand.Rand, logs string) *world {
	t.Helper()
	if p.databases == 0 {
		p.databases = 3
		if rng.IntN(4) == 0 {
			p.databases = 5
		}
	}
	w := &world{t: t, plan: p, net: newNetwork(t), logs: logs}
	var initial []string
	for i := range p.databases {
		d := w.database(fmt.Sprintf("n%d", i+1))
		initial = append(initial, d.Name+"="+d.peerURL())
		w.dbs = append(w.dbs, d)
	}
	for _, d := range w.dbs {
		d.Args = append(d.Args, "--initial-cluster", strings.Join(initial, ","))
	}
	for i := range cacheNodes {
		h := w.net.host(fmt.Sprintf("c%d", i+1))
		addr := h.addr + ":" + cachePort
		c := &node{host: h, Process: clustertest.NewProcess(t, run.bin, h.name, addr,
			"cache", "--name", h.name, "--listen", addr, "--nodes", w.dbs[0].URL()+","+w.dbs[1].URL())}
		w.place(c)
		w.caches = append(w.caches, c)
	}
	return w
}

// database prepares a database node on its own host and disk; the caller still has to say how
// it finds its cluster.
func (w *world) database(name string) *node {
	w.t.Helper()
	h := w.net.host(name)
	d := &node{host: h}
	if w.plan.image > 0 {
		d.disk = imageVolume(w.t, w.plan.image)
	} else {
		d.disk = plainVolume(w.t)
	}
	w.equip(d)
	return d
}

// equip makes the process of a database node.
func (w *world) equip(d *node) {
	w.t.Helper()
	addr := d.host.addr + ":" + clientPort
	d.Process = clustertest.NewProcess(w.t, run.bin, d.host.name, addr)
	d.Peer = d.host.addr + ":" + peerPort
	d.Dir = d.disk.point + "/data"
	d.Args = append([]string{"serve", "--name", d.Name, "--listen", addr, "--peer-listen", d.Peer, "--data-dir", d.Dir}, w.plan.flags...)
	if w.plan.peerProxy {
		if d.proxy == nil {
			d.proxy = newPeerProxy(w.t, w.net.own(), d.Peer)
		}
		d.Args = append(d.Args, "--peer-advertise", d.proxy.url)
	}
	w.place(d)
}

func (w *world) place(n *node) {
	n.Under, n.Logs = n.host.inside(), w.logs
}

// peerURL returns where other database nodes reach this one.
func (n *node) peerURL() string {
	if n.proxy != nil {
		return n.proxy.url
	}
	return "http://" + n.Peer
}

// freeze stops the process where it is; thaw lets it continue.
func (n *node) freeze() { n.Signal(syscall.SIGSTOP); n.frozen = true }
func (n *node) thaw()   { n.Signal(syscall.SIGCONT); n.frozen = false }

// halt stops the process and waits until no thread is in one of the states of proc(5). With
// "RS" some may still be in the kernel, writing or flushing; they stop before they return.
// With "RSD" there are none.
func (n *node) halt(t testing.TB, states string) {
	t.Helper()
	n.Signal(syscall.SIGSTOP)
	clustertest.Eventually(t, n.Name+" stands still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.PID()))
		for _, thread := range threads {
			b, err := os.ReadFile(thread)
			if err != nil {
				continue // it has ended
			}
			if _, after, _ := strings.Cut(string(b), ") "); after != "" && strings.Contains(states, after[:1]) {
				return fmt.Errorf("a thread is in state %s", after[:1])
			}
		}
		return err
	})
}

// start runs all nodes and waits until they are ready.
func (w *world) start() {
	w.t.Helper()
	for _, n := range w.all() {
		n.Start()
	}
	w.ready()
}

// all returns the database nodes and the caches.
func (w *world) all() []*node { return append(slices.Clone(w.dbs), w.caches...) }

// ready waits until every running node is ready.
func (w *world) ready() {
	w.t.Helper()
	for _, n := range w.all() {
		if n.Running() {
			n.WaitReady()
		}
	}
}

// leader waits for a database node that says it leads, and whose term no other node exceeds.
func (w *world) leader(among ...*node) *node {
	w.t.Helper()
	if len(among) == 0 {
		among = w.dbs
	}
	var leader *node
	clustertest.Eventually(w.t, "a leader", func() error {
		leader = nil
		term := uint64(0)
		for _, d := range among {
			if !d.Running() || d.frozen {
				continue
			}
			s, err := d.Stats()
			if err != nil || s.Term < term {
				continue
			}
			if s.Term > term {
				leader, term = nil, s.Term
			}
			if s.Role == api.RoleLeader {
				leader = d
			}
		}
		if leader == nil {
			return fmt.Errorf("no node leads")
		}
		return nil
	})
	return leader
}

// term returns the highest term that a running database node knows.
func (w *world) term() (term uint64) {
	for _, d := range w.dbs {
		if s, err := d.Stats(); err == nil {
			term = max(term, s.Term)
		}
	}
	return term
}

// others returns the database nodes except these.
func (w *world) others(but ...*node) (rest []*node) {
	for _, d := range w.dbs {
		if !slices.Contains(but, d) {
			rest = append(rest, d)
		}
	}
	return rest
}

func hosts(nodes ...*node) (hs []*host) {
	for _, n := range nodes {
		hs = append(hs, n.host)
	}
	return hs
}

func urls(nodes ...*node) (us []string) {
	for _, n := range nodes {
		us = append(us, n.URL())
	}
	return us
}

// wipe empties a node's disk.
func (n *node) wipe(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(n.Dir); err != nil {
		t.Fatal(err)
	}
}
