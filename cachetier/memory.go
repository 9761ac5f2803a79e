package cachetier

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

const (
	// heldShareMax: a record that would take more than one part in so many of
	// the memory is not held, so that no value empties the cache.
	heldShareMax = 8
	// mirrorShare: when memory is scarce, one part in so many of it is for
	// records that other nodes own.
	mirrorShare = 4
	// smallShare: one part in so many of either segment is for records that
	// have still to show that they are asked for again.
	smallShare = 10
	// usesMax is where counting a record's uses ends: the more of them count,
	// the longer what was hot stays.
	usesMax = 3
)

// memory is everything a node holds: one cache of records, bounded by bytes.
//
// The easy version is a list in the order of use under one lock. Every hit then
// takes that lock and writes to three records, and one pass over many cold keys
// empties the list. This is S3-FIFO instead (Yang et al., SOSP 2023): records
// stand in queues, a hit only counts up to three in the record itself, and what
// is to go is decided when room is needed. A new record enters a small queue;
// what was asked for twice in there goes on to the main one, the rest is
// forgotten but for a fingerprint, a ghost. A key that comes back while its ghost
// is still there enters the main queue at once. In the main queue a record goes
// round once for each use. Against LRU and others: docs/caching.md and
// BenchmarkPolicies.
//
// There are two such segments, one of records this node loaded from the
// database, one of records that their owners gave. Each may take what the other
// leaves free. When nothing is free, a record of another owner is let in only
// if its ghost is there, that is, if it was asked for before and not long ago;
// and that segment gives way first as long as it has over a quarter of the
// memory.
//
// Lookups take the read lock of one shard of the table, and nothing else.
// Everything that changes what is held happens after a load, which costs far
// more than mu.
type memory struct {
	limit int64

	shards [64]heldShard

	mu       sync.Mutex // all below
	era      *era       // to which all that is held belongs; nil of a Hot
	owned    segment
	mirrored segment
	ghosts   ghosts
	closed   bool

	items, bytes, mirroredBytes       atomic.Int64 // written under mu
	admissions, evictions, unadmitted atomic.Uint64
}

// heldShard is a part of the table. Its lock is taken while mu is held, never
// the other way round.
type heldShard struct {
	mu   sync.RWMutex
	held map[string]*held
	_    [32]byte // keeps two shards' locks off one cache line
}

// held is one record in memory.
type held struct {
	rec   *record // replaced under the shard's lock, by one with the bytes of the same value
	bytes int64   // what it counts for; under memory.mu, as the next two
	queue *queue  // where it stands
	next  *held   // in the queue

	uses     atomic.Uint32 // hits since it was last passed over, up to usesMax
	mirrored bool
}

// segment is a small and a main queue. It is used under memory.mu.
type segment struct {
	small, main queue
}

func (s *segment) bytes() int64 { return s.small.bytes + s.main.bytes }

// queue is a list of records, first in, first out.
type queue struct {
	first, last *held
	bytes       int64
}

func (q *queue) push(h *held) {
	h.queue, h.next = q, nil
	if q.last == nil {
		q.first = h
	} else {
		q.last.next = h
	}
	q.last = h
	q.bytes += h.bytes
}

func (q *queue) pop() *held {
	h := q.first
	q.first = h.next
	if q.first == nil {
		q.last = nil
	}
	h.next = nil
	q.bytes -= h.bytes
	return h
}

func newMemory(limit int64) *memory {
	m := &memory{limit: limit, ghosts: newGhosts(limit)}
	for i := range m.shards {
		m.shards[i].held = make(map[string]*held)
	}
	m.bytes.Store(m.ghosts.bytes())
	return m
}

func (m *memory) shard(hash uint64) *heldShard { return &m.shards[hash%uint64(len(m.shards))] }

// get returns the record of key, nil when it is not held, and whether it is
// another node's.
func (m *memory) get(key string) (rec *record, mirrored bool) {
	s := m.shard(xxhash.Sum64String(key))
	s.mu.RLock()
	h := s.held[key]
	if h == nil {
		s.mu.RUnlock()
		return nil, false
	}
	rec = h.rec
	s.mu.RUnlock()
	// A hot record has all its uses: nobody writes to it.
	if n := h.uses.Load(); n < usesMax {
		h.uses.CompareAndSwap(n, n+1)
	}
	return rec, h.mirrored
}

// add holds a record of an era, if it is let in; mirrored says that its owner gave it.
// The bytes of a value take the place of its mere header.
func (m *memory) add(rec *record, mirrored bool, of *era) {
	key := string(rec.value.Key)
	cost := heldBytes(rec)
	if cost > m.limit/heldShareMax {
		m.unadmitted.Add(1)
		return
	}
	hash := xxhash.Sum64String(key)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.era != of {
		return
	}
	s := m.shard(hash)
	if h := s.held[key]; h != nil { // writers of the table all hold mu
		m.replace(s, h, rec, cost)
		return
	}
	known := m.ghosts.has(hash, m.items.Load())
	if mirrored && !known && m.bytes.Load()+cost > m.limit {
		m.ghosts.add(hash)
		m.unadmitted.Add(1)
		return
	}
	h := &held{rec: rec, bytes: cost, mirrored: mirrored}
	s.mu.Lock()
	s.held[key] = h
	s.mu.Unlock()
	into := m.segment(mirrored)
	if known {
		into.main.push(h)
	} else {
		into.small.push(h)
	}
	m.count(h, 1, cost)
	m.admissions.Add(1)
	m.shrink()
}

