package raftnode

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/internal/fsync"
)

// logOf makes a log with two snapshots and an entry behind each.
func logOf(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	snapshot := func(index uint64) raftpb.Snapshot {
		return raftpb.Snapshot{Data: []byte("data"), Metadata: raftpb.SnapshotMetadata{Index: index, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}}
	}
	d, err := createDisk(dir, 1, snapshot(1), fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		d.save(raftpb.HardState{Term: 1, Commit: 2}, []raftpb.Entry{{Term: 1, Index: 2, Data: []byte("first")}}, true),
		d.saveSnapshot(snapshot(2)),
		d.save(raftpb.HardState{Term: 1, Commit: 2}, []raftpb.Entry{{Term: 1, Index: 3, Data: []byte("second")}}, true),
		d.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// onlyFile is the one file of a directory with a suffix, or the last by name.
func onlyFile(t *testing.T, dir, suffix string) string {
	t.Helper()
	names, err := fileNames(dir, suffix)
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s in %s: %v", suffix, dir, err)
	}
	return filepath.Join(dir, names[len(names)-1])
}

func rewrite(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What can be wrong with the files of a log is told before anything is built on it,
// and the sentence names what it is about. What an unfinished write left is cut off.
func TestOpenDisk(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   []string // of the error; none if the log opens
		// mixedUp: the error is errMixedUp, and not errDisk.
		mixedUp bool
	}{
		{name: "whole", damage: func(*testing.T, string) {}},
		{name: "torn", damage: func(t *testing.T, dir string) {
			path := onlyFile(t, walDir(dir), ".wal")
			rewrite(t, path, func(raw []byte) []byte {
				end := len(raw)
				for end > 0 && raw[end-1] == 0 {
					end--
				}
				end = (end + 7) &^ 7
				copy(raw[end:], []byte{0x80, 0, 0, 0, 0, 0, 0, 0x01}) // the head of a record that has not come
				return raw
			})
		}},
		{name: "a flipped bit", want: []string{"check the log", ".wal"}, damage: func(t *testing.T, dir string) {
			rewrite(t, onlyFile(t, walDir(dir), ".wal"), func(raw []byte) []byte {
				raw[strings.Index(string(raw), "first")] ^= 1
				return raw
			})
		}},
		{name: "no log", mixedUp: true, want: []string{"the log in", "is gone", "replace this node"}, damage: func(t *testing.T, dir string) {
			if err := os.RemoveAll(walDir(dir)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "no directory of snapshots", mixedUp: true, want: []string{"snap", "is gone", "replace this node"}, damage: func(t *testing.T, dir string) {
			if err := os.RemoveAll(snapDir(dir)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "no newest snapshot", mixedUp: true, want: []string{"the snapshot file of index 2, term 1 is missing or damaged", "replace this node"}, damage: func(t *testing.T, dir string) {
			if err := os.Remove(onlyFile(t, snapDir(dir), ".snap")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a damaged snapshot", mixedUp: true, want: []string{"the snapshot file of index 2, term 1 is missing or damaged"}, damage: func(t *testing.T, dir string) {
			rewrite(t, onlyFile(t, snapDir(dir), ".snap"), func(raw []byte) []byte {
				raw[len(raw)-1] ^= 1
				return raw
			})
		}},
		{name: "a snapshot that cannot be read", want: []string{"snap", "is a directory"}, damage: func(t *testing.T, dir string) {
			path := onlyFile(t, snapDir(dir), ".snap")
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			dir := logOf(t)
			c.damage(t, dir)
			d, found, err := openDisk(dir, 1, fsync.Sync, slog.New(slog.DiscardHandler))
			if len(c.want) > 0 {
				if kind := map[bool]error{false: errDisk, true: errMixedUp}[c.mixedUp]; !errors.Is(err, kind) {
					t.Errorf("%v is not %v", err, kind)
				}
				for _, want := range c.want {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v; want %q in it", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if found.snapshot.Metadata.Index != 2 || len(found.entries) != 1 || string(found.entries[0].Data) != "second" || found.state.Commit != 2 {
				t.Errorf("found %+v", found)
			}
			// It can be written to, and has everything the next time.
			if err := errors.Join(d.save(raftpb.HardState{Term: 1, Commit: 3}, []raftpb.Entry{{Term: 1, Index: 4, Data: []byte("third")}}, true), d.close()); err != nil {
				t.Fatal(err)
			}
			d, found, err = openDisk(dir, 1, fsync.Sync, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := d.close(); err != nil {
				t.Fatal(err)
			}
			if len(found.entries) != 2 || string(found.entries[1].Data) != "third" || found.state.Commit != 3 {
				t.Errorf("found %+v the next time", found)
			}
		})
	}
}

// A process that is killed while it begins a segment leaves it without its name. The
// next one must not make a segment of it, with what is in it.
func TestDisk_UnfinishedSegment_IsNotUsedAgain(t *testing.T) {
	dir := logOf(t)
	for _, name := range []string{"0.tmp", "1.tmp"} {
		if err := os.WriteFile(filepath.Join(walDir(dir), name), bytes.Repeat([]byte{0x5a}, 256<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, st, err := openDisk(dir, 1, fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	index := st.entries[len(st.entries)-1].Index
	for range 9 { // of 64 KiB: more than two segments
		index++
		if err := d.save(raftpb.HardState{Term: 1, Commit: index}, []raftpb.Entry{{Term: 1, Index: index, Data: make([]byte, 64<<10)}}, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	d, st, err = openDisk(dir, 1, fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if last := st.entries[len(st.entries)-1].Index; last != index {
		t.Errorf("the log ends at entry %d, want %d", last, index)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}
