package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/internal/load"
)

// operation sends one request of a worker and returns the number of its keys.
type operation func(ctx context.Context) (keys int, err error)

// caller makes an operation a load.Caller. The operation itself chooses the request and checks
// the answer: only the number of keys is kept.
type caller struct{ op operation }

func (c caller) Call(ctx context.Context, _ *load.Request, t *load.Tally) error {
	keys, err := c.op(ctx)
	t[load.Created] += uint64(keys)
	return err
}

func (caller) Close() error { return nil } // the opener of the operation closes it

// measurement is the result of a load.
type measurement struct {
	PerSecond float64 `json:"per_second"` // keys
	Requests  uint64  `json:"requests"`
	Errors    uint64  `json:"errors"` // including requests without an answer at the end
	P50       float64 `json:"p50_ms"` // latencies are 0 where many keys share a request
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	Max       float64 `json:"max_ms"`

	// The processor time of each key in microseconds.
	SystemCPU float64 `json:"system_cpu_us"` // of all nodes of the system
	LoaderCPU float64 `json:"loader_cpu_us"` // of this program

	firstError string
}

// answerLimit is how long answers may take after the end of the load. Later ones count as
// errors.
const answerLimit = 30 * time.Second

// loop describes how requests are made.
type loop struct {
	workers  int
	warmUp   time.Duration // before anything is counted
	duration time.Duration
	rate     float64 // requests a second; 0: each worker sends the next when it has the answer
}

// run makes requests for warmUp and then for duration. It calls open once for each worker,
// with the context of the whole loop.
func (l loop) run(ctx context.Context, sys *system, open func(ctx context.Context, worker int) (operation, func(), error)) (measurement, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(whole, l.warmUp+l.duration+answerLimit)
	defer cancel()
	cfg := load.Config{Rate: l.rate, Next: func(*rand.Rand, *load.Request) {}}
	for i := range l.workers {
		op, done, err := open(ctx, i)
		if err != nil {
			return measurement{}, err
		}
		defer done()
		cfg.Callers = append(cfg.Callers, caller{op})
	}
	if l.warmUp > 0 {
		warm := cfg
		warm.Duration = l.warmUp
		if _, err := load.Run(ctx, warm); err != nil {
			return measurement{}, err
		}
	}
	cfg.Duration = l.duration
	before := cpuOf(sys)
	r, err := load.Run(ctx, cfg)
	if err := errors.Join(err, context.Cause(whole)); err != nil {
		return measurement{}, err
	}
	m := measurementOf(r)
	m.spread(cpuOf(sys).since(before), r.KeysPerSecond*r.Seconds)
	return m, nil
}

func measurementOf(r *load.Result) measurement {
	m := measurement{
		PerSecond: r.KeysPerSecond, Requests: r.Requests, Errors: r.Errors + r.Unfinished,
		P50: r.Latency.P50, P90: r.Latency.P90, P99: r.Latency.P99, P999: r.Latency.P999, Max: r.Latency.Max,
	}
	if len(r.ByError) > 0 {
		m.firstError = r.ByError[0].First
	}
	return m
}

// spread divides processor time by keys.
func (m *measurement) spread(c cpu, keys float64) {
	if keys > 0 {
		m.SystemCPU, m.LoaderCPU = float64(c.system.Microseconds())/keys, float64(c.loader.Microseconds())/keys
	}
}

// bulk puts the first keys of a session as fast as it can. It calls acknowledged, from any
// goroutine, with the number of keys newly set.
type bulk func(ctx context.Context, s session, keys int, acknowledged func(n int)) error

// bulkRun is the result of a bulk.
type bulkRun struct {
	measurement
	Tenths []float64 `json:"tenths"` // keys a second in each tenth of the keys
}

// run puts the keys.
func (put bulk) run(ctx context.Context, sys *system, s session, keys int) (bulkRun, error) {
	start, before := time.Now(), cpuOf(sys)
	p := &progress{start: start, keys: keys}
	if err := put(ctx, s, keys, p.add); err != nil {
		return bulkRun{}, err
	}
	if p.done != keys {
		return bulkRun{}, fmt.Errorf("%d of %d keys were acknowledged", p.done, keys)
	}
	m := measurement{PerSecond: float64(keys) / time.Since(start).Seconds(), Requests: uint64(keys)}
	m.spread(cpuOf(sys).since(before), float64(keys))
	return bulkRun{m, p.tenths()}, nil
}

// progress records when each tenth of the keys was reached. mu guards the fields below it
// while the load runs.
type progress struct {
	start time.Time
	keys  int

	mu    sync.Mutex
	done  int
	marks []time.Duration
}

func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	for len(p.marks) < 10 && p.done >= p.keys*(len(p.marks)+1)/10 {
		p.marks = append(p.marks, time.Since(p.start))
	}
}

func (p *progress) tenths() []float64 {
	var rates []float64
	last := time.Duration(0)
	for _, at := range p.marks {
		rates = append(rates, float64(p.keys)/10/max(at-last, time.Microsecond).Seconds())
		last = at
	}
	return rates
}

// numbers hands out the numbers of keys in pieces. It is safe for concurrent use.
type numbers struct {
	next atomic.Int64
	end  int64
}

// take returns up to n numbers, from from to before to; none are left if they are equal.
func (d *numbers) take(n int64) (from, to int64) {
	to = d.next.Add(n)
	return min(to-n, d.end), min(to, d.end)
}
