package kvstore

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// A closed store says so whatever it is asked, and does not touch its engines any more.
func TestStore_Closed_TouchesNothing(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	d, a := newMemDisks(), &accesses{counts: map[string]int{}}
	s, err := a.open(t, d, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := runLog(t, s, l.log[:lifeFirst]); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snapshot, err := s.Durable()
	if err != nil {
		t.Fatal(err)
	}
	next := l.taken[lifeLast]
	if err := s.Stage(t.Context(), next.snapshot, serveFrom(l.sender), testFetch); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.memtable.freeze(&s.applied.derived)
	s.mu.Unlock()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fresh := mustOpen(t, newMemDisks(), tiny())
	if err := fresh.Close(); err != nil {
		t.Fatal(err)
	}
	touched := func() (n int) {
		for _, times := range a.counts {
			n += times
		}
		return n
	}
	before, end := touched(), s.durableState().rev
	ctx := t.Context()
	q := query{kind: queryRecords, index: index, through: 1}
	for name, call := range map[string]func() error{
		"Apply":       func() error { _, err := applyTo(s, index+1, 7, nil, nil); return err },
		"Commit":      func() error { return s.Commit() },
		"FlushIndex":  func() error { return s.FlushIndex() },
		"a flush":     func() error { return s.flushFrozen(ctx) },
		"Stage":       func() error { return s.Stage(ctx, next.snapshot, serveFrom(l.sender), testFetch) },
		"Install":     func() error { return s.Install(next.index, 7, next.meta, next.snapshot) },
		"Install old": func() error { return s.Install(index, 7, meta, snapshot) },
		"pulled":      func() error { return s.writePulled([]pendingRecord{{rev: end + 1, record: []byte("a record")}}) },
		"a cut":       func() error { return s.cutPulled(end + 1) },
		"Serve":       func() error { return s.Serve(ctx, q.String(), io.Discard) },
		"Durable":     func() error { _, _, _, _, err := s.Durable(); return err },
		"Bootstrap":   func() error { return fresh.Bootstrap(9, 7, nil, [16]byte{1}) },
		"Resolve":     func() error { _, _, err := s.Resolve(abandonCommand(uploadID{})); return err },
		"Verify":      func() error { return s.Verify(ctx) },
		"Run":         func() error { return s.Run(ctx) },
		"Get":         func() error { _, err := s.Get("wide/4"); return err },
		"Keys":        func() error { _, err := s.Keys(ctx, KeysRequest{Limit: 1, LimitBytes: 1}); return err },
		"Changes":     func() error { _, err := s.Changes(ChangesRequest{Limit: 1, LimitBytes: 1}); return err },
		"DigestAt":    func() error { _, err := s.DigestAt(1); return err },
	} {
		if err := call(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
		if now := touched(); now != before {
			t.Errorf("%s looks into an engine", name)
			before = now
		}
	}
}

// A store that is closed in the middle of a pull, or of a rebuild of its index, writes
// nothing more.
func TestStore_ClosedMeanwhile_WritesNothing(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	next := l.taken[lifeLast]
	for _, at := range []string{"history", "open scratch", "read scratch"} {
		t.Run(at, func(t *testing.T) {
			d, scratch := newMemDisks(), &memScratch{}
			var s *Store
			closed, late := false, []string{}
			end := func() {
				if closed = true; s.Close() != nil {
					t.Error("it does not close")
				}
			}
			d.hook = func(disk string) engine.FailPoint {
				if closed {
					late = append(late, disk)
				}
				return engine.FailNever
			}
			if at == "read scratch" {
				scratch.damage = func([]byte) { end() }
			}
			cfg := tiny()
			cfg.MemtableBytes, cfg.GenerationBytes = 1000, 250
			cfg.OpenScratch = func() (Scratch, error) {
				if at == "open scratch" {
					end()
				}
				return scratch, nil
			}
			s = mustOpen(t, d, cfg)
			err := s.Stage(t.Context(), next.snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
				if at == "history" {
					end()
				}
				return serveFrom(l.sender)(ctx, query)
			}, testFetch)
			if at != "history" {
				if err != nil {
					t.Fatal(err)
				}
				err = s.Install(next.index, 7, next.meta, next.snapshot)
			}
			if !closed || !errors.Is(err, ErrClosed) {
				t.Fatalf("closed %v: %v", closed, err)
			}
			for _, disk := range late {
				if disk != "staging" { // which nobody reads without looking into history
					t.Errorf("it writes to %s", disk)
				}
			}
			if at == "open scratch" && len(scratch.b) > 0 {
				t.Errorf("it sorts %d bytes", len(scratch.b))
			}
		})
	}
}

// A log does not begin where its store could not write down that it does.
func TestStore_Bootstrap_FailedWrite(t *testing.T) {
	t.Parallel()
	d := newMemDisks()
	d.hook = func(disk string) engine.FailPoint {
		if disk == "history" {
			return engine.FailBefore
		}
		return engine.FailNever
	}
	s := mustOpen(t, d, tiny())
	if err := s.Bootstrap(5, 7, nil, [16]byte{1}); !errors.Is(err, engine.ErrInjected) || s.Stats().AppliedIndex != 0 {
		t.Errorf("at entry %d: %v", s.Stats().AppliedIndex, err)
	}
}

// Whoever waits for room while a store runs waits no longer than it runs.
func TestStore_Run_EndsWhileApplyWaits(t *testing.T) {
	t.Parallel()
	cfg := tiny()
	cfg.PendingBytes = 1
	s := mustOpen(t, newMemDisks(), cfg)
	put := func(index uint64, key Key) error {
		_, err := applyTo(s, index, 1, [][]byte{testPut(key, "p", "", nil, time.Unix(0, 0))}, nil)
		return err
	}
	if err := errors.Join(put(1, "a"), s.setRunning(true)); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ended); err == nil {
		t.Error("a store that runs can be run")
	}
	select {
	case <-s.wakeCommit: // of the first
	default:
	}
	done := make(chan error, 1)
	go func() { done <- put(2, "b") }()
	<-s.wakeCommit // just before it waits, and it knows for what
	if err := errors.Join(s.setRunning(false), <-done); err != nil {
		t.Fatal(err)
	}
}

