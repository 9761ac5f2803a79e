package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// callFunc is a Caller.
type callFunc func(ctx context.Context, r *Request, t *Tally) error

func (f callFunc) Call(ctx context.Context, r *Request, t *Tally) error { return f(ctx, r, t) }
func (f callFunc) Close() error                                         { return nil }

// several returns n times the same caller.
func several(n int, f callFunc) []Caller {
	var callers []Caller
	for range n {
		callers = append(callers, f)
	}
	return callers
}

func nextPut(_ *rand.Rand, r *Request) { r.Kind = Put }

// until waits on the clock of the test.
func until(ctx context.Context, t time.Time) error {
	if !waitUntil(ctx, t) {
		return ctx.Err()
	}
	return nil
}

// stalls answers after a millisecond, but not between from and to.
func stalls(from, to time.Time) callFunc {
	return func(ctx context.Context, _ *Request, t *Tally) error {
		now := time.Now()
		if !now.Before(from) && now.Before(to) {
			now = to
		}
		t[Created]++
		return until(ctx, now.Add(time.Millisecond))
	}
}

func start(t *testing.T, cfg Config) *Result {
	t.Helper()
	cfg.wait = waitUntil
	if cfg.Next == nil {
		cfg.Next = nextPut
	}
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The system stands still for one of ten seconds. Users who come at a fixed rate see that in
// one of ten requests; a closed loop sees it in a handful of thousands.
func TestRun_StallIsInTheLatencyOfTheOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now().Add(5 * time.Second)
		open := start(t, Config{Callers: several(4, stalls(begin, begin.Add(time.Second))), Rate: 1000, Duration: 10 * time.Second})
		if open.Requests != 10_000 || open.Unfinished != 0 || !open.Corrected || open.PerSecond < 999 || open.PerSecond > 1001 {
			t.Errorf("%+v", open)
		}
		// A tenth was due in the stall, and waited for half a second on average; 4 callers,
		// with 4000 a second, then need a third of a second more.
		if l := open.Latency; l.P50 > 1.01 || l.P90 < 1 || l.P99 < 850 || l.P99 > 950 || l.Max < 1000 || l.Max > 1002 {
			t.Errorf("latency of the open loop %+v", l)
		}
		if s := open.Service; s == nil || s.P999 > 1.01 || s.Max < 1000 {
			t.Errorf("service time of the open loop %+v", s)
		}
		begin = time.Now().Add(5 * time.Second)
		closed := start(t, Config{Callers: several(4, stalls(begin, begin.Add(time.Second))), Duration: 10 * time.Second})
		if l := closed.Latency; closed.Corrected || closed.Service != nil || l.P999 > 1.01 || l.Max < 1000 {
			t.Errorf("the closed loop: %+v", closed)
		}
	})
}

// When a request is due does not depend on how long others take, and does not drift.
func TestRun_OpenLoopKeepsItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		r := start(t, Config{Rate: 3, Duration: 100 * time.Second, Callers: several(8, func(ctx context.Context, _ *Request, _ *Tally) error {
			mu.Lock()
			n := len(at)
			at = append(at, time.Since(begun))
			mu.Unlock()
			return until(ctx, time.Now().Add(time.Duration(n%7)*100*time.Millisecond))
		})})
		if r.Requests != 300 {
			t.Fatalf("%d requests", r.Requests)
		}
		for i, d := range at {
			if want := time.Duration(float64(i) / 3 * float64(time.Second)); d != want {
				t.Fatalf("request %d was sent at %v, want %v", i, d, want)
			}
		}
	})
}

// Requests for which no caller was free are not forgotten.
func TestRun_OverloadIsUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Config{Rate: 10, Duration: time.Second, Callers: several(2, func(ctx context.Context, _ *Request, _ *Tally) error {
			return until(ctx, time.Now().Add(3*time.Second))
		})})
		if r.Requests != 2 || r.Unfinished != 8 || r.Errors != 0 || r.Latency.Max < 3000 || r.Latency.P50 < 390 || r.Latency.P50 > 510 {
			t.Errorf("%+v", r)
		}
	})
}

