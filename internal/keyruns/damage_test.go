package keyruns

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// damagedIndex returns the files of a closed index with a few blocks in two runs.
func damagedIndex(t *testing.T) (*MemFiles, map[string]uint64) {
	t.Helper()
	files := NewMemFiles()
	x := openIndex(t, testConfig(files))
	want := map[string]uint64{}
	for batch := range uint64(2) {
		add(t, x, crashMap(batch+1), batch+1)
		maps.Copy(want, crashMap(batch+1))
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return files, want
}

// lookUpAll opens an index and reads it in every way.
func lookUpAll(t *testing.T, files *MemFiles, want map[string]uint64) (*Index, error) {
	t.Helper()
	x, err := Open(testConfig(files))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = x.Close() })
	return x, readAll(t, x, want)
}

// readAll reads every key in every way. Each result must be right, or an error.
func readAll(t *testing.T, x *Index, want map[string]uint64) error {
	t.Helper()
	var all error
	for key, revision := range want {
		got, err := x.Find([]byte(key))
		if err == nil && got != revision {
			t.Fatalf("%q has revision %d, and not %d", key, got, revision)
		}
		all = errors.Join(all, err)
	}
	n := 0
	err := x.Ascend(nil, func(key []byte, revision uint64) bool {
		if want[string(key)] != revision {
			t.Fatalf("%q has revision %d, and not %d", key, revision, want[string(key)])
		}
		n++
		return true
	})
	if err == nil && n != len(want) {
		t.Fatalf("%d keys are listed, and not %d", n, len(want))
	}
	return errors.Join(all, err)
}

// A flip of any bit of any file is found, with file and offset, or, in a filter, repaired.
func TestDamage_EveryBit(t *testing.T) {
	files, want := damagedIndex(t)
	filters := 0
	for name, file := range files.names {
		var from, to int64 // of the filter
		if x := openIndex(t, testConfig(files)); strings.HasSuffix(name, runSuffix) {
			for _, r := range x.current.Load().runs {
				if runName(r.number) == name {
					from, to = r.filterAt(), r.filterAt()+int64(len(r.filter))
				}
			}
			_ = x.Close()
		}
		for bit := 0; bit < 8*len(file.data); bit += 1 + 30*min(1, len(file.data)/1000) {
			at := int64(bit / 8)
			damaged := files.Copy()
			damaged.flip(name, bit)
			x, err := lookUpAll(t, damaged, want)
			if at >= from && at < to {
				filters++
				if err != nil {
					t.Fatalf("%s, bit %d, in the filter: %v", name, bit, err)
				}
				mended(t, x, damaged, want)
				continue
			}
			corrupt, ok := errors.AsType[*CorruptError](err)
			if !ok || corrupt.File != damaged.Path(name) {
				t.Fatalf("%s, bit %d: %v", name, bit, err)
			}
			// The offset of damage is the beginning of the block, or of the run's end.
			if corrupt.Offset > at && name != listName || corrupt.Offset+blockBytes <= at {
				t.Fatalf("%s, bit %d, at offset %d: %v", name, bit, at, err)
			}
		}
	}
	if filters == 0 {
		t.Error("no filter was damaged")
	}
}

// mended checks that an index with a damaged filter works, and repairs the damage.
func mended(t *testing.T, x *Index, files *MemFiles, want map[string]uint64) {
	t.Helper()
	checkHas(t, x, want)
	if merged, err := x.Merge(t.Context()); err != nil || !merged {
		t.Fatalf("the run is not written anew: %v", err)
	}
	if merged, err := x.Merge(t.Context()); err != nil || merged {
		t.Fatalf("a run is written anew again: %v", err)
	}
	_ = x.Close()
	x, err := lookUpAll(t, files, want)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range x.current.Load().runs {
		if r.worn.Load() {
			t.Fatal("a filter is still damaged")
		}
	}
	checkHas(t, x, want)
	_ = x.Close()
}

// A truncated or missing file is damage.
func TestDamage_ShortFiles(t *testing.T) {
	files, want := damagedIndex(t)
	for name, file := range files.names {
		for n := 0; n < len(file.data); n += 1 + len(file.data)/50 {
			damaged := files.Copy()
			damaged.names[name].data = file.data[:n]
			_, err := lookUpAll(t, damaged, want)
			if corrupt, ok := errors.AsType[*CorruptError](err); !ok || corrupt.File != damaged.Path(name) {
				t.Fatalf("%d bytes of %s: %v", n, name, err)
			}
		}
		if name == listName {
			continue // without one nothing is here
		}
		damaged := files.Copy()
		delete(damaged.names, name)
		if _, err := lookUpAll(t, damaged, want); err == nil || !strings.Contains(err.Error(), name+" is damaged: it is missing; stop the node") {
			t.Fatalf("%s is missing: %v", name, err)
		}
	}
}

