package kvstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// The index of an earlier version is not read, whatever is in it. It stays until the
// store runs: until then somebody may refuse the start.
func TestStoreDir_IndexOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, m := fillDir(t, dir, 30)
	old := []string{filepath.Join(dir, oldIndexFile), filepath.Join(dir, oldIndexFile+engine.Creating)}
	if err := os.RemoveAll(filepath.Join(dir, indexDir)); err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		if err := os.WriteFile(file, []byte("what no version reads any more"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var told bytes.Buffer
	s := openDir(t, dir, StoreConfig{Logger: slog.New(slog.NewTextHandler(&told, nil))})
	m.check(t, s)
	for _, file := range old {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("a start that may be refused: %v", err)
		}
	}
	startRun(t, s)()
	for _, file := range old {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", file, err)
		}
	}
	if !strings.Contains(told.String(), "removed the index of an earlier version") {
		t.Errorf("the log has %q", told.String())
	}
	m.check(t, s)
}

// What stands where the index of an earlier version was, and cannot be removed, is named. It
// is not used, so the store works.
func TestStore_Run_CannotRemoveTheIndexOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	s := openDir(t, dir, StoreConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	file := filepath.Join(dir, oldIndexFile)
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // Run ends when it has begun
	if err := s.Run(ctx); err != nil || s.err() != nil {
		t.Errorf("the store has ended: %v, %v", err, s.err())
	}
	if !strings.Contains(log.String(), file) {
		t.Errorf("the log does not name %s: %s", file, log.String())
	}
}

// slowEngine is an engine whose reads take long, slowScratch a scratch file.
type slowEngine struct{ engine.Engine }

func (e slowEngine) View(fn func(engine.Tx) error) error {
	<-time.After(progressInterval)
	return e.Engine.View(fn)
}

type slowScratch struct{ memScratch }

func (s *slowScratch) ReadAt(p []byte, off int64) (int, error) {
	<-time.After(progressInterval)
	return s.memScratch.ReadAt(p, off)
}

// A rebuild that takes long tells how far it is.
func TestStore_Rebuild_TellsHowFarItIs(t *testing.T) {
	t.Parallel()
	log, m := manyKeys(t, 5000)
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, StoreConfig{}), log); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		s, err := OpenStore(StoreConfig{
			History: slowEngine{d.history}, Index: newIndex(t), Bodies: d.openBodies(t), MemtableBytes: 40_000,
			OpenScratch: func() (Scratch, error) { return &slowScratch{}, nil }, Logger: slog.New(slog.NewTextHandler(&told, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`msg="history is being sorted" keys=2000 of=5000`, `msg="the index is being written" keys=5000 of=5000`} {
			if !strings.Contains(told.String(), want) {
				t.Errorf("the log lacks %s:\n%s", want, told.String())
			}
		}
		if st := s.Stats(); st.Index.Keys != uint64(len(m.keys)) || st.Index.Runs != 1 {
			t.Errorf("%+v", st)
		}
		if err := d.bodies.Close(); err != nil {
			t.Error(err)
		}
		d.bodies = nil
	})
}

// Neither a flush nor a lookup that waits for the disk keeps anybody else waiting.
func TestStore_Index_WaitsForNobody(t *testing.T) {
	t.Parallel()
	for _, op := range []keyruns.Op{keyruns.OpSync, keyruns.OpRead} {
		t.Run(string(op), func(t *testing.T) {
			log, _ := manyKeys(t, 40)
			d := newMemDisks()
			s := mustOpen(t, d, tiny())
			if err := errors.Join(runLog(t, s, log[:20]), s.FlushIndex()); err != nil {
				t.Fatal(err)
			}
			mustApply(t, s, &log[20])
			held, goOn := make(chan struct{}), make(chan struct{})
			d.index.OnCall(func(c keyruns.Call) keyruns.Fault {
				if c.Op == op && held != nil {
					close(held)
					held = nil
					<-goOn
				}
				return keyruns.Fault{}
			})
			waiting, done := held, make(chan error, 1)
			key := func(i int) Key {
				cmd, err := decodeCommand(log[i].commands[0])
				if err != nil {
					t.Fatal(err)
				}
				return Key(cmd.body.key)
			}
			first, last := key(0), key(20)
			go func() {
				if op == keyruns.OpRead {
					_, err := s.Get(first)
					done <- err
					return
				}
				done <- s.FlushIndex()
			}()
			<-waiting
			for i := 21; i < 40; i++ {
				mustApply(t, s, &log[i])
			}
			if _, err := s.Get(last); err != nil {
				t.Error(err)
			}
			if _, err := s.Get("absent"); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			if err := s.Commit(); err != nil {
				t.Error(err)
			}
			close(goOn)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// calledBy reports whether a function is on the stack.
func calledBy(function string) bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, function) {
			return true
		}
		if !more {
			return false
		}
	}
}

// While the index has as many runs as it may, no more are made: the memtable fills, and
// Apply waits, until there are fewer.
func TestStore_Apply_PausesAtTooManyRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, m := manyKeys(t, 2000)
		d := newMemDisks()
		s := mustOpen(t, d, tiny())
		files, goOn := keyruns.NewMemFiles(), make(chan struct{})
		files.OnCall(func(c keyruns.Call) keyruns.Fault {
			if c.Op == keyruns.OpCreate && calledBy("keyruns.(*Index).Run") {
				<-goOn
			}
			return keyruns.Fault{}
		})
		index, err := keyruns.Open(keyruns.Config{Files: files, Logger: slog.New(slog.DiscardHandler), MaxRuns: 3, Factor: 3})
		if err != nil {
			t.Fatal(err)
		}
		s.index = index
		ctx, cancel := context.WithCancel(t.Context())
		ran, applied := make(chan error, 1), make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		synctest.Wait() // until the index merges: before, nobody can wait for that
		go func() {
			var err error
			for i := 0; i < len(log) && err == nil; i++ {
				err = applyEntry(t, s, &log[i])
			}
			applied <- err
		}()
		synctest.Wait()
		st := s.Stats()
		if st.AppliedIndex == uint64(len(log)) || st.Index.Runs != 3 || st.OverlayBytes < tiny().MemtableBytes {
			t.Errorf("it does not pause: %+v", st)
		}
		close(goOn)
		if err := <-applied; err != nil {
			t.Error(err)
		}
		if st := s.Stats(); st.Index.Pauses == 0 || st.Index.Merges == 0 {
			t.Errorf("%+v", st)
		}
		m.check(t, s)
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if err := errors.Join(s.FlushIndex(), s.Verify(t.Context()), index.Close(), d.bodies.Close()); err != nil {
			t.Error(err)
		}
		d.bodies = nil
	})
}
