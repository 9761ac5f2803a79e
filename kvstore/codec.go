package kvstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// castagnoli is the table of CRC-32C, which processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of a framed value: of its key, its format byte b[0]
// and everything behind the four bytes that hold the checksum itself.
func checksum(key, b []byte) uint32 {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b[:1])
	return crc32.Update(sum, castagnoli, b[5:])
}

// errShort is the cause of every "ends too early" while decoding.
var errShort = errors.New("it ends too early")

// cursor reads fields from the front of b; the first failure sticks and makes
// every later field zero, so that callers check once at the end.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

// take returns the next n bytes, which alias the input.
func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.fail(errShort)
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) byte() byte {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if v := c.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if v := c.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// uvarint reads a variable-length number in its shortest form; a longer form
// would give one record two encodings and so two digests.
func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail(errShort)
		return 0
	}
	if n > 1 && c.b[n-1] == 0 {
		c.fail(errors.New("a number is not in its shortest form"))
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) digest() (d Digest) {
	copy(d[:], c.take(len(d)))
	return d
}

// revisionKey is a revision as an engine key: in order of revision.
func revisionKey(r Revision) [8]byte {
	var k [8]byte
	binary.BigEndian.PutUint64(k[:], uint64(r))
	return k
}

// keyRevision reads a revisionKey.
func keyRevision(k []byte) (Revision, bool) {
	if len(k) != 8 {
		return 0, false
	}
	return Revision(binary.BigEndian.Uint64(k)), true
}
