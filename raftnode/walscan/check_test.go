package walscan

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"
	"go.etcd.io/etcd/server/v3/wal/walpb"
	"go.uber.org/zap"
)

func TestCheck_Untouched(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	ents := writeWAL(t, dir, 60, 100, 700, 30, 1)
	before := load(t, dir)
	r, err := Check(dir)
	must(t, err)
	if r.LastIndex != 60 || r.Entries != 60 || r.Commit != 59 || r.Term != 4 || r.Torn {
		t.Fatalf("report %+v", r)
	}
	if r.Segments != len(before) || r.Segments < 4 {
		t.Fatalf("%d segments reported, %d there, want at least 4", r.Segments, len(before))
	}
	for name, b := range load(t, dir) {
		if string(before[name]) != string(b) {
			t.Fatalf("Check changed %s", name)
		}
	}
	wantEntries(t, dir, ents)
}

func TestCheck_NoLog(t *testing.T) {
	t.Parallel()
	if _, err := Check(t.TempDir()); !errors.Is(err, ErrNoSegments) {
		t.Fatalf("empty directory: %v", err)
	}
	if _, err := Check(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("missing directory: %v", err)
	}
}

func TestCheck_IgnoresUnfinishedSegments(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 5, 100)
	must(t, os.WriteFile(filepath.Join(dir, "0.tmp"), []byte("half a segment"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal.broken"), []byte("old"), 0o600))
	if r, err := Check(dir); err != nil || r.Segments != 1 {
		t.Fatalf("report %+v, error %v", r, err)
	}
}

func TestCheck_OverwrittenEntries(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 10, 50)
	appendEntry(t, dir, raftpb.Entry{Index: 7, Term: 3, Data: []byte("another leader")})
	r, err := Check(dir)
	must(t, err)
	if r.LastIndex != 7 || r.Entries != 11 {
		t.Fatalf("report %+v, want the last entry 7 of 11 records", r)
	}
}

func TestCheck_SnapshotSkipsEntries(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	w, err := wal.Create(zap.NewNop(), dir, nil)
	must(t, err)
	must(t, w.Save(raftpb.HardState{Term: 1, Commit: 1}, []raftpb.Entry{{Index: 1, Term: 1}}))
	must(t, w.SaveSnapshot(walpb.Snapshot{Index: 500, Term: 4, ConfState: &raftpb.ConfState{Voters: []uint64{vote, 2}}}))
	must(t, w.Save(raftpb.HardState{Term: 4, Commit: 500}, []raftpb.Entry{{Index: 501, Term: 4}}))
	must(t, w.Close())
	r, err := Check(dir)
	must(t, err)
	if r.LastIndex != 501 || r.SnapshotIndex != 500 || r.Entries != 2 {
		t.Fatalf("report %+v", r)
	}
}

func TestCheck_PurgedSegments(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 60, 300)
	segs, err := segments(dir)
	must(t, err)
	must(t, os.Remove(segs[0].path))
	must(t, os.Remove(segs[1].path))
	r, err := Check(dir)
	must(t, err)
	if r.LastIndex != 60 || r.FirstIndex != segs[2].index || r.Segments != len(segs)-2 {
		t.Fatalf("report %+v, first segment left %s", r, segs[2].path)
	}
}

func TestCheck_MissingSegment(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 60, 300)
	tr := load(t, dir)
	segs, err := segments(dir)
	must(t, err)
	for i := 1; i < len(segs)-1; i++ {
		dir := tr.store(t)
		must(t, os.Remove(filepath.Join(dir, segs[i].name())))
		_, err := Check(dir)
		wantDamage(t, err, segs[i+1].name(), 0, 0)
	}
}

// The name of a segment says which entry comes next, and nothing else will do:
// etcd begins to read where the names tell it to.
func TestCheck_WrongName(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 60, 300)
	tr := load(t, dir)
	segs, err := segments(dir)
	must(t, err)
	for _, s := range segs[1:] {
		for _, index := range []uint64{0, 1, s.index - 1, s.index + 1} {
			dir := tr.store(t)
			wrong := segment{seq: s.seq, index: index}
			must(t, os.Rename(filepath.Join(dir, s.name()), filepath.Join(dir, wrong.name())))
			_, err = Check(dir)
			wantDamage(t, err, wrong.name(), 0, 0)
		}
	}
}

