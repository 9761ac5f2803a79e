package kvstore

import (
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Fork is Apply of an entry without commands that begins another history: the records
// stay, and the history so far becomes the parent of the new one. An entry that names the
// present history changes nothing.
func (s *Store) Fork(index, term uint64, meta []byte, history [16]byte) error {
	if HistoryID(history).IsZero() {
		return errors.New("fork history: the new one has no id")
	}
	if err := s.waitForRoom(); err != nil {
		return err
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.checkNext(index); err != nil {
		return err
	}
	s.mu.Lock()
	if s.lineage.ID != history {
		s.lineage = s.lineage.fork(history, &s.applied.derived)
	}
	s.mu.Unlock()
	s.finishEntry(index, term, meta)
	return nil
}

// MarkRestored makes a store that was filled with all records of another history, from,
// one that belongs to no log, for Bootstrap. No upload may be open. The goroutine that
// applies calls it.
func (s *Store) MarkRestored(from History) error {
	if from.ID.IsZero() {
		return errors.New("mark the store as restored: the history that it was restored from has no id")
	}
	if err := s.Commit(); err != nil {
		return err
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	if n := len(s.uploads); n > 0 {
		return fmt.Errorf("mark the store as restored: %d uploads are open", n)
	}
	p := appliedState{derived: s.applied.derived}
	lineage := from.fork(HistoryID{}, &p.derived)
	return s.failed("mark the store as restored", s.moveTo(p, lineage, nil))
}

// moveTo makes p and lineage the state, without an entry of the log; meta nil: none.
// commitMu and applyMu are held, and history lacks nothing.
func (s *Store) moveTo(p appliedState, lineage History, meta []byte) error {
	if err := s.history.Update(func(tx engine.Tx) error {
		return errors.Join(tx.Delete(engine.BucketState, keyMeta), writeLineage(tx, &lineage), writeApplied(tx, &p, meta))
	}); err != nil {
		return err
	}
	s.mu.Lock()
	s.applied, s.durable, s.lineage, s.kept = p, p, lineage, lineage
	s.mu.Unlock()
	return nil
}

// Bootstrap sets the first applied state, index above 0, of a store that is empty, or
// was restored and belongs to no log yet, and the id of the history that begins there.
func (s *Store) Bootstrap(index, term uint64, meta []byte, history [16]byte) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	if s.applied.index != 0 || s.applied.rev != 0 && !s.restoredLocked() { // nobody else writes now
		return fmt.Errorf("bootstrap store: it is not empty, entry %d was applied", s.applied.index)
	}
	if index == 0 {
		return errors.New("bootstrap store: the first position must be above 0")
	}
	if HistoryID(history).IsZero() {
		return errors.New("bootstrap store: the history that begins has no id")
	}
	p := appliedState{index: index, term: term, derived: s.applied.derived}
	lineage := History{ID: history, Parents: s.lineage.Parents}
	return s.failed("bootstrap store", s.moveTo(p, lineage, meta))
}
