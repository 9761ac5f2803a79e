package walscan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"
	"go.etcd.io/etcd/server/v3/wal/walpb"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	wal.SegmentSizeBytes = 4096
	os.Exit(m.Run())
}

const vote = 0x9f3a51c0de77b12d // node IDs are random 64-bit numbers

// tree is a WAL directory in memory: file name to content.
type tree map[string][]byte

// frameRef is one frame of a segment.
type frameRef struct {
	file     string
	off, end int
	rec      record
}

// writeWAL makes a WAL of n entries with data of the given sizes in turn, each
// flushed, each followed by a hard state that commits the one before.
func writeWAL(t testing.TB, dir string, n int, sizes ...int) []raftpb.Entry {
	t.Helper()
	w, err := wal.Create(zap.NewNop(), dir, []byte("metadata"))
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	var ents []raftpb.Entry
	for i := 1; i <= n; i++ {
		e := raftpb.Entry{Index: uint64(i), Term: uint64(1 + i/20), Data: randomBytes(rng, sizes[i%len(sizes)])}
		must(t, w.Save(raftpb.HardState{Term: e.Term, Vote: vote, Commit: uint64(i - 1)}, []raftpb.Entry{e}))
		ents = append(ents, e)
	}
	must(t, w.Close())
	return ents
}

// appendEntry adds one more entry as the last record of the log.
func appendEntry(t testing.TB, dir string, e raftpb.Entry) {
	t.Helper()
	w, err := wal.Open(zap.NewNop(), dir, walpb.Snapshot{})
	must(t, err)
	_, _, _, err = w.ReadAll()
	must(t, err)
	must(t, w.Save(raftpb.HardState{}, []raftpb.Entry{e}))
	must(t, w.Close())
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + rng.IntN(255))
	}
	return b
}

// readAll opens the log as a node does and returns its entries.
func readAll(t testing.TB, dir string) ([]raftpb.Entry, error) {
	t.Helper()
	w, err := wal.Open(zap.NewNop(), dir, walpb.Snapshot{})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	_, _, ents, err := w.ReadAll()
	return ents, err
}

func load(t testing.TB, dir string) tree {
	t.Helper()
	out := tree{}
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		must(t, err)
		out[f.Name()] = b
	}
	return out
}

func (tr tree) store(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range tr {
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	return dir
}

// frames lists all frames of an undamaged log in order.
func (tr tree) frames(t testing.TB) []frameRef {
	t.Helper()
	dir := tr.store(t)
	segs, err := segments(dir)
	must(t, err)
	var out []frameRef
	for _, s := range segs {
		b := tr[s.name()]
		for off := 0; off+headerBytes <= len(b) && !allZero(b[off:off+headerBytes]); {
			rec, n, ok := frameAt(b[off:])
			if !ok {
				t.Fatalf("frame at %d of %s does not decode", off, s.name())
			}
			out = append(out, frameRef{s.name(), off, off + n, rec})
			off += n
		}
	}
	return out
}

// patch writes b into a file at off, calls fn, and restores what was there.
func patch(t testing.TB, path string, off int, b []byte, fn func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	old := make([]byte, len(b))
	_, err = f.ReadAt(old, int64(off))
	must(t, err)
	_, err = f.WriteAt(b, int64(off))
	must(t, err)
	fn()
	_, err = f.WriteAt(old, int64(off))
	must(t, err)
}

// wantDamage fails unless err is a DamageError in file, at an offset from low
// to high.
func wantDamage(t testing.TB, err error, file string, low, high int) {
	t.Helper()
	var damage *DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("damage in %s at %d: Check returned %v, want a DamageError", file, low, err)
	}
	if filepath.Base(damage.File) != file || damage.Offset < int64(low) || damage.Offset > int64(high) {
		t.Fatalf("damage in %s between %d and %d was reported as: %v", file, low, high, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantEntries fails unless the log in dir, opened by etcd, holds exactly ents.
func wantEntries(t testing.TB, dir string, ents []raftpb.Entry) {
	t.Helper()
	got, err := readAll(t, dir)
	must(t, err)
	if len(got) != len(ents) || len(ents) > 0 && !reflect.DeepEqual(got, ents) {
		t.Fatalf("etcd reads %d entries, want the first %d", len(got), len(ents))
	}
}

func describe(f frameRef) string {
	return fmt.Sprintf("%s at %d type %d", f.file, f.off, f.rec.typ)
}
