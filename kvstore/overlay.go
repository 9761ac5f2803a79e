package kvstore

import "sync"

// overlay answers for the keys that the index does not have yet. Its owner
// guards it: the store's mu.
type overlay struct {
	active *generation   // takes new keys
	frozen []*generation // oldest first; never change, wait to be indexed
	bytes  int64         // estimate for all generations

	indexedRev    Revision // the index holds every key up to here
	indexedDigest Digest   // history digest there
}

// generation is a run of consecutive revisions.
type generation struct {
	keys   map[Key]Revision
	order  []Key // of the revisions first, first+1, …; only ever grows at its end
	bytes  int64
	first  Revision // oldest revision in it
	last   Revision // newest revision in it, 0 while empty
	digest Digest   // history digest at last

	sorting sync.Mutex        // nobody but those who list keys waits for it
	sorted  []keyRevisionPair // replaced, never changed; see pinned.sorted
}

// overlayOverhead is about what a key costs in memory besides its bytes. While
// keys are listed, 24 more.
const overlayOverhead = 96

func newOverlay() overlay { return overlay{active: newGeneration()} }

func newGeneration() *generation { return &generation{keys: make(map[Key]Revision)} }

// find returns the revision of key, 0 when the overlay does not have it. Keys
// are set once, so the order of looking does not matter.
func (o *overlay) find(key Key) Revision {
	if rev := o.active.keys[key]; rev != 0 {
		return rev
	}
	for _, g := range o.frozen {
		if rev := g.keys[key]; rev != 0 {
			return rev
		}
	}
	return 0
}

// add notes that rev, the revision after all others, set key.
func (o *overlay) add(key Key, rev Revision, digest Digest) {
	size := int64(len(key)) + overlayOverhead
	if o.active.last == 0 {
		o.active.first = rev
	}
	o.active.keys[key] = rev
	o.active.order = append(o.active.order, key)
	o.active.last, o.active.digest = rev, digest
	o.active.bytes += size
	o.bytes += size
}

// freeze starts a new generation, unless the active one is empty.
func (o *overlay) freeze() {
	if o.active.last == 0 {
		return
	}
	o.frozen = append(o.frozen, o.active)
	o.active = newGeneration()
}

// frozenBytes is the part that a flush can release.
func (o *overlay) frozenBytes() int64 { return o.bytes - o.active.bytes }

// indexable returns the frozen generations whose revisions history has.
func (o *overlay) indexable(durable Revision) []*generation {
	n := 0
	for n < len(o.frozen) && o.frozen[n].last <= durable {
		n++
	}
	return o.frozen[:n:n]
}

// drop removes the n oldest generations, which are in the index now.
func (o *overlay) drop(n int) {
	for _, g := range o.frozen[:n] {
		o.bytes -= g.bytes
		o.indexedRev, o.indexedDigest = g.last, g.digest
	}
	o.frozen = append([]*generation(nil), o.frozen[n:]...)
}

// end returns the newest revision that overlay or index covers, and the history
// digest at it.
func (o *overlay) end() (Revision, Digest) {
	if o.active.last != 0 {
		return o.active.last, o.active.digest
	}
	if n := len(o.frozen); n > 0 {
		return o.frozen[n-1].last, o.frozen[n-1].digest
	}
	return o.indexedRev, o.indexedDigest
}

// len is the number of keys.
func (o *overlay) len() int {
	n := len(o.active.keys)
	for _, g := range o.frozen {
		n += len(g.keys)
	}
	return n
}
