package raftnode

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
)

// Invariant 8: the system's error for a failed fsync names no file, so the node
// must.
func TestDisk_FailedWrite_NamesTheSegment(t *testing.T) {
	dir := t.TempDir()
	d, err := createDisk(dir, 1, raftpb.Snapshot{}, fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.close() })
	got := d.walErr(syscall.EIO)
	segment := filepath.Join(dir, "wal", "0000000000000000-0000000000000000.wal")
	if !errors.Is(got, errDisk) || !errors.Is(got, syscall.EIO) || !strings.Contains(got.Error(), segment) {
		t.Errorf("%v; want errDisk, EIO and %s", got, segment)
	}
	if d.walErr(nil) != nil {
		t.Error("no error became one")
	}
}

// A process that was killed before its fsync, or in it, leaves a log of which the
// disk may have nothing. The next one builds on it, so it syncs all that it found
// before it opens the log.
func TestDisk_Open_SyncsWhatItFound(t *testing.T) {
	segment := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 64 << 10
	t.Cleanup(func() { wal.SegmentSizeBytes = segment })
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	d, err := createDisk(dir, 1, snapshotAt(1), fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(4) {
		if err := d.save(raftpb.HardState{Term: 1, Vote: 1, Commit: 2 + i}, []raftpb.Entry{{Index: 2 + i, Term: 1, Data: make([]byte, 40<<10)}}, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(walDir(dir), "*.wal"))
	if err != nil || len(segments) < 2 {
		t.Fatalf("segments %v, %v; want several", segments, err)
	}
	snaps, err := filepath.Glob(filepath.Join(snapDir(dir), "*.snap"))
	if err != nil || len(snaps) != 1 {
		t.Fatalf("snapshots %v, %v", snaps, err)
	}
	var synced []string
	d, _, err = openDisk(dir, 1, func(path string) error {
		synced = append(synced, path)
		return fsync.Sync(path)
	}, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, path := range slices.Concat(segments, snaps, []string{walDir(dir), snapDir(dir), dir}) {
		if !slices.Contains(synced, path) {
			t.Errorf("%s was not synced", path)
		}
	}
}

// What cannot be synced at the start is not built on.
func TestDisk_Open_FailedSync(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	d, err := createDisk(dir, 1, snapshotAt(1), fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	var paths []string
	note := func(path string) error { paths = append(paths, path); return fsync.Sync(path) }
	if d, _, err = openDisk(dir, 1, note, logger); err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range paths {
		_, _, err := openDisk(dir, 1, func(path string) error {
			if path == bad {
				return &os.PathError{Op: "sync", Path: path, Err: syscall.EIO}
			}
			return fsync.Sync(path)
		}, logger)
		if !errors.Is(err, errDisk) || !errors.Is(err, writefault.Err) || !strings.Contains(err.Error(), bad) {
			t.Errorf("fsync of %s failed: %v", bad, err)
		}
	}
}

// A log belongs to one node: what another has voted for says nothing about this one.
func TestDisk_Open_OfAnotherNode(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	d, err := createDisk(dir, 1, snapshotAt(1), fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openDisk(dir, 2, fsync.Sync, logger); !errors.Is(err, errMixedUp) {
		t.Errorf("the log of another node: %v", err)
	}
	// As older versions made it.
	old := t.TempDir()
	w, err := wal.Create(nil, walDir(old), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), os.Mkdir(snapDir(old), 0o700)); err != nil {
		t.Fatal(err)
	}
	if d, _, err = openDisk(old, 2, fsync.Sync, logger); err != nil {
		t.Fatalf("a log without an owner: %v", err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// A log that finds no room for its next segment has lost nothing; an fsync that says
// so of a disk with room has.
func TestDisk_NoRoom(t *testing.T) {
	segment := wal.SegmentSizeBytes
	t.Cleanup(func() { wal.SegmentSizeBytes = segment })
	d := newWALDisk(t.TempDir(), fsync.Sync, slog.New(slog.DiscardHandler))
	wal.SegmentSizeBytes = 1 << 62
	if err := d.walErr(syscall.ENOSPC); errors.Is(err, writefault.Err) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	wal.SegmentSizeBytes = 1
	if err := d.walErr(syscall.ENOSPC); !errors.Is(err, writefault.Err) {
		t.Errorf("a disk with room: %v", err)
	}
}

// What a snapshot forgives, a system that is short of files, may have hit the log while
// it began a segment: etcd's log is half changed then, and panics when it goes on.
func TestDisk_FailedLog_IsNotUsedAgain(t *testing.T) {
	d, err := createDisk(t.TempDir(), 1, snapshotAt(1), fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.close() })
	if err := d.walErr(&os.PathError{Op: "open", Path: "0.tmp", Err: syscall.EMFILE}); errors.Is(err, errDisk) {
		t.Fatalf("being short of files is the disk's fault: %v", err)
	}
	if err := d.saveSnapshot(snapshotAt(1)); !errors.Is(err, errDisk) || errors.Is(err, writefault.Err) {
		t.Errorf("a snapshot: %v", err)
	}
	if err := d.save(raftpb.HardState{Term: 2, Commit: 1}, nil, true); !errors.Is(err, errDisk) {
		t.Errorf("a state: %v", err)
	}
}

// A start that is refused has opened the log, and changes nothing in it.
func TestDisk_Close_LeavesWhatItFound(t *testing.T) {
	dir := logOf(t)
	segment := onlyFile(t, walDir(dir), ".wal")
	found, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := openDisk(dir, 1, fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(segment); err != nil || !bytes.Equal(now, found) {
		t.Errorf("%s has changed, %v", segment, err)
	}
}

// A process that is killed between the file of a snapshot and its record in the log
// leaves a file that counts for nothing. It must not keep a place of those that count.
func TestDisk_SnapshotsWithoutARecord(t *testing.T) {
	dir := logOf(t)
	logger := slog.New(slog.DiscardHandler)
	d, _, err := openDisk(dir, 1, fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	for index := uint64(20); index < 22; index++ {
		s := snapshotAt(index)
		s.Metadata.Term = 9
		if err := d.snaps.SaveSnap(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	d, st, err := openDisk(dir, 1, fsync.Sync, logger)
	if err != nil {
		t.Fatal(err)
	}
	own := snapshotAt(st.state.Commit)
	own.Metadata.Term = st.state.Term
	if err := errors.Join(d.saveSnapshot(own), d.release(own.Metadata.Index), d.close()); err != nil {
		t.Fatal(err)
	}
	d, st, err = openDisk(dir, 1, fsync.Sync, logger)
	if err != nil {
		t.Fatalf("the log lost its snapshot: %v", err)
	}
	if st.snapshot.Metadata.Index != own.Metadata.Index {
		t.Errorf("the snapshot is that of %d, want %d", st.snapshot.Metadata.Index, own.Metadata.Index)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}
