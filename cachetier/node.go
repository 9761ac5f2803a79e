package cachetier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	cacheBytesDefault  = 64 << 20
	heartbeatDefault   = 500 * time.Millisecond
	heartbeatTime      = time.Second
	goodbyeTime        = 500 * time.Millisecond
	departureTime      = 500 * time.Millisecond
	peerTimeoutDefault = 500 * time.Millisecond
	loadTimeoutDefault = 5 * time.Second
	dialTimeout        = 3 * time.Second // hedging waits less; long enough for a lost packet to be sent again
	probesMax          = 32              // probes at the same time
	loadsMax           = 4096            // loads at the same time; past it ErrOverloaded
)

// NodeConfig configures a Node. Name, URL and Nodes are required.
type NodeConfig struct {
	Name string // shown in lists; database nodes take no heartbeat without one
	URL  string // advertised, and this node's identity in the ring

	// Nodes are the database nodes to begin with (the others are learned from
	// them). They are tried for ever.
	Nodes []string

	// CacheBytes bounds keys and records held in memory; default 64 MiB. Loads
	// and streams in progress come on top, 64 MiB of values at most.
	CacheBytes int64

	Logger *slog.Logger // default slog.Default()

	HeartbeatInterval time.Duration // default 500 ms
	PeerTimeout       time.Duration // how long an owner may be silent; default 500 ms
	LoadTimeout       time.Duration // how long a load may take in all; default 5 s
	HedgeDelay        time.Duration // before a second node is asked; 0: by measured latency, 20 to 250 ms; 25 to 100 ms of an owner's silence
	StreamIdle        time.Duration // how long a database node may stall in a large value, or a peer take nothing; default 5 s

	// What only tests change: the clock, and how long this node waits for the
	// answer to a heartbeat, to a goodbye, and for peers to stop asking it.
	now                                       func() time.Time
	heartbeatTime, goodbyeTime, departureTime time.Duration
}

// New checks cfg and returns a node, which serves at once: with an empty cache,
// from the nodes of cfg.Nodes. Nothing runs before Run, and nothing is sent
// before Run or Get.
func New(cfg NodeConfig) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		log:     cfg.Logger.With("cache", cfg.Name),
		now:     cfg.now,
		members: newMembership(cfg.URL, cfg.Nodes),
		began:   cfg.now(),
		serving: make(map[*served]struct{}),
		probes:  make(chan struct{}, probesMax),
	}
	n.base, n.stopBase = context.WithCancel(context.Background())
	n.databases = &databases{now: n.now}
	n.databases.begin(cfg.Nodes)
	n.fetcher = &fetcher{
		databases: n.databases,
		http:      newHTTPClient(dialTimeout),
		log:       n.log,
		hedge:     cfg.HedgeDelay,
		now:       n.now,
		bodies:    make(chan struct{}, bodiesMax),
		running:   &n.loads,
		learned:   n.learned,
	}
	n.peerHTTP = newHTTPClient(cfg.PeerTimeout)
	n.forward = forward.New(forward.Config{Databases: n.nearest, Failed: n.databases.failed, Logger: n.log})
	n.view.Store(&view{})
	n.setPeers(nil)
	n.memory = s3fifo.New[*record](cfg.CacheBytes)
	n.era.Store(newEra(n.base, kvstore.HistoryID{}))
	n.collecting.limit = cfg.CacheBytes / s3fifo.LargestShare
	n.owned, n.mirror = newTiers(n)
	return n, nil
}

func (cfg *NodeConfig) check() (err error) {
	if cfg.URL, err = nodeurl.Parse(cfg.URL); err != nil {
		return fmt.Errorf("cache node: %w", err)
	}
	if err := nodeurl.CheckName(cfg.Name); err != nil {
		return fmt.Errorf("cache node: %w", err)
	}
	if len(cfg.Nodes) == 0 {
		return errors.New("cache node: no database nodes given; name at least one, such as http://127.0.0.1:11000")
	}
	seeds := make([]string, 0, len(cfg.Nodes))
	for _, node := range cfg.Nodes {
		seed, err := nodeurl.Parse(node)
		if err != nil {
			return fmt.Errorf("cache node: database node: %w", err)
		}
		seeds = append(seeds, seed)
	}
	cfg.Nodes = seeds
	if cfg.CacheBytes < 0 {
		return fmt.Errorf("cache node: cache of %d bytes; give a positive size, or 0 for the default", cfg.CacheBytes)
	}
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, cacheBytesDefault)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	cfg.HeartbeatInterval = cmp.Or(cfg.HeartbeatInterval, heartbeatDefault)
	cfg.PeerTimeout = cmp.Or(cfg.PeerTimeout, peerTimeoutDefault)
	cfg.LoadTimeout = cmp.Or(cfg.LoadTimeout, loadTimeoutDefault)
	cfg.StreamIdle = cmp.Or(cfg.StreamIdle, streamIdleMax)
	cfg.heartbeatTime = cmp.Or(cfg.heartbeatTime, heartbeatTime)
	cfg.goodbyeTime = cmp.Or(cfg.goodbyeTime, goodbyeTime)
	cfg.departureTime = cmp.Or(cfg.departureTime, departureTime)
	if cfg.now == nil {
		cfg.now = time.Now
	}
	return nil
}

