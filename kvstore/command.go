package kvstore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

const commandFormat = 1

// commandKind is the second byte of a command.
type commandKind byte

const (
	commandPut     commandKind = 1 // a whole small value
	commandChunk   commandKind = 2 // one piece of a large value
	commandSeal    commandKind = 3 // the end of a large value: sets the key
	commandAbandon commandKind = 4 // drops an upload
	commandOpen    commandKind = 5 // opens an upload, before its first chunk
)

// ChunkResult is what Apply answers to a chunk that is now part of its upload,
// or was before.
type ChunkResult struct{}

// AbandonResult is what Apply answers to an abandon.
type AbandonResult struct{ Dropped bool }

// command is a decoded command. Its byte fields alias the input.
type command struct {
	kind   commandKind
	body   body // put and seal
	upload uploadID
	number uint32 // chunk
	time   int64  // chunk and open: proposer's clock
	stored []byte // chunk: as it is stored, checksum first
}

// putCommandHeader returns the start of a put command, with room for the value
// and a zero digest that finishPut fills in once the value is there.
func putCommandHeader(m *Meta, room int64) []byte {
	b := make([]byte, 0, 2+bodyFixedBytes+10+1+len(m.PutID)+1+len(m.ContentType)+3+len(m.Key)+int(room))
	return appendBody(append(b, commandFormat, byte(commandPut)), bodyInline, m, uploadID{}, 0)
}

// finishPut writes the digest into a put command.
func finishPut(cmd []byte, sum Digest) { copy(cmd[2+1:], sum[:]) }

// chunkHeaderBytes is what precedes the bytes of a chunk in its command.
const chunkHeaderBytes = 2 + chunkKeyBytes + 8 + chunkPrefixBytes

// finishChunk fills in the header of a chunk command whose bytes are already
// at cmd[chunkHeaderBytes:].
func finishChunk(cmd []byte, u uploadID, n uint32, now time.Time) {
	k := makeChunkKey(u, n)
	b := append(cmd[:0], commandFormat, byte(commandChunk))
	b = append(b, k[:]...)
	binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
	sealChunk(cmd[chunkHeaderBytes-chunkPrefixBytes:], k)
}

// sealCommand encodes the end of a large value.
func sealCommand(m *Meta, u uploadID, chunks uint32) []byte {
	return appendBody([]byte{commandFormat, byte(commandSeal)}, bodyChunked, m, u, chunks)
}

// abandonCommand encodes the end of an upload that failed.
func abandonCommand(u uploadID) []byte {
	return append([]byte{commandFormat, byte(commandAbandon)}, u[:]...)
}

// openCommand encodes the beginning of an upload.
func openCommand(u uploadID, now time.Time) []byte {
	b := append([]byte{commandFormat, byte(commandOpen)}, u[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
}

// decodeCommand reads a command. It is strict, never panics, and gives the same
// answer on every replica. Digests of values are not checked here.
func decodeCommand(b []byte) (command, error) {
	cmd, err := decodeCommandFields(b)
	if err != nil {
		return command{}, fmt.Errorf("%w: %w", ErrMalformedCommand, err)
	}
	return cmd, nil
}

func decodeCommandFields(b []byte) (command, error) {
	c := cursor{b: b}
	format, cmd := c.byte(), command{}
	cmd.kind = commandKind(c.byte())
	if c.err != nil {
		return command{}, c.err
	}
	if format != commandFormat {
		return command{}, fmt.Errorf("it has format %d; this program knows %d", format, commandFormat)
	}
	switch cmd.kind {
	case commandPut, commandSeal:
		var err error
		if cmd.body, err = decodeBody(c.b); err != nil {
			return command{}, err
		}
		if (cmd.body.kind == bodyInline) != (cmd.kind == commandPut) {
			return command{}, fmt.Errorf("command kind %d carries body kind %d", cmd.kind, cmd.body.kind)
		}
		cmd.upload = cmd.body.upload
		return cmd, nil
	case commandChunk:
		copy(cmd.upload[:], c.take(len(cmd.upload)))
		cmd.number = c.uint32()
		cmd.time = int64(c.uint64())
		cmd.stored = c.b
		if c.err != nil {
			return command{}, c.err
		}
		if cmd.number >= chunksMax {
			return command{}, fmt.Errorf("chunk number %d is not below %d", cmd.number, chunksMax)
		}
		_, err := decodeChunk(cmd.stored, makeChunkKey(cmd.upload, cmd.number))
		return cmd, err
	case commandOpen, commandAbandon:
		copy(cmd.upload[:], c.take(len(cmd.upload)))
		if cmd.kind == commandOpen {
			cmd.time = int64(c.uint64())
		}
		if c.err == nil && len(c.b) > 0 {
			c.fail(fmt.Errorf("%d bytes follow its end", len(c.b)))
		}
		return cmd, c.err
	}
	return command{}, fmt.Errorf("command kind %d is unknown", cmd.kind)
}

// checkValue compares the bytes of a put with their digest: a bit that flipped
// in the proposer's memory must not be kept for ever.
func (cmd *command) checkValue() error {
	if sum := Digest(sha256.Sum256(cmd.body.value)); sum != cmd.body.sum {
		return fmt.Errorf("%w: key %q, digest %s, but the bytes have %s", ErrValueDamaged, cmd.body.key, cmd.body.sum, sum)
	}
	return nil
}
