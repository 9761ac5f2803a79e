package kvstore

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// memtable answers for the keys that the index does not have yet. Its owner
// guards it: the store's mu.
type memtable struct {
	seed   maphash.Seed
	active *generation   // takes new keys
	frozen []*generation // oldest first; never change, wait to be indexed
	bytes  int64         // estimate for all generations

	indexedRev Revision // the index holds every key up to here
}

// generation is a run of consecutive revisions. With a million keys in it, pointers would
// keep the garbage collector busy, and a map of strings would take twice the memory.
type generation struct {
	keyLog
	// table is a hash table with open addressing: the upper half of an element
	// is that of the key's hash, the lower the place in keyLog plus one.
	table  []uint64
	bytes  int64
	first  Revision // oldest revision in it
	last   Revision // newest revision in it, 0 while empty
	digest Digest   // history digest at last, once it is frozen

	sorting sync.Mutex        // nobody but those who list keys waits for it
	sorted  []keyRevisionPair // replaced, never changed; see pinned.sorted
}

// keyLog is a list of keys that only grows. A copy of it stays as it is when
// keys are added to the original.
type keyLog struct {
	slabs [][]byte // the bytes of the keys, each behind its length in two bytes
	at    []uint32 // where each key is: slab, and offset in the lower slabBits
	used  int      // of the last slab
}

const (
	slabBits     = 18
	slabBytesMin = 4 << 10
	slabBytesMax = 1 << slabBits
)

// len is the number of keys.
func (l *keyLog) len() int { return len(l.at) }

// bytesOf returns key i, which must not be changed.
func (l *keyLog) bytesOf(i int) []byte {
	at := l.at[i]
	slab := l.slabs[at>>slabBits][at&(slabBytesMax-1):]
	n := 2 + int(binary.LittleEndian.Uint16(slab))
	return slab[2:n:n]
}

// key returns key i without copying it: it keeps its slab in memory.
func (l *keyLog) key(i int) Key {
	b := l.bytesOf(i)
	return Key(unsafe.String(unsafe.SliceData(b), len(b))) // never changed once it is written
}

// append adds a key.
func (l *keyLog) append(key Key) {
	size := 2 + len(key)
	if n := len(l.slabs); n == 0 || l.used+size > len(l.slabs[n-1]) {
		next := slabBytesMin
		if n > 0 {
			next = min(2*len(l.slabs[n-1]), slabBytesMax)
		}
		l.slabs = append(l.slabs, make([]byte, next))
		l.used = 0
	}
	last := len(l.slabs) - 1
	slab := l.slabs[last][l.used:]
	binary.LittleEndian.PutUint16(slab, uint16(len(key)))
	copy(slab[2:], key)
	l.at = append(l.at, uint32(last)<<slabBits|uint32(l.used))
	l.used += size
}

// memtableOverhead is about what a key costs in memory besides its bytes. While
// keys are listed, 24 more.
const memtableOverhead = 28

func newMemtable() memtable { return memtable{seed: maphash.MakeSeed(), active: &generation{}} }

// hash never decides anything but where a key lies in a table.
func (o *memtable) hash(key Key) uint32 { return uint32(maphash.String(o.seed, string(key)) >> 32) }

// find returns the revision of key, 0 when the memtable does not have it. Keys
// are set once, so the order of looking does not matter.
func (o *memtable) find(key Key) Revision {
	h := o.hash(key)
	if rev := o.active.find(key, h); rev != 0 {
		return rev
	}
	for _, g := range o.frozen {
		if rev := g.find(key, h); rev != 0 {
			return rev
		}
	}
	return 0
}

// find returns the revision of key, whose hash is h, or 0.
func (g *generation) find(key Key, h uint32) Revision {
	if len(g.table) == 0 {
		return 0
	}
	mask := len(g.table) - 1
	for i := int(h) & mask; ; i = (i + 1) & mask {
		e := g.table[i]
		if e == 0 {
			return 0
		}
		if at := int(uint32(e)) - 1; uint32(e>>32) == h && string(g.bytesOf(at)) == string(key) {
			return g.first + Revision(at)
		}
	}
}

// insert puts the place of a key whose hash is h into the table.
func (g *generation) insert(h uint32, at int) {
	if 4*(at+1) > 3*len(g.table) {
		old := g.table
		g.table = make([]uint64, max(64, 2*len(old)))
		for _, e := range old {
			if e != 0 {
				g.place(e)
			}
		}
	}
	g.place(uint64(h)<<32 | uint64(at+1))
}

func (g *generation) place(e uint64) {
	mask := len(g.table) - 1
	i := int(e>>32) & mask
	for g.table[i] != 0 {
		i = (i + 1) & mask
	}
	g.table[i] = e
}

