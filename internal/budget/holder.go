package budget

import (
	"context"
	"sync"
	"time"
)

// SlowBytesPerSecond is what a client must move on average to be left alone when others are
// short of what its holder holds.
const SlowBytesPerSecond = 16 << 10

// Holder holds a part of a Budget for a client that may be slow. Acquire, Try, Give, Keep and
// Close belong to one goroutine at a time. The others are safe for concurrent use.
type Holder struct {
	budget *Budget
	from   string
	grace  time.Duration

	held  int64 // guarded by budget.mu
	ended bool  // guarded by budget.mu

	ending sync.Mutex // held while end is called
	end    func()     // nil: closed

	mu    sync.Mutex // after budget.mu
	state state
	since time.Time     // when the state began
	spent time.Duration // waiting for the client before that, as far as it is measured
	moved int64         // bytes in that time
}

type state int

const (
	working state = iota // on anything but the client
	waiting              // for the client
	resting              // there is nothing to do
)

// Hold returns a holder of nothing yet. from is the address of its client, which may be slow
// for as long as grace. end makes the holder's owner give up. It is called at most once,
// without locks, and not after Close has returned; it must not block.
func (b *Budget) Hold(from string, grace time.Duration, end func()) *Holder {
	h := &Holder{budget: b, from: from, grace: grace, end: end}
	b.mu.Lock()
	b.holders[h] = struct{}{}
	b.mu.Unlock()
	return h
}

// Of reports whether it holds a part of b.
func (h *Holder) Of(b *Budget) bool { return h.budget == b }

// Try is Budget.Try.
func (h *Holder) Try(n int64) bool {
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	if !h.budget.tryLocked(n) {
		return false
	}
	h.held += n
	return true
}

// Acquire is Budget.Acquire.
func (h *Holder) Acquire(ctx context.Context, n int64, wait time.Duration) error {
	if h.Try(n) {
		return nil
	}
	if err := h.budget.Acquire(ctx, n, wait); err != nil {
		return err
	}
	h.budget.mu.Lock()
	h.held += n
	h.budget.mu.Unlock()
	return nil
}

// Give gives n of what is held back.
func (h *Holder) Give(n int64) {
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	h.held -= n
	h.budget.giveLocked(n)
}

// Keep gives back what is held beyond n.
func (h *Holder) Keep(n int64) {
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	if spare := h.held - n; spare > 0 {
		h.held -= spare
		h.budget.giveLocked(spare)
	}
}

func (h *Holder) giveUp() {
	h.ending.Lock()
	defer h.ending.Unlock()
	if h.end != nil {
		h.end()
	}
}

// Close gives everything back.
func (h *Holder) Close() {
	h.ending.Lock()
	h.end = nil
	h.ending.Unlock()
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	delete(h.budget.holders, h)
	h.budget.giveLocked(h.held)
	h.held = 0
}

// Waiting says that the owner waits for the client from now on.
func (h *Holder) Waiting() { h.become(waiting) }

// Working says that there is something to do again. It ends resting, and nothing else.
func (h *Holder) Working() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == resting {
		h.becomeLocked(working)
	}
}

// Resting says that there is nothing to do: whoever rests gives way at once.
func (h *Holder) Resting() { h.become(resting) }

// Moved says that n bytes have come or gone, and that the owner no longer waits for the client.
func (h *Holder) Moved(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.moved += int64(n)
	h.becomeLocked(working)
}

func (h *Holder) become(next state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.becomeLocked(next)
}

func (h *Holder) becomeLocked(next state) {
	if h.state == next {
		return
	}
	now := time.Now()
	if h.state == waiting {
		h.spent += now.Sub(h.since)
	}
	// Old measurements say nothing about now and are dropped, except those of a client that
	// is too slow.
	if h.spent >= h.grace && !slow(h.moved, h.spent) {
		h.spent, h.moved = 0, 0
	}
	h.state, h.since = next, now
}

func slow(moved int64, spent time.Duration) bool {
	return float64(moved) < SlowBytesPerSecond*spent.Seconds()
}

// givesWay reports whether the holder has to give way, and since when it has kept others
// waiting.
func (h *Holder) givesWay(now time.Time) (rests bool, since time.Time, gives bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.state {
	case resting:
		return true, h.since, true
	case waiting:
		spent := h.spent + now.Sub(h.since)
		silent := now.Sub(h.since) >= h.grace
		return false, now.Add(-spent), silent || spent >= h.grace && slow(h.moved, spent)
	}
	return false, h.since, false
}
