package kvstore

import "fmt"

// History returns the identity of the history that this store holds; it changes when
// a cluster is forced out of another one. Its slice must not be modified.
func (s *Store) History() History {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lineage
}

// Origin returns what this store was restored from, as long as it belongs to no log:
// id of the history, last revision, and head there.
func (s *Store) Origin() (history [16]byte, revision uint64, head []byte, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.restoredLocked() {
		return history, 0, nil, false
	}
	from := s.lineage.Parent()
	return from.ID, uint64(from.Revision), append([]byte(nil), from.Head[:]...), true
}

// restoredLocked tells whether this store was restored and belongs to no log yet. mu
// is held.
func (s *Store) restoredLocked() bool {
	return s.lineage.ID.IsZero() && len(s.lineage.Parents) > 0
}

// checkHistoryLocked refuses a request for a part of another history. One that this store
// does not know may come with entries that this node has not applied: errBehind. mu is
// held.
func (s *Store) checkHistoryLocked(asked HistoryID, since Revision) error {
	switch {
	case asked.IsZero() || asked == s.lineage.ID:
		return nil
	case s.lineage.DescendsFrom(asked):
		return s.historyChangedLocked(asked, since)
	}
	return fmt.Errorf("%w: history %s; this store has history %s", errBehind, asked, s.lineage.ID)
}

// historyChangedLocked answers a request for what this store does not have, although it
// is not behind. mu is held.
func (s *Store) historyChangedLocked(asked HistoryID, since Revision) *HistoryChangedError {
	e := &HistoryChangedError{Asked: asked, Since: since, Newest: s.applied.rev, History: s.lineage.ID}
	if from := s.lineage.Parent(); from != nil {
		parent := *from
		e.Parent = &parent
	}
	return e
}
