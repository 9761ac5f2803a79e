package cachetier

import (
	"context"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/golang/groupcache"

	"github.com/Focinfi/oncekv/internal/s3fifo"
)

// flight is one load of one key through one tier, shared by every caller who
// came while it ran. It is not any caller's: it has its own deadline, and a
// caller who leaves only stops waiting.
type flight struct {
	era *era // in which it was begun, and to which its record belongs

	// start is the node's clock when the load began, before anything was
	// asked. An absence it ends with holds for callers who came before start,
	// and for nobody else.
	start uint64
	done  chan struct{} // closed when the result below is set

	rec    *record
	source string
	err    error

	// pending is set by the flight's own goroutine when the owner has given no
	// sign of life for a while: its answer may still come, beside that of the
	// database. It is here because groupcache drops the error of a peer.
	pending *call

	// before is the flight of the same key in the era before, if it has not ended. The
	// flight's own goroutine waits for it: groupcache would hand it that one's result.
	before *flight

	// next is the flight for those who came during this one when it ends with
	// an absence: one for all, however late they wake up. Guarded by the shard.
	next *flight
}

type flightKey struct{}

// flightFrom returns the flight a load belongs to; every context of a load has
// one.
func flightFrom(ctx context.Context) *flight {
	f, _ := ctx.Value(flightKey{}).(*flight)
	return f
}

// tier is a groupcache group and the flights through it.
//
// The easy version is to call group.Get and let groupcache share loads. It
// makes a caller wait whatever his context says, gives him the first caller's
// context, and hands an absence found before he came to a later caller (even one
// who comes after the load is over, while its entry still stands). So flights
// are kept here: for one key, group.Get is called by one flight at a time, also
// when a move begins another beside one of the era before. Hence groupcache's
// own single flight never has a second participant. The
// group holds nothing itself: what is held is in the node's memory.
type tier struct {
	group  *groupcache.Group
	source string // of the records its own loads bring
	memory *s3fifo.Cache[*record]
	launch func(t *tier, f *flight, key string) error // loads in a new goroutine, which calls end
	tick   func() uint64
	shards [64]shard
}

type shard struct {
	mu      sync.Mutex
	flights map[string]*flight
}

func (t *tier) shard(key string) *shard {
	return &t.shards[xxhash.Sum64String(key)%uint64(len(t.shards))]
}

// join returns what has come into memory meanwhile, or else the flight for key in an
// era, which it begins when there is none. An error means that none could be begun.
func (t *tier) join(e *era, key string) (*record, *flight, error) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.joinLocked(s, e, key)
}

// after is join for a caller who joined earlier, which is over. All of its
// callers get the same flight, which began after any of them came.
func (t *tier) after(earlier *flight, key string) (*record, *flight, error) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if earlier.next != nil {
		return nil, earlier.next, nil
	}
	rec, f, err := t.joinLocked(s, earlier.era, key)
	earlier.next = f
	return rec, f, err
}

// joinLocked is join for who holds the shard's lock.
func (t *tier) joinLocked(s *shard, e *era, key string) (*record, *flight, error) {
	before := s.flights[key]
	if before != nil && before.era == e {
		return nil, before, nil
	}
	if rec, _ := t.memory.Get(key); rec != nil {
		return rec, nil, nil
	}
	key = strings.Clone(key) // it may be held, and must not keep a whole request in memory
	if s.flights == nil {
		s.flights = make(map[string]*flight)
	}
	f := &flight{era: e, start: t.tick(), done: make(chan struct{}), before: before}
	if err := t.launch(t, f, key); err != nil {
		return nil, nil, err
	}
	s.flights[key] = f
	return nil, f, nil
}

// end publishes a flight's result. The flight is gone from the table before
// anybody sees it, so that who comes afterwards begins a new one.
func (t *tier) end(f *flight, key string) {
	s := t.shard(key)
	s.mu.Lock()
	if s.flights[key] == f { // else one of another era has taken its place
		delete(s.flights, key)
	}
	s.mu.Unlock()
	close(f.done)
}
