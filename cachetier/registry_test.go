package cachetier

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

type fakeClock struct{ t time.Time }

func (c *fakeClock) now() time.Time { return c.t }

func (c *fakeClock) advance(d time.Duration) { c.t = c.t.Add(d) }

func newTestRegistry() (*Registry, *fakeClock) {
	clock := &fakeClock{time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}
	return NewRegistry(RegistryConfig{Now: clock.now}), clock
}

func listed(r *Registry) string {
	var s []string
	for _, c := range r.Caches() {
		s = append(s, fmt.Sprintf("%s:%v", c.Name, c.Healthy))
	}
	return strings.Join(s, " ")
}

func beatAs(r *Registry, name string) []string {
	return beatFrom(r, "127.0.0.1", name)
}

func beatFrom(r *Registry, from, name string) (peers []string) {
	for _, c := range r.Heartbeat(from, api.Heartbeat{Name: name, URL: "http://" + name}).Caches {
		peers = append(peers, c.Name)
	}
	return peers
}

func TestRegistry_Heartbeat_AnswersTheOtherLiveNodes(t *testing.T) {
	t.Parallel()
	r, clock := newTestRegistry()
	if peers := beatAs(r, "c1"); peers != nil {
		t.Errorf("first node's peers: %v", peers)
	}
	beatAs(r, "c2")
	if peers := beatAs(r, "c1"); !slices.Equal(peers, []string{"c2"}) {
		t.Errorf("c1's peers: %v", peers)
	}
	clock.advance(2*time.Second - 1)
	if peers := beatAs(r, "c3"); !slices.Equal(peers, []string{"c1", "c2"}) {
		t.Errorf("just inside the TTL: %v", peers)
	}
	clock.advance(1)
	if peers := beatAs(r, "c3"); peers != nil {
		t.Errorf("just outside the TTL: %v", peers)
	}
}

func TestRegistry_Caches_KeepsUnheardNodesForTenMinutes(t *testing.T) {
	t.Parallel()
	r, clock := newTestRegistry()
	beatAs(r, "c1")
	seen := clock.t
	clock.advance(2 * time.Second)
	beatAs(r, "c2")
	if got := listed(r); got != "c1:false c2:true" {
		t.Errorf("listed %q", got)
	}
	if got := r.Caches()[0].LastSeen; !got.Equal(seen) {
		t.Errorf("last seen %v, want %v", got, seen)
	}
	clock.advance(10*time.Minute - 2*time.Second - 1)
	if got := listed(r); got != "c1:false c2:false" {
		t.Errorf("just before ten minutes: %q", got)
	}
	clock.advance(1)
	if got := listed(r); got != "c2:false" {
		t.Errorf("after ten minutes: %q", got)
	}
	beatAs(r, "c1")
	if got := listed(r); got != "c1:true c2:false" {
		t.Errorf("back again: %q", got)
	}
}

func TestRegistry_Heartbeat_LeavingIsAtOnce(t *testing.T) {
	t.Parallel()
	r, _ := newTestRegistry()
	beatAs(r, "c1")
	r.Heartbeat("127.0.0.1", api.Heartbeat{Name: "c1", URL: "http://c1", Leaving: true})
	if peers := beatAs(r, "c2"); peers != nil {
		t.Errorf("peers after the goodbye: %v", peers)
	}
	if got := listed(r); got != "c1:false c2:true" {
		t.Errorf("listed %q", got)
	}
	beatAs(r, "c1")
	if got := listed(r); got != "c1:true c2:true" {
		t.Errorf("after it came back: %q", got)
	}
}

func TestRegistry_Heartbeat_IdentityIsTheURL(t *testing.T) {
	t.Parallel()
	r, _ := newTestRegistry()
	r.Heartbeat("127.0.0.1", api.Heartbeat{Name: "old", URL: "http://c1/"})
	r.Heartbeat("127.0.0.1", api.Heartbeat{Name: "new", URL: "http://c1", CacheFigures: api.CacheFigures{Hits: 7}})
	nodes := r.Caches()
	if len(nodes) != 1 || nodes[0].Name != "new" || nodes[0].Hits != 7 || nodes[0].URL != "http://c1" {
		t.Errorf("nodes: %+v", nodes)
	}
}

