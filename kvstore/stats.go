package kvstore

import (
	"fmt"
)

// Stats are a store's figures at one moment.
type Stats struct {
	AppliedIndex uint64 // last entry of the log that was applied
	DurableIndex uint64 // last entry that history holds
	Revision     Revision
	Digest       Digest // history digest at Revision
	Keys         int64
	ValueBytes   int64 // sum of the sizes of all values
	HistoryBytes int64 // of the history file
	IndexBytes   int64 // of the index file
	IndexedTo    Revision
	OverlayKeys  int64
	OverlayBytes int64 // estimate of the memory of keys not yet in the index
	PendingBytes int64 // estimate of the memory of what history lacks
	OpenUploads  int
}

// Stats returns the store's figures. It works on a dead store too.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	st := Stats{
		AppliedIndex: s.applied.index,
		DurableIndex: s.durable.index,
		Revision:     s.applied.rev,
		Digest:       s.applied.digest,
		Keys:         int64(s.applied.rev),
		ValueBytes:   s.applied.valueBytes,
		IndexedTo:    s.overlay.indexedRev,
		OverlayKeys:  int64(s.overlay.len()),
		OverlayBytes: s.overlay.bytes,
		PendingBytes: s.pendingBytes,
		OpenUploads:  len(s.uploads),
	}
	s.mu.RUnlock()
	st.HistoryBytes = s.history.Size()
	st.IndexBytes = s.index.Size()
	return st
}

// DigestAt returns the history digest at revision rev, to compare replicas: at
// a revision both have, equal digests mean equal histories. It reads up to
// 1,023 records; multiples of 1,024 are kept and cost nothing. A revision that
// this store does not have yet is ErrBehind.
func (s *Store) DigestAt(rev Revision) (Digest, error) {
	if err := s.err(); err != nil {
		return Digest{}, err
	}
	if rev == 0 {
		return Digest{}, nil
	}
	s.mu.RLock()
	applied, durable := s.applied, s.durable
	var pending Digest
	if rev > durable.rev && rev <= applied.rev {
		pending = s.pending[rev-durable.rev-1].digest
	}
	s.mu.RUnlock()
	switch {
	case rev > applied.rev:
		return Digest{}, fmt.Errorf("%w: revision %d; this store is at %d", ErrBehind, rev, applied.rev)
	case rev > durable.rev:
		return pending, nil
	case rev == durable.rev:
		return durable.digest, nil
	}
	at := s.checkpointBefore(rev)
	digest, err := s.checkpoint(at)
	if err == nil {
		digest, err = s.scanDigest(at, digest, rev)
	}
	return digest, s.failed("compute a history digest", err)
}

// checkpointBefore returns the newest revision up to rev whose digest is kept.
func (s *Store) checkpointBefore(rev Revision) Revision {
	return rev - rev%s.cfg.CheckpointRevisions
}

// scanDigest returns the digest at rev from the one at an earlier revision.
func (s *Store) scanDigest(at Revision, digest Digest, rev Revision) (Digest, error) {
	for at < rev {
		batch, err := s.scanHistory(at, rev, digest)
		if err != nil {
			return Digest{}, err
		}
		last := batch[len(batch)-1]
		at, digest = last.rev, last.digest
	}
	return digest, nil
}

// checkpoint returns the digest kept at rev, a multiple of CheckpointRevisions.
func (s *Store) checkpoint(rev Revision) (d Digest, err error) {
	if rev == 0 {
		return d, nil
	}
	err = s.history.View(func(tx Tx) error {
		k := revisionKey(rev)
		raw := tx.Get(BucketCheckpoints, k[:])
		if len(raw) != len(d) {
			file, off := tx.Where(raw)
			return &CorruptError{File: file, Offset: off, Detail: fmt.Sprintf("the digest checkpoint of revision %d has %d bytes", rev, len(raw))}
		}
		copy(d[:], raw)
		return nil
	})
	return d, err
}
