package kvstore

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// HistoryID names a history. A cluster that is formed, restored, or forced out of another
// one begins a new one: the same revision may be another record there. Zero: the store
// belongs to none.
type HistoryID [16]byte

// IsZero reports whether id names no history.
func (id HistoryID) IsZero() bool { return id == HistoryID{} }

// String returns 32 hex digits.
func (id HistoryID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler: logs in JSON have digits too.
func (id HistoryID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

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
	ID       HistoryID
	Revision Revision
	Head     Digest
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
	_, ok := h.shares(id)
	return ok
}

// shares returns up to which revision h is the same as its parent id; ok is false if
// id is none.
func (h *History) shares(id HistoryID) (last Revision, ok bool) {
	for i := range h.Parents {
		if h.Parents[i].ID == id {
			return h.Parents[i].Revision, true
		}
	}
	return 0, false
}

// ErrHistoryChanged is what a *HistoryChangedError is.
var ErrHistoryChanged = errors.New("the history changed")

// HistoryChangedError answers a request for a part of another history than the store has,
// or for what follows a revision that it does not reach: what was read before may be
// different now.
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

// fork returns the history that goes on from h, of which at are the records.
func (h *History) fork(id HistoryID, at *derived) History {
	parents := h.Parents[:len(h.Parents):len(h.Parents)] // others may look at them
	if !h.ID.IsZero() {
		parents = append(parents, Origin{ID: h.ID, Revision: at.rev, Head: at.digest()})
	}
	return History{ID: id, Parents: parents}
}

const originBytes = len(HistoryID{}) + 8 + len(Digest{})

// appendHistory encodes h.
func appendHistory(b []byte, h *History) []byte {
	b = append(b, h.ID[:]...)
	b = binary.AppendUvarint(b, uint64(len(h.Parents)))
	for i := range h.Parents {
		p := &h.Parents[i]
		b = append(b, p.ID[:]...)
		b = appendMark(b, mark{p.Revision, p.Head})
	}
	return b
}

// readHistory reads what appendHistory wrote, of a store at revision newest.
func readHistory(c *cursor, newest Revision) (h History) {
	copy(h.ID[:], c.take(len(h.ID)))
	n := c.uvarint()
	if n > uint64(len(c.b)/originBytes) {
		c.fail(errShort)
		return h
	}
	last := Revision(0)
	for range n {
		var p Origin
		copy(p.ID[:], c.take(len(p.ID)))
		m := readMark(c)
		p.Revision, p.Head = m.rev, m.digest
		if p.ID.IsZero() || p.Revision < last || p.Revision > newest {
			c.fail(fmt.Errorf("its history continues history %s from revision %d, which is not between revisions %d and %d", p.ID, p.Revision, last, newest))
			return h
		}
		last = p.Revision
		h.Parents = append(h.Parents, p)
	}
	return h
}
