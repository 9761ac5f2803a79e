package adminui

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// fakeNode is a database or cache node over loopback HTTP that says what a test
// wants.
type fakeNode struct {
	*httptest.Server

	mu      sync.Mutex
	stats   any
	members api.Members
	caches  []api.CacheNode
	frozen  chan struct{} // answers wait until it is closed; nil: they do not
}

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	n := &fakeNode{}
	n.Server = httptest.NewServer(http.HandlerFunc(n.answer))
	t.Cleanup(n.Close)
	return n
}

func (n *fakeNode) answer(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	frozen := n.frozen
	answer := map[string]any{"/stats": n.stats, "/members": n.members, "/caches": n.caches}[r.URL.Path]
	n.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-r.Context().Done():
		}
	}
	json.NewEncoder(w).Encode(answer)
}

func (n *fakeNode) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// fakeCluster is a cluster of fake nodes that agree.
type fakeCluster struct {
	dbs, caches []*fakeNode
}

func newFakeCluster(t *testing.T, databases, caches int) *fakeCluster {
	t.Helper()
	c := &fakeCluster{}
	for range databases {
		c.dbs = append(c.dbs, newFakeNode(t))
	}
	for range caches {
		c.caches = append(c.caches, newFakeNode(t))
	}
	c.lead(0, 1)
	return c
}

func name(kind string, i int) string { return kind + string(rune('1'+i)) }

// lead makes a node the leader of a term, and everybody know.
func (c *fakeCluster) lead(leader int, term uint64) {
	members := api.Members{Leader: name("n", leader), Term: term}
	for i, db := range c.dbs {
		role := api.RoleFollower
		if i == leader {
			role = api.RoleLeader
		}
		members.Members = append(members.Members, api.Member{ID: name("id", i), Name: name("n", i), ClientURL: db.URL, PeerURL: db.URL, Role: role, Healthy: true})
	}
	var registered []api.CacheNode
	for i, node := range c.caches {
		registered = append(registered, api.CacheNode{Name: name("c", i), URL: node.URL, Healthy: true, LastSeen: time.Now()})
		node.set(func() {
			node.stats = api.CacheStats{Name: name("c", i), URL: node.URL, Role: api.RoleCache, Ready: true}
		})
	}
	for i, db := range c.dbs {
		db.set(func() {
			db.members, db.caches = members, registered
			db.stats = api.Stats{ID: name("id", i), Name: name("n", i), Role: members.Members[i].Role, Leader: members.Leader, Term: term, Ready: true,
				CommitIndex: 10, AppliedIndex: 10, Revision: 5, Keys: 5, Digest: "d"}
		})
	}
}

// watching runs a Watch until the test ends.
func watching(t *testing.T, cfg WatchConfig) *Watch {
	t.Helper()
	w, err := NewWatch(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { w.Run(t.Context()) })
	t.Cleanup(running.Wait) // t.Context ends before
	return w
}

// await returns the first state that fits.
func await(t *testing.T, w *Watch, what string, fits func(*State) bool) *State {
	t.Helper()
	late := time.After(2 * time.Minute)
	for number := uint64(0); ; {
		if s := w.State(); fits(s) {
			return s
		}
		w.mu.Lock()
		next := w.next
		w.mu.Unlock()
		select {
		case <-next:
		case <-late:
			s, _ := json.Marshal(w.State())
			t.Fatalf("waited for %s; state %d is %s", what, number, s)
		}
	}
}

func member(s *State, name string) *Member {
	for i := range s.Members {
		if s.Members[i].Name == name {
			return &s.Members[i]
		}
	}
	return nil
}

func cacheNamed(s *State, name string) *Cache {
	for i := range s.Caches {
		if s.Caches[i].Name == name {
			return &s.Caches[i]
		}
	}
	return nil
}

func allUp(databases, caches int) func(*State) bool {
	return func(s *State) bool {
		for _, m := range s.Members {
			if m.Status != StatusUp {
				return false
			}
		}
		for _, c := range s.Caches {
			if c.Status != StatusUp {
				return false
			}
		}
		return len(s.Members) == databases && len(s.Caches) == caches && s.Leader != ""
	}
}