// After a restart etcd counts from the last entry on, and does not know about a
// snapshot that is ahead of it: the next segment's name goes back.
func TestCheck_NameAfterForgottenSnapshot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 10, 50)
	snap := walpb.Snapshot{Index: 500, Term: 4, ConfState: &raftpb.ConfState{Voters: []uint64{vote, 2}}}
	w, err := wal.Open(zap.NewNop(), dir, walpb.Snapshot{})
	must(t, err)
	_, _, _, err = w.ReadAll()
	must(t, err)
	must(t, w.SaveSnapshot(snap))
	must(t, w.Close())
	w, err = wal.Open(zap.NewNop(), dir, snap)
	must(t, err)
	_, _, _, err = w.ReadAll()
	must(t, err)
	count := func() int { // without the file that etcd prepares for the next one
		segs, err := segments(dir)
		must(t, err)
		return len(segs)
	}
	before := count()
	for term := uint64(5); count() == before; term++ {
		must(t, w.Save(raftpb.HardState{Term: term, Vote: vote, Commit: 500}, nil))
	}
	must(t, w.Save(raftpb.HardState{Term: 1000, Vote: vote, Commit: 500}, []raftpb.Entry{{Index: 501, Term: 1000}}))
	must(t, w.Close())
	segs, err := segments(dir)
	must(t, err)
	if last := segs[len(segs)-1]; last.index != 11 {
		t.Fatalf("etcd has named a segment %s, this test is about one that goes on at 11", last.name())
	}
	r, err := Check(dir)
	must(t, err)
	if r.LastIndex != 501 || r.SnapshotIndex != 500 {
		t.Fatalf("report %+v", r)
	}
}

func TestCheck_BadName(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 5, 100)
	const name = "0000000000000001-6.wal"
	must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	_, err := Check(dir)
	wantDamage(t, err, name, 0, 0)
}

// A segment that lost its end at a record's boundary reads well by itself.
func TestCheck_SegmentCutShort(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 60, 300)
	tr := load(t, dir)
	for _, f := range tr.frames(t) {
		if f.file == lastFile(tr) || f.off == 0 {
			continue
		}
		dir := tr.store(t)
		path := filepath.Join(dir, f.file)
		must(t, os.Truncate(path, int64(f.off)))
		_, err := Check(dir)
		wantDamage(t, err, f.file, f.off, f.off)
		must(t, os.Truncate(path, int64(len(tr[f.file])))) // zeros instead
		_, err = Check(dir)
		wantDamage(t, err, f.file, f.off, f.off)
	}
}

func TestCheck_EmptyLastSegment(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 60, 300)
	last := lastFile(load(t, dir))
	for _, size := range []int64{0, 5, 4096} {
		must(t, os.Truncate(filepath.Join(dir, last), 0))
		must(t, os.Truncate(filepath.Join(dir, last), size))
		_, err := Check(dir)
		wantDamage(t, err, last, 0, 0)
	}
}

// The checksums are right in these logs; what they say cannot be.
func TestCheck_ImpossibleRecords(t *testing.T) {
	t.Parallel()
	for name, save := range map[string]func(w *wal.WAL) error{
		"index gap":   func(w *wal.WAL) error { return w.Save(raftpb.HardState{}, []raftpb.Entry{{Index: 12, Term: 9}}) },
		"index zero":  func(w *wal.WAL) error { return w.Save(raftpb.HardState{}, []raftpb.Entry{{Index: 0, Term: 9}}) },
		"term falls":  func(w *wal.WAL) error { return w.Save(raftpb.HardState{}, []raftpb.Entry{{Index: 11, Term: 8}}) },
		"term jumps":  func(w *wal.WAL) error { return w.Save(raftpb.HardState{}, []raftpb.Entry{{Index: 11, Term: vote}}) },
		"state falls": func(w *wal.WAL) error { return w.Save(raftpb.HardState{Term: 8, Commit: 10}, nil) },
		"unknown type": func(w *wal.WAL) error {
			return w.Save(raftpb.HardState{}, []raftpb.Entry{{Index: 11, Term: 9, Type: 7}})
		},
		"state far ahead": func(w *wal.WAL) error { return w.Save(raftpb.HardState{Term: 1 << 50}, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "wal")
			w, err := wal.Create(zap.NewNop(), dir, nil)
			must(t, err)
			for i := uint64(1); i <= 10; i++ {
				must(t, w.Save(raftpb.HardState{Term: 9, Vote: vote, Commit: i - 1}, []raftpb.Entry{{Index: i, Term: 9}}))
			}
			must(t, save(w))
			must(t, w.Close())
			_, err = Check(dir)
			wantDamage(t, err, segment{}.name(), 64, 4096)
		})
	}
}

func TestDamageError_SaysWhatToDo(t *testing.T) {
	t.Parallel()
	err := &DamageError{File: "/data/n1/wal/x.wal", Offset: 4711, Detail: "the checksum of the record does not match"}
	for _, want := range []string{"/data/n1/wal/x.wal", "offset 4711", "checksum", "remove the member", "wipe its data directory", "join again"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func lastFile(tr tree) string {
	last := ""
	for name := range tr {
		last = max(last, name)
	}
	return last
}
