package kvstore

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// recent is what history lacked at one moment. Its elements never change.
type recent struct {
	durable Revision // what history had
	pending []pendingRecord
}

// recentLocked returns it. mu is held.
func (s *Store) recentLocked() recent {
	return recent{durable: s.durable.rev, pending: s.pending[:len(s.pending):len(s.pending)]}
}

func (s *Store) recent() recent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.recentLocked()
}

// has reports whether history lacked a revision that there was. One that came later and
// was found in the index is in history.
func (r *recent) has(rev Revision) bool {
	return rev > r.durable && rev-r.durable <= Revision(len(r.pending))
}

// at returns the record of a revision that history lacked.
func (r *recent) at(rev Revision) *pendingRecord { return &r.pending[rev-r.durable-1] }

// Get returns the value of key, or ErrNotFound. It shows everything applied on this
// node. A value that fails its checksum is a *CorruptError, and fatal.
func (s *Store) Get(key Key) (*Value, error) {
	g := getting{store: s, want: owned}
	g.one.key[0] = key
	g.keys, g.revs = g.one.key[:], g.one.rev[:]
	g.get()
	return g.one.value, g.one.err
}

// getMany is Get for many keys, whose answers it gives to each, with their places, in any
// order. Each Value is valid until each returns, which runs in a transaction.
func (s *Store) getMany(keys []Key, each func(i int, v *Value, err error)) {
	g := getting{store: s, want: shared, keys: keys, revs: make([]Revision, len(keys)), each: each}
	g.get()
}

// lookup returns the Meta of key, or ErrNotFound, without reading its value.
func (s *Store) lookup(key Key) (Meta, error) {
	revs := [1]Revision{}
	now, err := s.find([]Key{key}, revs[:])
	switch {
	case err != nil:
		return Meta{}, err
	case revs[0] == 0:
		return Meta{}, ErrNotFound
	}
	return s.metaAt(now, revs[0], key)
}

// metaAt returns the Meta of key, which revision rev set.
func (s *Store) metaAt(now recent, rev Revision, key Key) (Meta, error) {
	metas, err := s.metas(now, []Key{key}, []Revision{rev})
	if err != nil {
		return Meta{}, err
	}
	return metas[0], nil
}

// metas returns the Meta of each of keys, which revisions revs set.
func (s *Store) metas(now recent, keys []Key, revs []Revision) (metas []Meta, err error) {
	metas = make([]Meta, len(keys))
	g := getting{store: s, want: metaOnly, keys: keys, revs: slices.Clone(revs), each: func(i int, v *Value, e error) {
		if e != nil {
			err = e
			return
		}
		metas[i] = v.Meta
	}}
	g.read(now)
	return metas, err
}

// find sets revs to the revisions of keys, and leaves 0 for a key that is not set and
// what is not 0 as it is. It returns what history lacked when it looked.
//
// It looks in the memtable, then in the index; readers look in history last. A key leaves
// the memtable only after its index entry is durable, and enters the index only after its
// record is: no order of events hides a key. While the index covers no revision, no key
// has left the memtable.
func (s *Store) find(keys []Key, revs []Revision) (recent, error) {
	if err := s.err(); err != nil {
		return recent{}, err
	}
	s.mu.RLock()
	for i, key := range keys {
		if revs[i] == 0 {
			revs[i] = s.memtable.find(key)
		}
	}
	now, indexed := s.recentLocked(), s.memtable.indexedRev > 0
	s.mu.RUnlock()
	for i := range keys {
		if !indexed || revs[i] != 0 {
			continue
		}
		rev, err := s.indexedRevision([]byte(keys[i]))
		if err != nil {
			return now, s.failed("look up a key", err)
		}
		revs[i] = rev
	}
	return now, nil
}

// getting is one call of Get, getMany or metas.
type getting struct {
	store *Store
	want  wanted
	keys  []Key
	revs  []Revision                       // that set them; 0: not set
	each  func(i int, v *Value, err error) // nil: the answer to the only key goes to one
	one   struct {
		key   [1]Key
		rev   [1]Revision
		value *Value
		err   error
	}

	referred []referredValue // to be read at the end
}

// wanted says what of a value a reader needs.
type wanted int

const (
	metaOnly wanted = iota // not the bytes of bodies; each of the answers as with shared
	shared                 // bytes that are valid until each returns
	owned                  // bytes of its own
)

