package kvstore

import (
	"fmt"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// DigestAt returns the history digest at revision rev. It reads up to 1,023 records;
// multiples of 1,024 are kept. It fails for a revision that this store does not have yet.
func (s *Store) DigestAt(rev Revision) (Digest, error) {
	if err := s.err(); err != nil {
		return Digest{}, err
	}
	at, err := s.derivedAt(rev)
	if err != nil {
		return Digest{}, err
	}
	return at.digest(), nil
}

// Digest is DigestAt for callers that know nothing of this package's types.
func (s *Store) Digest(revision uint64) ([]byte, error) {
	d, err := s.DigestAt(Revision(revision))
	return d[:], err
}

// derivedAt returns what history is at revision rev, applied or durable. A revision
// that this store does not have yet is errBehind.
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
		return derived{}, fmt.Errorf("%w: revision %d; this store is at %d", errBehind, rev, applied)
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
