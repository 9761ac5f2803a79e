package raftnode

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/shortage"
)

// withoutFiles lets this process open no file until more is called.
func withoutFiles(t *testing.T) (more func()) {
	t.Helper()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.DevNull) // the lowest number that is free
	if err != nil {
		t.Fatal(err)
	}
	none := files
	none.Cur = uint64(f.Fd())
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	more = func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(more)
	return more
}

// snapshotAt is a snapshot of one voter.
func snapshotAt(index uint64) raftpb.Snapshot {
	return raftpb.Snapshot{Data: []byte("state"), Metadata: raftpb.SnapshotMetadata{Index: index, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}}
}

// A disk whose files cannot be opened because too many are is as good as before: a
// snapshot is saved later, and a start says which limit it is and takes nothing for
// damaged.
func TestDisk_ShortOfFiles(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	d, err := createDisk(dir, 1, snapshotAt(1), fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	entries := []raftpb.Entry{{Index: 2, Term: 1, Data: []byte("a")}, {Index: 3, Term: 1, Data: []byte("b")}}
	if err := d.save(raftpb.HardState{Term: 1, Vote: 1, Commit: 3}, entries, true); err != nil {
		t.Fatal(err)
	}
	short := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, shortage.Err) || errors.Is(err, errDisk) {
			t.Errorf("%s: %v", what, err)
		}
	}
	more := withoutFiles(t)
	short("save a snapshot", d.saveSnapshot(snapshotAt(3)))
	short("remove what is old", d.release(3))
	more()
	if err := d.saveSnapshot(snapshotAt(3)); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}

	more = withoutFiles(t)
	_, _, err = openDisk(dir, 1, fsync.Sync, logger)
	short("open", err)
	more()
	names, err := filepath.Glob(filepath.Join(snapDir(dir), "*.broken"))
	if err != nil || len(names) > 0 {
		t.Errorf("taken for damaged: %v, %v", names, err)
	}
	d, st, err := openDisk(dir, 1, fsync.Sync, logger)
	if err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	if st.snapshot.Metadata.Index != 3 || st.state.Commit != 3 {
		t.Errorf("found %+v at commit %d", st.snapshot.Metadata, st.state.Commit)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// A log that cannot begin its next segment ends the node with a sentence about the
// limit, and the next start finds all that was saved.
func TestDisk_ShortOfFilesForASegment(t *testing.T) {
	segment := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 64 << 10
	t.Cleanup(func() { wal.SegmentSizeBytes = segment })
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	d, err := createDisk(dir, 1, snapshotAt(1), fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	last := uint64(1)
	for start := range 3 {
		more := withoutFiles(t)
		for err == nil && last < 100 {
			last++
			err = d.save(raftpb.HardState{Term: 1, Vote: 1, Commit: last}, []raftpb.Entry{{Index: last, Term: 1, Data: make([]byte, 40<<10)}}, true)
		}
		if !errors.Is(err, shortage.Err) || errors.Is(err, errDisk) {
			t.Fatalf("start %d: entry %d: %v", start, last, err)
		}
		more()
		_ = d.close() // as a node that stops
		// This process goes on, so its locks on the segments do: a process that
		// starts anew has a copy of what is there.
		next := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		dir = next
		var st diskState
		if d, st, err = openDisk(dir, 1, fsync.Sync, logger); err != nil {
			t.Fatalf("start %d: %v", start, err)
		}
		// The one that failed may be there: it was written before the next segment
		// was wanted, or not at all.
		n := len(st.entries)
		if n == 0 || st.entries[n-1].Index < last-1 || st.state.Commit != st.entries[n-1].Index {
			t.Fatalf("start %d: %d entries, state %+v, want them up to %d", start, n, st.state, last-1)
		}
		last = st.entries[n-1].Index
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// An fsync or a write that failed is fatal, whatever the reason.
func TestDiskErr_WritesStayFatal(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		&os.PathError{Op: "write", Path: "f", Err: syscall.ENOMEM},
		&os.PathError{Op: "sync", Path: "f", Err: syscall.ENOMEM},
		syscall.ENOMEM, // as the log's fdatasync says it
	} {
		if err := diskErr(err, "save"); !errors.Is(err, errDisk) {
			t.Errorf("%v", err)
		}
	}
}
