package cachetier

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/groupcache"

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

// What answered a read: the value of the Oncekv-Cache header.
const (
	sourceHit  = "hit"
	sourcePeer = "peer"
	sourceLoad = "load"
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

// Node is a cache node: it answers reads from memory, from the key's owner
// among the cache nodes, or from the database. All methods are safe for
// concurrent use.
type Node struct {
	cfg NodeConfig
	log *slog.Logger
	now func() time.Time

	// clock orders arrivals of callers and starts of loads.
	clock atomic.Uint64

	memory     *s3fifo.Cache[*record]
	collecting collector // what is to be held of large values

	// owned loads from the database: the keys this node owns, and any other it
	// has to. mirror loads from owners. Two groups and not one, because an
	// answer to a peer must never wait for a load that itself waits for a peer:
	// loads of owned wait for the database only.
	owned, mirror *tier
	picker        groupcache.PeerPicker

	view atomic.Pointer[view] // replaced under update
	era  atomic.Pointer[era]  // likewise

	update    sync.Mutex // held while an answer is turned into a new view, or a new era
	standing  standing
	members   *membership
	databases *databases
	fetcher   *fetcher
	peerHTTP  *http.Client
	forward   *forward.Handler
	counters  counters
	began     time.Time

	peerLatency latencies // of owners' answers

	// base is the parent of every era's context.
	base     context.Context
	stopBase context.CancelFunc
	loads    sync.WaitGroup // flights, attempts, and reads that bypass flights
	streams  sync.WaitGroup // to peers and from them
	leaving  atomic.Bool    // it has told its peers, or is about to

	probes chan struct{} // one for each that is under way

	mu      sync.Mutex
	active  int // of loads, flights and bypassing reads only
	closed  bool
	serving map[*served]struct{}
}

// view is the ring and the peers in it. It is immutable, but for the peers'
// own state.
type view struct {
	ring  *ring
	peers map[string]*peer // by URL, without this node
}

type counters struct {
	gets, hits, mirroredHits, peerLoads, peerHedges, peerErrors, peerServed, absences, errors atomic.Uint64

	moves, dropped atomic.Uint64 // to other histories; records
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
	n.forward = forward.New(forward.Config{Databases: func() []string { return n.databases.inOrder(n.era.Load().history) }, Failed: n.databases.failed, Logger: n.log})
	n.setPeers(nil)
	n.picker = ownerPicker{n}
	n.memory = s3fifo.New[*record](cfg.CacheBytes)
	n.era.Store(newEra(n.base, kvstore.HistoryID{}))
	n.collecting.limit = cfg.CacheBytes / s3fifo.LargestShare
	n.newTiers()
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

// newTiers makes the two groups under names no other node in the process has.
func (n *Node) newTiers() {
	var b [8]byte
	rand.Read(b[:])
	name := n.cfg.URL + " " + hex.EncodeToString(b[:])
	n.owned = &tier{
		group:  newGroup("owned "+name, n.getOwned, groupcache.NoPeers{}),
		source: sourceLoad,
		memory: n.memory,
		launch: n.launch,
		tick:   n.tick,
	}
	n.mirror = &tier{
		group:  newGroup("mirror "+name, getUnmirrored, n.picker),
		source: sourcePeer,
		memory: n.memory,
		launch: n.launch,
		tick:   n.tick,
	}
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

// enter counts a load in, leave counts it out.
func (n *Node) enter() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return fmt.Errorf("cache node: %w", kvstore.ErrClosed)
	case n.active >= loadsMax:
		return fmt.Errorf("%w: %d loads are in progress", kvstore.ErrOverloaded, n.active)
	}
	n.active++
	n.loads.Add(1)
	return nil
}

func (n *Node) leave() {
	n.mu.Lock()
	n.active--
	n.mu.Unlock()
	n.loads.Done()
}

func (n *Node) tick() uint64 { return n.clock.Add(1) }

// newRing makes the ring of this node and those that have answered it once. One
// that never did would own keys, which every other node had to load for itself.
func (v *view) newRing(self string) *ring {
	urls := []string{self}
	for url, p := range v.peers {
		if p.proven.Load() {
			urls = append(urls, url)
		}
	}
	return newRing(urls)
}

// adopt makes the ring anew when a peer has answered for the first time.
func (n *Node) adopt() {
	n.update.Lock()
	defer n.update.Unlock()
	v := n.view.Load()
	n.view.Store(&view{ring: v.newRing(n.cfg.URL), peers: v.peers})
}

// setPeers makes the ring of this node and the given ones. A peer that stays
// keeps its state. Called with update held, or before the node is shared.
func (n *Node) setPeers(urls []string) {
	next := &view{peers: make(map[string]*peer, len(urls))}
	old := n.view.Load()
	for _, url := range urls {
		p := &peer{url: url, node: n}
		p.down.Store(true) // until a probe is answered: anybody may have made it up
		if old != nil && old.peers[url] != nil {
			p = old.peers[url]
		}
		next.peers[url] = p
	}
	next.ring = next.newRing(n.cfg.URL)
	n.view.Store(next)
	if old == nil {
		return
	}
	for url, p := range old.peers {
		if next.peers[url] == nil {
			p.retire()
		}
	}
}

// ownerPicker is groupcache's PeerPicker.
type ownerPicker struct{ n *Node }

// PickPeer returns the owner of key, or false when that is this node, or a node
// that is down.
func (o ownerPicker) PickPeer(key string) (getter groupcache.ProtoGetter, ok bool) {
	var err error
	defer func() {
		if err != nil {
			getter, ok = nil, false
		}
	}()
	defer recovered(o.n.log, "the choice of an owner", &err)
	v := o.n.view.Load()
	if p := v.peers[v.ring.owner(key)]; p != nil && !p.down.Load() {
		return p, true
	}
	return nil, false
}

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
