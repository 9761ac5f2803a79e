package kvstore

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// flushedAt returns the revisions up to which a store had indexed after each flush,
// while it applied log as its Run would.
func flushedAt(t *testing.T, log []entry, cfg StoreConfig) (at []Revision) {
	t.Helper()
	s := mustOpen(t, newMemDisks(), cfg)
	for i := range log {
		mustApply(t, s, &log[i])
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		s.mu.RLock()
		due := s.flushDueLocked()
		s.mu.RUnlock()
		if !due {
			continue
		}
		if err := s.flushFrozen(t.Context()); err != nil {
			t.Fatal(err)
		}
		at = append(at, s.Stats().IndexedTo)
	}
	return at
}

// Replicas apply the same and must not flush at the same revisions, or all are slow
// at once. None flushes much more often than it would alone, or later.
func TestStore_Flush_ReplicasAreSpread(t *testing.T) {
	t.Parallel()
	log, _ := manyKeys(t, 1500)
	cfg := tiny()
	alone := flushedAt(t, log, cfg)
	period := alone[1] - alone[0]
	together := make(map[Revision]int)
	for seed := range uint64(3) {
		cfg.Spread = rand.New(rand.NewPCG(seed, 1)).Float64
		at := flushedAt(t, log, cfg)
		var last Revision
		for i, rev := range at {
			if rev-last > period+1 || i > 0 && rev-last < period*3/4-1 {
				t.Fatalf("seed %d: flushes at %d, alone they are %d apart", seed, at, period)
			}
			last = rev
			together[rev/(period/8)]++
		}
		if len(at) > len(alone)*4/3+1 {
			t.Fatalf("seed %d: %d flushes, alone there are %d", seed, len(at), len(alone))
		}
	}
	three := 0
	for _, n := range together {
		if n == 3 {
			three++
		}
	}
	if text := fmt.Sprint(together); three > len(alone)/4 {
		t.Fatalf("all three flushed in the same eighth of a period %d times of %d: %s", three, len(alone), text)
	}
}
