package budget

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// ErrShort is the error of whoever waited in vain.
var ErrShort = errors.New("there is not enough left")

// lookAgain is how often a waiter looks for holders that have become slow meanwhile.
const lookAgain = 100 * time.Millisecond

// lookPause is how long nobody looks again after a look found no holder that has to give way: a
// thousand waiters would spend more on looking than on what they wait for.
const lookPause = lookAgain / 10

// Budget hands out parts of a fixed amount, first come, first served. It is safe for concurrent
// use. A semaphore.Weighted does not tell how much is missing, which decides who gives way.
type Budget struct {
	mu      sync.Mutex
	free    int64
	waiters []*waiter
	holders map[*Holder]struct{}
	vain    time.Time // when somebody last looked for holders to end, and found none
}

type waiter struct {
	n     int64
	ready chan struct{} // closed when it has got n
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

// Acquire takes n. It waits for them for as long as wait, and ends the holders that must give
// way. Then it returns ErrShort, or ctx's error if that came first.
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

// giveUp stops waiting. What came at the same moment goes back.
func (b *Budget) giveUp(w *waiter, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiters, w); i >= 0 {
		b.waiters = slices.Delete(b.waiters, i, i+1)
		b.giveLocked(0) // those behind may fit
	} else {
		b.giveLocked(w.n)
	}
	return err
}

// Give gives n back.
func (b *Budget) Give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveLocked(n)
}

// giveLocked hands out to those who wait, in order.
func (b *Budget) giveLocked(n int64) {
	b.free += n
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
			short -= h.held // which is on its way
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

// firstToGo returns the holder that gives way before all others, nil if none has to: one that
// rests, else one of the address that holds most, else the one that has waited longest. mu is
// held.
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
		sooner := first == nil || rests && !firstRests
		if !sooner && rests == firstRests {
			sooner = cmp.Or(cmp.Compare(byAddress[first.from], byAddress[h.from]), since.Compare(firstSince)) < 0
		}
		if sooner {
			first, firstRests, firstSince = h, rests, since
		}
	}
	return first
}
