package kvstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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
	return frameStateAs(chunkFormat, k[:], appendRef(make([]byte, statePrefixBytes, chunkRowBytes), ref))
}

// decodeChunkRow checks the row of a chunk, and returns what it refers to.
func decodeChunkRow(b []byte, k chunkKey) (ref bodies.Ref, err error) {
	c, err := openStateAs(chunkFormat, k[:], b)
	if err == nil {
		ref = readRef(&c)
		err = c.end()
	}
	if err != nil {
		return bodies.Ref{}, fmt.Errorf("chunk %d of upload %s: %w", k.number(), k.upload(), err)
	}
	return ref, nil
}

// placedChunk returns what the row of a chunk refers to. It says nothing about where the
// chunk begins, so its size is checked too: readers go by the place.
func (s *Store) placedChunk(e Engine, d *body, n uint32) (ref bodies.Ref, err error) {
	err = e.View(func(tx Tx) (err error) {
		ref, err = readChunkRow(tx, makeChunkKey(d.upload, n))
		return err
	})
	if want := chunkSize(d.size, n); err == nil && int64(ref.Size) != want {
		err = corruptFile(e, fmt.Sprintf("chunk %d of upload %s has %d bytes, its place has %d", n, d.upload, ref.Size, want))
	}
	return ref, err
}

// sumChunks returns the digest of a value in chunks, whose rows e has.
func (s *Store) sumChunks(ctx context.Context, e Engine, d *body) (Digest, error) {
	h := sha256.New()
	var buf []byte
	for n := range d.chunks {
		if err := ctx.Err(); err != nil {
			return Digest{}, err
		}
		ref, err := s.placedChunk(e, d, n)
		if err == nil {
			buf, err = s.readBody(ref, buf[:0])
		}
		if err != nil {
			return Digest{}, err
		}
		h.Write(buf)
	}
	return Digest(h.Sum(nil)), nil
}
