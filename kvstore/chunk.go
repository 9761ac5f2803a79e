package kvstore

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// ChunkBytes is the size of every chunk of a large value but its last, and the
// size of the largest value that is kept in one piece.
const ChunkBytes = bodies.MaxBytes

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
	return encodeState(chunkFormat, k[:], appendRef(make([]byte, statePrefixBytes, chunkRowBytes), ref))
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

func missingChunk(key chunkKey) string {
	return fmt.Sprintf("chunk %d of upload %s is missing", key.number(), key.upload())
}

// storedChunk returns which body a chunk is whose row e has; false if it has none.
func storedChunk(e engine.Engine, key chunkKey) (ref bodies.Ref, found bool, err error) {
	err = e.View(func(tx engine.Tx) (err error) {
		ref, found, err = findChunkRow(tx, key)
		return err
	})
	return ref, found, err
}

// findChunkRow reads and checks the row of a chunk; false if there is none.
func findChunkRow(tx engine.Tx, key chunkKey) (ref bodies.Ref, found bool, err error) {
	if row := tx.Get(engine.BucketChunks, key[:]); row != nil {
		ref, err = checkChunkRow(tx, row, key)
		return ref, true, err
	}
	return ref, false, nil
}

// readChunkRow reads and checks the row of a chunk that must be there.
func readChunkRow(tx engine.Tx, key chunkKey) (bodies.Ref, error) {
	ref, found, err := findChunkRow(tx, key)
	if !found {
		return ref, corruptAt(tx, nil, missingChunk(key))
	}
	return ref, err
}

// checkChunkRow decodes a stored row.
func checkChunkRow(tx engine.Tx, row []byte, key chunkKey) (bodies.Ref, error) {
	ref, err := decodeChunkRow(row, key)
	if err != nil {
		return ref, corruptAt(tx, row, err.Error())
	}
	return ref, nil
}

// ascendChunks calls fn for every chunk of an upload that is there.
func ascendChunks(tx engine.Tx, id uploadID, fn func(key chunkKey, ref bodies.Ref) error) error {
	var failed error
	tx.Ascend(engine.BucketChunks, id[:], func(k, row []byte) bool {
		if len(k) != chunkKeyBytes || uploadID(k[:16]) != id {
			return false
		}
		var ref bodies.Ref
		if ref, failed = checkChunkRow(tx, row, chunkKey(k)); failed == nil {
			failed = fn(chunkKey(k), ref)
		}
		return failed == nil
	})
	return failed
}

// deleteChunks removes the rows of every chunk of an upload, and returns what they
// referred to.
func deleteChunks(tx engine.Tx, id uploadID) (dropped []bodies.Digest, err error) {
	var keys []chunkKey
	err = ascendChunks(tx, id, func(k chunkKey, ref bodies.Ref) error {
		keys, dropped = append(keys, k), append(dropped, ref.Digest)
		return nil
	})
	for _, k := range keys {
		if err == nil {
			err = tx.Delete(engine.BucketChunks, k[:])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("drop upload %s: %w", id, err)
	}
	return dropped, nil
}
