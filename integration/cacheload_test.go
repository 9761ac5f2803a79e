package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// latencies holds the latencies of one phase of a load.
type latencies struct {
	mu   sync.Mutex
	took []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	l.took = append(l.took, d)
	l.mu.Unlock()
}

func (l *latencies) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.took) == 0 {
		return "nothing"
	}
	slices.Sort(l.took)
	at := func(part float64) time.Duration {
		return l.took[int(part*float64(len(l.took)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d reads, p50 %v, p99 %v, max %v", len(l.took), at(.5), at(.99), at(1))
}

// cacheLoad reads keys until it is stopped. Half of them are set and half are not, so that
// there is always something to ask owners and databases for.
type cacheLoad struct {
	t       *testing.T
	want    map[string]string // the keys that are set
	name    string
	phase   atomic.Pointer[latencies]
	stopC   chan struct{}
	workers sync.WaitGroup
	done    []atomic.Int64 // reads, by worker
	errs    atomic.Int64
}

func newCacheLoad(t *testing.T, name string, want map[string]string, workers int, read func(worker int) func(key, want string) error) *cacheLoad {
	l := &cacheLoad{t: t, want: want, name: name, stopC: make(chan struct{}), done: make([]atomic.Int64, workers)}
	l.phase.Store(&latencies{})
	for i := range workers {
		get := read(i)
		l.workers.Go(func() { l.work(i, get) })
	}
	return l
}

// directLoad uses HTTP clients that know one cache node each and do not retry.
func directLoad(t *testing.T, want map[string]string, caches ...*clustertest.Process) *cacheLoad {
	const each = 4
	return newCacheLoad(t, "direct clients", want, each*len(caches), func(i int) func(key, want string) error {
		v := newVisitor(caches[i%len(caches)].URL())
		t.Cleanup(v.close)
		return v.read
	})
}

// clientLoad uses a Go client that knows all cache nodes.
func clientLoad(t *testing.T, want map[string]string, caches ...*clustertest.Process) *cacheLoad {
	cl := clustertest.Client(t, clustertest.URLs(caches...)...)
	return newCacheLoad(t, "Go client", want, 4, func(int) func(key, want string) error {
		return func(key, want string) error {
			got, err := get(cl, key)
			switch {
			case want == absent && errors.Is(err, api.ErrNotFound):
				return nil
			case err != nil || got != want:
				return fmt.Errorf("key %s: %.200q, %w; want %q", key, got, err, want)
			}
			return nil
		}
	})
}

func (l *cacheLoad) work(worker int, read func(key, want string) error) {
	rng := rand.New(rand.NewPCG(uint64(worker), 2))
	for n := 0; ; n++ {
		select {
		case <-l.stopC:
			return
		default:
		}
		key, want := fmt.Sprint("not/", rng.IntN(1<<20)), absent
		if n%2 == 0 {
			key = fmt.Sprint("set/", rng.IntN(len(l.want)))
			want = l.want[key]
		}
		began := time.Now()
		if err := read(key, want); err != nil && l.errs.Add(1) <= 5 {
			l.t.Errorf("%s: %v", l.name, err)
		}
		l.phase.Load().add(time.Since(began))
		l.done[worker].Add(1)
	}
}

// enter begins a phase. A read counts for the phase in which it ends.
func (l *cacheLoad) enter() *latencies {
	phase := &latencies{}
	l.phase.Store(phase)
	return phase
}

// waitFor waits until every worker has had n more answers.
func (l *cacheLoad) waitFor(n int64) {
	l.t.Helper()
	from := make([]int64, len(l.done))
	for i := range l.done {
		from[i] = l.done[i].Load()
	}
	clustertest.Eventually(l.t, fmt.Sprintf("%d answers to each worker of the %s", n, l.name), func() error {
		for i := range l.done {
			if got := l.done[i].Load() - from[i]; got < n {
				return fmt.Errorf("%d to worker %d", got, i)
			}
		}
		return nil
	})
}

func (l *cacheLoad) stop() {
	l.t.Helper()
	close(l.stopC)
	l.workers.Wait()
	if n := l.errs.Load(); n != 0 {
		l.t.Errorf("%s: %d errors, want none", l.name, n)
	}
}

const (
	cacheLoadKeys = 4000
	phaseReads    = 50 // of every worker
)

// startLoaded starts three database nodes and three cache nodes, and sets the keys that
// cacheLoad reads.
func startLoaded(t *testing.T) (p *clustertest.Processes, want map[string]string) {
	t.Helper()
	p = clustertest.NewProcesses(t, bin, 3, 3)
	p.StartAll()
	waitPeers(t, 2, p.Caches...)
	return p, putMany(t, clustertest.Client(t, clustertest.URLs(p.DBs...)...), "set/", cacheLoadKeys, 300)
}

// disturb runs clients of the two other cache nodes, and of all three, while something happens
// to the first node and is undone again.
func disturb(t *testing.T, what string, happen, undo func(victim *clustertest.Process)) {
	p, want := startLoaded(t)
	victim, others := p.Caches[0], p.Caches[1:]
	loads := []*cacheLoad{directLoad(t, want, others...), clientLoad(t, want, p.Caches...)}
	phase := func(name string, begin func()) {
		phases := make([]*latencies, len(loads))
		for i, l := range loads {
			phases[i] = l.enter()
		}
		begin()
		for _, l := range loads {
			l.waitFor(phaseReads)
		}
		for i, l := range loads {
			l.enter() // nothing more is added to the phase
			t.Logf("%s %s: %s: %v", name, what, l.name, phases[i])
		}
	}
	phase("before", func() {})
	phase("during", func() {
		happen(victim)
		waitPeers(t, 1, others...)
	})
	phase("after", func() {
		undo(victim)
		victim.WaitReady()
		waitPeers(t, 2, p.Caches...)
	})
	for _, l := range loads {
		l.stop()
	}
	for i, s := range figures(t, others) {
		t.Logf("%s: %d gets, %d of them failed, %d answers of peers, %d failures of peers, %d database loads", others[i].Name, s.Gets, s.Errors, s.PeerLoads, s.PeerErrors, s.DatabaseLoads)
	}
}

// TestCacheTier_Kill9 and the following tests count errors that clients see; there must be
// none. The log shows how long they wait.
func TestCacheTier_Kill9(t *testing.T) {
	disturb(t, "kill -9", (*clustertest.Process).Kill9, (*clustertest.Process).Start)
}

// TestCacheTier_Stopped: a stopped process accepts connections and is silent on them. A client
// that was talking to it waits for its IdleTimeout.
func TestCacheTier_Stopped(t *testing.T) {
	disturb(t, "SIGSTOP",
		func(c *clustertest.Process) { c.Signal(syscall.SIGSTOP) },
		func(c *clustertest.Process) { c.Signal(syscall.SIGCONT) })
}

// TestCacheTier_RollingRestart restarts one cache node after the other.
func TestCacheTier_RollingRestart(t *testing.T) {
	p, want := startLoaded(t)
	through := clientLoad(t, want, p.Caches...)
	for i, c := range p.Caches {
		others := slices.Concat(p.Caches[:i], p.Caches[i+1:])
		direct := directLoad(t, want, others...)
		through.waitFor(phaseReads)
		direct.waitFor(phaseReads)
		ofClient, ofDirect := through.enter(), direct.enter()
		if code, took := c.Terminate(); code != 0 || took > stopMax {
			t.Errorf("%s: exit code %d after %v; want 0 within %v", c.Name, code, took, stopMax)
		}
		waitPeers(t, 1, others...)
		c.Start()
		c.WaitReady()
		waitPeers(t, 2, p.Caches...)
		through.waitFor(phaseReads)
		direct.waitFor(phaseReads)
		direct.stop()
		t.Logf("while %s was restarted: %s: %v; %s: %v", c.Name, through.name, ofClient, direct.name, ofDirect)
	}
	through.stop()
}
