package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// operation is one request of a worker; it returns how many keys it was about.
type operation func(ctx context.Context) (keys int, err error)

// load is how requests are made.
type load struct {
	workers  int
	warmUp   time.Duration // before anything is counted
	duration time.Duration
	rate     float64 // requests a second; 0: each worker sends the next when it has the answer
}

// measurement is what came of a load.
type measurement struct {
	PerSecond float64 `json:"per_second"` // keys
	Requests  int64   `json:"requests"`
	Errors    int64   `json:"errors"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	Max       float64 `json:"max_ms"`

	firstError error
}

const (
	latencyMax  = time.Minute
	answerLimit = 30 * time.Second // for what is on its way when the time is over
	errorsMax   = 1000             // then a case is given up
)

// tally counts what ended inside the measured time. Its worker owns it until
// the load is over.
type tally struct {
	times      *hdrhistogram.Histogram // µs
	keys       int64
	errors     int64
	firstError error
}

// window is the measured time.
type window struct{ from, to time.Time }

func (w window) has(t time.Time) bool { return !t.Before(w.from) && t.Before(w.to) }

// run makes requests for warmUp and duration, and waits for the last answers, for
// answerLimit; those that do not come are errors. What counts is, without a rate,
// what ended inside duration; with one, what was due there, whenever it ended.
// open is called once for each worker, with the context of the load, and returns
// its operation and what closes it.
func (l load) run(ctx context.Context, open func(ctx context.Context, worker int) (operation, func(), error)) (measurement, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(whole, l.warmUp+l.duration+answerLimit)
	defer cancel()
	ops := make([]operation, l.workers)
	for i := range ops {
		op, closeWorker, err := open(ctx, i)
		if err != nil {
			return measurement{}, err
		}
		defer closeWorker()
		ops[i] = op
	}
	start := time.Now()
	w := window{start.Add(l.warmUp), start.Add(l.warmUp + l.duration)}
	var next, errorCount atomic.Int64
	tallies := make([]tally, l.workers)
	var workers sync.WaitGroup
	for i, op := range ops {
		t := &tallies[i]
		t.times = hdrhistogram.New(1, latencyMax.Microseconds(), 3)
		workers.Go(func() {
			for ctx.Err() == nil && errorCount.Load() < errorsMax {
				due := time.Now()
				if l.rate > 0 {
					due = start.Add(time.Duration(float64(next.Add(1)) / l.rate * float64(time.Second)))
				}
				if !due.Before(w.to) || !waitUntil(ctx, due) {
					return
				}
				if !t.one(ctx, op, due, w, l.rate > 0) {
					errorCount.Add(1)
				}
			}
		})
	}
	workers.Wait()
	if err := context.Cause(whole); err != nil {
		return measurement{}, err
	}
	return sum(tallies, l.duration), nil
}

// one makes a request that was due then: what it waited for a free worker is
// part of its latency. It returns false when the request failed.
func (t *tally) one(ctx context.Context, op operation, due time.Time, w window, paced bool) bool {
	keys, err := op(ctx)
	end := time.Now()
	if err != nil {
		t.errors++
		if t.firstError == nil {
			t.firstError = err
		}
		return false
	}
	if paced && w.has(due) || !paced && w.has(end) {
		t.keys += int64(keys)
		_ = t.times.RecordValue(min(max(end.Sub(due), time.Microsecond), latencyMax).Microseconds()) // it is in range
	}
	return true
}

// waitUntil returns false if the context ends first.
func waitUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func sum(tallies []tally, d time.Duration) measurement {
	all := hdrhistogram.New(1, latencyMax.Microseconds(), 3)
	var m measurement
	var keys int64
	for i := range tallies {
		t := &tallies[i]
		all.Merge(t.times)
		keys += t.keys
		m.Errors += t.errors
		if m.firstError == nil && t.firstError != nil {
			m.firstError = fmt.Errorf("the first error: %w", t.firstError)
		}
	}
	ms := func(us int64) float64 { return float64(us) / 1000 }
	m.Requests, m.PerSecond, m.Max = all.TotalCount(), float64(keys)/d.Seconds(), ms(all.Max())
	m.P50, m.P90, m.P99, m.P999 = ms(all.ValueAtQuantile(50)), ms(all.ValueAtQuantile(90)), ms(all.ValueAtQuantile(99)), ms(all.ValueAtQuantile(99.9))
	return m
}
