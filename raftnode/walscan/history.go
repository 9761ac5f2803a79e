package walscan

import (
	"bytes"
	"fmt"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal/walpb"
)

// Terms grow by one an election, and there is at most one an election time-out. One rule
// for those who read the log and those who write it.
const (
	// termStepMax bounds how far a term may jump from one record to the next. A
	// larger step is another record's field read as a term.
	termStepMax = 1 << 32
	// TermRiseMax bounds how far the term of a message may lie beyond the saved one: half a
	// year of an election every second, which a member may have missed. It leaves room for
	// the elections that a node calls before it saves again.
	TermRiseMax = termStepMax >> 8
	// termClimbMax bounds a step of TermToward.
	termClimbMax = termStepMax >> 2
	// termMax is beyond every term, and far from where terms overflow.
	termMax = 1 << 62
)

// TermMayFollow reports whether a node may take a term from a message and write it down,
// when saved is the newest term in its log (0: none, so nothing to compare with). Check
// accepts what is written by this rule.
func TermMayFollow(saved, term uint64) bool {
	return term <= saved || term <= termMax && (saved == 0 || term-saved <= TermRiseMax)
}

// TermToward returns the term that a node may write down next, after saved, on its
// way to one that may not follow; saved if there is no way.
func TermToward(saved, term uint64) uint64 {
	if term > termMax {
		return saved
	}
	return max(saved, min(term, saved+termClimbMax))
}

// history follows what the records say. The checksum does not cover a record's
// type, so a record has to make sense too.
type history struct {
	lastIndex         uint64 // of the last entry
	endIndex, endTerm uint64 // of the last entry, or of a snapshot it does not reach beyond
	known             uint64 // entries up to here are in the log, in a snapshot, or purged
	state             raftpb.HardState
	termMax           uint64 // highest term seen
	termKnown         bool   // there was one
	snapshotIndex     uint64
	entries           int
	before            []byte // data of the record before, if that is a state
	marked            bool   // there was a mark: see isMark
}

func (h *history) fill(r *Report) {
	r.LastIndex, r.SnapshotIndex, r.Entries = h.lastIndex, h.snapshotIndex, h.entries
	r.Commit, r.Term = h.state.Commit, h.state.Term
}

// segment checks the index in the name of a segment that follows others: that of the entry
// expected next. After a restart etcd has forgotten snapshots, and counts from the last
// entry on. With a lower name it would begin to read too late, as it takes the last segment
// whose name is not above its snapshot.
func (h *history) segment(index uint64) error {
	h.before = nil // etcd repeats the state at the beginning of a segment: no mark
	switch {
	case index > h.known+1:
		return fmt.Errorf("its name says it continues at index %d, but the log before it ends at index %d, so entries are missing", index, h.known)
	case index < h.known+1 && index != h.lastIndex+1:
		return fmt.Errorf("its name says it continues at index %d, but the log before it ends at index %d, so entries before it would be passed over", index, h.known)
	}
	return nil
}

// record takes in the next record of type entry, state or snapshot.
func (h *history) record(rec record) error {
	if rec.typ == stateType {
		h.marked = h.marked || bytes.Equal(h.before, rec.data)
		h.before = append([]byte{}, rec.data...)
	} else {
		h.before = nil
	}
	switch rec.typ {
	case entryType:
		return h.entry(rec.data)
	case stateType:
		return h.hardState(rec.data)
	}
	return h.snapshot(rec.data)
}

func (h *history) entry(data []byte) error {
	e, ok := parseEntry(data)
	if !ok {
		return fmt.Errorf("a record of type entry holds no entry")
	}
	if e.Index > h.known+1 {
		return fmt.Errorf("entry %d follows index %d, so entries are missing before it", e.Index, h.known)
	}
	if h.implausible(e.Term) || e.Index == h.endIndex+1 && e.Term < h.endTerm {
		return fmt.Errorf("entry %d has term %d, which cannot follow term %d", e.Index, e.Term, max(h.endTerm, h.termMax))
	}
	h.lastIndex, h.endIndex, h.endTerm, h.known = e.Index, e.Index, e.Term, e.Index
	h.entries++
	h.term(e.Term)
	return nil
}

func (h *history) hardState(data []byte) error {
	s, ok := parseState(data)
	if !ok {
		return fmt.Errorf("a record of type state holds no hard state")
	}
	if h.implausible(s.Term) || s.Term < h.termMax {
		return fmt.Errorf("a hard state has term %d, which cannot follow term %d", s.Term, h.termMax)
	}
	h.state = s
	h.term(s.Term)
	return nil
}

func (h *history) snapshot(data []byte) error {
	s, ok := parseSnapshot(data)
	if !ok {
		return fmt.Errorf("a record of type snapshot holds no snapshot")
	}
	h.snapshotIndex = max(h.snapshotIndex, s.Index)
	h.known = max(h.known, s.Index)
	if s.Index >= h.endIndex { // in place of entries that were never committed, perhaps of newer terms
		h.endIndex, h.endTerm = s.Index, s.Term
	}
	return nil
}

func (h *history) term(t uint64) {
	h.termMax, h.termKnown = max(h.termMax, t), true
}

func (h *history) implausible(term uint64) bool {
	return h.termKnown && term > h.termMax && term-h.termMax > termStepMax
}

// plausible tells whether a record of which the checksum cannot be verified
// could stand somewhere behind this history.
func (h *history) plausible(rec record) bool {
	const near = 1 << 24 // entries
	switch rec.typ {
	case entryType:
		e, ok := parseEntry(rec.data)
		return ok && e.Index < h.known+near && h.known < e.Index+near && !h.implausible(e.Term)
	case stateType:
		s, ok := parseState(rec.data)
		return ok && s.Term >= h.state.Term && !h.implausible(s.Term)
	case snapshotType:
		_, ok := parseSnapshot(rec.data)
		return ok
	}
	return false
}

// isMark tells whether two records that follow one another are a mark: the same state
// twice, which a node writes behind each fsync. What lies before a mark was on the disk.
// raft writes a state only when it has changed, so logs of older programs have no marks.
func isMark(a, b record) bool {
	_, ok := parseState(a.data)
	return ok && a.typ == stateType && b.typ == stateType && bytes.Equal(a.data, b.data) && b.chains(a.crc)
}

// The parsers accept a message only if it would be encoded to as many bytes
// again: unknown or repeated fields are a message of another type.

func parseEntry(data []byte) (e raftpb.Entry, ok bool) {
	err := e.Unmarshal(data)
	return e, err == nil && e.Size() == len(data) && e.Index > 0 && e.Type >= raftpb.EntryNormal && e.Type <= raftpb.EntryConfChangeV2
}

func parseState(data []byte) (s raftpb.HardState, ok bool) {
	err := s.Unmarshal(data)
	return s, err == nil && s.Size() == len(data)
}

func parseSnapshot(data []byte) (s walpb.Snapshot, ok bool) {
	err := s.Unmarshal(data)
	known := walpb.Snapshot{Index: s.Index, Term: s.Term, ConfState: s.ConfState} // s keeps unknown fields
	return s, err == nil && known.Size() == len(data)
}
