package kvstore

import (
	"context"
	"sync"
	"time"
)

// byteBudget hands out bytes of a fixed amount, first come, first served.
type byteBudget struct {
	mu      sync.Mutex
	free    int64
	waiters []*budgetWaiter
}

// budgetWaiter is somebody who waits for n bytes; ready is closed when they are
// handed over.
type budgetWaiter struct {
	n     int64
	ready chan struct{}
}

func newByteBudget(n int64) *byteBudget { return &byteBudget{free: n} }

// try takes n bytes if they are free and nobody waits.
func (b *byteBudget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// acquire takes n bytes, waiting for them up to wait; then it returns
// ErrOverloaded, or ctx's error if that came first.
func (b *byteBudget) acquire(ctx context.Context, n int64, wait time.Duration) error {
	if b.try(n) {
		return nil
	}
	b.mu.Lock()
	w := &budgetWaiter{n: n, ready: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.serveLocked()
	b.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.ready:
		return nil
	case <-timer.C:
		return b.giveUp(w, ErrOverloaded)
	case <-ctx.Done():
		return b.giveUp(w, ctx.Err())
	}
}

// giveUp stops waiting; if the bytes came at the same moment they go back.
func (b *byteBudget) giveUp(w *budgetWaiter, err error) error {
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

// release gives n bytes back.
func (b *byteBudget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.serveLocked()
}

// serveLocked hands bytes to those who wait, in order. mu is held.
func (b *byteBudget) serveLocked() {
	for len(b.waiters) > 0 && b.waiters[0].n <= b.free {
		b.free -= b.waiters[0].n
		close(b.waiters[0].ready)
		b.waiters = b.waiters[1:]
	}
}
