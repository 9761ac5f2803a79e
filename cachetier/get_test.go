package cachetier

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

func TestNode_Get_EveryKeyIsExactThroughEveryNode(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 3, nil, newFakeDB(t, keys), newFakeDB(t, keys))
	names := []string{"a", "a b", "a+b", "a%20b", "a/b", "a//b", "a%2Fb", "..", ".", "a/../b", "./a", "a/", "/a", "a?b#c", "a&b=c;d", "%", "\xff\xfe", "\x01",
		"ünï/日本", strings.Repeat("k", 1024), strings.Repeat("\xff", 1024), strings.Repeat("../", 341)}
	for b := 1; b < 256; b++ {
		names = append(names, "byte-"+string([]byte{byte(b)})+"-")
	}
	for _, name := range names {
		keys.put(name, []byte("value of "+name))
	}
	sources := map[string]int{}
	for _, name := range names {
		want, _ := keys.get(name)
		for range 2 {
			for _, n := range nodes {
				sources[mustGet(t, n, want)]++
			}
		}
	}
	if sources[sourceHit] == 0 || sources[sourcePeer] == 0 || sources[sourceLoad] == 0 {
		t.Errorf("sources %v: every way of answering must have been used", sources)
	}
}

func TestNode_Get_AbsenceIsNotCached(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	for _, owner := range nodes {
		key := keyOwnedBy(t, nodes[0], owner)
		for i := range 3 {
			if _, _, err := nodes[0].Get(t.Context(), key, kvstore.Linearizable); !errors.Is(err, kvstore.ErrNotFound) {
				t.Fatalf("get: %v", err)
			}
			if n := db.readsOf(string(key)); n != i+1 {
				t.Errorf("%d database reads after %d gets of an absent key: each must ask, once", n, i+1)
			}
		}
		mustGet(t, nodes[0], keys.put(string(key), []byte("now")))
	}
	if n := nodes[0].counters.absences.Load(); n != 6 {
		t.Errorf("%d absences counted, want 6", n)
	}
}

// A load looks before the put and answers after it; whoever comes after the
// put was acknowledged must not get the old absence, whether the load is this
// node's own or its owner's.
func TestNode_Get_PutAcknowledgedBeforeTheCallerIsNeverHidden(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"own load", "through a peer", "two nodes ask the owner"} {
		t.Run(where, func(t *testing.T) {
			keys := newFakeKeys()
			db := newFakeDB(t, keys)
			nodes := newTestNodes(t, 3, nil, db)
			owner, first, later := nodes[0], nodes[0], nodes[0]
			switch where {
			case "through a peer":
				first, later = nodes[1], nodes[1]
			case "two nodes ask the owner":
				first, later = nodes[1], nodes[2]
			}
			key := keyOwnedBy(t, first, owner)
			entered, release := make(chan struct{}), make(chan struct{})
			var looked atomic.Bool
			db.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				if looked.Swap(true) {
					return false
				}
				close(entered) // it has looked, and found nothing
				<-release
				answerAbsent(w)
				return true
			})
			early := make(chan error, 1)
			go func() {
				_, _, err := first.Get(t.Context(), key, kvstore.Linearizable)
				early <- err
			}()
			receive(t, "the early load has looked", entered)
			want := keys.put(string(key), []byte("acknowledged"))

			const late = 20
			results := make(chan error, late)
			ticks := later.clock.Load()
			for range late {
				go func() {
					v, _, err := later.Get(t.Context(), key, kvstore.Linearizable)
					if err == nil && v.SHA256 != want.meta.SHA256 {
						err = errors.New("wrong value")
					}
					results <- err
				}()
			}
			eventually(t, "the late callers have arrived", func() bool { return later.clock.Load() >= ticks+late })
			close(release)
			for range late {
				if err := receive(t, "a late caller", results); err != nil {
					t.Errorf("a caller who came after the put: %v", err)
				}
			}
			if err := receive(t, "the early caller", early); !errors.Is(err, kvstore.ErrNotFound) {
				t.Errorf("the caller who came before the put: %v", err)
			}
			if n := db.readsOf(string(key)); n != 2 {
				t.Errorf("%d database reads, want 2: late callers share one round", n)
			}
		})
	}
}

func TestNode_Get_LocalSharesNothing(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n := nodes[0]
	for _, owner := range nodes {
		key := keyOwnedBy(t, n, owner)
		entered, release := make(chan struct{}, 2), make(chan struct{})
		db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
			if r.URL.Query().Get("consistency") == "" {
				entered <- struct{}{}
				<-release
			}
			return false
		})
		result := make(chan error, 1)
		go func() {
			_, _, err := n.Get(t.Context(), key, kvstore.Linearizable)
			result <- err
		}()
		receive(t, "the default load", entered)
		if _, _, err := n.Get(t.Context(), key, kvstore.Local); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("a local read while a default load is in progress: %v", err)
		}
		close(release)
		if err := receive(t, "the default caller", result); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("the default caller: %v", err)
		}
		want := keys.put(string(key), []byte("v"))
		v, source, err := n.Get(t.Context(), key, kvstore.Local)
		if err != nil || source != sourceLoad || v.Meta != want.meta {
			t.Errorf("local: %+v, %s, %v", v, source, err)
		}
		mustGet(t, owner, want)
		if _, source, err := owner.Get(t.Context(), key, kvstore.Local); source != sourceHit || err != nil {
			t.Errorf("a local read of a held key: %s, %v", source, err)
		}
	}
}

