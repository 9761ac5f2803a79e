package raftnode

import (
	"encoding/binary"
	"errors"
)

// MaxCommandBytes bounds one command, so that a log entry is never much
// larger than 1 MiB.
const MaxCommandBytes = 1<<20 + 64<<10

// batchBytes and batchCount bound the commands that share one entry.
const (
	batchBytes = 1 << 20
	batchCount = 8192
)

const envelopeVersion = 1

// commandBytesMin is the least that a command takes in an entry.
const commandBytesMin = 8 + 1 + 1

var errEnvelope = errors.New("log entry is not a batch of commands")

// command is one proposal inside an entry. origin and seq name whoever waits
// for it: origin is drawn at random at every start of a node, so an answer can
// never reach a waiter of an earlier life.
type command struct {
	origin uint64
	seq    uint64
	data   []byte
}

// commandName tells commands apart.
type commandName struct{ origin, seq uint64 }

func (c command) name() commandName { return commandName{c.origin, c.seq} }

func (c command) size() int { return commandSize(c.data) }

// commandSize is at least what a command with this data takes in an entry.
func commandSize(data []byte) int { return 8 + 2*binary.MaxVarintLen64 + len(data) }

// encodeBatch packs commands into the data of one entry.
func encodeBatch(cmds []command) []byte {
	n := 1 + binary.MaxVarintLen64
	for _, c := range cmds {
		n += c.size()
	}
	b := make([]byte, 0, n)
	b = append(b, envelopeVersion)
	b = binary.AppendUvarint(b, uint64(len(cmds)))
	for _, c := range cmds {
		b = binary.BigEndian.AppendUint64(b, c.origin)
		b = binary.AppendUvarint(b, c.seq)
		b = binary.AppendUvarint(b, uint64(len(c.data)))
		b = append(b, c.data...)
	}
	return b
}

// decodeBatch unpacks an entry. The commands share its memory.
func decodeBatch(b []byte) ([]command, error) {
	count, b, err := batchLen(b)
	if err != nil {
		return nil, err
	}
	cmds := make([]command, count)
	for i := range cmds {
		if cmds[i], b, err = nextCommand(b); err != nil {
			return nil, err
		}
	}
	if len(b) != 0 {
		return nil, errEnvelope
	}
	return cmds, nil
}

// checkBatch tells whether decodeBatch would unpack an entry, without taking
// memory for it.
func checkBatch(b []byte) error {
	count, b, err := batchLen(b)
	if err != nil {
		return err
	}
	for range count {
		if _, b, err = nextCommand(b); err != nil {
			return err
		}
	}
	if len(b) != 0 {
		return errEnvelope
	}
	return nil
}

// batchLen reads how many commands an entry announces, before that takes memory.
func batchLen(b []byte) (count int, rest []byte, err error) {
	if len(b) == 0 || b[0] != envelopeVersion {
		return 0, nil, errEnvelope
	}
	b = b[1:]
	announced, n := binary.Uvarint(b)
	if n <= 0 || announced > uint64(len(b)-n)/commandBytesMin {
		return 0, nil, errEnvelope
	}
	return int(announced), b[n:], nil
}

func nextCommand(b []byte) (c command, rest []byte, err error) {
	if len(b) < 8 {
		return c, nil, errEnvelope
	}
	c.origin, b = binary.BigEndian.Uint64(b), b[8:]
	seq, n := binary.Uvarint(b)
	if n <= 0 {
		return c, nil, errEnvelope
	}
	c.seq, b = seq, b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return c, nil, errEnvelope
	}
	end := n + int(size)
	c.data = b[n:end:end]
	return c, b[end:], nil
}
