package raftnode

import (
	"encoding/hex"
	"flag"
	"log/slog"
	"math/rand"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
	_ "unsafe" // for go:linkname

	"go.etcd.io/etcd/server/v3/wal"
)

// How much to simulate.
var (
	simSeeds    = flag.Uint64("sim.seeds", simWorlds, "worlds to simulate")
	simFrom     = flag.Uint64("sim.from", 1, "seed of the first")
	simSeed     = flag.Uint64("sim.seed", 0, "simulate this one world, and say what happens in it")
	simControls = flag.Bool("sim.controls", false, "break the program in every known way, and see the simulation find it")
	simFor      = flag.Duration("sim.for", 0, "go on for so long, whatever -sim.seeds says")
)

// raftRand is where raft takes its election timeouts from. It belongs to the
// whole process, so one world is simulated at a time.
//
//go:linkname raftRand go.etcd.io/etcd/raft/v3.globalRand
var raftRand *struct {
	mu   sync.Mutex
	rand *rand.Rand
}

// simRoot is where files are made: in memory, if there is such a place.
func simRoot() string {
	const memory = "/dev/shm"
	if st, err := os.Stat(memory); err == nil && st.IsDir() {
		return memory
	}
	return ""
}

// simulate lives through one world and returns what went wrong, "" if nothing
// did, and the digest of all that happened.
func simulate(t *testing.T, seed uint64, log *slog.Logger) (failure, trace string, w *simWorld) {
	raftRand.mu.Lock()
	raftRand.rand = rand.New(rand.NewSource(int64(seed)))
	raftRand.mu.Unlock()
	root, err := os.MkdirTemp(simRoot(), "oncekv-sim-")
	if err != nil {
		t.Fatal(err)
	}
	defer func(size int64) {
		wal.SegmentSizeBytes = size
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	}(wal.SegmentSizeBytes)
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed) // ids of members
		w = newSimWorld(seed, root)
		w.log = log
		failure = w.run()
	})
	return failure, hex.EncodeToString(w.trace.Sum(nil)[:8]), w
}

// TestSimulation lives through some hundred worlds, each of a seed of its own:
// whole clusters of the production core, store and DB, in which everything goes
// wrong that can. See docs/faults.md.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		failure, trace, w := simulate(t, *simSeed, log)
		t.Logf("seed %d, trace %s, %+v, %d requests", *simSeed, trace, w.p, len(w.ops))
		if failure != "" {
			t.Error(failure)
		}
		return
	}
	seeds := *simSeeds
	if testing.Short() {
		seeds = min(seeds, 30)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // worlds are small, and many
	began := time.Now()
	worlds, requests, set, steps := 0, 0, 0, int64(0)
	var sum simBodyCounts
	for seed := *simFrom; seed < *simFrom+seeds || time.Since(began) < *simFor; seed++ {
		failure, _, w := simulate(t, seed, nil)
		if failure != "" {
			t.Fatalf("seed %d: %s\nrun it again: go test ./raftnode -run TestSimulation -sim.seed=%d", seed, failure, seed)
		}
		worlds, requests, set, steps = worlds+1, requests+len(w.ops), set+len(w.created), steps+w.step
		sum.add(w.bodies.sum)
	}
	t.Logf("%d worlds in %v: %v of simulated time, %d requests, %d keys created; bodies: %+v", worlds, time.Since(began).Round(time.Second), time.Duration(steps)*simStep, requests, set, sum)
}

// Same seed, same run, to the last message.
func TestSimulation_IsDeterministic(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		_, first, _ := simulate(t, seed, nil)
		if _, second, _ := simulate(t, seed, nil); first != second {
			t.Errorf("seed %d: trace %s, and then %s", seed, first, second)
		}
	}
}