func TestRun_InterruptShowsWhatThereIs(t *testing.T) {
	for _, rate := range []float64{0, 10} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(2550*time.Millisecond, cancel)
			hangs := time.Now().Add(2 * time.Second)
			r, err := Run(ctx, Config{Rate: rate, Duration: time.Hour, Next: nextPut, wait: waitUntil, Callers: several(3, func(ctx context.Context, _ *Request, _ *Tally) error {
				if !time.Now().Before(hangs) {
					<-ctx.Done()
					return ctx.Err()
				}
				return until(ctx, time.Now().Add(100*time.Millisecond))
			})})
			if err != nil {
				t.Fatal(err)
			}
			want := map[float64][2]uint64{0: {60, 3}, 10: {20, 6}}[rate]
			if !r.Interrupted || r.Requests != want[0] || r.Unfinished != want[1] || r.Errors != 0 || r.Seconds != 2.55 {
				t.Errorf("rate %v: %+v", rate, r)
			}
			if r.Latency.Max < 549 || r.Latency.Max > 551 {
				t.Errorf("rate %v: those that were cut off had waited for 550 ms, not %v", rate, r.Latency.Max)
			}
		})
	}
}

func TestRun_WarmupAndRequests(t *testing.T) {
	for _, rate := range []float64{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			r := start(t, Config{Rate: rate, Requests: 70, Warmup: 5 * time.Second, Interval: 100 * time.Millisecond, Callers: []Caller{callFunc(func(ctx context.Context, _ *Request, tally *Tally) error {
				calls++
				tally[Created]++
				return until(ctx, time.Now().Add(10*time.Millisecond))
			})}})
			if calls != 570 || r.Requests != 70 || r.Keys["created"] != 70 || r.Kinds["put"].Requests != 70 {
				t.Errorf("rate %v: %d calls, %+v", rate, calls, r)
			}
			var sum uint64
			for i, o := range r.OverTime {
				sum += o.Requests
				if want := float64(i+1) / 10; o.Seconds < want-0.001 || o.Seconds > want+0.011 {
					t.Errorf("rate %v: interval %d ends at %v", rate, i, o.Seconds)
				}
			}
			if sum != 70 {
				t.Errorf("rate %v: %d requests over time", rate, sum)
			}
		})
	}
}

func TestRun_ErrorsHaveFiguresOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := start(t, Config{Requests: 100, Callers: []Caller{callFunc(func(ctx context.Context, _ *Request, tally *Tally) error {
			n++
			switch {
			case n%10 == 0:
				return &Failure{Kind: "HTTP 503", Err: errors.New("no leader")}
			case n == 55:
				until(ctx, time.Now().Add(2*time.Second))
				return &Failure{Kind: "timeout", Err: errors.New("too slow")}
			case n == 56:
				return errors.New("what is this")
			}
			tally[Found]++
			return until(ctx, time.Now().Add(time.Millisecond))
		})}})
		want := []ErrorCount{{"HTTP 503", 10, 0, "no leader"}, {"other", 1, 0, "what is this"}, {"timeout", 1, 2000, "too slow"}}
		if !slices.Equal(r.ByError, want) || r.Requests != 88 || r.Errors != 12 || r.Keys["found"] != 88 || r.Latency.Max > 1.01 {
			t.Errorf("%+v", r)
		}
	})
}

// A closed loop that only fails must not become a busy loop.
func TestRun_ClosedLoopRestsAfterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Config{Duration: 10 * time.Second, Callers: several(1, func(context.Context, *Request, *Tally) error {
			return errors.New("refused")
		})})
		if r.Requests != 0 || r.Errors < 50 || r.Errors > 110 {
			t.Errorf("%d errors in ten seconds", r.Errors)
		}
	})
}

func TestRun_RefusesWhatHasNoEnd(t *testing.T) {
	none := several(1, func(context.Context, *Request, *Tally) error { return nil })
	for _, cfg := range []Config{{}, {Callers: none}, {Callers: none, Duration: 1, Rate: -1}, {Duration: 1}} {
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%+v was run", cfg)
		}
	}
}

// On the kernel's clock, too, no request is sent before it is due.
func TestWaitPrecisely(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, 0, 50 * time.Microsecond, 3 * time.Millisecond} {
		at := time.Now().Add(d)
		if !waitPrecisely(t.Context(), at) || time.Now().Before(at) {
			t.Errorf("a wait of %v ended %v early", d, time.Until(at))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if waitPrecisely(ctx, time.Now().Add(time.Hour)) {
		t.Error("an interrupted wait claims that it is over")
	}
}
