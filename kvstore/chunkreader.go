package kvstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

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
	ref, found, err = storedChunk(s.history, key)
	return ref, found, s.failed("read a chunk", err)
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
	err := s.history.View(func(tx engine.Tx) error {
		found = tx.Get(engine.BucketChunks, key[:]) != nil
		return nil
	})
	return found, s.failed("look up a chunk", err)
}

var errReaderClosed = errors.New("value reader is closed")

// chunkReader reads a large value. Whole blocks of its chunks go straight to where the
// caller wants them, each checked there; a block that is read in parts is kept for the
// next part. So reading many blocks at a time makes no copy of them, and needs no more
// memory than it asks for. It belongs to one goroutine.
type chunkReader struct {
	ctx    context.Context
	store  *Store // nil: closed
	upload uploadID
	size   int64

	looked bool
	number uint32     // of the chunk that was looked up last
	ref    bodies.Ref // its body

	block   []byte // a block that is read in parts; empty: none
	blockAt int64  // where it is in the value
}

// openChunks returns a reader of a value in chunks. Its Read is cheapest with room for
// several blocks.
func (s *Store) openChunks(ctx context.Context, id uploadID, size int64) io.ReadSeekCloser {
	r := &chunkReader{ctx: ctx, store: s, upload: id, size: size}
	return struct {
		io.ReadSeeker
		io.Closer
	}{io.NewSectionReader(r, 0, size), r}
}

// ReadAt implements io.ReaderAt.
func (r *chunkReader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		if off >= r.size {
			return n, io.EOF
		}
		var m int
		at := off / bodies.BlockBytes * bodies.BlockBytes
		if off == at && int64(len(p)-n) >= min(bodies.BlockBytes, r.size-off) {
			m, err = r.readBlocks(p[n:], at)
		} else {
			if len(r.block) == 0 || r.blockAt != at {
				if r.block == nil {
					r.block = make([]byte, bodies.BlockBytes)
				}
				m, err = r.readBlocks(r.block[:bodies.BlockBytes], at)
				r.block, r.blockAt = r.block[:m], at
			}
			m = 0
			if err == nil {
				m = copy(p[n:], r.block[off-at:])
			}
		}
		n += m
		off += int64(m)
	}
	return n, err
}

// readBlocks fills p with the blocks from an offset on, as far as they fit and their chunk
// goes.
func (r *chunkReader) readBlocks(p []byte, at int64) (int, error) {
	if r.store == nil {
		return 0, errReaderClosed
	}
	if err := cmp.Or(r.ctx.Err(), r.store.err()); err != nil {
		return 0, err
	}
	if n := uint32(at / ChunkBytes); !r.looked || r.number != n {
		r.looked = false
		ref, err := r.store.chunkBody(makeChunkKey(r.upload, n))
		if err != nil {
			return 0, err
		}
		if want := chunkSize(r.size, n); int64(ref.Size) != want {
			return 0, r.store.fail(fmt.Errorf("chunk %d of upload %s has %d bytes, want %d: replace this node", n, r.upload, ref.Size, want))
		}
		r.ref, r.number, r.looked = ref, n, true
	}
	return r.store.readBlocks(r.ref, p, int(at%ChunkBytes))
}

// Close implements io.Closer.
func (r *chunkReader) Close() error {
	r.store, r.block = nil, nil
	return nil
}
