package adminui

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// One database node is enough to find all nodes.
func TestWatch_FindsAllFromAnyOne(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 2)
	var asked []string
	w := watching(t, WatchConfig{
		Nodes:  []string{c.dbs[2].URL + "/"},
		Shares: func(urls []string) map[string]float64 { return map[string]float64{urls[0]: 1} },
		Owner: func(urls []string, key kvstore.Key) string {
			asked = urls
			return urls[len(urls)-1]
		},
		Version: "v1",
	})
	s := await(t, w, "all nodes", allUp(3, 2))
	if s.Leader != "n1" || s.Term != 1 || s.Keys != 5 || s.Stale || s.Version != "v1" || s.Health.Level != LevelOK || member(s, "n1").Role != api.RoleLeader || member(s, "n2").Role != api.RoleFollower {
		t.Errorf("state %+v", s)
	}
	if dbs, caches := w.DBs(), w.Caches(); len(dbs) != 3 || len(caches) != 2 || !dbs[0].Healthy || !caches[0].Healthy || dbs[0].Revision != 5 {
		t.Errorf("lists %+v %+v", dbs, caches)
	}
	urls := []string{c.caches[0].URL, c.caches[1].URL}
	slices.Sort(urls)
	if owner, ok := w.Owner("k"); !ok || owner.URL != urls[1] || !slices.Equal(asked, urls) {
		t.Errorf("owner %+v, %v, asked of %v", owner, ok, asked)
	}
	if sum := s.Caches[0].Share + s.Caches[1].Share; sum != 1 {
		t.Errorf("shares add up to %v", sum)
	}
	if got := w.Databases(); len(got) != 3 || got[0] != c.dbs[0].URL {
		t.Errorf("requests go to %v, want the leader %s first", got, c.dbs[0].URL)
	}
}

// A node that waits for its cluster to be formed answers, and is no member.
func TestWatch_Forming(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 0)
	founded := c.dbs[0].members
	c.dbs[0].set(func() {
		c.dbs[0].members = api.Members{}
		c.dbs[0].stats = api.Stats{ID: "id1", Name: "n1", Role: api.RoleFollower}
	})
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}, Interval: 20 * time.Millisecond})
	await(t, w, "the forming cluster", func(s *State) bool {
		return s.Health.Sentence == "There is no cluster yet: n1 waits for the other nodes."
	})
	c.lead(0, 1)
	if len(founded.Members) != 3 {
		t.Fatal("the fake cluster is another")
	}
	await(t, w, "all nodes", allUp(3, 0))
}

// A removed node that runs on is told from the members.
func TestWatch_RemovedNodeRunsOn(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 0)
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL, c.dbs[2].URL}, Interval: 20 * time.Millisecond})
	await(t, w, "all nodes", allUp(3, 0))
	gone := c.dbs[2]
	c.dbs = append(c.dbs[:2:2], newFakeNode(t)) // another n3
	c.lead(0, 1)
	gone.set(func() { gone.stats = api.Stats{ID: "old", Name: "n3", Role: api.RoleFollower} })
	await(t, w, "the stranger", func(s *State) bool {
		return strings.HasPrefix(s.Health.Sentence, "n3 runs at "+gone.URL+" and is not a member")
	})
}

// downMax is when a dead node has to be known as down. On a machine of its own
// that takes up to 3 s; waiting for the connection to break would take minutes.
const downMax = 20 * time.Second

