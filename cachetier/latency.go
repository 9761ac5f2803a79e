package cachetier

import (
	"slices"
	"sync"
	"time"
)

const (
	latencyWindow  = 256 // measurements that quantiles are of: the last ones
	latencyRefresh = 16  // measurements between two computations of the 95th percentile
)

// latencyBounds are the upper ends of the buckets of a Latency, in seconds. An owner in the
// same room answers within a millisecond; a load takes 5 s at most.
var latencyBounds = [...]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// Latency is how long one kind of load took.
type Latency struct {
	Count    uint64 // since the process began, like Sum and Buckets
	Sum      time.Duration
	Buckets  map[float64]uint64 // how many took at most so many seconds
	P50, P99 time.Duration      // of the last 256; 0 of none
}

// latencies measures one kind of wait. It is safe for concurrent use.
type latencies struct {
	mu      sync.Mutex
	last    [latencyWindow]time.Duration
	count   uint64
	sum     time.Duration
	buckets [len(latencyBounds)]uint64 // how many ended in each; longer ones in none
	p95     time.Duration
}

func (l *latencies) observe(took time.Duration) {
	took = max(took, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[l.count%latencyWindow] = took
	l.count++
	l.sum += took
	if i, _ := slices.BinarySearch(latencyBounds[:], took.Seconds()); i < len(l.buckets) {
		l.buckets[i]++
	}
	if l.count%latencyRefresh == 1 {
		l.p95 = quantile(l.sortedLocked(), 0.95)
	}
}

func (l *latencies) sortedLocked() []time.Duration {
	sorted := slices.Clone(l.last[:min(l.count, latencyWindow)])
	slices.Sort(sorted)
	return sorted
}

// quantile returns the q-quantile of sorted measurements, 0 if there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// usual returns the 95th percentile of the last measurements, 0 of none. It lags behind by
// a few of them.
func (l *latencies) usual() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.p95
}

func (l *latencies) summary() Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	sorted := l.sortedLocked()
	s := Latency{Count: l.count, Sum: l.sum, Buckets: make(map[float64]uint64), P50: quantile(sorted, 0.50), P99: quantile(sorted, 0.99)}
	var below uint64
	for i, bound := range latencyBounds {
		below += l.buckets[i]
		s.Buckets[bound] = below
	}
	return s
}