// add notes that rev, the revision after all others, set key, of which it keeps a copy.
func (o *memtable) add(key Key, rev Revision) {
	size := int64(len(key)) + memtableOverhead
	g := o.active
	if g.last == 0 {
		g.first = rev
	}
	g.insert(o.hash(key), g.len())
	g.append(key)
	g.last = rev
	g.bytes += size
	o.bytes += size
}

// freeze starts a new generation, unless the active one is empty. at is what history
// is at its last revision.
func (o *memtable) freeze(at *derived) {
	if o.active.last == 0 {
		return
	}
	o.active.digest = at.digest()
	o.frozen = append(o.frozen, o.active)
	o.active = &generation{}
}

// frozenBytes is the part that a flush can release.
func (o *memtable) frozenBytes() int64 { return o.bytes - o.active.bytes }

// indexable returns the frozen generations whose revisions history has.
func (o *memtable) indexable(durable Revision) []*generation {
	n := 0
	for n < len(o.frozen) && o.frozen[n].last <= durable {
		n++
	}
	return o.frozen[:n:n]
}

// drop removes the n oldest generations, which are in the index now.
func (o *memtable) drop(n int) {
	for _, g := range o.frozen[:n] {
		o.bytes -= g.bytes
		o.indexedRev = g.last
	}
	o.frozen = append([]*generation(nil), o.frozen[n:]...)
}

// end returns the newest revision that memtable or index covers.
func (o *memtable) end() Revision {
	if o.active.last != 0 {
		return o.active.last
	}
	if n := len(o.frozen); n > 0 {
		return o.frozen[n-1].last
	}
	return o.indexedRev
}

// len is the number of keys.
func (o *memtable) len() int {
	n := o.active.len()
	for _, g := range o.frozen {
		n += g.len()
	}
	return n
}

// keyRevisionPair is a key and the revision that set it.
type keyRevisionPair struct {
	key Key
	rev Revision
}

// pinned is a generation as a list sees it: its first keys, in the order they
// were set. They stay as they are when more are added.
type pinned struct {
	generation *generation
	first      Revision // of the first key
	keys       keyLog   // as it was then
}

// pin returns all generations as they are now, but for an empty one.
func (o *memtable) pin() []pinned {
	pins := make([]pinned, 0, len(o.frozen)+1)
	for _, g := range o.frozen {
		pins = append(pins, pinned{g, g.first, g.keyLog})
	}
	if g := o.active; g.len() > 0 {
		pins = append(pins, pinned{g, g.first, g.keyLog})
	}
	return pins
}

// pairsOf returns the first n keys in a range that pins have, in order; none
// is of a revision behind at.
func pairsOf(pins []pinned, from keyRange, at Revision, n int) []keyRevisionPair {
	var found []keyRevisionPair
	for _, p := range pins {
		sorted := p.sorted()
		i, _ := slices.BinarySearchFunc(sorted, from.start, func(p keyRevisionPair, start string) int { return strings.Compare(string(p.key), start) })
		for taken := 0; i < len(sorted) && taken < n && strings.HasPrefix(string(sorted[i].key), from.prefix); i++ {
			if sorted[i].rev <= at {
				found = append(found, sorted[i])
				taken++
			}
		}
		for i := len(sorted); i < p.keys.len(); i++ {
			if key := p.keys.key(i); string(key) >= from.start && strings.HasPrefix(string(key), from.prefix) {
				found = append(found, keyRevisionPair{key, p.first + Revision(i)})
			}
		}
	}
	sortPairs(found)
	return found[:min(n, len(found))]
}

// sorted returns the first keys of the generation in byte order: all but at most a fifth
// at its end, or 512; more if another list saw more. Only lists make it, and only they
// wait for one another.
func (p *pinned) sorted() []keyRevisionPair {
	g := p.generation
	g.sorting.Lock()
	defer g.sorting.Unlock()
	have := len(g.sorted)
	if p.keys.len()-have <= max(unsortedMin, have/4) {
		return g.sorted
	}
	all := append(make([]keyRevisionPair, 0, p.keys.len()), g.sorted...)
	for i := have; i < p.keys.len(); i++ {
		all = append(all, keyRevisionPair{p.keys.key(i), p.first + Revision(i)})
	}
	sortPairs(all)
	g.sorted = all
	return all
}

func sortPairs(pairs []keyRevisionPair) {
	slices.SortFunc(pairs, func(a, b keyRevisionPair) int { return strings.Compare(string(a.key), string(b.key)) })
}

// keyRange is the keys from start on that have a prefix.
type keyRange struct{ prefix, start string }

// unsortedMin is how many keys are looked through one by one before the sorted
// copy is made anew.
const unsortedMin = 512
