package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
)

// errRefused is what a function of a transaction returns.
var errRefused = errors.New("refused by its function")

func change(t *testing.T, e Engine, f func(Tx) error) {
	t.Helper()
	if err := e.Update(f); err != nil {
		t.Fatal(err)
	}
}

// A bug of the caller's function must not pass for a damaged file.
func TestBoltEngine_View_PanicIsNotCorruption(t *testing.T) {
	t.Parallel()
	e, err := OpenBolt(filepath.Join(t.TempDir(), "x.db"), BoltOptions{MapBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var nowhere *struct{ n int }
	for name, fn := range map[string]func(Tx) error{
		"own":   func(Tx) error { panic("a bug") },
		"nil":   func(Tx) error { nowhere.n++; return nil },
		"index": func(tx Tx) error { _ = tx.Get(BucketRecords, nil)[7]; return nil },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			_ = e.View(fn)
		}()
	}
	if err := e.Update(func(tx Tx) error { return tx.Put(BucketRecords, []byte("k"), nil) }); err != nil {
		t.Fatalf("a panic in View left the engine locked: %v", err)
	}
}

func TestOpenBolt_LeavesNoHalfMadeFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	if err := os.WriteFile(path+".new", []byte("a crash while creating"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !os.IsNotExist(err) {
		t.Fatalf("left behind: %v", err)
	}
}

// One contract, both engines.
func TestEngine_Contract(t *testing.T) {
	t.Parallel()
	bolt, err := OpenBolt(filepath.Join(t.TempDir(), "x.db"), BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]Engine{"bbolt": bolt, "memory": NewMemEngine()} {
		t.Run(name, func(t *testing.T) { engineContract(t, e) })
	}
}

func engineContract(t *testing.T, e Engine) {
	dump := func(tx Tx, from string) (s string) {
		tx.Ascend(BucketRecords, []byte(from), func(k, v []byte) bool {
			s += string(k) + "=" + string(v) + " "
			return !strings.HasPrefix(string(k), "stop")
		})
		return s
	}
	update := func(fn func(tx Tx) error) {
		t.Helper()
		if err := e.Update(fn); err != nil {
			t.Fatal(err)
		}
	}
	view := func(from, want string) {
		t.Helper()
		if err := e.View(func(tx Tx) error {
			if got := dump(tx, from); got != want {
				t.Errorf("from %q: %q, want %q", from, got, want)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	view("", "")
	update(func(tx Tx) error {
		key := []byte("b")
		err := errors.Join(tx.Put(BucketRecords, key, []byte("2")), tx.Put(BucketRecords, []byte("d"), []byte("4")), tx.Put(BucketState, []byte("c"), nil))
		key[0] = 'x'
		if string(tx.Get(BucketRecords, []byte("b"))) != "2" || dump(tx, "") != "b=2 d=4 " {
			t.Error("a transaction does not see its own writes")
		}
		return err
	})
	update(func(tx Tx) error {
		return errors.Join(tx.Delete(BucketRecords, []byte("d")), tx.Delete(BucketRecords, []byte("none")), tx.Put(BucketRecords, []byte("a"), []byte("1")),
			tx.Put(BucketRecords, []byte("b"), []byte("22")), tx.Put(BucketRecords, []byte("stop"), nil), tx.Put(BucketRecords, []byte("z"), []byte("9")))
	})
	view("", "a=1 b=22 stop= ")
	view("b", "b=22 stop= ")
	view("t", "z=9 ")
	if err := e.View(func(tx Tx) error {
		for _, b := range []Bucket{BucketRecords, BucketUploads} {
			if err := tx.Put(b, []byte("a"), nil); err == nil {
				t.Errorf("a reader writes to %s", b)
			}
		}
		if err := tx.Delete(BucketRecords, []byte("a")); err == nil {
			t.Error("a reader removes")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.View(func(tx Tx) error { return errRefused }); !errors.Is(err, errRefused) {
		t.Errorf("View lost its function's error: %v", err)
	}
	first := e.Update(func(tx Tx) error { return errRefused })
	if !errors.Is(first, errRefused) {
		t.Errorf("Update lost its function's error: %v", first)
	}
	if err := e.Update(func(tx Tx) error { return nil }); err != first {
		t.Errorf("an engine that failed still works: %v", err)
	}
	if err := e.View(func(tx Tx) error { return nil }); err != first {
		t.Errorf("an engine that failed still reads: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// A hint about what is read next may be given for every value, up to the last.
func TestBoltEngine_ReadAhead_AnyValue(t *testing.T) {
	t.Parallel()
	e, err := OpenBolt(filepath.Join(t.TempDir(), "x.db"), BoltOptions{MapBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for round := range 3 {
		change(t, e, func(tx Tx) error {
			for i := range 300 {
				if err := tx.Put(BucketRecords, fmt.Appendf(nil, "%d/%03d", round, i), make([]byte, 1+i*20)); err != nil {
					return err
				}
			}
			v := tx.Get(BucketRecords, []byte("0/001"))
			tx.ReadAhead(v)
			return nil
		})
		if err := e.View(func(tx Tx) error {
			n := 0
			tx.Ascend(BucketRecords, nil, func(_, v []byte) bool { tx.ReadAhead(v); n++; return true })
			tx.ReadAhead(nil)
			tx.ReadAhead([]byte("not of this file"))
			if n != 300*(round+1) {
				t.Errorf("%d values", n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// brokenReader fails at one offset.
type brokenReader struct {
	io.ReaderAt
	at int64
}

func (r *brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off == r.at {
		return 0, ErrInjected
	}
	return r.ReaderAt.ReadAt(p, off)
}

// A meta page that cannot be read is not one that is damaged: whoever takes the other
// one goes back by a transaction.
func TestNewestMeta_CannotBeRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	e, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(t, e, func(tx Tx) error { return tx.Put(BucketState, []byte("k"), nil) })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, spoiled := range []bool{false, true} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		size := int64(1 << 20)
		meta, ok, err := newestMeta(f, size)
		if !ok || err != nil {
			t.Fatal(meta, ok, err)
		}
		if spoiled {
			if _, err := f.WriteAt([]byte{0xff}, boltPageHeaderBytes); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := newestMeta(f, size); !ok || err != nil {
				t.Fatalf("the second page alone: %v, %v", ok, err)
			}
		}
		for _, at := range []int64{0, int64(meta.pageBytes)} {
			if _, _, err := newestMeta(&brokenReader{f, at}, size); !errors.Is(err, ErrInjected) {
				t.Errorf("spoiled %v, the page at %d cannot be read: %v", spoiled, at, err)
			}
		}
	}
}

// Files that cannot be made, opened, read or synced are told of as what they are: only
// an fsync that failed is a write that failed.
func TestFiles_CannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing", "x.db")
	if _, err := OpenBolt(missing, BoltOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file in no directory is made: %v", err)
	}
	if err := verifyBoltFile(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there is sound: %v", err)
	}
	if db, err := openBoltFile(dir, 0); err == nil {
		t.Errorf("a directory is opened as a file: %v", db)
	}
	path := filepath.Join(dir, "x.db")
	e, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if e.Size() == 0 {
		t.Error("a file has no bytes")
	}
	if err := os.Remove(path); err != nil || e.Size() != 0 {
		t.Errorf("a file that is gone has %d bytes: %v", e.Size(), err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := syncBolt(e.(*boltEngine).db, path); !errors.Is(err, writefault.Err) {
		t.Errorf("a file that is closed is synced: %v", err)
	}
}

// The same with files and directories of the system that behave so.
func TestFiles_FailingSystem(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	if err := fsync.SyncDir("/proc"); !errors.Is(err, writefault.Err) {
		t.Errorf("a directory that cannot be synced is synced: %v", err)
	}
	var corrupt *DamageError
	if err := verifyBoltFile("/proc/self/mem"); err == nil || errors.As(err, &corrupt) {
		t.Errorf("a file that cannot be read is read: %v", err)
	}
	path := filepath.Join(t.TempDir(), "x.db")
	e, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A file that is sound, in a directory that cannot be synced.
	if e, err := OpenBolt(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), BoltOptions{}); !errors.Is(err, writefault.Err) {
		t.Errorf("a name that may not be durable is opened: %v, %v", e, err)
	}
}