// answered is what takes the place of the revision of a key that has its answer.
const answered = ^Revision(0)

// referredValue is a value whose bytes are a body.
type referredValue struct {
	at    int // in keys
	value *Value
}

func (g *getting) answer(i int, v *Value, err error) {
	g.revs[i] = answered
	if g.each != nil {
		g.each(i, v, err)
		return
	}
	g.one.value, g.one.err = v, err
}

// fail answers those that have no answer yet.
func (g *getting) fail(err error) {
	for i, rev := range g.revs {
		if rev != answered {
			g.answer(i, nil, err)
		}
	}
}

func (g *getting) get() {
	for i, key := range g.keys {
		if err := key.Validate(); err != nil {
			g.answer(i, nil, err)
		}
	}
	now, err := g.store.find(g.keys, g.revs)
	if err != nil {
		g.fail(err)
		return
	}
	g.read(now)
}

// read answers for keys whose revisions are known: what pends, then what is in history,
// then the values that are bodies, of which only those to be owned are in memory together.
func (g *getting) read(now recent) {
	durable := false
	for i, rev := range g.revs {
		switch {
		case rev == answered:
		case rev == 0:
			g.answer(i, nil, ErrNotFound)
		case now.has(rev):
			d := now.at(rev).body()
			g.record(i, &d, d.value) // which never changes
		default:
			durable = true
		}
	}
	if durable {
		if err := g.store.failed("read history", g.store.history.View(g.readHistory)); err != nil {
			g.fail(err)
		}
	}
	var buf []byte
	for _, r := range g.referred {
		var err error
		if buf, err = g.store.readBody(bodyRef(&r.value.Meta), buf[:0]); err != nil {
			g.answer(r.at, nil, err)
			continue
		}
		r.value.inline = buf
		g.answer(r.at, r.value, nil)
		if g.want == owned {
			buf = nil
		}
	}
}

// readHistory answers for the keys whose records are in history.
func (g *getting) readHistory(tx engine.Tx) error {
	for i, rev := range g.revs {
		if rev == answered {
			continue
		}
		d, err := readRecord(tx, rev)
		if err != nil {
			return err
		}
		if string(d.key) != string(g.keys[i]) {
			return g.store.wrongIndex(rev, g.keys[i], string(d.key))
		}
		value := d.value
		if g.want == owned {
			value = append(make([]byte, 0, len(value)), value...)
		}
		g.record(i, &d, value)
	}
	return nil
}

// record answers with a record, which has the value if that is inline.
func (g *getting) record(i int, d *body, value []byte) {
	v := &Value{Meta: d.meta(g.revs[i], g.keys[i])}
	switch {
	case d.kind == bodyInline:
		v.inline = value
	case d.kind == bodyChunked:
		s, id, size := g.store, d.upload, d.size
		v.stream = func(ctx context.Context) io.ReadSeekCloser { return s.openChunks(ctx, id, size) }
	case g.want != metaOnly:
		g.referred = append(g.referred, referredValue{i, v})
		g.revs[i] = answered // soon
		return
	}
	g.answer(i, v, nil)
}

// Resolve returns what Apply would answer to command if that is settled: a snapshot may
// have replaced the entry whose answer its proposer waits for. decided is false when
// command is not applied yet. The error is fatal, or a *level.LaterError.
func (s *Store) Resolve(command []byte) (result any, decided bool, err error) {
	if err := s.err(); err != nil {
		return nil, false, err
	}
	cmd, err := decodeCommand(command)
	if _, later := err.(*level.LaterError); later {
		return nil, false, err
	}
	if err != nil {
		return err, true, nil
	}
	switch cmd.kind {
	case commandPut, commandRefer, commandSeal:
		winner, err := s.lookup(Key(cmd.body.key))
		if errors.Is(err, ErrNotFound) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		return PutResult{Outcome: outcomeAgainst(&winner, cmd.body.putIDString(), &cmd.body.sum), Meta: winner}, true, nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch u := s.uploads[cmd.upload]; cmd.kind {
	case commandOpen:
		return OpenResult{}, u != nil, nil
	case commandChunk: // if the upload is open no more, it is refused when it comes
		return ChunkResult{}, u != nil && cmd.number < u.count(), nil
	default:
		return AbandonResult{}, u == nil, nil
	}
}