// After a failure nothing more is begun in the background, and it is not forgotten.
func TestBackground_StopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	var b background
	if err := b.start(func() error { return engine.ErrInjected }); err != nil {
		t.Fatal(err)
	}
	if err := b.start(func() error { t.Error("it goes on"); return nil }); !errors.Is(err, engine.ErrInjected) {
		t.Errorf("begun after a failure: %v", err)
	}
	if err := b.wait(); !errors.Is(err, engine.ErrInjected) {
		t.Errorf("at the end: %v", err)
	}
}

// A store that cannot read a chunk of its own does not decide that the value came
// damaged: others can, and all must decide alike.
func TestStore_Seal_OfADamagedChunkIsFatal(t *testing.T) {
	t.Parallel()
	d, id, now := newMemDisks(), uploadID{1}, time.Unix(0, 0)
	s := mustOpen(t, d, tiny())
	if _, err := applyTo(s, 1, 7, [][]byte{openCommand(id, now), testChunk(id, 0, []byte("value"), now)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if !d.history.Damage(engine.BucketChunks, func(n int) int { return n - 1 }) {
		t.Fatal("there is no chunk")
	}
	meta := Meta{Key: "k", Size: 5, SHA256: sumOf([]byte("other")), ContentType: "a/b", Time: now, PutID: "p"}
	results, err := applyTo(s, 2, 7, [][]byte{sealCommand(&meta, id, 1)}, nil)
	if _, corrupt := errors.AsType[*CorruptError](err); !corrupt {
		t.Errorf("it decides: %v, %v", results, err)
	}
}
