package keyruns

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// crashScript adds and merges until a call fails. It returns the last mark that is certainly
// durable, and the last that may be.
func crashScript(t *testing.T, x *Index) (sure, maybe uint64, err error) {
	t.Helper()
	for batch := uint64(1); batch <= 5; batch++ {
		maybe = batch
		if err := x.Add(t.Context(), crashKeys(batch), crashBatchKeys, testMark(batch)); err != nil {
			return sure, maybe, err
		}
		sure = batch
		if _, err := x.Merge(t.Context()); err != nil {
			return sure, maybe, err
		}
	}
	return sure, maybe, nil
}

const crashBatchKeys = 60

// crashKeys returns the keys of one batch.
func crashKeys(batch uint64) iter.Seq2[[]byte, uint64] { return inOrder(crashMap(batch)) }

func crashMap(batch uint64) map[string]uint64 {
	keys := map[string]uint64{}
	for i := range uint64(crashBatchKeys) {
		keys[fmt.Sprintf("%04d/%d", i*37%crashBatchKeys, batch)] = (batch-1)*crashBatchKeys + i + 1
	}
	return keys
}

// checkCrashed opens what survived: whole batches up to the mark, and nothing else.
func checkCrashed(t *testing.T, files *MemFiles, sure, maybe uint64) {
	t.Helper()
	x := openIndex(t, testConfig(files))
	mark := x.Mark()
	if mark.Revision != sure && mark.Revision != maybe || mark.Revision > 0 && mark != testMark(mark.Revision) {
		t.Fatalf("the mark is %d, not %d, nor %d", mark.Revision, sure, maybe)
	}
	want := map[string]uint64{}
	for batch := uint64(1); batch <= mark.Revision; batch++ {
		maps.Copy(want, crashMap(batch))
	}
	checkHas(t, x, want, "0000/6")
	// The index goes on from there.
	if mark.Revision < 5 {
		if err := x.Add(t.Context(), crashKeys(mark.Revision+1), crashBatchKeys, testMark(mark.Revision+1)); err != nil {
			t.Fatal(err)
		}
		maps.Copy(want, crashMap(mark.Revision+1))
	}
	for range 2 {
		if _, err := x.Merge(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	checkHas(t, x, want)
	names, err := files.List() // no leftovers remain
	if err != nil || len(names) > x.Stats().Runs+1 {
		t.Fatalf("%d runs, and %q, %v", x.Stats().Runs, names, err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// crashCalls counts the calls of Open and the script.
func crashCalls(t *testing.T) int {
	t.Helper()
	files := NewMemFiles()
	last := 0
	files.OnCall(func(c Call) Fault { last = c.N; return Fault{} })
	x := openIndex(t, testConfig(files))
	if _, _, err := crashScript(t, x); err != nil {
		t.Fatal(err)
	}
	if x.Stats().Merges == 0 {
		t.Fatal("nothing was merged")
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return last
}

// A crash before or after any call, also of the next start, leaves a whole run or none, and
// the mark that belongs to it.
func TestCrash_EveryCall(t *testing.T) {
	calls := crashCalls(t)
	for n := 1; n <= calls; n++ {
		for _, done := range []bool{false, true} {
			crashed := func() (files *MemFiles, sure, maybe uint64) {
				files = NewMemFiles()
				files.OnCall(func(c Call) Fault {
					if c.N == n && c.Op != OpRead && c.Op != OpOpen {
						return Fault{Crash: true, Done: done}
					}
					return Fault{}
				})
				x, err := Open(testConfig(files))
				if err == nil {
					sure, maybe, err = crashScript(t, x)
					_ = x.Close()
				}
				if err != nil && !errors.Is(err, ErrCrashed) {
					t.Fatal(err)
				}
				return files, sure, maybe
			}
			for try := range uint64(3) {
				files, sure, maybe := crashed()
				checkCrashed(t, files.Reopen(try*uint64(n)), sure, maybe) // 0: nothing unsynced survives
			}
			// The process ends but the system does not: the next process sees files that are
			// not durable, and the system ends while it opens them.
			for m := 1; done == (n%2 == 0); m++ {
				files, sure, maybe := crashed()
				base := files.n
				files.crashed = false
				opened := true
				files.OnCall(func(c Call) Fault {
					if c.N == base+m && c.Op != OpRead && c.Op != OpOpen {
						opened = false
						return Fault{Crash: true, Done: m%2 == 0}
					}
					return Fault{}
				})
				x, err := Open(testConfig(files))
				if err == nil {
					_ = x.Close()
				}
				checkCrashed(t, files.Reopen(uint64(100*n+m)), sure, maybe)
				if opened {
					break
				}
			}
		}
	}
}

// A call that fails, because the disk is full or otherwise, leaves everything as it was or
// ends the index.
func TestFailure_EveryCall(t *testing.T) {
	calls := crashCalls(t)
	passed := 0
	for n := 1; n <= calls; n++ {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EMFILE} {
			for _, done := range []bool{false, true} {
				what := fmt.Sprintf("call %d, %v, done %v", n, errno, done)
				files := NewMemFiles()
				var failed Call
				files.OnCall(func(c Call) Fault {
					if c.N == n && c.Op != OpRead && c.Op != OpOpen {
						failed = c
						return Fault{Err: errno, Done: done && errno == syscall.EIO}
					}
					return Fault{}
				})
				x, err := Open(testConfig(files))
				if err != nil {
					checkCrashed(t, files.Reopen(0), 0, 0)
					continue
				}
				sure, maybe, err := crashScript(t, x)
				lost := failed.Op == OpSync || errno == syscall.EIO && failed.Op != OpRemove ||
					errno == syscall.EMFILE && failed.Op == OpWrite
				switch {
				case failed.Op == OpRemove:
					if err != nil {
						t.Fatalf("%s: a file that is not needed could not be removed: %v", what, err)
					}
				case err == nil:
					t.Fatalf("%s: %+v: no error", what, failed)
				case lost && !errors.Is(err, writefault.Err):
					t.Fatalf("%s: %+v: %v does not end it", what, failed, err)
				}
				if err != nil && x.failure() == nil { // everything is as it was
					passed++
					want := map[string]uint64{}
					for batch := uint64(1); batch <= sure; batch++ {
						maps.Copy(want, crashMap(batch))
					}
					if x.Mark().Revision != sure {
						t.Fatalf("%s: the mark moved to %d", what, x.Mark().Revision)
					}
					checkHas(t, x, want)
					for try := range uint64(3) {
						checkCrashed(t, files.survivors(try*uint64(n)), sure, sure)
					}
					for ; sure < maybe; sure++ {
						if err := x.Add(t.Context(), crashKeys(sure+1), crashBatchKeys, testMark(sure+1)); err != nil {
							t.Fatalf("%s: again: %v", what, err)
						}
					}
					if _, err := x.Merge(t.Context()); err != nil {
						t.Fatalf("%s: again: %v", what, err)
					}
				} else if err != nil {
					if again := x.Add(t.Context(), crashKeys(9), crashBatchKeys, testMark(9)); again == nil || !errors.Is(again, err) && !errors.Is(err, again) {
						t.Fatalf("%s: it goes on: %v, then %v", what, err, again)
					}
				}
				if err := x.Close(); err != nil {
					t.Fatal(err)
				}
				checkCrashed(t, files.Reopen(uint64(n*(n%3))), sure, maybe)
			}
		}
	}
	if passed == 0 {
		t.Error("no failure passed")
	}
}

// Open changes nothing: its caller may find that the index belongs to something else. Files
// that no list names stay until the first write, and no new run takes their numbers.
func TestOpen_ChangesNoFile(t *testing.T) {
	files := NewMemFiles()
	x := openIndex(t, testConfig(files))
	add(t, x, map[string]uint64{"a": 1}, 1)
	for name, data := range map[string]string{runName(7): "left by a crash", listTemporary: "too"} {
		f, err := files.Create(name)
		if err == nil {
			_, err = f.Write([]byte(data))
		}
		if err := errors.Join(err, f.Sync(), files.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	files = files.Reopen(0)
	files.OnCall(func(c Call) Fault {
		if c.Op == OpCreate || c.Op == OpRemove || c.Op == OpRename || c.Op == OpWrite {
			t.Errorf("Open does %s of %s", c.Op, c.Name)
		}
		return Fault{}
	})
	x = openIndex(t, testConfig(files))
	files.OnCall(nil)
	add(t, x, map[string]uint64{"b": 2}, 2)
	names, err := files.List()
	if want := []string{runName(1), runName(8), listName}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v; want %q", names, err, want)
	}
}
