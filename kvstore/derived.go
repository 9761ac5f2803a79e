package kvstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/Focinfi/oncekv/internal/merkle"
	"github.com/Focinfi/oncekv/kvstore/engine"
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

// derivedAt returns what history is at revision rev, applied or durable. A revision
// that this store does not have yet is ErrBehind.
func (s *Store) derivedAt(rev Revision) (derived, error) {
	s.mu.RLock()
	at, applied := s.durable.derived, s.applied.rev
	var pending []pendingRecord
	switch {
	case rev == applied:
		at = s.applied.derived
	case rev > at.rev && rev < applied:
		pending = s.pending[: rev-at.rev : rev-at.rev] // elements never change
	}
	s.mu.RUnlock()
	switch {
	case rev > applied:
		return derived{}, fmt.Errorf("%w: revision %d; this store is at %d", ErrBehind, rev, applied)
	case rev >= at.rev:
		at.advanceOver(pending)
		return at, nil
	}
	at, err := s.checkpoint(s.checkpointBefore(rev))
	for err == nil && at.rev < rev {
		_, err = s.scanHistory(&at, rev)
	}
	return at, s.failed("compute a history digest", err)
}

// advanceOver goes on over records that are not in history yet, from the newest
// checkpoint among them.
func (d *derived) advanceOver(pending []pendingRecord) {
	for i := len(pending) - 1; i >= 0; i-- {
		if kept := pending[i].kept; kept != nil {
			*d, pending = *kept, pending[i+1:]
			break
		}
	}
	for i := range pending {
		b := pending[i].body()
		d.advance(leafOf(b.header), &b)
	}
}

// checkpointBefore returns the newest revision up to rev that has a checkpoint.
func (s *Store) checkpointBefore(rev Revision) Revision {
	return rev - rev%s.cfg.CheckpointRevisions
}

// checkpoint returns what is kept for revision rev, a multiple of CheckpointRevisions.
func (s *Store) checkpoint(rev Revision) (d derived, err error) {
	if rev == 0 {
		return d, nil
	}
	err = s.history.View(func(tx engine.Tx) error {
		k := revisionKey(rev)
		raw := tx.Get(engine.BucketCheckpoints, k[:])
		c, err := openState(checkpointFormat, k[:], raw)
		if err == nil {
			if d = readDerived(&c); c.err == nil && d.rev != rev {
				c.fail(fmt.Errorf("it is that of revision %d", d.rev))
			}
			err = c.end()
		}
		if err != nil {
			return stateError(tx, raw, fmt.Sprintf("the checkpoint of revision %d", rev), err)
		}
		return nil
	})
	return d, err
}

// encodeCheckpoint encodes what is kept for a revision.
func encodeCheckpoint(kept *derived) []byte {
	k := revisionKey(kept.rev)
	return encodeState(checkpointFormat, k[:], appendDerived(make([]byte, statePrefixBytes), kept))
}

// scanHistory moves at over some records, up to revision last, and returns their
// keys. It takes at least one.
func (s *Store) scanHistory(at *derived, last Revision) (keys []Key, err error) {
	err = s.history.View(func(tx engine.Tx) error {
		return scanRecords(tx, at.rev+1, last, true, func(rev Revision, raw []byte) (bool, error) {
			d, err := checkRecord(tx, raw, rev)
			if err != nil {
				return false, err
			}
			at.advance(leafOf(d.header), &d)
			keys = append(keys, Key(d.key))
			return true, nil
		})
	})
	return keys, err
}

// checkEnd compares what the records of history make of it with what is stored for
// its end.
func (s *Store) checkEnd(at, stored *derived) error {
	if differs := at.difference(stored); differs != "" {
		return s.failed("scan history", corruptFile(s.history, differs+", as is stored with them"))
	}
	return nil
}
