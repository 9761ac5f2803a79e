package cachetier

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	registryMax   = 256 // nodes
	registryOfMax = 64  // nodes of one address
)

// RegistryConfig configures a Registry. Zero values take the defaults.
type RegistryConfig struct {
	// Now is the clock; default time.Now.
	Now func() time.Time
	// TTL is how long a cache node counts as live after a heartbeat; default 2 s.
	TTL time.Duration
	// Forget is how long an unheard node stays listed; default 10 min.
	Forget time.Duration
	// DBs returns the database nodes for heartbeat answers. It may be nil, and
	// must be quick.
	DBs func() []api.DBNode
}

// Registry is a database node's list of cache nodes: what heartbeats said, in memory only.
// A restarted one is empty, and cache nodes allow for that. It believes what it is told, so it
// is for trusted networks. It keeps 256 nodes, and of one address 64. It is safe for concurrent
// use.
type Registry struct {
	cfg RegistryConfig

	mu    sync.Mutex
	nodes map[string]*registered // by URL
}

type registered struct {
	node  api.CacheNode // without Healthy and Left; LastSeen keeps its monotonic reading, which no step of the clock moves
	left  bool          // said goodbye
	from  string        // the address of its last heartbeat
	first time.Time     // since when it has been heard without a pause
}

// live reports whether it counts as live.
func (g *registered) live(now time.Time, ttl time.Duration) bool {
	return !g.left && now.Sub(g.node.LastSeen) < ttl
}

// NewRegistry returns an empty registry.
func NewRegistry(cfg RegistryConfig) *Registry {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.TTL = cmp.Or(cfg.TTL, 2*time.Second)
	cfg.Forget = cmp.Or(cfg.Forget, 10*time.Minute)
	if cfg.DBs == nil {
		cfg.DBs = func() []api.DBNode { return nil }
	}
	return &Registry{cfg: cfg, nodes: make(map[string]*registered)}
}

// Heartbeat records that a cache node lives, or leaves, and answers with the other live cache
// nodes and the database nodes. from is the address that the heartbeat came from, without a
// port. A heartbeat without a usable URL and name is answered and not recorded, nor is a new
// node when the list is full and no other has to make room.
func (r *Registry) Heartbeat(from string, h api.Heartbeat) api.HeartbeatAnswer {
	url, err := nodeurl.Parse(h.URL)
	now := r.cfg.Now()
	if err == nil && nodeurl.CheckName(h.Name) == nil {
		r.record(from, url, h, now)
	}
	answer := api.HeartbeatAnswer{Caches: []api.CacheNode{}, DBs: r.cfg.DBs()}
	for _, n := range r.list(now) {
		if n.Healthy && n.URL != url {
			answer.Caches = append(answer.Caches, n)
		}
	}
	return answer
}

func (r *Registry) record(from, url string, h api.Heartbeat, now time.Time) {
	if _, err := kvstore.ParseHistoryID(h.History); err != nil {
		h.History = "" // it makes no sense
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.nodes[url]
	if known == nil && !r.makeRoom(from, now) {
		return
	}
	first := now
	if known != nil && known.live(now, r.cfg.TTL) {
		first = known.first
	}
	r.nodes[url] = &registered{
		node: api.CacheNode{Name: h.Name, URL: url, LastSeen: now, History: h.History, CacheFigures: h.CacheFigures},
		left: h.Leaving, from: from, first: first,
	}
}

// makeRoom reports whether there is room for one more node of an address, and makes it if it
// can. Nodes that are not live go first, the longest unheard before all. A live one goes only
// for a node of another address that has fewer: nobody who makes nodes up pushes out those
// that others run. Of an address, the node heard for the shortest time goes.
func (r *Registry) makeRoom(from string, now time.Time) bool {
	byAddress := make(map[string]int)
	for _, n := range r.nodes {
		byAddress[n.from]++
	}
	full := len(r.nodes) >= registryMax
	if !full && byAddress[from] < registryOfMax {
		return true
	}
	gone := "" // the URL of the one that goes
	for url, n := range r.nodes {
		if !n.live(now, r.cfg.TTL) && (full || n.from == from) && (gone == "" || n.node.LastSeen.Before(r.nodes[gone].node.LastSeen)) {
			gone = url
		}
	}
	most := from
	for address, n := range byAddress {
		if n > byAddress[most] {
			most = address
		}
	}
	if gone == "" && full && byAddress[from] < byAddress[most]-1 {
		for url, n := range r.nodes {
			if n.from == most && (gone == "" || n.first.After(r.nodes[gone].first)) {
				gone = url
			}
		}
	}
	delete(r.nodes, gone)
	return gone != ""
}

// Caches lists every cache node heard of lately, by name and URL: the live ones with Healthy
// set, the others until they are forgotten.
func (r *Registry) Caches() []api.CacheNode { return r.list(r.cfg.Now()) }

func (r *Registry) list(now time.Time) []api.CacheNode {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]api.CacheNode, 0, len(r.nodes))
	for url, n := range r.nodes {
		unheard := now.Sub(n.node.LastSeen)
		if unheard >= r.cfg.Forget {
			delete(r.nodes, url)
			continue
		}
		listed := n.node
		listed.LastSeen = listed.LastSeen.UTC()
		listed.Healthy, listed.Left = n.live(now, r.cfg.TTL), n.left
		list = append(list, listed)
	}
	slices.SortFunc(list, func(a, b api.CacheNode) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.URL, b.URL))
	})
	return list
}
