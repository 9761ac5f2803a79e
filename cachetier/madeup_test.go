package cachetier

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNode_MadeUpPeers: peers that heartbeats named and that never answered own no
// key, and asking whether they are there has a bound; one that does answer joins.
func TestNode_MadeUpPeers(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var asked atomic.Int64
	var conns sync.WaitGroup
	defer conns.Wait()
	over := make(chan struct{})
	defer close(over)
	conns.Go(func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			conns.Go(func() {
				<-over
				conn.Close()
			})
		}
	})
	defer silent.Close() // before conns are waited for

	nodes := newTestNodes(t, 2, func(cfg *NodeConfig) { cfg.PeerTimeout = time.Second }, newFakeDB(t, newFakeKeys()))
	n, other := nodes[0], nodes[1]
	n.setPeers(nil)
	urls := []string{other.server.URL}
	for i := range 200 {
		urls = append(urls, fmt.Sprintf("http://made-up-%d.localhost:%d", i, silent.Addr().(*net.TCPAddr).Port))
	}
	for _, d := range n.databases.all() {
		d.beating.Store(true) // no heartbeat, which would tell the truth
	}
	n.setPeers(urls)
	if got := len(n.view.Load().ring.nodes); got != 1 {
		t.Fatalf("%d nodes own keys before any has answered", got)
	}
	var beats sync.WaitGroup
	for rounds := 0; !n.view.Load().peers[other.server.URL].proven.Load(); rounds++ {
		if rounds == 100 {
			t.Fatal("a peer that answers does not join")
		}
		before := asked.Load()
		n.round(t.Context(), &beats)
		beats.Wait()
		if got := asked.Load() - before; got > probesMax {
			t.Errorf("%d probes in one round", got)
		}
	}
	if got := len(n.view.Load().ring.nodes); got != 2 {
		t.Errorf("%d nodes own keys, want this one and the one that answers", got)
	}
	if keyOwnedBy(t, n, other) == "" {
		t.Error("the peer that answers owns nothing")
	}
}
