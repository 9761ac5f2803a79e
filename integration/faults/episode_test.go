package faults

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// row is one fault of the matrix.
type row struct {
	name string
	plan plan
	// attack injects the fault under load, holds it, heals it, and asserts what must hold
	// meanwhile. It leaves every node in world.dbs and world.caches running, or about to be
	// ready.
	attack func(e *episode)
}

// episode is one run of a row.
type episode struct {
	t       *testing.T
	row     row
	seed    uint64
	rng     *rand.Rand
	world   *world
	history *history
	load    *load
	dir     string // of logs and the history

	noticed bool // a node ends because of its damaged files
}

// play runs one episode, from an empty machine to an empty machine.
func play(t *testing.T, r row, seed uint64) {
	e := &episode{t: t, row: r, seed: seed, rng: rand.New(rand.NewPCG(seed, rowNumber(r.name))), history: newHistory()}
	e.dir = filepath.Join(run.artifacts, fmt.Sprintf("%s-%d", r.name, seed))
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	e.world = newWorld(t, r.plan, e.rng, e.dir)
	e.world.start()
	e.load = startLoad(e)
	e.progress(30)
	r.attack(e)
	e.world.ready()
	e.progress(10)
	e.load.stop()
	e.verify()
}

// rowNumber makes rows with the same seed choose differently.
func rowNumber(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}

// close keeps what a failed episode leaves, and says how to run it again.
func (e *episode) close() {
	if !e.t.Failed() {
		if err := os.RemoveAll(e.dir); err != nil {
			e.t.Error(err)
		}
		return
	}
	if err := e.history.save(filepath.Join(e.dir, "history.json")); err != nil {
		e.t.Error(err)
	}
	e.t.Logf("row %s, seed %d failed. Logs of its nodes and its history are in %s. Again:\n"+
		"\tONCEKV_TEST_FULL=1 go test ./integration/faults -count=1 -run Episode -row '^%s$' -seed %d", e.row.name, e.seed, e.dir, e.row.name, e.seed)
}

// progress waits until so many more puts are acknowledged, by any node.
func (e *episode) progress(puts int) {
	e.t.Helper()
	from := e.history.acknowledged()
	clustertest.Eventually(e.t, fmt.Sprintf("%d more puts", puts), func() error {
		if got := e.history.acknowledged() - from; got < puts {
			return fmt.Errorf("%d of them", got)
		}
		return nil
	})
}

// hold keeps a fault in place for between from and upTo; -hold raises upTo.
func (e *episode) hold(from, upTo time.Duration) {
	if run.hold > upTo {
		upTo = run.hold
	}
	d := from + time.Duration(e.rng.Int64N(int64(upTo-from)+1))
	e.t.Logf("holding for %v", d.Round(time.Millisecond))
	e.pass(d)
}

// pass lets time pass: an episode is about what happens in it.
func (e *episode) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// anyDB returns a random database node.
func (e *episode) anyDB() *node { return e.world.dbs[e.rng.IntN(len(e.world.dbs))] }

// follower returns a random database node that does not lead.
func (e *episode) follower() *node {
	e.t.Helper()
	rest := e.world.others(e.world.leader())
	return rest[e.rng.IntN(len(rest))]
}

// tolerated returns the limit here for something with a promised time: none, unless -tolerance
// says that times are worth judging. Tests share the machine, whose disk may take ten seconds
// for one flush; the log has the measured times.
func tolerated(promised time.Duration) time.Duration {
	if run.tolerance == 0 {
		return math.MaxInt64
	}
	return time.Duration(run.tolerance * float64(promised))
}

// writesBack waits until every one of the nodes has acknowledged a put that began after since,
// and logs how long that took.
func (e *episode) writesBack(after string, since, promised time.Duration, nodes ...*node) {
	e.t.Helper()
	stop := make(chan struct{})
	var insisting sync.WaitGroup
	defer insisting.Wait()
	defer close(stop)
	for _, n := range nodes {
		insisting.Go(func() { e.insist(n, stop) })
	}
	for _, n := range nodes {
		clustertest.Eventually(e.t, "writes through "+n.Name+" "+after, func() error {
			if !e.history.createdSince(n.Name, since) {
				return fmt.Errorf("no put was acknowledged for %v", e.history.now()-since)
			}
			return nil
		})
	}
	took := e.history.now() - since
	e.t.Logf("RECOVERY %s: writes back %s after %v (promised %v)", e.row.name, after, took.Round(time.Millisecond), promised)
	if took > tolerated(promised) {
		e.t.Errorf("%s: writes were back after %v; promised are %v", after, took, promised)
	}
}

// insist puts through one node, one try after the other, each with a short timeout.
func (e *episode) insist(n *node, stop <-chan struct{}) {
	p := newProber("insist", n, e.history, time.Second)
	for {
		select {
		case <-stop:
			return
		default:
		}
		e.probeKey(p, "insist", func(key string) int { return p.put(context.Background(), key, []byte(key), false) })
	}
}

// probeKey calls try with a key that nobody else uses, and not in a tight loop.
func (e *episode) probeKey(p *prober, kind string, try func(key string) int) int {
	status := try(fmt.Sprintf("%s/%s/%d", kind, p.node, e.history.now()))
	e.pass(50 * time.Millisecond)
	return status
}

// kill ends nodes with kill -9, all at the same time.
func kill(nodes ...*node) {
	for _, n := range nodes {
		n.Signal(syscall.SIGKILL)
	}
	for _, n := range nodes {
		n.Kill9()
	}
}