func TestRegistry_Heartbeat_IgnoresNonsenseAndStaysBounded(t *testing.T) {
	t.Parallel()
	r, clock := newTestRegistry()
	for _, url := range []string{"", "c1", "ftp://c1", "http://", "http://c1/path", "http://" + strings.Repeat("x", 4096)} {
		r.Heartbeat("127.0.0.1", api.Heartbeat{Name: "bad", URL: url})
	}
	for _, name := range []string{"", "\x1b[31mevil\nforged", strings.Repeat("n", 65)} {
		r.Heartbeat("127.0.0.1", api.Heartbeat{Name: name, URL: "http://c1"})
	}
	if got := listed(r); got != "" {
		t.Errorf("listed %q", got)
	}
	for i := range registryMax + 10 {
		clock.advance(10 * time.Millisecond)
		name := fmt.Sprintf("c%d", i)
		r.Heartbeat(fmt.Sprintf("10.0.0.%d", i%200), api.Heartbeat{Name: name, URL: "http://" + name})
	}
	nodes := r.Caches()
	if len(nodes) != registryMax || slices.ContainsFunc(nodes, func(c api.CacheNode) bool { return c.Name == "c9" }) {
		t.Errorf("%d nodes listed; the longest unheard must go", len(nodes))
	}
}

// TestRegistry_Heartbeat_MadeUpNodes: whoever makes nodes up, from one address or
// from some, pushes out none that others run, and keeps none out.
func TestRegistry_Heartbeat_MadeUpNodes(t *testing.T) {
	t.Parallel()
	for _, addresses := range []int{1, 16} {
		r, clock := newTestRegistry()
		r.Heartbeat("10.0.0.1", api.Heartbeat{Name: "early", URL: "http://early"})
		for i := range 3000 {
			if i%100 == 0 {
				clock.advance(500 * time.Millisecond)
				r.Heartbeat("10.0.0.1", api.Heartbeat{Name: "early", URL: "http://early"})
			}
			name := fmt.Sprintf("made-up-%d", i)
			r.Heartbeat(fmt.Sprintf("10.6.6.%d", i%addresses), api.Heartbeat{Name: name, URL: "http://" + name})
		}
		peers := beatFrom(r, "10.0.0.2", "late")
		if !slices.Contains(peers, "early") {
			t.Errorf("%d addresses: a live node was pushed out", addresses)
		}
		if !slices.Contains(beatFrom(r, "10.0.0.1", "early"), "late") {
			t.Errorf("%d addresses: a new node is kept out", addresses)
		}
		if n := len(r.Caches()); n > min(registryMax, addresses*registryOfMax+2) {
			t.Errorf("%d addresses: %d nodes are listed", addresses, n)
		}
	}
}

func TestRegistry_Heartbeat_CarriesDatabases(t *testing.T) {
	t.Parallel()
	want := []api.DBNode{{Name: "n1", URL: "http://n1", Healthy: true}}
	r := NewRegistry(RegistryConfig{DBs: func() []api.DBNode { return want }})
	if got := r.Heartbeat("127.0.0.1", api.Heartbeat{Name: "c", URL: "http://c"}).DBs; !slices.Equal(got, want) {
		t.Errorf("databases: %v", got)
	}
}

// Ages are told by the monotonic clock: when the wall clock is set, all cache nodes
// would be dead at once, or alive for ever. What is listed has a time in UTC.
func TestRegistry_ClockIsSet_NobodyDies(t *testing.T) {
	t.Parallel()
	r := NewRegistry(RegistryConfig{})
	r.Heartbeat("h", api.Heartbeat{Name: "c1", URL: "http://c1:1"})
	for _, n := range r.nodes {
		if !strings.Contains(n.node.LastSeen.String(), " m=") {
			t.Errorf("it was heard at %v, which moves with the wall clock", n.node.LastSeen)
		}
	}
	if got := r.Caches()[0].LastSeen; got.Location() != time.UTC {
		t.Errorf("it is listed with %v", got)
	}
}
