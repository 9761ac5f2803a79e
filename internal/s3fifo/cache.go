package s3fifo

import (
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

const (
	// LargestShare bounds a value to this part of the limit, one eighth, so that no single
	// value empties the cache.
	LargestShare = 8
	// mirrorShare is the part of the memory for mirrored values, one quarter, when memory
	// is scarce.
	mirrorShare = 4
	// smallShare is the part of either pair of queues, one tenth, for values that have not
	// yet been asked for again.
	smallShare = 10
	// usesMax is the highest count of uses: the higher it is, the longer formerly hot
	// values stay.
	usesMax = 3
	// overheadBytes is what a value takes besides its own bytes: its entry, and its slot in
	// a map, of which up to half are free after it has grown.
	overheadBytes = 48 + 48
)

// Value is what a Cache holds. Both of its results must be constant.
type Value interface {
	CacheKey() string
	CacheBytes() int64 // all the memory that it takes
}

// Cache holds values up to a limit of bytes. It is safe for concurrent use.
type Cache[V Value] struct {
	limit  int64
	shards [64]shard[V]

	// Only Get works without mu: everything else changes the cache after a load, which
	// costs far more.
	mu            sync.Mutex
	own, mirrored segment[V]
	ghosts        ghosts
	generation    uint64
	stats         Stats // without the bytes
}

// Stats counts since the Cache was made, and describes what it holds now.
type Stats struct {
	Items, Bytes, MirroredBytes       int64
	Admissions, Evictions, Unadmitted uint64
}

// shard is a part of the table. Its lock is taken while Cache.mu is held, never the other
// way round.
type shard[V Value] struct {
	mu      sync.RWMutex
	entries map[string]*entry[V]
	_       [32]byte // keeps two shards' locks off one cache line
}

type entry[V Value] struct {
	value    V             // replaced under the shard's lock
	bytes    int64         // what it counts for; under Cache.mu, as the next two
	in       *queue[V]     // where it stands
	next     *entry[V]     // in the queue
	uses     atomic.Uint32 // hits since it was last passed over, up to usesMax
	mirrored bool
}

// segment is a small and a main queue.
type segment[V Value] struct{ small, main queue[V] }

func (s *segment[V]) bytes() int64 { return s.small.bytes + s.main.bytes }

// queue is a list of entries, first in, first out.
type queue[V Value] struct {
	first, last *entry[V]
	bytes       int64
}

func (q *queue[V]) push(e *entry[V]) {
	e.in, e.next = q, nil
	if q.last == nil {
		q.first = e
	} else {
		q.last.next = e
	}
	q.last = e
	q.bytes += e.bytes
}

func (q *queue[V]) pop() *entry[V] {
	e := q.first
	if q.first = e.next; q.first == nil {
		q.last = nil
	}
	e.next = nil
	q.bytes -= e.bytes
	return e
}

// New returns an empty cache of so many bytes, at generation 0.
func New[V Value](limit int64) *Cache[V] {
	c := &Cache[V]{limit: limit, ghosts: newGhosts(limit)}
	c.clear()
	return c
}

func (c *Cache[V]) shard(hash uint64) *shard[V] { return &c.shards[hash%uint64(len(c.shards))] }

// Get returns the value of key and whether it is mirrored; the zero value if it is not
// held.
func (c *Cache[V]) Get(key string) (v V, mirrored bool) {
	s := c.shard(xxhash.Sum64String(key))
	s.mu.RLock()
	e := s.entries[key]
	if e == nil {
		s.mu.RUnlock()
		return v, false
	}
	v = e.value
	s.mu.RUnlock()
	// A hot entry has the maximum of uses, so nobody writes to it.
	if n := e.uses.Load(); n < usesMax {
		e.uses.CompareAndSwap(n, n+1)
	}
	return v, e.mirrored
}

// Add holds a value if the policy admits it and its generation is the current one. It
// replaces a value under the same key only if it takes more bytes.
func (c *Cache[V]) Add(v V, mirrored bool, generation uint64) {
	key, bytes := v.CacheKey(), v.CacheBytes()+overheadBytes
	hash := xxhash.Sum64String(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation != generation {
		return
	}
	if bytes > c.limit/LargestShare {
		c.stats.Unadmitted++
		return
	}
	s := c.shard(hash)
	if e := s.entries[key]; e != nil { // whoever writes to the table holds mu
		if more := bytes - e.bytes; more > 0 {
			s.mu.Lock()
			e.value = v
			s.mu.Unlock()
			e.bytes = bytes
			e.in.bytes += more
			c.shrink()
		}
		return
	}
	known := c.ghosts.has(hash, c.stats.Items)
	if mirrored && !known && c.bytes()+bytes > c.limit {
		c.ghosts.add(hash)
		c.stats.Unadmitted++
		return
	}
	e := &entry[V]{value: v, bytes: bytes, mirrored: mirrored}
	s.mu.Lock()
	s.entries[key] = e
	s.mu.Unlock()
	into := &c.own
	if mirrored {
		into = &c.mirrored
	}
	if known {
		into.main.push(e)
	} else {
		into.small.push(e)
	}
	c.stats.Items++
	c.stats.Admissions++
	c.shrink()
}

func (c *Cache[V]) bytes() int64 { return c.ghosts.bytes() + c.own.bytes() + c.mirrored.bytes() }

// shrink evicts until the limit is kept. It terminates: each step either drops a value or
// takes a use off one.
func (c *Cache[V]) shrink() {
	for c.bytes() > c.limit && c.stats.Items > 0 {
		from := &c.own
		if c.mirrored.bytes() > c.limit/mirrorShare || from.bytes() == 0 {
			from = &c.mirrored
		}
		if from.main.first == nil || from.small.bytes > from.bytes()/smallShare {
			if e := from.small.pop(); e.uses.Load() > 1 {
				e.uses.Store(0)
				from.main.push(e)
			} else {
				c.ghosts.add(c.drop(e))
			}
			continue
		}
		e := from.main.pop()
		if n := e.uses.Load(); n > 0 {
			e.uses.Store(n - 1) // a use that comes just now may be lost
			from.main.push(e)
		} else {
			c.drop(e)
		}
	}
}

// drop removes an entry that is in no queue from the table.
func (c *Cache[V]) drop(e *entry[V]) (hash uint64) {
	key := e.value.CacheKey()
	hash = xxhash.Sum64String(key)
	s := c.shard(hash)
	s.mu.Lock()
	delete(s.entries, key)
	s.mu.Unlock()
	c.stats.Items--
	c.stats.Evictions++
	return hash
}

// Begin drops all values and begins the next generation. It returns that, and how many
// values it dropped. It keeps the ghosts: recent requests still tell what is hot.
func (c *Cache[V]) Begin() (generation uint64, dropped int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	return c.generation, c.clear()
}

// Close drops everything. The cache holds nothing from then on.
func (c *Cache[V]) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation = closed
	c.ghosts = ghosts{}
	c.clear()
}

// closed is a generation that Begin never reaches.
const closed = 1<<64 - 1

// clear drops all values.
func (c *Cache[V]) clear() (dropped int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries = make(map[string]*entry[V])
		s.mu.Unlock()
	}
	c.own, c.mirrored = segment[V]{}, segment[V]{}
	dropped, c.stats.Items = c.stats.Items, 0
	return dropped
}

// Stats returns the statistics.
func (c *Cache[V]) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.MirroredBytes = c.bytes(), c.mirrored.bytes()
	return s
}
