package kvstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// memScratch is a Scratch in memory, which may be damaged.
type memScratch struct {
	b      []byte
	damage func(b []byte)
	closed bool
}

func (m *memScratch) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memScratch) ReadAt(p []byte, off int64) (int, error) {
	if m.damage != nil {
		m.damage(m.b)
		m.damage = nil
	}
	return strings.NewReader(string(m.b)).ReadAt(p, off)
}

func (m *memScratch) Close() error {
	m.closed = true
	return nil
}

// manyKeys is a log of n puts, and the model after it.
func manyKeys(t testing.TB, n int) ([]entry, *model) {
	t.Helper()
	m := newModel()
	var log []entry
	for i := range n {
		e := entry{index: uint64(i + 1), commands: [][]byte{testPut(Key(fmt.Sprintf("%x/%d", i*7919%9973, i)), "id", "", nil, time.Unix(0, 0))}}
		e.want = m.apply(t, e.commands)
		log = append(log, e)
	}
	return log, m
}

// An index that is missing, or that lags far behind, is rebuilt in key order from
// sorted runs; a crash at any write of it loses nothing.
func TestStore_Rebuild_AfterAnyCrash(t *testing.T) {
	log, m := manyKeys(t, 600)
	for _, indexed := range []int{0, 150} {
		build := func() *memDisks {
			d := newMemDisks()
			s := mustOpen(t, d, tiny())
			if err := errors.Join(runLog(t, s, log[:indexed]), s.FlushIndex()); err != nil {
				t.Fatal(err)
			}
			kept := copyEngine(d.index)
			if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
				t.Fatal(err)
			}
			d.index = kept
			return d
		}
		open := func(d *memDisks, scratch *memScratch) (*Store, error) {
			cfg := tiny()
			cfg.OpenScratch = func() (Scratch, error) { return scratch, nil }
			return d.open(cfg)
		}
		clean := newCrashPoint("", 0, FailNever)
		d, scratch := build(), &memScratch{}
		d.hook = clean.hook
		s, err := open(d, scratch)
		if err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.IndexedTo != st.Revision || st.OverlayKeys != 0 || !scratch.closed || len(scratch.b) == 0 {
			t.Fatalf("it was not rebuilt from %d bytes of runs: %+v", len(scratch.b), st)
		}
		m.check(t, s)
		if err := s.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if clean.steps["index"] < 2 {
			t.Fatalf("too few steps: %v", clean.steps)
		}
		for n := 1; n <= clean.steps["index"]; n++ {
			for _, point := range []FailPoint{FailBefore, FailAfter} {
				d, scratch := build(), &memScratch{}
				d.hook = newCrashPoint("index", n, point).hook
				if _, err := open(d, scratch); !errors.Is(err, ErrInjected) || !scratch.closed {
					t.Fatalf("step %d: %v", n, err)
				}
				s, err := open(d, &memScratch{})
				if err != nil {
					t.Fatal(err)
				}
				m.check(t, s)
			}
		}
	}
}

// A scratch file that lies is found out before anything of it counts.
func TestStore_Rebuild_DamagedRunsAreRefused(t *testing.T) {
	log, m := manyKeys(t, 600)
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
		t.Fatal(err)
	}
	size := 0
	for at := 0; at <= size; at += 1 + size/150 {
		d.index = NewMemEngine()
		scratch := &memScratch{}
		if at > 0 { // the first round tells how much there is
			scratch.damage = func(b []byte) { b[at-1] ^= 0x10 }
		}
		cfg := tiny()
		cfg.OpenScratch = func() (Scratch, error) { return scratch, nil }
		s, err := d.open(cfg)
		if at == 0 {
			if err != nil {
				t.Fatal(err)
			}
			size = len(scratch.b)
			m.check(t, s)
			continue
		}
		if err == nil {
			t.Fatalf("byte %d of %d is wrong, and nobody says so", at-1, size)
		}
		if err := d.index.View(func(tx Tx) error {
			if tx.Get(BucketState, keyIndexed) != nil {
				t.Errorf("the index counts, though byte %d of the runs was wrong", at-1)
			}
			return nil
		}); err != nil && !strings.Contains(err.Error(), "scratch") && !errors.Is(err, ErrClosed) {
			t.Log(err)
		}
	}
}

// Of the scratch file nothing is left.
func TestStoreDir_Rebuild(t *testing.T) {
	dir := t.TempDir()
	log, m := manyKeys(t, 600)
	s := openDir(t, dir, tiny())
	if err := errors.Join(runLog(t, s, log), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, indexFile)), os.WriteFile(filepath.Join(dir, scratchFile), []byte("left by a crash"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s = openDir(t, dir, tiny())
	if st := s.Stats(); st.IndexedTo != st.Revision {
		t.Fatalf("%+v", st)
	}
	m.check(t, s)
	if _, err := os.Stat(filepath.Join(dir, scratchFile)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the scratch file is still there: %v", err)
	}
}