// replace puts the record with the bytes in the place of the one without.
func (m *memory) replace(s *heldShard, h *held, rec *record, cost int64) {
	if h.rec.whole() || !rec.whole() {
		return
	}
	s.mu.Lock()
	h.rec = rec
	s.mu.Unlock()
	more := cost - h.bytes
	h.bytes = cost
	h.queue.bytes += more
	m.count(h, 0, more)
	m.shrink()
}

func (m *memory) segment(mirrored bool) *segment {
	if mirrored {
		return &m.mirrored
	}
	return &m.owned
}

func (m *memory) count(h *held, items, bytes int64) {
	m.items.Add(items)
	m.bytes.Add(bytes)
	if h.mirrored {
		m.mirroredBytes.Add(bytes)
	}
}

// shrink makes room until the limit is kept. It ends: each step either lets a
// record go or takes uses off one.
func (m *memory) shrink() {
	for m.bytes.Load() > m.limit && m.items.Load() > 0 {
		seg := &m.owned
		if m.mirrored.bytes() > m.limit/mirrorShare || seg.bytes() == 0 {
			seg = &m.mirrored
		}
		m.step(seg)
	}
}

// step passes one record of a segment over.
func (m *memory) step(seg *segment) {
	if seg.main.first == nil || seg.small.bytes > seg.bytes()/smallShare {
		h := seg.small.pop()
		if h.uses.Load() > 1 {
			h.uses.Store(0)
			seg.main.push(h)
			return
		}
		m.ghosts.add(m.drop(h))
		return
	}
	h := seg.main.pop()
	if n := h.uses.Load(); n > 0 {
		h.uses.Store(n - 1) // a use that comes just now may be lost
		seg.main.push(h)
		return
	}
	m.drop(h)
}

// drop takes a record that is in no queue any more out of the table.
func (m *memory) drop(h *held) (hash uint64) {
	key := string(h.rec.value.Key)
	hash = xxhash.Sum64String(key)
	s := m.shard(hash)
	s.mu.Lock()
	delete(s.held, key)
	s.mu.Unlock()
	m.count(h, -1, -h.bytes)
	m.evictions.Add(1)
	return hash
}

// begin forgets what is held, and takes in records of another era from then on. It
// returns how many were dropped. Which keys were asked for lately is still of use.
func (m *memory) begin(next *era) (dropped int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.era = next
	return m.clear()
}

// close forgets everything, and holds nothing from then on.
func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.ghosts = ghosts{}
	m.clear()
}

// clear forgets what is held. mu is held.
func (m *memory) clear() (dropped int64) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.held = make(map[string]*held)
		s.mu.Unlock()
	}
	m.owned, m.mirrored = segment{}, segment{}
	m.bytes.Store(m.ghosts.bytes())
	m.mirroredBytes.Store(0)
	return m.items.Swap(0)
}

// ghosts are fingerprints of keys that were let go, or not let in: the last so
// many of them. Which slot a key has is up to its hash, so a few are lost early.
type ghosts struct {
	buckets [][4]ghost // a power of two of them, or none
	now     uint32     // ghosts there have been
}

// ghost is 32 bits of a key's hash and when it was made, by ghosts.now. Zero is
// an empty slot.
type ghost struct{ print, made uint32 }

// ghostShare: one part in so many of the memory is for ghosts.
const ghostShare = 128

func newGhosts(limit int64) ghosts {
	count := int64(1)
	for 2*count*int64(unsafe.Sizeof([4]ghost{})) <= limit/ghostShare {
		count *= 2
	}
	return ghosts{buckets: make([][4]ghost, count)}
}

func (g *ghosts) bytes() int64 { return int64(len(g.buckets)) * int64(unsafe.Sizeof([4]ghost{})) }

func (g *ghosts) bucket(hash uint64) *[4]ghost { return &g.buckets[hash>>8%uint64(len(g.buckets))] }

// has reports whether the key is among the last limit ghosts.
func (g *ghosts) has(hash uint64, limit int64) bool {
	for _, one := range g.bucket(hash) {
		if one.print == uint32(hash>>32) && one.made != 0 && int64(g.now-one.made) < limit {
			return true
		}
	}
	return false
}

// add makes a ghost, in the place of the oldest one of its bucket.
func (g *ghosts) add(hash uint64) {
	g.now++
	if g.now == 0 { // after 4 billion of them: what was made before is forgotten
		clear(g.buckets)
		g.now = 1
	}
	print, at := uint32(hash>>32), 0
	bucket := g.bucket(hash)
	for i, one := range bucket {
		if one.print == print {
			at = i
			break
		}
		if one.made < bucket[at].made {
			at = i
		}
	}
	bucket[at] = ghost{print: print, made: g.now}
}
