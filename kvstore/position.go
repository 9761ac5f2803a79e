package kvstore

import (
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/internal/level"
)

// Durable returns the state that history holds, all of it from one transaction:
// index and term of the last entry in it, the opaque meta that came with it or
// before it, and an encoded description that Stage and Install of another
// replica take. A store that never got an entry has index 0.
func (s *Store) Durable() (index, term uint64, meta, snapshot []byte, err error) {
	if err := s.err(); err != nil {
		return 0, 0, nil, nil, err
	}
	err = s.history.View(func(tx Tx) error {
		snap, err := readSnapshot(tx)
		if err != nil {
			return err
		}
		index, term = snap.index, snap.term
		snapshot = encodeSnapshot(snap)
		meta, err = storedMeta(tx)
		return err
	})
	if err != nil {
		return 0, 0, nil, nil, s.failed("read the durable state", err)
	}
	return index, term, meta, snapshot, nil
}

// Bootstrap sets the first durable position of a store that is empty, or was restored
// and belongs to no log yet, where a log starts that does not begin at 1, and the id
// of the history that begins there. A store that has a position refuses.
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
	p := position{index: index, term: term, derived: s.applied.derived}
	lineage := History{ID: history, Parents: s.lineage.Parents}
	if err := s.history.Update(func(tx Tx) error {
		return errors.Join(writeLineage(tx, &lineage), writePosition(tx, &p, meta))
	}); err != nil {
		return s.failed("bootstrap store", err)
	}
	s.mu.Lock()
	s.applied, s.durable, s.lineage, s.kept = p, p, lineage, lineage
	s.mu.Unlock()
	return nil
}

// Resolve returns what Apply would answer to command if that is settled already:
// whoever proposed it may have missed the entry because a snapshot replaced it.
// decided is false when command is not applied yet. The error is fatal, or a
// *level.LaterError.
func (s *Store) Resolve(command []byte) (result any, decided bool, err error) {
	if err := s.err(); err != nil {
		return nil, false, err
	}
	cmd, err := decodeCommand(command)
	if _, later := err.(*level.LaterError); later {
		return nil, false, err
	}
	if err != nil {
		return err, true, nil
	}
	switch cmd.kind {
	case commandPut, commandRefer, commandSeal:
		winner, err := s.lookup(Key(cmd.body.key))
		if errors.Is(err, ErrNotFound) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		return PutResult{Outcome: outcomeAgainst(&winner, cmd.body.putIDString(), &cmd.body.sum), Meta: winner}, true, nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	u := s.uploads[cmd.upload]
	switch cmd.kind {
	case commandOpen:
		return OpenResult{}, u != nil, nil
	case commandChunk: // if the upload is open no more, it is refused when it comes
		return ChunkResult{}, u != nil && cmd.number < u.count(), nil
	}
	return AbandonResult{}, u == nil, nil
}

// openUploads returns the life of each open upload by now.
func (s *Store) openUploads() map[uploadID]uploadLife {
	s.mu.RLock()
	defer s.mu.RUnlock()
	open := make(map[uploadID]uploadLife, len(s.uploads))
	for id, u := range s.uploads {
		open[id] = u.uploadLife
	}
	return open
}
