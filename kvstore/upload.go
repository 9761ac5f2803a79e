package kvstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math/bits"
)

// openUploadsMax bounds the memory of uploads that are not sealed yet. It is
// part of the state machine: every replica must have the same.
const openUploadsMax = 4096

// upload is the state of a large value that is not sealed yet. Chunks may
// arrive in any order and more than once.
type upload struct {
	time  int64    // proposer's clock at the last chunk, nanoseconds since 1970; nothing is decided by it
	bytes int64    // of all chunks so far
	short uint32   // number+1 of the one chunk under ChunkBytes, 0: none yet
	have  []uint64 // bitmap of chunk numbers

	// The digest of the first chunks, in their order. It is not stored, and no
	// replica tells it another: it is made of the chunks that are here.
	sum    hash.Hash // nil: of none yet
	summed uint32    // chunks in it

	// gone is whether chunks could not be pulled any more when the upload came
	// with a snapshot. Then an entry that follows drops it, see pullUploads.
	gone bool
}

// has reports whether chunk n is there.
func (u *upload) has(n uint32) bool {
	return int(n/64) < len(u.have) && u.have[n/64]&(1<<(n%64)) != 0
}

// add notes chunk n of size bytes; it refuses a second short chunk, since only
// the last may be short.
func (u *upload) add(n uint32, size int, now int64) error {
	if size < ChunkBytes {
		if u.short != 0 {
			return fmt.Errorf("%w: chunks %d and %d are both short", ErrUploadIncomplete, u.short-1, n)
		}
		u.short = n + 1
	}
	for int(n/64) >= len(u.have) {
		u.have = append(u.have, 0)
	}
	u.have[n/64] |= 1 << (n % 64)
	u.bytes += int64(size)
	u.time = max(u.time, now)
	return nil
}

// count returns how many chunks there are.
func (u *upload) count() int {
	n := 0
	for _, w := range u.have {
		n += bits.OnesCount64(w)
	}
	return n
}

// complete reports whether the chunks are exactly 0 to chunks-1 of a value of
// size bytes.
func (u *upload) complete(chunks uint32, size int64) bool {
	if u.count() != int(chunks) || u.bytes != size || u.short != 0 && u.short != chunks {
		return false
	}
	for n := range chunks {
		if !u.has(n) {
			return false
		}
	}
	return true
}

// appendUpload encodes u.
func appendUpload(b []byte, u *upload) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(u.time))
	b = binary.AppendUvarint(b, uint64(u.bytes))
	b = binary.AppendUvarint(b, uint64(u.short))
	b = binary.AppendUvarint(b, uint64(len(u.have)))
	for _, w := range u.have {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

// readUpload reads what appendUpload wrote.
func readUpload(c *cursor) *upload {
	u := &upload{time: int64(c.uint64()), bytes: int64(c.uvarint())}
	short := c.uvarint()
	if short > chunksMax {
		c.fail(fmt.Errorf("chunk %d is not below %d", short-1, chunksMax))
	}
	u.short = uint32(short)
	words := c.uvarint()
	if words > chunksMax/64 || int(words)*8 > len(c.b) {
		c.fail(errShort)
		return u
	}
	u.have = make([]uint64, words)
	for i := range u.have {
		u.have[i] = c.uint64()
	}
	return u
}

// encodeUpload frames u for the uploads bucket.
func encodeUpload(id uploadID, u *upload) []byte {
	b := appendUpload(make([]byte, statePrefixBytes), u)
	if u.gone {
		b = append(b, uploadGone)
	}
	return frameState(id[:], b)
}

// uploadGone is the last byte of an upload whose chunks are gone; it is no part of
// a snapshot.
const uploadGone = 1

// decodeUpload reads what encodeUpload wrote.
func decodeUpload(id uploadID, b []byte) (*upload, error) {
	c, err := openState(id[:], b)
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", id, err)
	}
	u := readUpload(&c)
	if len(c.b) > 0 {
		if u.gone = c.byte() == uploadGone; !u.gone {
			c.fail(errors.New("whether its chunks are gone is not what it should be"))
		}
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("upload %s: %w", id, err)
	}
	return u, nil
}

// sumAhead is how many chunks are added to the digest of an upload, at most, when
// one is applied: as a rule the one that came, and more when some came before it,
// or when the store was opened in the middle of an upload.
const sumAhead = 8

// sumNext adds the next chunks of an upload to its digest: most of them, at
// most, and only as far as there is one after the other. A chunk that should be
// there and is not, or is damaged, is fatal: others have it.
func (s *Store) sumNext(id uploadID, u *upload, most uint32) error {
	if u.sum == nil {
		u.sum, u.summed = sha256.New(), 0
	}
	for ; most > 0 && u.has(u.summed); most-- {
		found, err := s.withChunk(makeChunkKey(id, u.summed), func(data []byte) { u.sum.Write(data) })
		if err != nil {
			return err
		}
		if !found && u.gone {
			return nil
		}
		if !found {
			return s.missingChunk(makeChunkKey(id, u.summed))
		}
		u.summed++
	}
	return nil
}

// hasDigest tells whether the chunks of an upload, which must be complete, are a
// value with that digest. Every replica says the same, for all were given the same
// chunks: so before one says no it goes through its chunks again, each of which has
// a checksum, lest a bit that flipped in its own memory decides.
func (s *Store) hasDigest(id uploadID, u *upload, want Digest) (bool, error) {
	for range 2 {
		if err := s.sumNext(id, u, chunksMax); err != nil {
			return false, err
		}
		if !u.has(u.summed) && Digest(u.sum.Sum(nil)) == want {
			return true, nil
		}
		u.sum = nil
	}
	return false, nil
}
