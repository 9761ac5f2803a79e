package cachetier

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

func TestNode_Run_JoinsTheRingAndSaysGoodbye(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db, unknown := newFakeDB(t, keys), newFakeDB(t, keys)
	db.registry.cfg.DBs = func() []api.DBNode { return []api.DBNode{{URL: db.URL}, {URL: unknown.URL}} }
	fast := func(cfg *NodeConfig) { cfg.HeartbeatInterval = time.Millisecond }
	nodes := []*testNode{newTestNode(t, fast, db), newTestNode(t, fast, db), newTestNode(t, fast, db)}
	var running sync.WaitGroup
	var stops []context.CancelFunc
	for _, n := range nodes {
		ctx, stop := context.WithCancel(t.Context())
		stops = append(stops, stop)
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	eventually(t, "every node knows the others and the second database", func() bool {
		for _, n := range nodes {
			if len(n.view.Load().peers) != 2 || len(n.databases.all()) != 2 {
				return false
			}
		}
		return true
	})
	eventually(t, "the second database node hears heartbeats", func() bool { return listed(unknown.registry) != "" })
	stops[0]()
	eventually(t, "the goodbye", func() bool {
		for _, c := range db.registry.Caches() {
			if c.URL == nodes[0].server.URL {
				return !c.Healthy
			}
		}
		return false
	})
	stops[1]()
	stops[2]()
	running.Wait()
}

func TestNode_Round_DatabaseRestartsEmpty(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := []*testNode{newTestNode(t, frozen, db), newTestNode(t, frozen, db)}
	beat := func(n *testNode) {
		var beats sync.WaitGroup
		n.round(t.Context(), &beats)
		beats.Wait()
	}
	beat(nodes[0])
	beat(nodes[1])
	beat(nodes[0])
	db.mu.Lock()
	db.registry = NewRegistry(RegistryConfig{})
	db.mu.Unlock()
	beat(nodes[0])
	if peers := len(nodes[0].view.Load().peers); peers != 1 {
		t.Errorf("%d peers just after the database lost its list, want the last known one", peers)
	}
	beat(nodes[1])
	if got := len(db.registry.Caches()); got != 2 {
		t.Errorf("%d caches registered again, want 2", got)
	}
}

// A database node that others name is sent heartbeats, and no request of a client
// before it has answered one as a member: anybody may have named that URL.
func TestNode_NamedDatabase_HasToProveItself(t *testing.T) {
	t.Parallel()
	for name, claims := range map[string]bool{"stranger": false, "member": true} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			beats, others := 0, []string{}
			var named *httptest.Server
			named = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if r.Method != http.MethodPost || r.URL.Path != "/caches" {
					others = append(others, r.Method+" "+r.URL.Path)
					return
				}
				beats++
				answer := api.HeartbeatAnswer{}
				if claims {
					answer.DBs = []api.DBNode{{Name: "n2", URL: named.URL + "/"}}
				}
				json.NewEncoder(w).Encode(answer)
			}))
			defer named.Close()
			db := newFakeDB(t, newFakeKeys())
			db.registry = NewRegistry(RegistryConfig{DBs: func() []api.DBNode {
				return []api.DBNode{{Name: "n1", URL: db.URL}, {Name: "n2", URL: named.URL}}
			}})
			n := newTestNode(t, func(cfg *NodeConfig) { cfg.HeartbeatInterval = 10 * time.Millisecond }, db)
			var running sync.WaitGroup
			running.Go(func() { n.Run(t.Context()) })
			t.Cleanup(running.Wait) // t.Context ends before
			eventually(t, "heartbeats reach what was named", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return beats >= 3
			})
			if claims {
				eventually(t, "the member is used", func() bool { return slices.Contains(n.nearest(), named.URL) })
				return
			}
			if got := n.nearest(); !slices.Equal(got, []string{db.URL}) {
				t.Errorf("requests go to %v", got)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(others) > 0 {
				t.Errorf("the stranger was sent %v", others)
			}
		})
	}
}

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
