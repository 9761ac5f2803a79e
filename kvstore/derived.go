package kvstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/Focinfi/oncekv/internal/merkle"
)

// derived is what follows from the records of a history up to a revision: it can be
// computed wherever they are, and what others say of it can be checked.
type derived struct {
	rev        Revision
	tree       merkle.Range // of the leaves of the records; the leaf of revision r has index r-1
	valueBytes int64        // sum of the sizes of all values
}

// advance goes on by one record. Nothing else changes a derived, wherever the records come
// from: the log, another replica, or a scan.
func (d *derived) advance(leaf Digest, r *body) {
	d.rev++
	d.tree.Append(leaf)
	d.valueBytes += r.size
}

// digest returns the history digest. It hashes some twelve nodes.
func (d *derived) digest() Digest { return d.tree.Head() }

// keep returns a copy for the checkpoint, nil unless one is due.
func (d *derived) keep(every Revision) *derived {
	if d.rev%every != 0 {
		return nil
	}
	kept := *d
	return &kept
}

// difference says how d differs from what is said about the same revision, "" if it
// does not.
func (d *derived) difference(said *derived) string {
	switch own, other := d.digest(), said.digest(); {
	case d.rev != said.rev:
		return fmt.Sprintf("the records end at revision %d, not at %d", d.rev, said.rev)
	case own != other:
		return fmt.Sprintf("the records up to revision %d have the digest %s, not %s", d.rev, own, other)
	case d.valueBytes != said.valueBytes:
		return fmt.Sprintf("the values up to revision %d have %d bytes together, not %d", d.rev, d.valueBytes, said.valueBytes)
	}
	return ""
}

// appendDerived encodes d; the revision is the size of the tree.
func appendDerived(b []byte, d *derived) []byte {
	return binary.AppendUvarint(d.tree.AppendTo(b), uint64(d.valueBytes))
}

// readDerived reads what appendDerived wrote.
func readDerived(c *cursor) (d derived) {
	if c.err != nil {
		return d
	}
	tree, rest, err := merkle.Decode(c.b)
	if err != nil {
		c.fail(err)
		return d
	}
	c.b = rest
	size := c.uvarint()
	if size > math.MaxInt64 {
		c.fail(errors.New("the values have more bytes than there can be"))
	}
	if c.err != nil {
		return d
	}
	return derived{rev: Revision(tree.Size()), tree: tree, valueBytes: int64(size)}
}

// encodeCheckpoint encodes what is kept for a revision.
func encodeCheckpoint(kept *derived) []byte {
	k := revisionKey(kept.rev)
	return encodeState(checkpointFormat, k[:], appendDerived(make([]byte, statePrefixBytes), kept))
}

// mark is a revision and the history digest at it.
type mark struct {
	rev    Revision
	digest Digest
}

func appendMark(b []byte, m mark) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(m.rev))
	return append(b, m.digest[:]...)
}

func readMark(c *cursor) mark { return mark{Revision(c.uint64()), c.digest()} }
