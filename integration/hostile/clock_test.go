package hostile

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// clock judges bystanders. Time for which other programs have taken the processors does not
// pass on it. The work of the nodes, even if an attack causes it, and all waiting do pass. It
// is safe for concurrent use.
type clock struct {
	end  context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	passed time.Duration
	at     time.Time // when that was, on the wall
	share  float64   // of the time since then that passes
	alarms map[*alarm]struct{}
}

// alarm ends something when the clock has passed it.
type alarm struct {
	at  time.Duration
	end context.CancelCauseFunc
}

// clockTick is how often the clock looks at what others do. shareMin is the least share of the
// time that always passes, so that every wait ends.
const (
	clockTick = 250 * time.Millisecond
	shareMin  = 1.0 / 12
)

func newClock() *clock {
	ctx, cancel := context.WithCancel(context.Background())
	c := &clock{end: cancel, done: make(chan struct{}), at: time.Now(), share: 1, alarms: make(map[*alarm]struct{})}
	go c.run(ctx)
	return c
}

// stop ends the clock.
func (c *clock) stop() {
	c.end()
	<-c.done
}

func (c *clock) run(ctx context.Context) {
	defer close(c.done)
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	before, ok := othersTime()
	at := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		share := 1.0
		if ok {
			others, known := othersTime()
			now := time.Now()
			if known {
				share = 1 - (others-before).Seconds()/(now.Sub(at).Seconds()*float64(runtime.NumCPU()))
			}
			before, at = others, now
		}
		c.tick(min(1, max(shareMin, share)))
	}
}

// tick records what share of the time passes from now on, and rings due alarms.
func (c *clock) tick(share float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed = c.nowLocked()
	c.at, c.share = time.Now(), share
	for a := range c.alarms {
		if a.at <= c.passed {
			a.end(context.DeadlineExceeded)
			delete(c.alarms, a)
		}
	}
}

// now returns how much time has passed.
func (c *clock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *clock) nowLocked() time.Duration {
	return c.passed + time.Duration(float64(time.Since(c.at))*c.share)
}

// within is context.WithTimeout on this clock, give or take a tick.
func (c *clock) within(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(parent)
	a := &alarm{end: end}
	c.mu.Lock()
	a.at = c.nowLocked() + d
	c.alarms[a] = struct{}{}
	c.mu.Unlock()
	return ctx, func() {
		c.mu.Lock()
		delete(c.alarms, a)
		c.mu.Unlock()
		end(context.Canceled)
	}
}

// TestClock: the remaining share passes, and waits end by it.
func TestClock(t *testing.T) {
	c := &clock{at: time.Now().Add(-time.Minute), share: 0.5, alarms: make(map[*alarm]struct{})}
	if got := c.now(); got < 30*time.Second || got > 40*time.Second {
		t.Errorf("%v of a minute have passed, want half of it", got)
	}
	soon, cancel := c.within(t.Context(), time.Nanosecond)
	defer cancel()
	later, cancel := c.within(t.Context(), time.Hour)
	defer cancel()
	c.tick(1)
	if context.Cause(soon) != context.DeadlineExceeded || later.Err() != nil {
		t.Errorf("ended: %v, and %v", context.Cause(soon), later.Err())
	}
	cancel()
	if len(c.alarms) != 0 || later.Err() == nil {
		t.Errorf("%d alarms are left", len(c.alarms))
	}
}
