package walscan

import (
	"math"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"
	"go.etcd.io/etcd/server/v3/wal/walpb"
	"go.uber.org/zap"
)

// writeTerms makes a WAL of terms that are saved one after another, each with an entry.
func writeTerms(t *testing.T, terms ...uint64) string {
	t.Helper()
	dir := t.TempDir() + "/wal"
	w, err := wal.Create(zap.NewNop(), dir, nil)
	must(t, err)
	for i, term := range terms {
		must(t, w.Save(raftpb.HardState{Term: term, Vote: vote}, []raftpb.Entry{{Index: uint64(i + 1), Term: term}}))
	}
	must(t, w.Close())
	return dir
}

// What a node may take from a message, and go beyond with a few elections of its
// own before it saves, is what Check accepts; also many times over.
func TestTermMayFollow_IsWhatCheckAccepts(t *testing.T) {
	t.Parallel()
	const elections = 1000
	for _, first := range []uint64{1, 1 << 40, termMax} {
		terms := []uint64{first}
		if !TermMayFollow(0, first) {
			t.Errorf("a node without a term refuses %d", first)
		}
		for last := first; len(terms) < 50; {
			next := last + TermRiseMax
			if TermMayFollow(last, next) != (next <= termMax) || TermMayFollow(last, next+1) || !TermMayFollow(last, last) || !TermMayFollow(last, 0) {
				t.Fatalf("after %d: %d may follow: %v", last, next, TermMayFollow(last, next))
			}
			last = max(TermToward(last, math.MaxUint64), TermToward(last, last+1<<40), last) + elections
			terms = append(terms, last)
		}
		if _, err := Check(writeTerms(t, terms...)); err != nil {
			t.Errorf("from %d: %v", first, err)
		}
	}
	if TermMayFollow(1, math.MaxUint64-1) || TermMayFollow(0, termMax+1) || TermMayFollow(math.MaxUint64-1, math.MaxUint64) {
		t.Error("a term beyond all terms may follow")
	}
	if _, err := Check(writeTerms(t, 2, 2+termStepMax+1)); err == nil {
		t.Error("a step that no node makes is accepted")
	}
}

// A snapshot takes the place of entries that were never committed. They may have
// been of a newer term than what is committed behind it.
func TestCheck_SnapshotInPlaceOfNewerTerms(t *testing.T) {
	t.Parallel()
	dir := writeTerms(t, 1, 1, 5)
	w, err := wal.Open(zap.NewNop(), dir, walpb.Snapshot{})
	must(t, err)
	_, _, _, err = w.ReadAll()
	must(t, err)
	must(t, w.Save(raftpb.HardState{Term: 6, Commit: 3}, nil))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 3, Term: 4, ConfState: &raftpb.ConfState{}}))
	must(t, w.Save(raftpb.HardState{Term: 6, Commit: 3}, []raftpb.Entry{{Index: 4, Term: 4}, {Index: 5, Term: 6}}))
	must(t, w.Close())
	if _, err := Check(dir); err != nil {
		t.Errorf("the log of an honest node is refused: %v", err)
	}
	dir = writeTerms(t, 1, 5)
	appendEntry(t, dir, raftpb.Entry{Index: 3, Term: 4})
	if _, err := Check(dir); err == nil {
		t.Error("an entry that follows one of a newer term is accepted")
	}
}

// A mark is the same state twice in a row, and nothing else.
func TestHistory_Marked(t *testing.T) {
	t.Parallel()
	state := func(commit uint64) record {
		s := raftpb.HardState{Term: 1, Vote: vote, Commit: commit}
		b, err := s.Marshal()
		must(t, err)
		return record{typ: stateType, data: b}
	}
	e := raftpb.Entry{Index: 1, Term: 1}
	b, err := e.Marshal()
	must(t, err)
	entry := record{typ: entryType, data: b}
	for name, tt := range map[string]struct {
		records []record
		want    bool
	}{
		"twice":                {[]record{state(0), state(0)}, true},
		"once":                 {[]record{state(0)}, false},
		"another":              {[]record{state(0), state(1)}, false},
		"with an entry within": {[]record{state(0), entry, state(0)}, false},
	} {
		h := history{}
		for _, rec := range tt.records {
			must(t, h.record(rec))
		}
		if h.marked != tt.want {
			t.Errorf("%s: %v", name, h.marked)
		}
	}
	h := history{}
	must(t, h.record(entry))
	must(t, h.record(state(0)))
	must(t, h.segment(2))
	must(t, h.record(state(0)))
	if h.marked {
		t.Error("the state at the beginning of a segment passes for a mark")
	}
}
