package raftnode

import (
	"context"
	"sync"
	"time"
)

// signal wakes a goroutine that looks for work. Signals that it has not seen yet count
// as one.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// sleep returns after d, or with ctx's error as soon as that ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// atOnce calls f for each of a list, all at the same time, and returns the results in
// the order of the list.
func atOnce[T, R any](list []T, f func(T) R) []R {
	results := make([]R, len(list))
	var calls sync.WaitGroup
	for i, x := range list {
		calls.Go(func() { results[i] = f(x) })
	}
	calls.Wait()
	return results
}
