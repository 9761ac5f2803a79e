package kvstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
)

// commandLevel is the level of every command so far, see package level: the one with
// which its kind came, in its present form.
const commandLevel = 1

// commandHeadBytes is the length of what every command begins with: its level, its kind,
// its sequence and the access revision that it was checked under, both 0 so far.
const commandHeadBytes = 4

// commandKind is the second field of a command.
type commandKind byte

const (
	commandPut     commandKind = 1 // a whole small value
	commandChunk   commandKind = 2 // one piece of a large value, a body
	commandSeal    commandKind = 3 // the end of a large value: sets the key
	commandAbandon commandKind = 4 // drops an upload
	commandOpen    commandKind = 5 // opens an upload, before its first chunk
	commandRefer   commandKind = 6 // a whole value that is a body: sets the key
)

// ChunkResult is what Apply answers to a chunk that is now part of its upload,
// or was before.
type ChunkResult struct{}

// AbandonResult is what Apply answers to an abandon.
type AbandonResult struct{ Dropped bool }

// command is a decoded command. Its byte fields alias the input.
type command struct {
	kind   commandKind
	body   body // put, refer and seal
	upload uploadID
	number uint32     // chunk
	time   int64      // chunk and open: proposer's clock
	ref    bodies.Ref // chunk and refer: the body
}

// appendCommandHead writes what a command begins with.
func appendCommandHead(b []byte, kind commandKind) []byte {
	return append(b, commandLevel, byte(kind), 0, 0)
}

// putCommandHeader returns the start of a put command, with room for the value.
func putCommandHeader(m *Meta) []byte {
	return appendPutHeader(make([]byte, 0, commandHeadBytes+headerBytes(m)+int(m.Size)), m)
}

// appendPutHeader encodes it. Its length does not depend on the digest.
func appendPutHeader(b []byte, m *Meta) []byte {
	return appendHeader(appendCommandHead(b, commandPut), m)
}

// referCommand encodes a put of a value that is a body.
func referCommand(m *Meta) []byte {
	b := make([]byte, 0, commandHeadBytes+headerBytes(m))
	return appendHeader(appendCommandHead(b, commandRefer), m)
}

// chunkCommand encodes one piece of a large value.
func chunkCommand(u uploadID, n uint32, now time.Time, ref bodies.Ref) []byte {
	k := makeChunkKey(u, n)
	b := make([]byte, 0, commandHeadBytes+chunkKeyBytes+8+refBytes)
	b = append(appendCommandHead(b, commandChunk), k[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
	return appendRef(b, ref)
}

// sealCommand encodes the end of a large value.
func sealCommand(m *Meta, u uploadID, chunks uint32) []byte {
	const place = len(u) + 3
	b := make([]byte, 0, commandHeadBytes+headerBytes(m)+place)
	return appendPlace(appendHeader(appendCommandHead(b, commandSeal), m), u, chunks)
}

// abandonCommand encodes the end of an upload that failed.
func abandonCommand(u uploadID) []byte {
	return append(appendCommandHead(nil, commandAbandon), u[:]...)
}

// openCommand encodes the beginning of an upload.
func openCommand(u uploadID, now time.Time) []byte {
	b := append(appendCommandHead(nil, commandOpen), u[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
}

// readCommandLevel reads level and kind of a command: what must be known to carry it out,
// or to refuse it as others do. For one of a later version the error is a
// *level.LaterError.
func readCommandLevel(c *cursor) (needed uint64, kind commandKind, err error) {
	needed = c.uvarint()
	switch {
	case c.err != nil:
		return 0, 0, c.err
	case needed == 0:
		return 0, 0, errors.New("it has no level")
	case needed > level.Highest:
		return needed, 0, laterCommand(needed)
	}
	kind = commandKind(c.byte())
	switch kind {
	case commandPut, commandChunk, commandSeal, commandAbandon, commandOpen, commandRefer:
		if needed != commandLevel {
			return 0, 0, fmt.Errorf("kind %d has level %d, want %d", kind, needed, commandLevel)
		}
		return needed, kind, nil
	}
	if c.err != nil {
		return 0, 0, c.err
	}
	return needed, kind, laterCommand(needed)
}

func laterCommand(needed uint64) error {
	return &level.LaterError{What: "a command", Level: needed, Known: level.Highest}
}

// malformedUnlessLater is the error of what does not decode.
func malformedUnlessLater(err error) error {
	if _, later := err.(*level.LaterError); later || err == nil {
		return err
	}
	return fmt.Errorf("%w: %w", errMalformedCommand, err)
}

// decodeCommand reads a command. It is strict, never panics, and gives the same
// answer on every replica: errMalformedCommand, or a *level.LaterError for one that
// a later version may know. Digests of values are not checked here.
func decodeCommand(b []byte) (cmd command, err error) {
	defer func() {
		if err != nil {
			cmd, err = command{}, malformedUnlessLater(err)
		}
	}()
	c := cursor{b: b}
	if _, cmd.kind, err = readCommandLevel(&c); err != nil {
		return cmd, err
	}
	switch sequence, access := c.uvarint(), c.uvarint(); {
	case c.err != nil:
		return cmd, c.err
	case sequence != 0 || access != 0:
		return cmd, fmt.Errorf("it is for sequence %d, checked under access revision %d; this program knows 0 and 0", sequence, access)
	}
	switch cmd.kind {
	case commandPut:
		cmd.body, err = decodeBody(bodyInline, c.b)
		return cmd, err
	case commandRefer:
		cmd.body, err = decodeBody(bodyReferred, c.b)
		cmd.ref = cmd.body.ref()
		return cmd, err
	case commandSeal:
		cmd.body, err = decodeBody(bodyChunked, c.b)
		cmd.upload = cmd.body.upload
		return cmd, err
	}
	copy(cmd.upload[:], c.take(len(cmd.upload)))
	switch cmd.kind {
	case commandChunk:
		cmd.number = c.uint32()
		cmd.time = int64(c.uint64())
		cmd.ref = readRef(&c)
		if c.err == nil && cmd.number >= chunksMax {
			return cmd, fmt.Errorf("chunk number %d is not below %d", cmd.number, chunksMax)
		}
	case commandOpen:
		cmd.time = int64(c.uint64())
	}
	return cmd, c.end()
}

// checkValue compares the bytes of a put with their digest: a bit that flipped
// in the proposer's memory must not be kept for ever.
func (cmd *command) checkValue() error {
	if sum := Digest(sha256.Sum256(cmd.body.value)); sum != cmd.body.sum {
		return fmt.Errorf("%w: key %q, digest %s, but the bytes have %s", ErrValueDamaged, cmd.body.key, cmd.body.sum, sum)
	}
	return nil
}
