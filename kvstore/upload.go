package kvstore

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// openUploadsMax bounds the memory of uploads that are not sealed yet. It is
// part of the state machine: every replica must have the same.
const openUploadsMax = 4096

// upload is the state of a large value that is not sealed yet. Chunks may
// arrive in any order and more than once.
type upload struct {
	time  int64    // proposer's clock at the last chunk, nanoseconds since 1970
	bytes int64    // of all chunks so far
	short uint32   // number+1 of the one chunk under ChunkBytes, 0: none yet
	have  []uint64 // bitmap of chunk numbers
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
	return frameState(id[:], appendUpload(make([]byte, statePrefixBytes), u))
}

// decodeUpload reads what encodeUpload wrote.
func decodeUpload(id uploadID, b []byte) (*upload, error) {
	c, err := openState(id[:], b)
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", id, err)
	}
	u := readUpload(&c)
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("upload %s: %w", id, err)
	}
	return u, nil
}