func TestNode_Get_MemoryStaysBelowTheLimit(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 2, func(cfg *NodeConfig) { cfg.CacheBytes = 1 << 20 }, newFakeDB(t, keys))
	for i := range 60 {
		want := keys.put(fmt.Sprint("big-", i), bytes.Repeat([]byte{byte(i)}, 60<<10))
		for _, n := range nodes {
			mustGet(t, n, want)
		}
	}
	for _, n := range nodes {
		s := n.Stats()
		if s.Bytes == 0 || s.Bytes > s.LimitBytes || s.LimitBytes != 1<<20 {
			t.Errorf("%d of %d bytes held", s.Bytes, s.LimitBytes)
		}
		if s.Gets != 60 || s.Peers != 1 || s.Databases != 1 || s.Role != api.RoleCache || s.DatabaseLoads == 0 || s.PeerLoads == 0 || s.PeerServed == 0 {
			t.Errorf("stats %+v", s)
		}
	}
}

// A key that is hot everywhere is answered everywhere: its owner hears of it
// twice from each other node, however full their memories are.
func TestNode_Get_HotKeyIsNotLimitedByItsOwner(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 3, func(cfg *NodeConfig) { cfg.CacheBytes = 512 << 10 }, newFakeDB(t, keys))
	for _, n := range nodes { // nothing is free
		for _, key := range ownedKeys(t, n, n, 40) {
			mustGet(t, n, keys.put(key, make([]byte, 15<<10)))
		}
		if s := n.Stats(); s.Evictions == 0 {
			t.Fatalf("%d of %d bytes are held and nothing had to go: memory is not scarce", s.Bytes, s.LimitBytes)
		}
	}
	owner := nodes[0]
	hot := keys.put(string(keyOwnedBy(t, nodes[1], owner)), make([]byte, 15<<10))
	served := owner.Stats().PeerServed
	const asks = 100
	for range asks {
		for _, n := range nodes {
			mustGet(t, n, hot)
		}
	}
	if asked := owner.Stats().PeerServed - served; asked != 4 {
		t.Errorf("the owner answered its peers %d times for %d reads of one key, want 2 for each of 2 peers", asked, 2*asks)
	}
	for _, n := range nodes[1:] {
		if s := n.Stats(); s.MirroredHits != asks-2 || s.MirroredBytes == 0 || s.MirroredBytes > s.Bytes || s.Unadmitted != 1 {
			t.Errorf("stats %+v", s)
		}
	}
}

// A node serves all it holds when every database node and every peer is gone,
// and says of the rest that it cannot tell.
func TestNode_Get_EverythingHeldIsServedWithoutAnyDatabase(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dbs := []*fakeDB{newFakeDB(t, keys), newFakeDB(t, keys)}
	nodes := newTestNodes(t, 2, nil, dbs...)
	n := nodes[0]
	var held []fakeValue
	for i := range 200 {
		v := keys.put(fmt.Sprint("held-", i), fmt.Append(nil, "value ", i))
		mustGet(t, n, v)
		held = append(held, v)
	}
	for _, db := range dbs {
		db.CloseClientConnections()
		db.Close()
	}
	nodes[1].server.Close()
	for _, v := range held {
		if source := mustGet(t, n, v); source != sourceHit {
			t.Errorf("%s came by %s", v.meta.Key, source)
		}
		if v2, ok := n.Held(v.meta.Key); !ok || v2.Meta != v.meta {
			t.Errorf("%s: held %v", v.meta.Key, ok)
		}
	}
	_, _, err := n.Get(t.Context(), "other", kvstore.Linearizable)
	if !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("a key that is not held: %v, want ErrUnavailable", err)
	}
	if _, ok := n.Held("other"); ok {
		t.Error("a key that is not held is held")
	}
	if s := n.Stats(); s.Gets != 601 || s.Hits != 400 || s.Errors != 1 || s.MirroredHits == 0 || s.MirroredHits == s.Hits {
		t.Errorf("stats %+v", s)
	}
}

func TestNode_Get_RefusesBadKeys(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, nil, newFakeDB(t, newFakeKeys()))
	for _, key := range []kvstore.Key{"", "a\x00", kvstore.Key(strings.Repeat("k", 1025))} {
		if _, _, err := n.Get(t.Context(), key, kvstore.Linearizable); !errors.Is(err, kvstore.ErrInvalidKey) {
			t.Errorf("get %.5q: %v", key, err)
		}
	}
}
