package raftnode

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// Invariant 8: the system's error for a failed fsync names no file, so the node
// must.
func TestDisk_FailedWrite_NamesTheSegment(t *testing.T) {
	dir := t.TempDir()
	d, err := createDisk(dir, raftpb.Snapshot{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.close() })
	got := d.walErr(syscall.EIO)
	segment := filepath.Join(dir, "wal", "0000000000000000-0000000000000000.wal")
	if !errors.Is(got, ErrDisk) || !errors.Is(got, syscall.EIO) || !strings.Contains(got.Error(), segment) {
		t.Errorf("%v; want ErrDisk, EIO and %s", got, segment)
	}
	if d.walErr(nil) != nil {
		t.Error("no error became one")
	}
}
