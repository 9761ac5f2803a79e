package cachetier

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/groupcache"

	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	dialTimeout = 3 * time.Second // hedging waits less; long enough for a lost packet to be sent again
	probesMax   = 32              // probes at the same time
	loadsMax    = 4096            // loads at the same time; past it ErrOverloaded
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

	// Nodes are database nodes to begin with, which are always tried. The others are
	// learned from them.
	Nodes []string

	// CacheBytes bounds keys and records in memory; default 64 MiB. Loads and streams in
	// progress come on top, 64 MiB of values at most.
	CacheBytes int64

	Logger *slog.Logger // default slog.Default()

	HeartbeatInterval time.Duration // default 500 ms
	PeerTimeout       time.Duration // how long an owner may be silent; default 500 ms
	LoadTimeout       time.Duration // how long a load may take in all; default 5 s
	HedgeDelay        time.Duration // before a second node is asked; 0: by measured latency, 20 to 250 ms; 25 to 100 ms of an owner's silence
	StreamIdle        time.Duration // how long a database node may stall in a large value, or a peer take nothing; default 5 s

	// Only tests change these: the clock, and how long this node waits for the answer to a
	// heartbeat (1 s), to a goodbye (500 ms), and for peers to stop asking it (500 ms).
	now                                       func() time.Time
	heartbeatTime, goodbyeTime, departureTime time.Duration
}

// Node is a cache node: it answers reads from memory, from the key's owner among the cache
// nodes, or from the database. All methods are safe for concurrent use.
type Node struct {
	cfg   NodeConfig
	log   *slog.Logger
	now   func() time.Time
	began time.Time

	memory        *s3fifo.Cache[*record]
	collecting    collector // what is to be held of large values
	owned, mirror *tier
	fetcher       *fetcher
	databases     *databases
	peerHTTP      *http.Client
	forward       *forward.Handler
	counters      counters
	peerLatency   latencies     // of owners' answers
	clock         atomic.Uint64 // orders arrivals of callers and starts of loads

	view atomic.Pointer[view] // replaced under update
	era  atomic.Pointer[era]  // likewise

	update   sync.Mutex // held while an answer is turned into a new view or era
	standing standing
	members  *membership

	base     context.Context // parent of every era's
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

// view is the ring and the peers in it. It is immutable but for the peers' own state.
type view struct {
	ring  *ring
	peers map[string]*peer // by URL, without this node
}

type counters struct {
	gets, hits, mirroredHits, peerLoads, peerHedges, peerErrors, peerServed, absences, errors atomic.Uint64

	moves, dropped atomic.Uint64 // to other histories; records
}

// tier is a groupcache group and the flights through it. A node has two: owned loads from
// the database, mirror from owners. An answer to a peer goes through owned, so it never
// waits for a load that itself waits for a peer.
//
// The easy version is to call group.Get and let groupcache share loads. It makes a caller
// wait whatever the caller's context says, gives it the first caller's context, and hands
// an absence that was found before it came to a later caller (even one who comes after the
// load is over, while its entry still stands). So flights are kept here: for one key, one
// flight at a time calls group.Get, also when a move begins another beside one of the era
// before. So groupcache's own single flight never has a second participant. The group
// holds nothing: what is held is in the node's memory.
type tier struct {
	node   *Node
	group  *groupcache.Group
	source string // of the records that its own loads bring

	mu      sync.Mutex
	flights map[string]*flight
}

// flight is one load of one key through one tier, shared by every caller who came while it
// ran. It belongs to no caller: it has its own deadline, and a caller who leaves only stops
// waiting.
type flight struct {
	era *era // in which it began, and to which its record belongs

	// start is the node's clock when the load began, before anything was asked. An absence
	// that it ends with holds only for callers who came before start.
	start uint64
	done  chan struct{} // closed when the result below is set

	rec    *record
	source string
	err    error

	// pending is the question to an owner that has given no sign of life for a while: its
	// answer may still come, beside that of the database. Its peer sets it here because
	// groupcache drops the error of a peer.
	pending *call

	// before is the flight of the same key in the era before, if it has not ended. This one
	// waits for it: groupcache would give it that one's result.
	before *flight

	// next is the flight for those who came during this one when it ends with an absence:
	// one for all, however late they wake up. Guarded by tier.mu.
	next *flight
}

type flightKey struct{}

// flightFrom returns the flight that the context of a load belongs to.
func flightFrom(ctx context.Context) *flight {
	f, _ := ctx.Value(flightKey{}).(*flight)
	return f
}

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

// goStream runs f in a goroutine that Close waits for. It reports whether the node is open.
func (n *Node) goStream(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.streams.Go(f)
	return true
}

func (n *Node) tick() uint64 { return n.clock.Add(1) }

// newRing makes the ring of this node and those that have answered it once. One that never
// did would own keys, and every other node would have to load those for itself.
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
