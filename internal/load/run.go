package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes one measurement.
type Config struct {
	// Callers send the requests, each one at a time. Run does not close them.
	Callers []Caller

	// Next makes a request. Many goroutines call it, each with its own generator and request.
	Next func(random *rand.Rand, r *Request)

	// Seed seeds the generators.
	Seed uint64

	// Rate is the requests due a second in an open loop. 0 means a closed loop.
	Rate float64

	// Duration and Requests limit the measurement; the first to be reached ends it. One may be
	// 0, for no limit. Run waits for answers that are outstanding at the end, and counts them.
	Duration time.Duration
	Requests uint64

	// Warmup is a time of the same load before the measurement.
	Warmup time.Duration

	// Interval is the length of the intervals in Result.OverTime; 0 means a second.
	Interval time.Duration

	// Progress, if not nil, receives each interval.
	Progress func(Interval)

	// wait replaces waitPrecisely in tests, whose clock is not the kernel's.
	wait func(ctx context.Context, t time.Time) bool
}

func (c *Config) check() error {
	switch {
	case len(c.Callers) == 0:
		return errors.New("there is nobody to send requests")
	case c.Duration <= 0 && c.Requests == 0:
		return errors.New("a measurement needs an end: a duration or a number of requests")
	case c.Rate < 0 || c.Rate > rateMax:
		return errors.New("the rate must be between 0 and 10 million requests a second")
	}
	return nil
}

const rateMax = 10e6

// Run makes the load until it is over or ctx ends, and returns the measurements. An error
// means that cfg is invalid and nothing was measured.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	if cfg.wait == nil {
		cfg.wait = waitPrecisely
	}
	started := time.Now()
	r := &run{Config: cfg, started: started, from: started.Add(cfg.Warmup)}
	if cfg.Duration > 0 {
		r.end = r.from.Add(cfg.Duration)
	}
	r.recorder = newRecorder(len(cfg.Callers), r.from)
	stopCollector := r.startCollector()
	var loops sync.WaitGroup
	if cfg.Rate > 0 {
		due := make(chan time.Time)
		loops.Go(func() { r.pace(ctx, due) })
		for i := range cfg.Callers {
			loops.Go(func() { r.follow(ctx, i, due) })
		}
	} else {
		for i := range cfg.Callers {
			loops.Go(func() { r.loop(ctx, i) })
		}
	}
	loops.Wait()
	over := time.Now()
	stopCollector()
	return r.recorder.result(&r.Config, over, ctx.Err() != nil), nil
}

// run is a measurement under way.
type run struct {
	Config
	started time.Time
	from    time.Time // the warm-up ends and the measurement begins
	end     time.Time // no request begins from here on; zero: no end
	begun   atomic.Uint64

	recorder *recorder
}

// over reports whether a request due at t comes too late.
func (r *run) over(t time.Time) bool { return !r.end.IsZero() && !t.Before(r.end) }

// begin reports whether a request due at t may begin.
func (r *run) begin(t time.Time) bool {
	if r.over(t) {
		return false
	}
	return r.Requests == 0 || t.Before(r.from) || r.begun.Add(1) <= r.Requests
}

// worker is what one caller's goroutine owns.
type worker struct {
	*run
	caller  Caller
	shard   *shard
	random  *rand.Rand
	request Request
	errors  int // consecutive errors
}

func (r *run) worker(i int) *worker {
	return &worker{run: r, caller: r.Callers[i], shard: r.recorder.shard(i), random: rand.New(rand.NewPCG(r.Seed, uint64(i)+1))}
}

// loop is a caller's closed loop.
func (r *run) loop(ctx context.Context, i int) {
	w := r.worker(i)
	for ctx.Err() == nil {
		now := time.Now()
		if !r.begin(now) {
			return
		}
		w.call(ctx, now)
		w.rest(ctx)
	}
}

// follow is a caller's open loop.
func (r *run) follow(ctx context.Context, i int, due <-chan time.Time) {
	w := r.worker(i)
	for at := range due {
		w.call(ctx, at)
	}
}

// call sends one request that is, or was, due at the given time.
func (w *worker) call(ctx context.Context, due time.Time) {
	w.Next(w.random, &w.request)
	var tally Tally
	sent := time.Now()
	err := w.caller.Call(ctx, &w.request, &tally)
	done := time.Now()
	w.errors++
	if err == nil {
		w.errors = 0
	}
	if due.Before(w.from) {
		return
	}
	sample := sample{kind: w.request.Kind, latency: done.Sub(due), service: done.Sub(sent), tally: &tally}
	switch {
	case err == nil:
		w.shard.answered(sample)
	case ctx.Err() != nil: // cut off by the interrupt
		w.shard.unfinished(sample.kind, sample.latency)
	default:
		w.shard.failed(sample, err)
	}
}

// rest pauses after an error: errors are usually faster than answers, and a closed loop would
// do nothing but fail.
func (w *worker) rest(ctx context.Context) {
	const restMax = 100 * time.Millisecond
	if w.errors == 0 {
		return
	}
	pause := time.NewTimer(min(time.Millisecond<<min(w.errors, 10), restMax))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
}
