package kvstore

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
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
	t.Parallel()
	log, m := manyKeys(t, 600)
	for _, indexed := range []int{0, 150} {
		build := func() *memDisks {
			d := newMemDisks()
			s := mustOpen(t, d, tiny())
			if err := errors.Join(runLog(t, s, log[:indexed]), s.FlushIndex()); err != nil {
				t.Fatal(err)
			}
			kept := d.index.Copy()
			if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
				t.Fatal(err)
			}
			d.index = kept
			return d
		}
		open := func(d *memDisks, scratch *memScratch) (*Store, error) {
			cfg := tiny()
			cfg.OpenScratch = func() (Scratch, error) { return scratch, nil }
			return d.open(t, cfg)
		}
		clean := newCrashPoint("", 0, engine.FailNever)
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
			for _, point := range []engine.FailPoint{engine.FailBefore, engine.FailAfter} {
				d, scratch := build(), &memScratch{}
				d.hook = newCrashPoint("index", n, point).hook
				if _, err := open(d, scratch); !errors.Is(err, engine.ErrInjected) || len(scratch.b) > 0 && !scratch.closed {
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
	t.Parallel()
	log, m := manyKeys(t, 600)
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
		t.Fatal(err)
	}
	size := 0
	for at := 0; at <= size; at += 1 + size/150 {
		d.index = keyruns.NewMemFiles()
		scratch := &memScratch{}
		if at > 0 { // the first round tells how much there is
			scratch.damage = func(b []byte) { b[at-1] ^= 0x10 }
		}
		cfg := tiny()
		cfg.OpenScratch = func() (Scratch, error) { return scratch, nil }
		s, err := d.open(t, cfg)
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
		left, err := openIndexIn(d.index.Reopen(0))
		if err != nil {
			t.Fatal(err)
		}
		if left.Mark() != (keyruns.Mark{}) {
			t.Errorf("the index counts, though byte %d of the runs was wrong", at-1)
		}
	}
}

// A rebuild is done once: what it brought counts at the next start, and is refused by a
// history that has less than it brought.
func TestStore_Rebuild_LeavesItsMark(t *testing.T) {
	t.Parallel()
	log, m := manyKeys(t, 600)
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, tiny()), log[:300]); err != nil {
		t.Fatal(err)
	}
	half := d.history.Copy()
	if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
		t.Fatal(err)
	}
	whole := d.history.Copy()
	cfg := tiny()
	cfg.OpenScratch = func() (Scratch, error) { return &memScratch{}, nil }
	d = &memDisks{history: whole, index: keyruns.NewMemFiles(), staging: engine.NewMemEngine()}
	if st := mustOpen(t, d, cfg).Stats(); st.Index.Runs != 1 || st.Index.Keys != uint64(st.Keys) {
		t.Errorf("%+v", st)
	}
	old := &memDisks{history: half, index: d.index.Copy(), staging: engine.NewMemEngine()}
	if _, err := old.open(t, cfg); err == nil || !strings.Contains(err.Error(), "newer history") {
		t.Errorf("keys of a newer history: %v", err)
	}
	cfg.OpenScratch = func() (Scratch, error) { t.Error("it is rebuilt again"); return &memScratch{}, nil }
	s := mustOpen(t, d, cfg)
	m.check(t, s)
	if st := s.Stats(); st.IndexedTo != st.Revision {
		t.Errorf("%+v", st)
	}
}

// An index that cannot be written is told of by the start that brings it up to history.
func TestStore_Open_IndexFails(t *testing.T) {
	t.Parallel()
	log, _ := manyKeys(t, 600)
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
		t.Fatal(err)
	}
	history := d.history
	for n := 1; n <= 6; n++ { // the directory; a run, its name, the list, its name and that again
		d = &memDisks{history: history.Copy(), index: keyruns.NewMemFiles(), staging: engine.NewMemEngine()}
		d.hook = newCrashPoint("index", n, engine.FailBefore).hook
		if _, err := d.open(t, tiny()); !errors.Is(err, engine.ErrInjected) {
			t.Errorf("step %d: %v", n, err)
		}
	}
}

// What cannot be flushed before a rebuild ends it: nothing is sorted.
func TestStore_Rebuild_AfterAFlushThatFails(t *testing.T) {
	t.Parallel()
	log, _ := manyKeys(t, 600)
	sender, d, cfg := mustOpen(t, newMemDisks(), tiny()), newMemDisks(), tiny()
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	opened := false
	d.hook = func(disk string) engine.FailPoint {
		if opened && disk == "index" {
			return engine.FailBefore
		}
		return engine.FailNever
	}
	cfg.OpenScratch = func() (Scratch, error) { t.Error("it is rebuilt"); return &memScratch{}, nil }
	s := mustOpen(t, d, cfg)
	opened = true
	mustApply(t, s, &log[0])
	if err := catchUp(t, s, index, meta, snapshot, sender); !errors.Is(err, engine.ErrInjected) {
		t.Error(err)
	}
}

// Wherever a run breaks off, what is read of it before is right.
func TestRunReader_BreaksOff(t *testing.T) {
	t.Parallel()
	log, _ := manyKeys(t, 40)
	g := &generation{first: 1_000_000}
	for i := range log {
		cmd, err := decodeCommand(log[i].commands[0])
		if err != nil {
			t.Fatal(err)
		}
		g.append(Key(cmd.body.key))
	}
	var b bytes.Buffer
	w := &runWriter{out: bufio.NewWriter(&b)}
	if err := errors.Join(w.write(g), w.out.Flush()); err != nil {
		t.Fatal(err)
	}
	var keys []string
	var revs []uint64
	sorted := sortGenerations([]*generation{g})
	for key, rev := range sorted.all() {
		keys, revs = append(keys, string(key)), append(revs, rev)
	}
	for n := range b.Len() + 1 {
		r := newRunReader(bytes.NewReader(b.Bytes()[:n]), w.runs[0])
		i, more, err := 0, true, error(nil)
		for ; more; i++ {
			if more, err = r.next(); more && (string(r.key) != keys[i] || uint64(r.rev) != revs[i]) {
				t.Fatalf("with %d of %d bytes, entry %d is %q at %d", n, b.Len(), i, r.key, r.rev)
			}
		}
		if whole := n == b.Len(); whole != (err == nil) {
			t.Fatalf("with %d of %d bytes: %v", n, b.Len(), err)
		}
	}
}

// Of the scratch file nothing is left.
func TestStoreDir_Rebuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log, m := manyKeys(t, 600)
	s := openDir(t, dir, tiny())
	if err := errors.Join(runLog(t, s, log), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, indexDir)), os.WriteFile(filepath.Join(dir, scratchFile), []byte("left by a crash"), 0o600)); err != nil {
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
