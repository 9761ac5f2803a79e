package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
)

// Get returns the value of key, or ErrNotFound. It shows everything applied on
// this node. A value that fails its checksum is a *CorruptError, and fatal.
//
// It looks in the overlay, then in the index, then in history. A key leaves the
// overlay only after its index entry is durable, and enters the index only
// after its record is, so that no order of events can hide a key.
func (s *Store) Get(key Key) (*Value, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	rev := s.overlay.find(key)
	if rev > s.durable.rev {
		p := s.pending[rev-s.durable.rev-1]
		s.mu.RUnlock()
		return s.pendingValue(&p)
	}
	covered := s.overlay.indexedRev
	s.mu.RUnlock()
	rev, err := s.indexed(key, rev, covered)
	if err != nil {
		return nil, err
	}
	var m Meta
	var v *Value
	err = s.withRecord(rev, key, func(d *body) {
		switch m = d.meta(rev, key); d.kind {
		case bodyChunked:
			v = s.chunkedValue(m, d.upload)
		case bodyInline:
			v = NewValue(m, append(make([]byte, 0, len(d.value)), d.value...))
		}
	})
	if err != nil || v != nil {
		return v, err
	}
	return s.referredValue(m)
}

// indexed returns rev, or what the index says when rev, which is what the overlay
// said, is 0. The index covered the revisions up to covered at that moment: while
// it covers none, no key has left the overlay, and there is nothing to look up.
func (s *Store) indexed(key Key, rev, covered Revision) (Revision, error) {
	switch {
	case rev != 0:
		return rev, nil
	case covered == 0:
		return 0, ErrNotFound
	}
	rev, err := s.indexedRevision([]byte(key))
	if err != nil {
		return 0, s.failed("look up a key", err)
	}
	if rev == 0 {
		return 0, ErrNotFound
	}
	return rev, nil
}

// withRecord calls fn with the record of rev, which must be of key and lie in
// history. What fn sees is valid only inside it.
func (s *Store) withRecord(rev Revision, key Key, fn func(d *body)) error {
	var other string // the key that has this revision, if it is not key
	err := s.history.View(func(tx Tx) error {
		d, err := readRecord(tx, rev)
		if err != nil {
			return err
		}
		if string(d.key) != string(key) {
			other = string(d.key)
			return nil
		}
		fn(&d)
		return nil
	})
	if err == nil && other != "" {
		err = s.wrongIndex(rev, key, other)
	}
	return s.failed("read history", err)
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

// metaAt returns the Meta of key, which revision rev set.
func (s *Store) metaAt(rev Revision, key Key) (m Meta, err error) {
	s.mu.RLock()
	if rev > s.durable.rev {
		m = s.pending[rev-s.durable.rev-1].meta()
		s.mu.RUnlock()
		return m, nil
	}
	s.mu.RUnlock()
	err = s.withRecord(rev, key, func(d *body) { m = d.meta(rev, key) })
	return m, err
}

// lookup returns the Meta of key, or ErrNotFound, without reading its value.
func (s *Store) lookup(key Key) (Meta, error) {
	if err := s.err(); err != nil {
		return Meta{}, err
	}
	s.mu.RLock()
	rev, covered := s.overlay.find(key), s.overlay.indexedRev
	s.mu.RUnlock()
	rev, err := s.indexed(key, rev, covered)
	if err != nil {
		return Meta{}, err
	}
	return s.metaAt(rev, key)
}

// pendingValue returns the value of a record that history may not have yet. It may
// read the disk.
func (s *Store) pendingValue(p *pendingRecord) (*Value, error) {
	d := p.body()
	switch m := d.meta(p.rev, Key(d.key)); d.kind {
	case bodyChunked:
		return s.chunkedValue(m, d.upload), nil
	case bodyReferred:
		return s.referredValue(m)
	default:
		return NewValue(m, d.value), nil
	}
}

// referredValue reads a value that is one body.
func (s *Store) referredValue(m Meta) (*Value, error) {
	data, err := s.readBody(bodyRef(&m), nil)
	if err != nil {
		return nil, err
	}
	return NewValue(m, data), nil
}

// chunkedValue returns a value that is read chunk by chunk.
func (s *Store) chunkedValue(m Meta, id uploadID) *Value {
	return NewStreamedValue(m, func(ctx context.Context) io.ReadSeekCloser {
		return &chunkReader{ctx: ctx, store: s, upload: id, size: m.Size}
	})
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