const (
	// dialsMax is how many connections to one node are made at the same time.
	dialsMax    = 64
	idlePerNode = 256
)

func newHTTPClient(dial time.Duration) *http.Client {
	return nodehttp.NewClient(nodehttp.Options{DialTimeout: dial, DialsMax: dialsMax, IdlePerHost: idlePerNode})
}

// Close ends loads in progress, waits for them, drops connections and forgets
// everything that is held. Call it when Run has returned and no request is
// served any more; Get then returns kvstore.ErrClosed.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stopBase()
	n.loads.Wait()
	n.streams.Wait()
	n.fetcher.http.CloseIdleConnections()
	n.peerHTTP.CloseIdleConnections()
	n.forward.Close()
	forgetGroup(n.owned.group)
	forgetGroup(n.mirror.group)
	n.memory.Close() // groupcache never forgets a group, nor what it refers to
	return nil
}

// Forward returns a handler that passes a request on to the nearest live
// database node, as package forward does. Which requests may be forwarded is
// for the caller to decide.
func (n *Node) Forward() http.Handler { return n.forward }

// Stats returns this node's figures.
func (n *Node) Stats() api.CacheStats {
	peer, database := n.Latencies()
	var history *api.History
	if id := n.era.Load().text(); id != "" {
		history = &api.History{ID: id}
	}
	return api.CacheStats{
		Name:          n.cfg.Name,
		URL:           n.cfg.URL,
		Role:          api.RoleCache,
		Ready:         n.Ready(n.base) == nil,
		Peers:         len(n.view.Load().ring.nodes) - 1,
		Databases:     len(n.databases.all()),
		UptimeSeconds: n.now().Sub(n.began).Seconds(),
		History:       history,
		CacheFigures:  n.figures(),

		PeerP50Seconds:     peer.P50.Seconds(),
		PeerP99Seconds:     peer.P99.Seconds(),
		DatabaseP50Seconds: database.P50.Seconds(),
		DatabaseP99Seconds: database.P99.Seconds(),
	}
}

// Latencies returns how long loads took that owners answered, and those that
// database nodes did.
func (n *Node) Latencies() (peer, database Latency) {
	return n.peerLatency.figures(), n.fetcher.latency.figures()
}

func (n *Node) figures() api.CacheFigures {
	memory := n.memory.Stats()
	return api.CacheFigures{
		Gets:          n.counters.gets.Load(),
		Hits:          n.counters.hits.Load(),
		MirroredHits:  n.counters.mirroredHits.Load(),
		PeerLoads:     n.counters.peerLoads.Load(),
		PeerErrors:    n.counters.peerErrors.Load(),
		PeerServed:    n.counters.peerServed.Load(),
		DatabaseLoads: n.fetcher.requests.Load(),
		Absences:      n.counters.absences.Load(),
		Hedges:        n.fetcher.hedges.Load(),
		PeerHedges:    n.counters.peerHedges.Load(),
		Errors:        n.counters.errors.Load(),
		Admissions:    memory.Admissions,
		Unadmitted:    memory.Unadmitted,
		Evictions:     memory.Evictions,
		HistoryMoves:  n.counters.moves.Load(),
		HistoryDrops:  n.counters.dropped.Load(),
		Items:         memory.Items,
		Bytes:         memory.Bytes,
		MirroredBytes: memory.MirroredBytes,
		LimitBytes:    n.cfg.CacheBytes,
	}
}

// Ready returns nil when a database node of this node's history has answered within
// 3 s and this node is not leaving, and else an error that says which, and whom this
// node tries.
func (n *Node) Ready(context.Context) error {
	if n.leaving.Load() {
		return fmt.Errorf("%w: this cache node is leaving", kvstore.ErrUnavailable)
	}
	known, history := n.databases.all(), n.era.Load().history
	urls := make([]string, len(known))
	elsewhere := false
	for i, d := range known {
		if d.answeredSince(n.now().Add(-answeredWithin)) {
			if d.told() == history {
				return nil
			}
			elsewhere = true
		}
		urls[i] = d.tried()
	}
	if elsewhere {
		return fmt.Errorf("%w: %s", kvstore.ErrUnavailable, n.databases.why(history))
	}
	return fmt.Errorf("%w: no database node has answered within %v; tried %v", kvstore.ErrUnavailable, answeredWithin, urls)
}

// History returns the history in which the node stands: all that it answers is of that
// one. Its parents are left out.
func (n *Node) History() kvstore.History { return kvstore.History{ID: n.era.Load().history} }

// Databases returns the URLs of the database nodes that the node knows now.
func (n *Node) Databases() (urls []string) {
	for _, d := range n.databases.all() {
		urls = append(urls, d.url)
	}
	return urls
}

// nearest returns the URLs of the database nodes that may be asked, fastest first.
func (n *Node) nearest() (urls []string) {
	for _, d := range n.databases.preference(n.era.Load().history) {
		urls = append(urls, d.url)
	}
	return urls
}
