package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// testHistory is one that two others went on to.
func testHistory() History {
	return History{ID: HistoryID{3}, Parents: []Origin{{HistoryID{1}, 1, sumOf([]byte("a"))}, {HistoryID{2}, 3, sumOf([]byte("b"))}}}
}

// putKeys applies entries of one put each, from index first on.
func putKeys(t *testing.T, s *Store, first, n int) {
	t.Helper()
	for i := first; i < first+n; i++ {
		if _, err := applyTo(s, uint64(i), 1, [][]byte{testPut(Key(fmt.Sprint("key ", i)), "p", "", []byte("v"), time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func mustSnapshot(t *testing.T, s *Store) []byte {
	t.Helper()
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	_, _, _, snapshot, err := s.Durable()
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func headAt(t *testing.T, s *Store, rev Revision) Digest {
	t.Helper()
	d, err := s.DigestAt(rev)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A history has its id from its beginning on, and keeps what it went on from, wherever
// a crash comes: each id with the entry that it belongs to, or neither.
func TestStore_Fork_WhereverItCrashes(t *testing.T) {
	t.Parallel()
	first, second, third := HistoryID{1}, HistoryID{2}, HistoryID{3}
	live := func(s *Store) error {
		if s.Stats().AppliedIndex == 0 {
			if err := s.Bootstrap(2, 1, []byte("begin"), first); err != nil {
				return err
			}
		}
		for index := s.Stats().AppliedIndex + 1; index <= 12; index++ {
			var err error
			switch index {
			case 6:
				err = s.Fork(index, 2, []byte("forced"), second)
			case 7: // the same once more, as after a crash of whoever forced it
				err = s.Fork(index, 2, nil, second)
			case 10:
				err = s.Fork(index, 3, []byte("forced again"), third)
			default:
				_, err = applyTo(s, index, 1, [][]byte{testPut(Key(fmt.Sprint("key ", index)), "p", "", nil, time.Unix(0, 0))}, nil)
			}
			if err == nil && index%4 != 0 {
				err = s.Commit()
			}
			if err != nil {
				return err
			}
			want := first
			if index >= 10 {
				want = third
			} else if index >= 6 {
				want = second
			}
			if got := s.History(); got.ID != want {
				t.Fatalf("after entry %d it is history %s, want %s", index, got.ID, want)
			}
		}
		return s.FlushIndex()
	}
	clean := newCrashPoint("", 0, engine.FailNever)
	d := newMemDisks()
	d.hook = clean.hook
	s := mustOpen(t, d, tiny())
	if err := live(s); err != nil {
		t.Fatal(err)
	}
	want := mustSnapshot(t, s)
	parents := []Origin{{first, 3, headAt(t, s, 3)}, {second, 5, headAt(t, s, 5)}}
	if got := s.History(); !reflect.DeepEqual(got.Parents, parents) || !got.DescendsFrom(first) || *got.Parent() != parents[1] {
		t.Fatalf("it went on from %+v, want %+v", got.Parents, parents)
	}
	if _, _, meta, _, _ := s.Durable(); string(meta) != "forced again" {
		t.Errorf("meta %q", meta)
	}
	for n := 1; n <= clean.steps["history"]; n++ {
		for _, point := range []engine.FailPoint{engine.FailBefore, engine.FailAfter} {
			d := newMemDisks()
			d.hook = newCrashPoint("history", n, point).hook
			if err := live(mustOpen(t, d, tiny())); !errors.Is(err, engine.ErrInjected) {
				t.Fatalf("step %d: %v", n, err)
			}
			s := mustOpen(t, d, tiny())
			if id := s.History().ID; id.IsZero() != (s.Stats().AppliedIndex == 0) {
				t.Errorf("step %d: entry %d, history %s", n, s.Stats().AppliedIndex, id)
			}
			if err := live(s); err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
			if got := mustSnapshot(t, s); !bytes.Equal(got, want) {
				t.Errorf("a crash at step %d changes the state", n)
			}
		}
	}
}

// The identity of a history travels with a snapshot, and the start of a history, or one
// that it went on from, is a past. What went on otherwise is none.
func TestStore_Install_OfAForkedHistory(t *testing.T) {
	t.Parallel()
	first, second := HistoryID{1}, HistoryID{2}
	open := func(history HistoryID, entries int) *Store {
		t.Helper()
		s := mustOpen(t, newMemDisks(), tiny())
		if err := s.Bootstrap(1, 1, nil, history); err != nil {
			t.Fatal(err)
		}
		putKeys(t, s, 2, entries)
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	sender := open(first, 10)
	if err := sender.Fork(12, 2, nil, second); err != nil {
		t.Fatal(err)
	}
	putKeys(t, sender, 13, 10)
	snapshot := mustSnapshot(t, sender)
	for name, c := range map[string]struct {
		history HistoryID
		entries int
		want    error
	}{
		"its past":                 {first, 4, nil},
		"its past to the end":      {first, 10, nil},
		"what went on otherwise":   {first, 11, ErrDiverged},
		"another history":          {HistoryID{9}, 4, ErrDiverged},
		"another, and longer than": {HistoryID{9}, 15, ErrDiverged},
	} {
		s := open(c.history, c.entries)
		err := s.Stage(t.Context(), snapshot, serveFrom(sender), testFetch)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.err() != nil {
			t.Errorf("%s: a snapshot that is only offered ends the store: %v", name, s.err())
		}
		if c.want != nil {
			continue
		}
		if err := s.Install(22, 1, nil, snapshot); err != nil {
			t.Fatal(err)
		}
		if got := s.History(); !reflect.DeepEqual(got, sender.History()) {
			t.Errorf("%s: history %+v, want %+v", name, got, sender.History())
		}
		if got := mustSnapshot(t, s); !bytes.Equal(got, snapshot) {
			t.Errorf("%s: the snapshot differs", name)
		}
	}
}

// A restored store goes on from what it was restored from, in a log of its own, which
// may begin at any number.
func TestStore_MarkRestored(t *testing.T) {
	t.Parallel()
	original := mustOpen(t, newMemDisks(), tiny())
	if err := original.Bootstrap(100, 1, []byte("members"), HistoryID{1}); err != nil {
		t.Fatal(err)
	}
	if err := original.Fork(101, 1, nil, HistoryID{2}); err != nil {
		t.Fatal(err)
	}
	putKeys(t, original, 102, 5)
	from := original.History()
	var snapshots [][]byte
	for _, every := range []int{1, 3} {
		d := newMemDisks()
		s := mustOpen(t, d, tiny())
		if err := s.MarkRestored(History{}); err == nil {
			t.Fatal("it was restored from nowhere")
		}
		if _, _, _, ok := s.Origin(); ok {
			t.Fatal("an empty store was restored")
		}
		id := uploadID{1}
		if _, err := applyTo(s, 1, 1, [][]byte{openCommand(id, time.Unix(0, 0)), testChunk(id, 0, []byte("x"), time.Unix(0, 0))}, []byte("meta")); err != nil {
			t.Fatal(err)
		}
		if err := s.MarkRestored(from); err == nil {
			t.Fatal("an upload is open")
		}
		if _, err := applyTo(s, 2, 1, [][]byte{abandonCommand(id)}, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if _, err := applyTo(s, uint64(3+i), 1, [][]byte{testPut(Key(fmt.Sprint("key ", 102+i)), "p", "", []byte("v"), time.Unix(0, 0))}, nil); err != nil {
				t.Fatal(err)
			}
			if i%every == 0 {
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.MarkRestored(from); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			history, appliedState, head, ok := s.Origin()
			if !ok || history != from.ID || appliedState != 5 || !bytes.Equal(head, sumOfHead(t, original, 5)) {
				t.Fatalf("it was restored from %x at revision %d, head %x: %v", history, appliedState, head, ok)
			}
			index, term, meta, _, err := s.Durable()
			if err != nil || index != 0 || term != 0 || meta != nil {
				t.Fatalf("it belongs to a log: entry %d of term %d, %q, %v", index, term, meta, err)
			}
			s = mustOpen(t, d, tiny())
		}
		if err := s.Bootstrap(7, 1, []byte("new members"), HistoryID{3}); err != nil {
			t.Fatal(err)
		}
		if err := s.Bootstrap(7, 1, nil, HistoryID{4}); err == nil {
			t.Fatal("it began twice")
		}
		if _, _, _, ok := s.Origin(); ok {
			t.Fatal("it belongs to a log, and says where it was restored from")
		}
		want := append(from.Parents[:1:1], Origin{from.ID, 5, headAt(t, original, 5)})
		if got := s.History(); got.ID != (HistoryID{3}) || !reflect.DeepEqual(got.Parents, want) {
			t.Fatalf("history %+v", got)
		}
		putKeys(t, s, 8, 3)
		snapshots = append(snapshots, mustSnapshot(t, s))
		if v, err := mustOpen(t, d, tiny()).Get("key 104"); err != nil || v.Revision != 3 {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if !bytes.Equal(snapshots[0], snapshots[1]) {
		t.Error("two that were restored alike differ")
	}
}

func sumOfHead(t *testing.T, s *Store, rev Revision) []byte {
	d := headAt(t, s, rev)
	return d[:]
}

func TestStore_Bootstrap_NeedsAHistory(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), tiny())
	if err := s.Bootstrap(1, 1, nil, [16]byte{}); err == nil || s.Stats().AppliedIndex != 0 {
		t.Errorf("it begins a history without an id: %v", err)
	}
	if err := s.Fork(1, 1, nil, [16]byte{}); err == nil || s.err() != nil {
		t.Errorf("it goes on to a history without an id: %v, %v", err, s.err())
	}
}

// catchingLog brings entries when it is asked where it stands.
type catchingLog struct {
	Log
	bring func()
	reads int
	err   error
}

func (l *catchingLog) ReadIndex(context.Context) error {
	l.reads++
	if l.bring != nil && l.err == nil {
		l.bring()
		l.bring = nil
	}
	return l.err
}

// Whoever asks for a part of another history hears of it, with what the new one went on
// from; but never from a node that is only behind: what it does not know it asks the
// log for, and then has it.
func TestDB_HistoryChanged(t *testing.T) {
	t.Parallel()
	first, second, third := HistoryID{1}, HistoryID{2}, HistoryID{3}
	for name, c := range map[string]struct {
		behind      bool // the fork to third, and the revisions after 5, are still to come
		unreachable bool // the log
		history     HistoryID
		after       Revision
		with        Consistency
		changed     bool // by Changes
		keysChanged bool
		want        error // otherwise
		reads       int   // of the log, by Changes
		found       int
	}{
		"no history":                            {with: Local, found: 8},
		"this history":                          {history: third, after: 2, with: Local, found: 6},
		"this history, from its end":            {history: third, after: 8, with: Linearizable, reads: 1},
		"a parent":                              {history: second, with: Local, changed: true, keysChanged: true},
		"the first":                             {history: first, after: 3, with: Linearizable, reads: 1, changed: true, keysChanged: true},
		"a history that nobody knows":           {history: HistoryID{9}, with: Local, reads: 1, changed: true, keysChanged: true},
		"the same, and the log tells nothing":   {history: HistoryID{9}, with: Local, unreachable: true, reads: 1, want: ErrUnavailable},
		"beyond the end":                        {after: 9, with: Linearizable, reads: 1, changed: true},
		"beyond the end of this history":        {history: third, after: 9, with: Linearizable, reads: 1, changed: true},
		"beyond the end, but not sure":          {history: third, after: 9, with: Local},
		"behind: a history that is to come":     {behind: true, history: third, after: 5, with: Local, reads: 1, found: 3},
		"behind: the same, the log is far":      {behind: true, history: third, after: 5, with: Local, unreachable: true, reads: 1, want: ErrUnavailable},
		"behind: what will be past":             {behind: true, history: second, after: 5, with: Local},
		"behind: what is past by then":          {behind: true, history: second, after: 5, with: Linearizable, reads: 1, changed: true, keysChanged: true},
		"behind: a revision that is to come":    {behind: true, after: 8, with: Linearizable, reads: 1},
		"behind: one that is to come, not sure": {behind: true, after: 8, with: Local},
		"behind: one that will never come":      {behind: true, after: 9, with: Linearizable, reads: 1, changed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, newMemDisks(), tiny())
			if err := s.Bootstrap(1, 1, nil, first); err != nil {
				t.Fatal(err)
			}
			putKeys(t, s, 2, 3)
			if err := s.Fork(5, 1, nil, second); err != nil {
				t.Fatal(err)
			}
			putKeys(t, s, 6, 2)
			l := &catchingLog{bring: func() {
				if err := s.Fork(8, 1, nil, third); err != nil {
					t.Fatal(err)
				}
				putKeys(t, s, 9, 3)
			}}
			if !c.behind {
				l.bring()
				l.bring = nil
			}
			if c.unreachable {
				l.err = ErrUnavailable
			}
			db := NewDB(s, l, DBConfig{})
			check := func(what string, err error, changed bool) {
				t.Helper()
				var e *HistoryChangedError
				switch {
				case changed != errors.Is(err, ErrHistoryChanged), !changed && !errors.Is(err, c.want):
					t.Errorf("%s: %v", what, err)
				case !changed:
				case !errors.As(err, &e) || e.Asked != c.history || e.History != third || e.Newest != 8 || e.Parent == nil || *e.Parent != (Origin{second, 5, headAt(t, s, 5)}):
					t.Errorf("%s: %+v", what, e)
				case !strings.Contains(err.Error(), third.String()):
					t.Errorf("%s: it does not name the new history: %v", what, err)
				}
			}
			changes, err := db.Changes(t.Context(), ChangesRequest{After: c.after, History: c.history, Limit: 100, LimitBytes: 1 << 20}, c.with)
			check("changes", err, c.changed)
			if l.reads != c.reads || len(changes.Records) != c.found {
				t.Errorf("the log was asked %d times, and %d records found; want %d and %d", l.reads, len(changes.Records), c.reads, c.found)
			}
			if err == nil && changes.History != db.History().ID {
				t.Errorf("the changes are of history %s", changes.History)
			}
			page, err := db.Keys(t.Context(), KeysRequest{History: c.history, Limit: 100, LimitBytes: 1 << 20}, c.with)
			check("keys", err, c.keysChanged)
			if err == nil && page.History != db.History().ID {
				t.Errorf("the keys are of history %s", page.History)
			}
		})
	}
}

// What a snapshot says of its history must be one that can be.
func TestSnapshot_HistoriesThatCannotBe(t *testing.T) {
	t.Parallel()
	s := &snapshot{appliedState: appliedState{index: 1, derived: testDerived(3)}, lineage: testHistory()}
	raw := encodeSnapshot(s)
	if got, err := decodeSnapshot(raw); err != nil || !reflect.DeepEqual(got.lineage, s.lineage) {
		t.Fatalf("%+v, %v", got, err)
	}
	for what, change := range map[string]func(h *History){
		"a parent without an id":   func(h *History) { h.Parents[0].ID = HistoryID{} },
		"parents in another order": func(h *History) { h.Parents[0], h.Parents[1] = h.Parents[1], h.Parents[0] },
		"a parent that is longer":  func(h *History) { h.Parents[1].Revision = 4 },
	} {
		broken := *s
		broken.lineage = testHistory()
		change(&broken.lineage)
		if _, err := decodeSnapshot(encodeSnapshot(&broken)); err == nil {
			t.Errorf("%s: accepted", what)
		}
		e := engine.NewMemEngine()
		if err := e.Update(func(tx engine.Tx) error {
			return errors.Join(writeApplied(tx, &s.appliedState, nil), writeLineage(tx, &broken.lineage))
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(StoreConfig{History: e, Index: newIndex(t), Bodies: openBodies(t, t.TempDir(), time.Now)}); err == nil || !errors.As(err, new(*CorruptError)) {
			t.Errorf("%s: opened: %v", what, err)
		}
	}
	if err := mustOpen(t, newMemDisks(), tiny()).Stage(t.Context(), raw[:len(raw)-1], func(ctxT, string) (io.ReadCloser, error) { return nil, io.EOF }, testFetch); err == nil {
		t.Error("a snapshot that ends too early is staged")
	}
}