func TestWatch_DeadNodesAreDownInTime(t *testing.T) {
	for kind, kill := range map[string]func(*fakeNode){
		"gone":   func(n *fakeNode) { n.Close() },
		"frozen": func(n *fakeNode) { n.set(func() { n.frozen = make(chan struct{}) }) },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newFakeCluster(t, 3, 2)
			w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}, Interval: 100 * time.Millisecond})
			await(t, w, "all nodes", allUp(3, 2))
			died := time.Now()
			kill(c.dbs[2])
			kill(c.caches[1])
			s := await(t, w, "both down", func(s *State) bool {
				return member(s, "n3").Status == StatusDown && cacheNamed(s, "c2").Status == StatusDown
			})
			if took := s.Time.Sub(died); took > downMax {
				t.Errorf("down after %v", took)
			}
			for _, c := range []Condition{member(s, "n3").Condition, cacheNamed(s, "c2").Condition} {
				if c.Reason == "" || c.Since.After(s.Time) || died.Sub(c.Since) > downMax {
					t.Errorf("died %v, shown as %+v", died, c)
				}
			}
			if s.Health.Level != LevelWarning || !strings.Contains(s.Health.Sentence, "n3 is down") || member(s, "n3").Stats == nil {
				t.Errorf("health %+v", s.Health)
			}
			if got := w.Databases(); len(got) != 2 || slices.Contains(got, c.dbs[2].URL) {
				t.Errorf("requests go to %v, but %s is dead", got, c.dbs[2].URL)
			}
		})
	}
}

func TestWatch_NodeComesBack(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 0)
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}})
	await(t, w, "all nodes", allUp(3, 0))
	thaw := make(chan struct{})
	c.dbs[1].set(func() { c.dbs[1].frozen = thaw })
	down := await(t, w, "a silent node", func(s *State) bool { return member(s, "n2").Status == StatusDown })
	c.dbs[1].set(func() { c.dbs[1].frozen = nil })
	close(thaw)
	up := await(t, w, "its return", allUp(3, 0))
	if !member(up, "n2").Since.After(member(down, "n2").Since) {
		t.Errorf("up since %v, was down since %v", member(up, "n2").Since, member(down, "n2").Since)
	}
}

// The leader is the one of the newest term, and there is at most one.
func TestWatch_LeaderMoves(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 0)
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}, Interval: 50 * time.Millisecond})
	await(t, w, "all nodes", allUp(3, 0))
	// The old leader has not heard yet.
	c.dbs[1].set(func() {
		stats := c.dbs[1].stats.(api.Stats)
		stats.Role, stats.Leader, stats.Term = api.RoleLeader, "n2", 2
		c.dbs[1].stats = stats
	})
	s := await(t, w, "the new leader", func(s *State) bool { return s.Leader == "n2" })
	leaders := 0
	for _, m := range s.Members {
		if m.Role == api.RoleLeader {
			leaders++
		}
	}
	if leaders != 1 || s.Term != 2 {
		t.Errorf("%d leaders, term %d", leaders, s.Term)
	}
}

func TestWatch_FollowsMembership(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 2)
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}, Interval: 50 * time.Millisecond})
	await(t, w, "all nodes", allUp(3, 2))
	goodbye := c.caches[1]
	goodbye.Close()
	c.dbs, c.caches = c.dbs[:2], c.caches[:1]
	c.lead(0, 1)
	await(t, w, "two members and a cache", allUp(2, 1))
	c.dbs = append(c.dbs, newFakeNode(t), newFakeNode(t))
	c.lead(0, 1)
	await(t, w, "four members", allUp(4, 1))
}

// A cache node that answers is not forgotten because a database node has not
// heard of it yet.
func TestWatch_RestartedRegistryForgetsNobody(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 1, 2)
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}, Interval: 20 * time.Millisecond})
	await(t, w, "all nodes", allUp(1, 2))
	c.dbs[0].set(func() { c.dbs[0].caches = nil })
	_, number, _ := w.Next(t.Context(), 0)
	for range 20 {
		var err error
		if _, number, err = w.Next(t.Context(), number); err != nil {
			t.Fatal(err)
		}
		if got := len(w.State().Caches); got != 2 {
			t.Fatalf("%d cache nodes are left", got)
		}
	}
}

