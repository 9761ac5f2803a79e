package kvstore

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"testing"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// crashPoint fails the nth durable step of one disk, once.
type crashPoint struct {
	disk  string
	n     int
	point engine.FailPoint
	steps map[string]int
	fired bool
}

func (c *crashPoint) hook(disk string) engine.FailPoint {
	c.steps[disk]++
	if disk == c.disk && c.steps[disk] == c.n && !c.fired {
		c.fired = true
		return c.point
	}
	return engine.FailNever
}

func newCrashPoint(disk string, n int, point engine.FailPoint) *crashPoint {
	return &crashPoint{disk: disk, n: n, point: point, steps: make(map[string]int)}
}

// runLog applies a log from where s stands, committing and flushing on the way
// as the entry indexes say; it ends at the first error.
func runLog(t *testing.T, s *Store, log []entry) error {
	t.Helper()
	durable := s.Stats().AppliedIndex
	for i := range log {
		e := &log[i]
		if e.index <= durable {
			continue
		}
		if err := applyEntry(t, s, e); err != nil {
			return err
		}
		if e.index%3 == 0 {
			if err := s.Commit(); err != nil {
				return err
			}
		}
		if e.index%11 == 0 {
			if err := errors.Join(s.FlushIndex(), mergeAll(s)); err != nil {
				return err
			}
		}
	}
	return s.Commit()
}

// Invariants 6 and 7: every write to history and index fails once before and
// once after it became durable; what was lost is applied again from the log.
func TestStore_Crash_ApplyCommitFlush(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 5, 60, 1)
	clean := newCrashPoint("", 0, engine.FailNever)
	d := newMemDisks()
	d.hook = clean.hook
	if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
		t.Fatal(err)
	}
	if clean.steps["history"] < 15 || clean.steps["index"] < 20 {
		t.Fatalf("the script takes too few steps: %v", clean.steps)
	}
	for _, disk := range []string{"history", "index"} {
		for n := 1; n <= clean.steps[disk]; n++ {
			for _, point := range []engine.FailPoint{engine.FailBefore, engine.FailAfter} {
				t.Run(fmt.Sprintf("%s/%d/%d", disk, n, point), func(t *testing.T) {
					crashAndReplay(t, log, m, newCrashPoint(disk, n, point))
				})
			}
		}
	}
}

func crashAndReplay(t *testing.T, log []entry, m *model, c *crashPoint) {
	t.Helper()
	d := newMemDisks()
	d.hook = c.hook
	s, err := d.open(t, tiny())
	if err == nil {
		err = runLog(t, s, log)
		if _, gerr := s.Get("key/001"); !errors.Is(gerr, engine.ErrInjected) {
			t.Fatalf("a store that failed still answers: %v", gerr)
		}
	}
	if !errors.Is(err, engine.ErrInjected) {
		t.Fatalf("the injected failure was answered with %v", err)
	}
	s = mustOpen(t, d, tiny())
	if err := runLog(t, s, log); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
	s = mustOpen(t, d, tiny())
	m.check(t, s)
	wantCounted(t, d, s)
}

