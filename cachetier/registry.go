package cachetier

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

const (
	registryTTL    = 2 * time.Second
	registryForget = 10 * time.Minute
	registryMax    = 1024 // nodes; the longest unheard goes first
	nameBytesMax   = 255
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
	DBs func() []client.DBNode
}

// Registry is a database node's list of cache nodes: what heartbeats said,
// in memory only. A restarted one is empty, which cache nodes allow for.
// It is safe for concurrent use.
type Registry struct {
	cfg RegistryConfig

	mu    sync.Mutex
	nodes map[string]*registered // by URL
}

type registered struct {
	node client.CacheNode // Healthy is computed when listed
	left bool             // said goodbye
}

// NewRegistry returns an empty registry.
func NewRegistry(cfg RegistryConfig) *Registry {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.TTL = cmp.Or(cfg.TTL, registryTTL)
	cfg.Forget = cmp.Or(cfg.Forget, registryForget)
	if cfg.DBs == nil {
		cfg.DBs = func() []client.DBNode { return nil }
	}
	return &Registry{cfg: cfg, nodes: make(map[string]*registered)}
}

// Heartbeat records that a cache node lives, or leaves, and answers with the
// other live cache nodes and the database nodes. A heartbeat without a usable
// URL is answered and not recorded.
func (r *Registry) Heartbeat(h client.Heartbeat) client.HeartbeatAnswer {
	url, err := nodeurl.Parse(h.URL)
	now := r.cfg.Now()
	if err == nil && len(h.Name) <= nameBytesMax {
		r.record(url, h, now)
	}
	answer := client.HeartbeatAnswer{Caches: []client.CacheNode{}, DBs: r.cfg.DBs()}
	for _, n := range r.list(now) {
		if n.Healthy && n.URL != url {
			answer.Caches = append(answer.Caches, n)
		}
	}
	return answer
}

func (r *Registry) record(url string, h client.Heartbeat, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.nodes[url]; !known && len(r.nodes) >= registryMax {
		r.dropOldest()
	}
	r.nodes[url] = &registered{
		node: client.CacheNode{Name: h.Name, URL: url, LastSeen: now.UTC(), CacheFigures: h.CacheFigures},
		left: h.Leaving,
	}
}

func (r *Registry) dropOldest() {
	oldest := ""
	for url, n := range r.nodes {
		if oldest == "" || n.node.LastSeen.Before(r.nodes[oldest].node.LastSeen) {
			oldest = url
		}
	}
	delete(r.nodes, oldest)
}

// Caches lists every cache node heard of lately, by name and URL: the live
// ones with Healthy set, the others until they are forgotten.
func (r *Registry) Caches() []client.CacheNode { return r.list(r.cfg.Now()) }

func (r *Registry) list(now time.Time) []client.CacheNode {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]client.CacheNode, 0, len(r.nodes))
	for url, n := range r.nodes {
		unheard := now.Sub(n.node.LastSeen)
		if unheard >= r.cfg.Forget {
			delete(r.nodes, url)
			continue
		}
		listed := n.node
		listed.Healthy, listed.Left = !n.left && unheard < r.cfg.TTL, n.left
		list = append(list, listed)
	}
	slices.SortFunc(list, func(a, b client.CacheNode) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.URL, b.URL))
	})
	return list
}