// Damage to an open index is found by Verify, which says where, and by a merge, which then
// changes nothing.
func TestDamage_WhileOpen(t *testing.T) {
	files, want := damagedIndex(t)
	for name, file := range files.names {
		for bit := 3; bit < 8*len(file.data); bit += 8 * 37 {
			damaged := files.Copy()
			x := openIndex(t, testConfig(damaged))
			s := x.current.Load()
			damaged.flip(name, bit)
			var inFilter, inBlocks bool
			for _, r := range s.runs {
				if at := int64(bit / 8); runName(r.number) == name {
					inFilter = at >= r.filterAt() && at < r.filterAt()+int64(len(r.filter))
					inBlocks = at < int64(r.blocks)*blockBytes
				}
			}
			if err := readAll(t, x, want); (err != nil) != inBlocks {
				t.Fatalf("%s, bit %d: %v", name, bit, err)
			}
			err := x.Verify(t.Context(), nil)
			if inFilter {
				if err != nil {
					t.Fatalf("%s, bit %d: %v", name, bit, err)
				}
				mended(t, x, damaged, want)
				continue
			}
			if corrupt, ok := errors.AsType[*CorruptError](err); !ok || corrupt.File != damaged.Path(name) {
				t.Fatalf("%s, bit %d: %v", name, bit, err)
			}
			for _, r := range s.runs {
				r.due = 2
			}
			before := x.Mark()
			if _, err := x.Merge(t.Context()); (err != nil) != inBlocks || x.Mark() != before {
				t.Fatalf("%s, bit %d: merge: %v", name, bit, err)
			}
			if inBlocks && x.Add(t.Context(), inOrder(nil), 0, testMark(9)) == nil {
				t.Fatal("it goes on after damage")
			}
			_ = x.Close()
		}
	}
}

// A filter in memory that lost a key is fatal: a lookup may have missed the key already.
func TestDamage_FilterForgets(t *testing.T) {
	files, want := damagedIndex(t)
	for key := range want {
		x := openIndex(t, testConfig(files.Copy()))
		for _, r := range x.current.Load().runs {
			if found, err := r.find([]byte(key), make([]byte, blockBytes)); err != nil {
				t.Fatal(err)
			} else if found == 0 {
				continue
			}
			r.filter.line(keyHash([]byte(key)))[probes(keyHash([]byte(key)))>>3&63] = 0
			err := x.Verify(t.Context(), nil)
			if corrupt, ok := errors.AsType[*CorruptError](err); !ok || corrupt.Offset != r.filterAt() {
				t.Fatalf("%v", err)
			}
		}
		_ = x.Close()
	}
}

// A block of another run is damage, though it is whole and both numbers are the same: somebody
// may have copied it there, or the disk may show data from before the index was deleted.
// Otherwise an existing key would not be found.
func TestDamage_BlocksOfAnotherRun(t *testing.T) {
	indexOf := func(prefix string, digest byte) (*MemFiles, string, int64) {
		files := NewMemFiles()
		x := openIndex(t, testConfig(files))
		keys := map[string]uint64{}
		for i := range 2000 {
			keys[fmt.Sprintf("%s/%06d", prefix, i)] = uint64(i + 1)
		}
		if err := x.Add(t.Context(), inOrder(keys), len(keys), Mark{Revision: 2000, Digest: [32]byte{digest}}); err != nil {
			t.Fatal(err)
		}
		r := x.current.Load().runs[0]
		name, blocks := runName(r.number), int64(r.blocks)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		return files, name, blocks
	}
	files, name, blocks := indexOf("a", 1)
	other, otherName, otherBlocks := indexOf("b", 2)
	if name != otherName || blocks != otherBlocks || blocks < 3 {
		t.Fatalf("%s of %d blocks, and %s of %d", name, blocks, otherName, otherBlocks)
	}
	copy(files.names[name].data[blockBytes:2*blockBytes], other.names[name].data[blockBytes:])
	x := openIndex(t, testConfig(files))
	defer x.Close()
	missing := 0
	for i := range 2000 {
		switch revision, err := x.Find(fmt.Appendf(nil, "a/%06d", i)); {
		case err != nil:
			missing++
			if corrupt, ok := errors.AsType[*CorruptError](err); !ok || corrupt.Offset != blockBytes {
				t.Fatalf("key %d: %v", i, err)
			}
		case revision != uint64(i+1):
			t.Fatalf("key %d is said to have revision %d", i, revision)
		}
	}
	if missing == 0 {
		t.Error("nobody noticed")
	}
}

// A failed open has lost nothing: it is not a failed write, after which a node must be
// replaced. And nothing in the directory blocks a start.
func TestOpen_NoDirectoryAndNoFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(OSFiles(dir))); err == nil || errors.Is(err, writefault.Err) {
		t.Fatalf("a link that leads nowhere: %v", err)
	}
	dir = filepath.Join(t.TempDir(), "index")
	x := openIndex(t, testConfig(OSFiles(dir)))
	add(t, x, crashMap(1), 1)
	name := filepath.Join(dir, runName(x.current.Load().runs[0].number))
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{name, filepath.Join(dir, listName)} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(testConfig(OSFiles(dir))); err == nil || errors.Is(err, writefault.Err) || !strings.Contains(err.Error(), "is not a file") {
			t.Fatalf("a pipe in place of %s: %v", name, err)
		}
	}
}
