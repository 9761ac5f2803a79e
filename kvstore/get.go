package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
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

// getMany is Get for many keys, whose answers it gives to each, with their places, in
// any order. What a Value shares with the transaction that each runs in is valid until
// it returns.
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
// It looks in the overlay, then in the index; readers look in history last. A key leaves
// the overlay only after its index entry is durable, and enters the index only after its
// record is, so that no order of events can hide a key. While the index covers no
// revision, no key has left the overlay, and there is nothing to look up.
func (s *Store) find(keys []Key, revs []Revision) (recent, error) {
	if err := s.err(); err != nil {
		return recent{}, err
	}
	s.mu.RLock()
	for i, key := range keys {
		if revs[i] == 0 {
			revs[i] = s.overlay.find(key)
		}
	}
	now, indexed := s.recentLocked(), s.overlay.indexedRev > 0
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

// read answers for keys whose revisions are known: what pends first, then what is in
// history, and last the values that are bodies, one in memory at a time unless they are
// to be kept.
func (g *getting) read(now recent) {
	durable := false
	for i, rev := range g.revs {
		switch {
		case rev == answered:
		case rev == 0:
			g.answer(i, nil, ErrNotFound)
		case rev > now.durable:
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
func (g *getting) readHistory(tx Tx) error {
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
		v.stream = g.store.chunkedStream(d.upload, d.size)
	case g.want != metaOnly:
		g.referred = append(g.referred, referredValue{i, v})
		g.revs[i] = answered // soon
		return
	}
	g.answer(i, v, nil)
}

// wrongIndex is the error of an index that gives a key the revision of another.
// The record is sound and names its revision, so the index is wrong.
func (s *Store) wrongIndex(rev Revision, key Key, other string) error {
	return s.corruptIndex(fmt.Sprintf("it says that revision %d is key %q, but that is key %q", rev, key, other))
}

// chunkedStream returns what a value reads that is in chunks.
func (s *Store) chunkedStream(id uploadID, size int64) func(ctx context.Context) io.ReadSeekCloser {
	return func(ctx context.Context) io.ReadSeekCloser {
		return &chunkReader{ctx: ctx, store: s, upload: id, size: size}
	}
}

// corruptFile returns a *CorruptError about all of an engine's file.
func corruptFile(e Engine, detail string) error {
	c := &CorruptError{Offset: -1, Detail: detail}
	if err := e.View(func(tx Tx) error { c.File, _ = tx.Where(nil); return nil }); err != nil {
		return err
	}
	return c
}

// readRecord reads and checks the record of rev. What it returns aliases the
// transaction.
func readRecord(tx Tx, rev Revision) (body, error) {
	raw, err := recordAt(tx, rev)
	if err != nil {
		return body{}, err
	}
	if raw == nil {
		file, _ := tx.Where(nil)
		return body{}, &CorruptError{File: file, Offset: -1, Detail: fmt.Sprintf("revision %d is missing", rev)}
	}
	return checkRecord(tx, raw, rev)
}

// checkRecord decodes the stored record of rev.
func checkRecord(tx Tx, raw []byte, rev Revision) (body, error) {
	d, err := decodeRecord(raw, rev)
	if _, later := err.(*level.LaterError); later {
		return body{}, err
	}
	if err != nil {
		file, off := tx.Where(raw)
		return body{}, &CorruptError{File: file, Offset: off, Detail: err.Error()}
	}
	return d, nil
}

// chunkBody returns which body a chunk is, which must be there.
func (s *Store) chunkBody(key chunkKey) (bodies.Ref, error) {
	if err := s.err(); err != nil {
		return bodies.Ref{}, err
	}
	ref, found, err := s.chunkRef(key)
	if err == nil && !found {
		err = s.failed("read a chunk", corruptFile(s.history, missingChunk(key)))
	}
	return ref, err
}

// chunkRef returns which body a chunk is, wherever its row is now; false when it is
// nowhere.
func (s *Store) chunkRef(key chunkKey) (ref bodies.Ref, found bool, err error) {
	s.mu.RLock()
	row := s.chunks[key]
	s.mu.RUnlock()
	if row != nil {
		if ref, err = decodeChunkRow(row, key); err != nil {
			return ref, false, s.fail(fmt.Errorf("memory is damaged: %w: start this node again, and have its memory tested", err))
		}
		return ref, true, nil
	}
	err = s.history.View(func(tx Tx) (err error) {
		if raw := tx.Get(BucketChunks, key[:]); raw != nil {
			found = true
			ref, err = checkChunkRow(tx, raw, key)
		}
		return err
	})
	return ref, found, s.failed("read a chunk", err)
}

func missingChunk(key chunkKey) string {
	return fmt.Sprintf("chunk %d of upload %s is missing", key.number(), key.upload())
}

// readChunkRow reads and checks the row of a chunk that must be there.
func readChunkRow(tx Tx, key chunkKey) (bodies.Ref, error) {
	row := tx.Get(BucketChunks, key[:])
	if row == nil {
		file, _ := tx.Where(nil)
		return bodies.Ref{}, &CorruptError{File: file, Offset: -1, Detail: missingChunk(key)}
	}
	return checkChunkRow(tx, row, key)
}

// checkChunkRow decodes a stored row.
func checkChunkRow(tx Tx, row []byte, key chunkKey) (bodies.Ref, error) {
	ref, err := decodeChunkRow(row, key)
	if err != nil {
		file, off := tx.Where(row)
		return ref, &CorruptError{File: file, Offset: off, Detail: err.Error()}
	}
	return ref, nil
}

// hasChunk reports whether a chunk is part of this state.
func (s *Store) hasChunk(key chunkKey) (bool, error) {
	s.mu.RLock()
	_, found := s.chunks[key]
	dropped := s.drops[key.upload()] > 0
	s.mu.RUnlock()
	if found || dropped { // history may still have a chunk whose drop pends
		return found, nil
	}
	err := s.history.View(func(tx Tx) error {
		found = tx.Get(BucketChunks, key[:]) != nil
		return nil
	})
	return found, s.failed("look up a chunk", err)
}

var errReaderClosed = errors.New("value reader is closed")

// chunkReader reads a large value. Whole blocks of its chunks go straight to where the
// caller wants them, each checked there; a block that is read in parts is kept for the
// next part. So who reads many blocks at a time has no copy made of them, and needs no
// more memory than for what he asks.
type chunkReader struct {
	ctx    context.Context
	store  *Store
	upload uploadID
	size   int64
	pos    int64

	looked bool
	number uint32     // of the chunk that was looked up last
	ref    bodies.Ref // its body

	block   []byte // a block that is read in parts; empty: none
	blockAt int64  // where it is in the value
}

// Read implements io.Reader. It is cheapest with room for several blocks.
func (r *chunkReader) Read(p []byte) (int, error) {
	if r.store == nil {
		return 0, errReaderClosed
	}
	if r.pos >= r.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	at := r.pos / bodies.BlockBytes * bodies.BlockBytes
	if r.pos == at && int64(len(p)) >= min(bodies.BlockBytes, r.size-r.pos) {
		n, err := r.readAt(p, at)
		r.pos += int64(n)
		return n, err
	}
	if len(r.block) == 0 || r.blockAt != at {
		if err := r.load(at); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.block[r.pos-at:])
	r.pos += int64(n)
	return n, nil
}

// load brings the block that begins at an offset into memory.
func (r *chunkReader) load(at int64) error {
	if r.block == nil {
		r.block = make([]byte, bodies.BlockBytes)
	}
	n, err := r.readAt(r.block[:bodies.BlockBytes], at)
	r.block, r.blockAt = r.block[:n], at
	return err
}

// readAt fills p with the blocks from an offset on, as far as they fit and their chunk
// goes.
func (r *chunkReader) readAt(p []byte, at int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if err := r.look(uint32(at / ChunkBytes)); err != nil {
		return 0, err
	}
	return r.store.readBlocks(r.ref, p, int(at%ChunkBytes))
}

// look finds out which body chunk n is.
func (r *chunkReader) look(n uint32) error {
	if r.looked && r.number == n {
		return r.store.err()
	}
	r.looked = false
	ref, err := r.store.chunkBody(makeChunkKey(r.upload, n))
	if err != nil {
		return err
	}
	if want := chunkSize(r.size, n); int64(ref.Size) != want {
		return r.store.fail(fmt.Errorf("chunk %d of upload %s has %d bytes, want %d: replace this node", n, r.upload, ref.Size, want))
	}
	r.ref, r.number, r.looked = ref, n, true
	return nil
}

// Seek implements io.Seeker.
func (r *chunkReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	case io.SeekStart:
	default:
		return 0, fmt.Errorf("seek: whence %d is unknown", whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d: before the start of the value", offset)
	}
	r.pos = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *chunkReader) Close() error {
	r.store, r.block = nil, nil
	return nil
}
