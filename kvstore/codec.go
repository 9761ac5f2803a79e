package kvstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// castagnoli is the table of CRC-32C, which processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of a value that carries one in b[1:5]: of its key, its format byte
// b[0] and everything behind the checksum.
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

const (
	stateFormat      = 1
	statePrefixBytes = 1 + 4 // format, checksum

	// Those before were written before the first release.
	appliedFormat    = 4 // 3: values were in history, whatever their size
	progressFormat   = 3
	checkpointFormat = 2
)

// encodeState puts format and checksum before what starts at b[statePrefixBytes].
func encodeState(format byte, key, b []byte) []byte {
	b[0] = format
	binary.BigEndian.PutUint32(b[1:], checksum(key, b))
	return b
}

// openState checks what encodeState encoded.
func openState(format byte, key, b []byte) (cursor, error) {
	if len(b) < statePrefixBytes {
		return cursor{}, errShort
	}
	if got, want := binary.BigEndian.Uint32(b[1:]), checksum(key, b); got != want {
		return cursor{}, fmt.Errorf("its checksum is %08x, its bytes have %08x", got, want)
	}
	if b[0] != format {
		return cursor{}, &formatError{has: b[0], known: format}
	}
	return cursor{b: b[statePrefixBytes:]}, nil
}

// coreSequence is the sequence of all records; others may come. Each will have
// revisions and a digest of its own.
const coreSequence = 0

// readSequence reads the id of a sequence, and refuses one that is not known.
func readSequence(c *cursor) {
	if id := c.uvarint(); c.err == nil && id != coreSequence {
		c.fail(fmt.Errorf("it is of sequence %d, which only a later version of oncekv knows: use that version", id))
	}
}

// formatError says that something has another format than the one that is read. Only
// versions from before the first release wrote lower ones.
type formatError struct{ has, known byte }

// Error says whose it is.
func (e *formatError) Error() string { return e.by("it").Error() }

// by returns the error of what has the format.
func (e *formatError) by(what string) error {
	if e.has < e.known {
		return &level.EarlierError{What: what}
	}
	return &level.LaterError{What: what, Known: level.Highest}
}

// stateError is the error of something that does not decode: what another version
// wrote is not damaged.
func stateError(tx engine.Tx, raw []byte, what string, err error) error {
	if f, ok := errors.AsType[*formatError](err); ok {
		file, _ := tx.Where(raw)
		return f.by(file)
	}
	return corruptAt(tx, raw, what+": "+err.Error())
}

// end returns the first failure, or that bytes are left over.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.fail(errors.New("bytes follow its end"))
	}
	return c.err
}