func TestWatch_RatesAndHistory(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 1, 1)
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}, Interval: 50 * time.Millisecond})
	await(t, w, "all nodes", allUp(1, 1))
	// Of 3,000 reads 2,000 were hits; the other 1,000 went to the database, and
	// 500 were asked of it directly.
	c.dbs[0].set(func() {
		stats := c.dbs[0].stats.(api.Stats)
		stats.Puts, stats.Created, stats.Gets = 600, 500, 1500
		c.dbs[0].stats = stats
	})
	c.caches[0].set(func() {
		stats := c.caches[0].stats.(api.CacheStats)
		stats.Gets, stats.Hits, stats.DatabaseLoads = 3000, 2000, 1000
		c.caches[0].stats = stats
	})
	s := await(t, w, "rates", func(s *State) bool { return s.Rates.Puts > 0 && s.Rates.HitRatio != nil })
	if r := *s.Rates.HitRatio; r < 0.66 || r > 0.67 {
		t.Errorf("hit ratio %v of 2000 hits in 3000 reads", r)
	}
	// A node's figures are of one span. The two nodes' spans differ.
	db, cache := s.Members[0].Rates, s.Caches[0].Rates
	if ratio := db.Gets / db.Puts; ratio < 2.49 || ratio > 2.51 {
		t.Errorf("%v gets and %v puts a second at the database node, of 1500 and 600", db.Gets, db.Puts)
	}
	if want := cache.Gets + max(0, db.Gets-cache.Gets/3); s.Rates.Puts != db.Puts || math.Abs(s.Rates.Gets-want) > want/1000 {
		t.Errorf("rates %+v of a database node with %+v and a cache with %+v", s.Rates, db, cache)
	}
	await(t, w, "rest", func(s *State) bool { return s.Rates.Puts == 0 && s.Rates.HitRatio == nil })
	points := w.History().(History).Points
	if len(points) < 3 || !slices.ContainsFunc(points, func(p Point) bool { return p.Puts > 0 }) {
		t.Errorf("%d points: %+v", len(points), points)
	}
}

// A counter that fell began again with its process.
func TestHistory_CounterBeginsAgain(t *testing.T) {
	t.Parallel()
	var h history
	now := time.Now()
	h.add(now, counters{puts: 1_000_000})
	h.add(now.Add(time.Second), counters{puts: 10})
	if g := h.rates(now.Add(time.Second)); g[puts] != 10 {
		t.Errorf("%v puts a second, want 10", g[puts])
	}
}

func TestWatch_Next(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 1, 0)
	w, err := NewWatch(WatchConfig{Nodes: []string{c.dbs[0].URL}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.Next(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("no state yet: %v", err)
	}
	w.publish(time.Now())
	first, number, err := w.Next(ctx, 0)
	if err != nil || number != 1 || !json.Valid(first) || strings.Contains(string(first), "\n") {
		t.Errorf("the first: %q, %d, %v", first, number, err)
	}
	if _, _, err := w.Next(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("the same again: %v", err)
	}
	if _, number, err := w.Next(ctx, 77); err != nil || number != 1 { // a number of an admin before this one
		t.Errorf("a number not reached: %d, %v", number, err)
	}
}

func TestNewWatch_NeedsNodes(t *testing.T) {
	t.Parallel()
	if _, err := NewWatch(WatchConfig{}); err == nil {
		t.Error("a watch without nodes")
	}
}

// Requests of people go to members that have answered with their own ids: the
// client URL of another may be anything's.
func TestWatch_Databases_LeavesStrangersOut(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 2, 0)
	silent := httptest.NewServer(http.NotFoundHandler())
	defer silent.Close()
	liar := newFakeNode(t)
	liar.set(func() { liar.stats = api.Stats{ID: "another", Role: api.RoleFollower} })
	for _, db := range c.dbs {
		db.set(func() {
			db.members.Members = append(slices.Clone(db.members.Members),
				api.Member{ID: "x1", Name: "x1", ClientURL: silent.URL}, api.Member{ID: "x2", Name: "x2", ClientURL: liar.URL})
		})
	}
	w := watching(t, WatchConfig{Nodes: []string{c.dbs[0].URL}})
	await(t, w, "answers of all who give one", func(s *State) bool {
		answered := slices.DeleteFunc(slices.Clone(s.Members), func(m Member) bool { return m.Stats == nil })
		return len(s.Members) == 4 && len(answered) == 3
	})
	if got := w.Databases(); len(got) != 2 || slices.Contains(got, silent.URL) || slices.Contains(got, liar.URL) {
		t.Errorf("requests go to %v", got)
	}
}
