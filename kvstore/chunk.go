package kvstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	chunkFormat      = 1
	chunkPrefixBytes = 1 + 4 // format, checksum
	chunkKeyBytes    = 16 + 4
)

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

// sealChunk frames the bytes behind b[chunkPrefixBytes] as a stored chunk.
func sealChunk(b []byte, k chunkKey) {
	b[0] = chunkFormat
	binary.BigEndian.PutUint32(b[1:], chunkChecksum(b, k))
}

func chunkChecksum(b []byte, k chunkKey) uint32 {
	return checksum(k[:], b)
}

// decodeChunk checks a stored chunk and returns its bytes, which alias b.
func decodeChunk(b []byte, k chunkKey) ([]byte, error) {
	if len(b) <= chunkPrefixBytes || len(b) > chunkPrefixBytes+ChunkBytes {
		return nil, fmt.Errorf("chunk %d of upload %s has %d bytes", k.number(), k.upload(), len(b))
	}
	if got, want := binary.BigEndian.Uint32(b[1:]), chunkChecksum(b, k); got != want {
		return nil, fmt.Errorf("chunk %d of upload %s has checksum %08x, its bytes have %08x", k.number(), k.upload(), got, want)
	}
	if b[0] != chunkFormat {
		return nil, fmt.Errorf("chunk %d of upload %s has format %d; this program knows %d", k.number(), k.upload(), b[0], chunkFormat)
	}
	return b[chunkPrefixBytes:], nil
}

// errChunkSize is a chunk that its place is not the size of.
var errChunkSize = errors.New("a chunk has another size than its place")

// sumChunks returns the digest of a value in chunks. It says nothing about where
// the chunks begin, so their sizes are checked too: readers go by the place.
func sumChunks(ctx context.Context, e Engine, d *body) (Digest, error) {
	h := sha256.New()
	for n := range d.chunks {
		if err := ctx.Err(); err != nil {
			return Digest{}, err
		}
		if err := e.View(func(tx Tx) error {
			data, err := readChunk(tx, makeChunkKey(d.upload, n))
			if want := chunkSize(d.size, n); err == nil && int64(len(data)) != want {
				return fmt.Errorf("%w: chunk %d of upload %s has %d bytes, its place has %d", errChunkSize, n, d.upload, len(data), want)
			}
			h.Write(data)
			return err
		}); err != nil {
			return Digest{}, err
		}
	}
	return Digest(h.Sum(nil)), nil
}