// A crash between any two entries loses only what the log gives again.
func TestStore_Crash_BetweenEntries(t *testing.T) {
	t.Parallel()
	log, m := script(t, 6, 60)
	d := newMemDisks()
	s := mustOpen(t, d, tiny())
	for i := range log {
		mustApply(t, s, &log[i])
		if i%7 == 3 {
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if i%3 == 0 {
			s = mustOpen(t, d, tiny())
			if err := runLog(t, s, log[:i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.check(t, s)
}

func TestStore_Open_RebuildsAMissingIndex(t *testing.T) {
	t.Parallel()
	log, m := script(t, 7, 150)
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, tiny()), log); err != nil {
		t.Fatal(err)
	}
	d.index = keyruns.NewMemFiles()
	s := mustOpen(t, d, tiny())
	if st := s.Stats(); st.OverlayBytes > tiny().MemtableBytes {
		t.Fatalf("the rebuild is not bounded: %+v", st)
	}
	m.check(t, s)
}

func TestStore_Open_RefusesForeignIndex(t *testing.T) {
	t.Parallel()
	long, _ := script(t, 8, 100)
	short, _ := script(t, 8, 20)
	other, _ := script(t, 9, 100)
	build := func(log []entry) *memDisks {
		d := newMemDisks()
		s := mustOpen(t, d, tiny())
		if err := runLog(t, s, log); err != nil {
			t.Fatal(err)
		}
		if err := s.FlushIndex(); err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := build(short)
	d.index = build(long).index
	if _, err := d.open(t, tiny()); err == nil {
		t.Fatal("an index ahead of history was accepted")
	}
	d = build(long)
	d.index = build(other[:20]).index
	var corrupt *CorruptError
	if _, err := d.open(t, tiny()); !errors.As(err, &corrupt) {
		t.Fatalf("the index of another history: %v", err)
	}
}

// twin builds a sender that has the whole log and the disks of a receiver that
// has only its start.
func twin(t *testing.T, log []entry, have int) (sender *Store, receiver func() *memDisks) {
	t.Helper()
	sender = mustOpen(t, newMemDisks(), tiny())
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	return sender, func() *memDisks {
		d := newMemDisks()
		if err := runLog(t, mustOpen(t, d, tiny()), log[:have]); err != nil {
			t.Fatal(err)
		}
		return d
	}
}

// serveFrom is a fetch that reads from another store.
func serveFrom(sender *Store) func(ctx ctxT, query string) (io.ReadCloser, error) {
	return func(ctx ctxT, query string) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(sender.Serve(ctx, query, w)) }()
		return r, nil
	}
}

// catchUp pulls and installs the snapshot, unless that is done already.
func catchUp(t *testing.T, s *Store, index uint64, meta, snapshot []byte, sender *Store) error {
	t.Helper()
	if at, _, _, _, err := s.Durable(); err != nil || at >= index {
		return err
	}
	if err := s.Stage(t.Context(), snapshot, serveFrom(sender), testFetch); err != nil {
		return err
	}
	return s.Install(index, 7, meta, snapshot)
}

func TestStore_Crash_StageInstall(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 10, 90, 1)
	half := log[:60]
	sender, receiver := twin(t, half, 25)
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	if err := runLog(t, sender, log[:75]); err != nil { // the sender has gone on
		t.Fatal(err)
	}
	cfg := tiny()
	cfg.CommitBytes = 2000
	var installSteps map[string]int // of a pull and install that nothing disturbs
	run := func(c *crashPoint) {
		t.Helper()
		d := receiver()
		d.hook = c.hook
		var s *Store
		for tries := 0; ; tries++ {
			var err error
			if s, err = d.open(t, cfg); err == nil {
				err = catchUp(t, s, index, meta, snapshot, sender)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, engine.ErrInjected) || tries > 1 {
				t.Fatalf("%s step %d point %d: %v", c.disk, c.n, c.point, err)
			}
		}
		if at, _, got, _, err := s.Durable(); err != nil || at != index || string(got) != string(meta) {
			t.Fatalf("installed at %d with meta %q, %v", at, got, err)
		}
		if c.point == engine.FailNever {
			installSteps = maps.Clone(c.steps)
		}
		if err := runLog(t, s, log); err != nil {
			t.Fatal(err)
		}
		m.check(t, s)
		m.check(t, mustOpen(t, d, cfg))
	}
	run(newCrashPoint("", 0, engine.FailNever))
	if installSteps["staging"] < 4 || installSteps["history"] < 4 || installSteps["remove"] < 1 {
		t.Fatalf("too few steps: %v", installSteps)
	}
	for _, disk := range []string{"staging", "history", "index", "remove"} {
		for n := 1; n <= installSteps[disk]; n++ {
			for _, point := range []engine.FailPoint{engine.FailBefore, engine.FailAfter} {
				run(newCrashPoint(disk, n, point))
			}
		}
	}
}
