package kvstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

const chunkKeyBytes = 16 + 4

// uploadID names the chunks of one large value: time first, so that chunks go
// to the end of their bucket.
type uploadID [16]byte

// String returns the id in hex.
func (u uploadID) String() string { return hex.EncodeToString(u[:]) }

// parseUploadID reads what String wrote; an earlier error passes through.
func parseUploadID(s string, earlier error) (u uploadID, err error) {
	if earlier != nil {
		return u, earlier
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("upload id %q is not %d hex digits", s, 2*len(u))
	}
	return uploadID(b), nil
}

// newUploadID returns an id that no other upload has.
func newUploadID(now time.Time, random io.Reader) (uploadID, error) {
	var u uploadID
	binary.BigEndian.PutUint64(u[:], uint64(now.UnixNano()))
	if _, err := io.ReadFull(random, u[8:]); err != nil {
		return uploadID{}, fmt.Errorf("make an upload id: %w", err)
	}
	return u, nil
}

// chunkKey is the engine key of chunk n of an upload.
type chunkKey [chunkKeyBytes]byte

func makeChunkKey(u uploadID, n uint32) chunkKey {
	var k chunkKey
	copy(k[:], u[:])
	binary.BigEndian.PutUint32(k[16:], n)
	return k
}

func (k *chunkKey) upload() uploadID { return uploadID(k[:16]) }
func (k *chunkKey) number() uint32   { return binary.BigEndian.Uint32(k[16:]) }

// chunkSize is the length of chunk n of a value of size bytes.
func chunkSize(size int64, n uint32) int64 { return min(ChunkBytes, size-int64(n)*ChunkBytes) }

// A chunk is a body. Its row, which is what history and staging keep of it, says which.
const (
	chunkFormat   = 2                // 1: the bytes themselves, before the first release
	chunkRowBytes = 1 + 4 + refBytes // format, checksum, reference
	refBytes      = 4 + len(bodies.Digest{})
)

// appendRef encodes a reference: size and digest.
func appendRef(b []byte, ref bodies.Ref) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(ref.Size))
	return append(b, ref.Digest[:]...)
}

// readRef reads what appendRef wrote, and refuses a size that no body has.
func readRef(c *cursor) bodies.Ref {
	ref := bodies.Ref{Size: int(c.uint32())}
	ref.Digest = bodies.Digest(c.digest())
	if c.err == nil && (ref.Size == 0 || ref.Size > bodies.MaxBytes) {
		c.fail(fmt.Errorf("a body has 1 to %d bytes, not %d", bodies.MaxBytes, ref.Size))
	}
	return ref
}

// encodeChunkRow returns the row of a chunk.
func encodeChunkRow(k chunkKey, ref bodies.Ref) []byte {
	return frameState(chunkFormat, k[:], appendRef(make([]byte, statePrefixBytes, chunkRowBytes), ref))
}

// decodeChunkRow checks the row of a chunk, and returns what it refers to.
func decodeChunkRow(b []byte, k chunkKey) (ref bodies.Ref, err error) {
	c, err := openState(chunkFormat, k[:], b)
	if err == nil {
		ref = readRef(&c)
		err = c.end()
	}
	if err != nil {
		return bodies.Ref{}, fmt.Errorf("chunk %d of upload %s: %w", k.number(), k.upload(), err)
	}
	return ref, nil
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
	ref, found, err = storedChunk(s.history, key)
	return ref, found, s.failed("read a chunk", err)
}

func missingChunk(key chunkKey) string {
	return fmt.Sprintf("chunk %d of upload %s is missing", key.number(), key.upload())
}

// storedChunk returns which body a chunk is whose row e has; false if it has none.
func storedChunk(e Engine, key chunkKey) (ref bodies.Ref, found bool, err error) {
	err = e.View(func(tx Tx) (err error) {
		ref, found, err = findChunkRow(tx, key)
		return err
	})
	return ref, found, err
}

// findChunkRow reads and checks the row of a chunk; false if there is none.
func findChunkRow(tx Tx, key chunkKey) (ref bodies.Ref, found bool, err error) {
	if row := tx.Get(BucketChunks, key[:]); row != nil {
		ref, err = checkChunkRow(tx, row, key)
		return ref, true, err
	}
	return ref, false, nil
}

// readChunkRow reads and checks the row of a chunk that must be there.
func readChunkRow(tx Tx, key chunkKey) (bodies.Ref, error) {
	ref, found, err := findChunkRow(tx, key)
	if !found {
		return ref, corruptAt(tx, nil, missingChunk(key))
	}
	return ref, err
}

// checkChunkRow decodes a stored row.
func checkChunkRow(tx Tx, row []byte, key chunkKey) (bodies.Ref, error) {
	ref, err := decodeChunkRow(row, key)
	if err != nil {
		return ref, corruptAt(tx, row, err.Error())
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
