package raftnode

import (
	"encoding/binary"
	"errors"
)

// commandBytesMax bounds one command. What is larger is a body, which the command
// refers to.
const commandBytesMax = 64 << 10

// batchBytes and batchCount bound the commands that share one entry, batchBodyBytes the
// bodies that they refer to: an entry is applied as a whole, and those behind it wait.
const (
	batchBytes     = 1 << 20
	batchCount     = 8192
	batchBodyBytes = 4 << 20
)

// envelopeVersion is how an entry of commands begins. Up to envelopeVersionMax it is of a
// later version of the program, beyond that it is garbage. Version 1 was never released.
const (
	envelopeVersion    = 2
	envelopeVersionMax = 31
)

// commandBytesMin is the least that a command takes in an entry.
const commandBytesMin = 8 + 1 + 1

var (
	errEnvelope      = errors.New("log entry is not a batch of commands")
	errLaterEnvelope = errors.New("log entry is of a later version of oncekv")
)

// command is one proposal inside an entry. origin and seq name the call that waits for it.
// origin is random at every start of a node, so that no answer reaches a call of an earlier
// process.
type command struct {
	origin uint64
	seq    uint64
	data   []byte
	level  uint64 // that it needs, once it was admitted to the queue
	body   int    // bytes of the body that it refers to, once it is queued
}

// commandName tells commands apart.
type commandName struct{ origin, seq uint64 }

func (c command) name() commandName { return commandName{c.origin, c.seq} }

func (c command) size() int { return commandSize(c.data) }

// commandSize is at least what a command with this data takes in an entry.
func commandSize(data []byte) int { return 8 + 2*binary.MaxVarintLen64 + len(data) }

// encodeBatch packs commands into the data of one entry, with the highest level that
// any of them needs before them.
func encodeBatch(cmds []command) []byte {
	n, need := 1+2*binary.MaxVarintLen64, uint64(1)
	for _, c := range cmds {
		n += c.size()
		need = max(need, c.level)
	}
	b := make([]byte, 0, n)
	b = append(b, envelopeVersion)
	b = binary.AppendUvarint(b, need)
	b = binary.AppendUvarint(b, uint64(len(cmds)))
	for _, c := range cmds {
		b = binary.BigEndian.AppendUint64(b, c.origin)
		b = binary.AppendUvarint(b, c.seq)
		b = binary.AppendUvarint(b, uint64(len(c.data)))
		b = append(b, c.data...)
	}
	return b
}

// decodeBatch unpacks an entry, and tells the level that it needs. The commands share
// its memory. It returns errLaterEnvelope for what only a later version can read.
func decodeBatch(b []byte) (cmds []command, need uint64, err error) {
	need, count, b, err := batchHead(b)
	if err != nil {
		return nil, 0, err
	}
	cmds = make([]command, count)
	for i := range cmds {
		if cmds[i], b, err = nextCommand(b); err != nil {
			return nil, 0, err
		}
	}
	if len(b) != 0 {
		return nil, 0, errEnvelope
	}
	return cmds, need, nil
}

// checkBatch tells whether decodeBatch would unpack an entry, without taking
// memory for it.
func checkBatch(b []byte) error {
	_, count, b, err := batchHead(b)
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

// batchHead reads which level an entry needs and how many commands it announces, before
// that takes memory.
func batchHead(b []byte) (need uint64, count int, rest []byte, err error) {
	switch {
	case len(b) > 0 && b[0] > envelopeVersion && b[0] <= envelopeVersionMax:
		return 0, 0, nil, errLaterEnvelope
	case len(b) == 0 || b[0] != envelopeVersion:
		return 0, 0, nil, errEnvelope
	}
	b = b[1:]
	need, n := binary.Uvarint(b)
	if n <= 0 || need == 0 {
		return 0, 0, nil, errEnvelope
	}
	b = b[n:]
	announced, n := binary.Uvarint(b)
	if n <= 0 || announced > uint64(len(b)-n)/commandBytesMin {
		return 0, 0, nil, errEnvelope
	}
	return need, int(announced), b[n:], nil
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
