package budget

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrShort is the error of whoever waited in vain.
var ErrShort = errors.New("there is not enough left")

// lookAgain is how often somebody who waits looks for holders that have become
// slow meanwhile.
const lookAgain = 100 * time.Millisecond

// lookPause is how long nobody looks again when there was none: a thousand who
// wait would else spend more on looking than on what they wait for.
const lookPause = lookAgain / 10

// Budget hands out parts of a fixed amount, first come, first served. It is safe
// for concurrent use.
type Budget struct {
	mu      sync.Mutex
	free    int64
	waiters []*waiter
	holders map[*Holder]struct{}
	vain    time.Time // when somebody last looked for holders to end and found none
}

// waiter is somebody who waits for n; ready is closed when they are handed over.
type waiter struct {
	n     int64
	ready chan struct{}
}

// New returns a budget of n.
func New(n int64) *Budget { return &Budget{free: n, holders: make(map[*Holder]struct{})} }

// Free is how much nobody holds.
func (b *Budget) Free() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.free
}

// Try takes n if they are free and nobody waits.
func (b *Budget) Try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tryLocked(n)
}

func (b *Budget) tryLocked(n int64) bool {
	if len(b.waiters) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// Acquire takes n. It waits for them for as long as wait and ends the holders that
// must give way; then it returns ErrShort, or ctx's error if that came first.
func (b *Budget) Acquire(ctx context.Context, n int64, wait time.Duration) error {
	b.mu.Lock()
	if b.tryLocked(n) {
		b.mu.Unlock()
		return nil
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	b.makeRoom()

	late := time.NewTimer(wait)
	defer late.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-w.ready:
			return nil
		case <-again.C:
			b.makeRoom()
		case <-late.C:
			return b.giveUp(w, ErrShort)
		case <-ctx.Done():
			return b.giveUp(w, ctx.Err())
		}
	}
}

// giveUp stops waiting; what came at the same moment goes back.
func (b *Budget) giveUp(w *waiter, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.waiters {
		if other == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.serveLocked() // those behind may fit
			return err
		}
	}
	b.free += w.n
	b.serveLocked()
	return err
}

// Give gives n back.
func (b *Budget) Give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveLocked(n)
}

func (b *Budget) giveLocked(n int64) {
	b.free += n
	b.serveLocked()
}

// serveLocked hands out to those who wait, in order.
func (b *Budget) serveLocked() {
	for len(b.waiters) > 0 && b.waiters[0].n <= b.free {
		b.free -= b.waiters[0].n
		close(b.waiters[0].ready)
		b.waiters = b.waiters[1:]
	}
}

// makeRoom ends as many holders as those who wait need.
func (b *Budget) makeRoom() {
	b.mu.Lock()
	now := time.Now()
	short := -b.free
	for _, w := range b.waiters {
		short += w.n
	}
	for h := range b.holders {
		if h.ended {
			short -= h.held // is on its way
		}
	}
	var ending []*Holder
	for short > 0 && len(b.waiters) > 0 && now.Sub(b.vain) >= lookPause {
		h := b.firstToGo(now)
		if h == nil {
			b.vain = now
			break
		}
		h.ended = true
		short -= h.held
		ending = append(ending, h)
	}
	b.mu.Unlock()
	for _, h := range ending {
		h.giveUp()
	}
}

// firstToGo returns the holder that gives way before all others, nil if none
// has to. mu is held.
func (b *Budget) firstToGo(now time.Time) (first *Holder) {
	byAddress := make(map[string]int64)
	for h := range b.holders {
		byAddress[h.from] += h.held
	}
	var firstRests bool
	var firstSince time.Time
	for h := range b.holders {
		rests, since, gives := h.givesWay(now)
		if h.ended || h.held == 0 || !gives {
			continue
		}
		if first == nil || before(rests, firstRests, byAddress[h.from], byAddress[first.from], since, firstSince) {
			first, firstRests, firstSince = h, rests, since
		}
	}
	return first
}

// before reports whether one holder gives way before another.
func before(rests, otherRests bool, held, otherHeld int64, since, otherSince time.Time) bool {
	switch {
	case rests != otherRests:
		return rests
	case held != otherHeld:
		return held > otherHeld
	}
	return since.Before(otherSince)
}
