package cachetier

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

func TestNode_Get_DeadOwner(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n, owner := nodes[0], nodes[1]
	key := string(keyOwnedBy(t, n, owner))
	owner.server.Close()
	if source := mustGet(t, n, keys.put(key, []byte("v"))); source != sourceLoad {
		t.Errorf("source %s", source)
	}
	if !n.view.Load().peers[owner.server.URL].down.Load() {
		t.Error("a dead owner is still asked")
	}
	if n.counters.peerErrors.Load() != 1 {
		t.Errorf("%d peer errors", n.counters.peerErrors.Load())
	}
}

// A hung owner delays the loads that have begun to ask it, all at the same time,
// and none that begin later, until it moves again.
func TestNode_Get_HungOwnerDelaysOnceThenNothingThenIsBack(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"stream", "new stream", "plain HTTP"} {
		t.Run(way, func(t *testing.T) {
			keys := newFakeKeys()
			db := newFakeDB(t, keys)
			nodes := newTestNodes(t, 2, func(cfg *NodeConfig) {
				cfg.HedgeDelay, cfg.PeerTimeout = 500*time.Millisecond, 2*time.Second
			}, db)
			n, owner := nodes[0], nodes[1]
			owner.plain.Store(way == "plain HTTP")
			owned, burst := ownedKeys(t, n, owner, 2000), 100
			for _, key := range owned {
				keys.put(key, []byte(key))
			}
			get := func(key string) string {
				want, _ := keys.get(key)
				return mustGet(t, n, want)
			}
			next := 1010
			var beats sync.WaitGroup
			asksOwner := func() bool { // in a moment in which the machine lets it answer in time
				n.round(t.Context(), &beats)
				beats.Wait()
				next++
				return get(owned[next]) == sourcePeer
			}
			db.registry.Heartbeat("127.0.0.1", api.Heartbeat{Name: "owner", URL: owner.server.URL})
			if way != "new stream" {
				eventually(t, "the owner is asked", asksOwner)
			}
			owner.hang.set()
			var loads sync.WaitGroup
			for _, key := range owned[:burst] {
				loads.Go(func() {
					if source := get(key); source != sourceLoad {
						t.Errorf("source %s while the owner hangs", source)
					}
				})
			}
			loads.Wait()
			asked := func() uint64 { return n.counters.peerHedges.Load() + n.counters.peerErrors.Load() }
			before := asked()
			if before == 0 {
				t.Error("nobody has noticed that the owner hangs")
			}
			for _, key := range owned[1000:1010] {
				get(key)
			}
			if more := asked() - before; more != 0 {
				t.Errorf("the owner was asked %d times after it had been found silent", more)
			}
			n.round(t.Context(), &beats)
			beats.Wait()
			p := n.view.Load().peers[owner.server.URL]
			if p == nil || !p.down.Load() {
				t.Fatal("the owner is not down though its probe hung")
			}
			owner.hang.release()
			eventually(t, "the owner is back", asksOwner)
		})
	}
}

func ownedKeys(t *testing.T, n, owner *testNode, count int) []string {
	t.Helper()
	var found []string
	for i := 0; len(found) < count; i++ {
		if key := fmt.Sprintf("owned-%d", i); n.view.Load().ring.owner(key) == owner.server.URL {
			found = append(found, key)
		}
	}
	return found
}

func TestNode_Get_OwnerWithoutDatabaseIsNotDead(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db, deadDB := newFakeDB(t, keys), newFakeDB(t, keys)
	deadDB.Close()
	n, owner := newTestNode(t, nil, db), newTestNode(t, nil, deadDB)
	connect(n, owner)
	if source := mustGet(t, n, keys.put(string(keyOwnedBy(t, n, owner)), []byte("v"))); source != sourceLoad {
		t.Errorf("source %s", source)
	}
	if n.view.Load().peers[owner.server.URL].down.Load() {
		t.Error("an owner that answers is held for dead")
	}
}

// Two nodes with different lists, each believing the other to be the owner,
// load the same key at the same time. Whoever is asked by a peer must not ask
// back.
func TestNode_Get_NodesThatBelieveEachOtherTheOwner(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	a, b := nodes[0], nodes[1]
	for _, pair := range [][2]*testNode{{a, b}, {b, a}} {
		v := *pair[0].view.Load()
		v.ring = newRing([]string{pair[1].server.URL})
		pair[0].view.Store(&v)
	}
	for i := range 20 {
		want := keys.put(fmt.Sprint("mutual-", i), []byte("v"))
		absent := kvstore.Key(fmt.Sprint("mutual-absent-", i))
		var callers sync.WaitGroup
		for _, n := range nodes {
			for range 4 {
				callers.Go(func() { mustGet(t, n, want) })
				callers.Go(func() {
					if _, _, err := n.Get(t.Context(), absent, kvstore.Linearizable); !errors.Is(err, kvstore.ErrNotFound) {
						t.Errorf("absent: %v", err)
					}
				})
			}
		}
		callers.Wait()
		if reads := db.readsOf(string(want.meta.Key)); reads > 2 {
			t.Errorf("%d reads of one key by two nodes", reads)
		}
	}
	if a.counters.peerErrors.Load()+b.counters.peerErrors.Load() != 0 {
		t.Error("a peer failed: somebody waited too long")
	}
}

func TestNode_Get_WrongBytesOfAPeerAreRefused(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	value := []byte("the value")
	for name, lie := range map[string]func(want fakeValue) []byte{
		"value": func(want fakeValue) []byte {
			return append(encodeHeader(want.meta, false), bytes.ToUpper(value)...)
		},
		"whole other key's record": func(want fakeValue) []byte {
			want.meta.Key = "another"
			return append(encodeHeader(want.meta, false), value...)
		},
		"cut short": func(want fakeValue) []byte { return encodeHeader(want.meta, false) },
		"nothing":   func(fakeValue) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var want fakeValue
			liar := newFakeDB(t, keys) // a server will do
			liar.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				w.Header().Set("Content-Type", typeRecord)
				w.Write(lie(want))
				return true
			})
			n.knows([]string{liar.URL})
			for i := 0; ; i++ {
				key := fmt.Sprint(name, i)
				if n.view.Load().ring.owner(key) == liar.URL {
					want = keys.put(key, value)
					break
				}
			}
			if source := mustGet(t, n, want); source != sourceLoad {
				t.Errorf("source %s", source)
			}
		})
	}
}

func TestNode_PeerHandler_AnswersOnlyPeers(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, nil, newFakeDB(t, newFakeKeys()))
	for target, want := range map[string]int{
		"/peer/ping": 204, "/peer/record?key=YQ": 404, "/peer/record": 400, "/peer/record?key=": 400, "/peer/record?key=*": 400, "/peer/record?key=AA": 400, "/peer/other": 404,
	} {
		resp, err := http.Get(n.server.URL + target)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", target, resp.StatusCode, want)
		}
		if absent := resp.Header.Get("Content-Type") == typeAbsent; absent != (target == "/peer/record?key=YQ") {
			t.Errorf("%s has type %q", target, resp.Header.Get("Content-Type"))
		}
	}
}
