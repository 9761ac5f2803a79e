package kvstore

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// HistoryID names a history for ever: a cluster that is formed, restored, or forced
// out of another one begins a new history, for from there on the same revision may
// be another record. It is zero as long as a store belongs to none.
type HistoryID [16]byte

// IsZero reports whether id names no history.
func (id HistoryID) IsZero() bool { return id == HistoryID{} }

// String returns 32 hex digits.
func (id HistoryID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id HistoryID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *HistoryID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseHistoryID(string(text))
	return err
}

// ParseHistoryID reads what String returns.
func ParseHistoryID(s string) (id HistoryID, err error) {
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("history id %.40q: it has %d characters, want 32 hex digits", s, len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return HistoryID{}, fmt.Errorf("history id %q is not 32 lower-case hex digits", s)
	}
	return id, nil
}

// Origin is where a history ended and another one went on from: its id, its last
// revision that both have, and its head there.
type Origin struct {
	ID       HistoryID `json:"id"`
	Revision Revision  `json:"revision"`
	Head     Digest    `json:"head"`
}

// History is the identity of what a store holds.
type History struct {
	ID      HistoryID
	Parents []Origin // the histories it went on from, oldest first
}

// Parent returns the history that this one went on from, nil if it began anew.
func (h *History) Parent() *Origin {
	if len(h.Parents) == 0 {
		return nil
	}
	return &h.Parents[len(h.Parents)-1]
}

// DescendsFrom reports whether id is one of the parents of h.
func (h *History) DescendsFrom(id HistoryID) bool {
	for i := range h.Parents {
		if h.Parents[i].ID == id {
			return true
		}
	}
	return false
}

// ErrHistoryChanged is what a *HistoryChangedError is.
var ErrHistoryChanged = errors.New("the history changed")

// HistoryChangedError answers whoever asks for a part of another history than the
// store has now, or for what follows a revision that it does not reach: what was
// read before may not be what is there now.
type HistoryChangedError struct {
	Asked   HistoryID // zero: none was named
	Since   Revision  // that was asked for
	Newest  Revision
	History HistoryID
	Parent  *Origin // of History; nil if it began anew
}

// Error says what to do.
func (e *HistoryChangedError) Error() string {
	if e.Asked.IsZero() || e.Asked == e.History {
		return fmt.Sprintf("history %s ends at revision %d, before the revision %d that was asked for: it is not the history that was read before; read it from its beginning", e.History, e.Newest, e.Since)
	}
	return fmt.Sprintf("this store has history %s now, not %s: drop what was read from the old one, and read the new one from its beginning", e.History, e.Asked)
}

// Is reports whether target is ErrHistoryChanged.
func (e *HistoryChangedError) Is(target error) bool { return target == ErrHistoryChanged }

// History returns the identity of the history that this store holds; it changes when
// a cluster is forced out of another one. Its slice must not be modified.
func (s *Store) History() History { return History{} }

// History is Store.History.
func (db *DB) History() History { return db.store.History() }

// Fork is Apply of an entry that begins another history, see raftnode.
func (s *Store) Fork(index, term uint64, meta []byte, history [16]byte) error {
	_, err := s.Apply(index, term, nil, meta)
	return err
}

// Origin returns what this store was restored from, as long as it belongs to no log.
func (s *Store) Origin() (history [16]byte, position uint64, head []byte, ok bool) { return }
