package kvstore

import "github.com/Focinfi/oncekv/internal/keyruns"

// Stats are a store's figures at one moment.
type Stats struct {
	AppliedIndex uint64 // last entry of the log that was applied
	DurableIndex uint64 // last entry that history holds
	Revision     Revision
	Digest       Digest // history digest at Revision
	Keys         int64
	ValueBytes   int64 // sum of the sizes of all values
	HistoryBytes int64 // of the history file
	IndexBytes   int64 // of the index
	IndexedTo    Revision
	OverlayKeys  int64
	OverlayBytes int64 // estimate of the memory of keys not yet in the index
	PendingBytes int64 // estimate of the memory of what history lacks
	OpenUploads  int
	Index        keyruns.Stats
}

// Stats returns the store's figures. It works on a dead store too.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	at := s.applied.derived
	st := Stats{
		AppliedIndex: s.applied.index,
		DurableIndex: s.durable.index,
		Revision:     at.rev,
		Keys:         int64(at.rev),
		ValueBytes:   at.valueBytes,
		IndexedTo:    s.overlay.indexedRev,
		OverlayKeys:  int64(s.overlay.len()),
		OverlayBytes: s.overlay.bytes,
		PendingBytes: s.pendingBytes,
		OpenUploads:  len(s.uploads),
	}
	s.mu.RUnlock()
	st.Digest = at.digest()
	st.HistoryBytes = s.history.Size()
	st.Index = s.index.Stats()
	st.IndexBytes = st.Index.Bytes
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
	at, err := s.derivedAt(rev)
	if err != nil {
		return Digest{}, err
	}
	return at.digest(), nil
}

// revision returns the newest revision that was applied.
func (s *Store) revision() Revision {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied.rev
}
