package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Config is one measurement.
type Config struct {
	// Callers send the requests, each one at a time. Run does not close them.
	Callers []Caller

	// Next makes a request. It is called by many goroutines, each with a
	// generator and a request of its own.
	Next func(random *rand.Rand, r *Request)

	// Seed makes the generators.
	Seed uint64

	// Rate is how many requests are due in a second, in an open loop. 0 is a
	// closed one.
	Rate float64

	// Duration is how long to measure, and Requests how many; whichever is
	// over first ends it. One may be 0, for no limit. Answers that are owed at
	// the end are waited for, and count.
	Duration time.Duration
	Requests uint64

	// Warmup is a time before the measurement, with the same load.
	Warmup time.Duration

	// Interval is the time between figures of Result.OverTime; 0 is a second.
	Interval time.Duration

	// Progress, if not nil, is told the figures of each interval.
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

// Run makes the load until it is over or ctx ends, and returns what was measured.
// An error means that nothing was: cfg makes no sense.
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

// run is one measurement at work.
type run struct {
	Config
	started time.Time
	from    time.Time // the warm-up ends and the measurement begins
	end     time.Time // no request is begun from here on; zero for never
	begun   atomic.Uint64

	recorder *recorder
}

// over tells whether a request that is due at t comes too late.
func (r *run) over(t time.Time) bool { return !r.end.IsZero() && !t.Before(r.end) }

// begin tells whether a request that is due at t may be begun.
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
	errors  int // in a row
}

func (r *run) worker(i int) *worker {
	return &worker{run: r, caller: r.Callers[i], shard: r.recorder.shard(i), random: rand.New(rand.NewPCG(r.Seed, uint64(i)+1))}
}

// loop is the closed one.
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

// follow is the open loop of one caller.
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

// rest keeps a closed loop from doing nothing but fail: errors are mostly faster
// than answers.
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
