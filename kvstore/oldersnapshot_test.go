package kvstore

import (
	"errors"
	"io"
	"testing"
)

// snapshotsOf applies log to a new store and returns it with its snapshot after
// each entry.
func snapshotsOf(t *testing.T, log []entry, cfg StoreConfig) (*Store, []takenSnapshot) {
	t.Helper()
	s := mustOpen(t, newMemDisks(), cfg)
	var taken []takenSnapshot
	for i := range log {
		mustApply(t, s, &log[i])
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		index, _, meta, snapshot, err := s.Durable()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, takenSnapshot{index, meta, snapshot})
	}
	return s, taken
}

// What was pulled for a snapshot that never came to be installed serves for an
// older one, that of a new leader: nothing is pulled again. The rest of the log,
// which takes the place of what was too much, is right too.
func TestStore_Stage_TakesAnOlderSnapshot(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 24, 60, 1)
	cfg := tiny()
	cfg.CommitBytes = 3000 // batches of several blocks
	sender, taken := snapshotsOf(t, log, cfg)
	const have, pulled = 9, 55
	receiver := func() *memDisks {
		d := newMemDisks()
		s := mustOpen(t, d, cfg)
		if err := runLog(t, s, log[:have+1]); err != nil {
			t.Fatal(err)
		}
		if err := s.Stage(t.Context(), taken[pulled].snapshot, serveFrom(sender), testFetch); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for older := pulled - 1; older > have; older -= 3 {
		for _, restart := range []bool{false, true} {
			d := receiver()
			s := mustOpen(t, d, cfg)
			snap, _ := decodeSnapshot(taken[older].snapshot)
			if err := s.Stage(t.Context(), taken[older].snapshot, func(ctx ctxT, raw string) (io.ReadCloser, error) {
				if q, err := parseQuery(raw); err != nil || q.kind == queryRecords {
					t.Errorf("records after revision %d are pulled again, up to %d, for the snapshot after %d of %d entries; %v", q.after, q.through, older, pulled, err)
				}
				return serveFrom(sender)(ctx, raw)
			}, testFetch); err != nil {
				t.Fatal(err)
			}
			if restart {
				s = mustOpen(t, d, cfg)
			}
			if err := s.Install(taken[older].index, 7, taken[older].meta, taken[older].snapshot); err != nil {
				t.Fatal(err)
			}
			if got := s.Stats(); got.Revision != snap.rev || got.Digest != snap.digest() {
				t.Fatalf("installed is revision %d", got.Revision)
			}
			if err := s.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if restart {
				s = mustOpen(t, d, cfg)
			}
			for i := older + 1; i < len(log); i++ {
				mustApply(t, s, &log[i])
				if i%2 == 0 {
					if err := s.Commit(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := errors.Join(s.Commit(), s.Verify(t.Context())); err != nil {
				t.Fatal(err)
			}
			m.check(t, s)
			m.check(t, mustOpen(t, d, cfg))
		}
	}
}

// After an older snapshot a newer one is offered again: what was pulled for it is
// there but for what was too much.
func TestStore_Stage_OlderAndNewerInTurn(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 25, 60, 2)
	sender, taken := snapshotsOf(t, log, tiny())
	d := newMemDisks()
	s := mustOpen(t, d, tiny())
	for _, to := range []int{40, 30, 50, 20, 59, 58, 59} {
		if err := s.Stage(t.Context(), taken[to].snapshot, serveFrom(sender), testFetch); err != nil {
			t.Fatalf("to %d: %v", to, err)
		}
	}
	if err := s.Install(taken[59].index, 7, taken[59].meta, taken[59].snapshot); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
	if err := s.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.check(t, mustOpen(t, d, tiny()))
}

// An older snapshot of another history gets nothing of what was pulled.
func TestStore_Stage_AnOlderSnapshotOfAnotherHistory(t *testing.T) {
	t.Parallel()
	log, _ := scriptOf(t, 26, 40, 1)
	other, m := scriptOf(t, 27, 20, 1)
	sender, taken := snapshotsOf(t, log, tiny())
	another, its := snapshotsOf(t, other, tiny())
	last := its[len(its)-1]
	s := mustOpen(t, newMemDisks(), tiny())
	if err := s.Stage(t.Context(), taken[len(taken)-1].snapshot, serveFrom(sender), testFetch); err != nil {
		t.Fatal(err)
	}
	if err := s.Stage(t.Context(), last.snapshot, serveFrom(another), testFetch); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(last.index, 7, last.meta, last.snapshot); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
}
