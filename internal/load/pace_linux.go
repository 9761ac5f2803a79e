package load

import (
	"context"
	"syscall"
	"time"
)

// waitPrecisely is waitUntil without the delay of Go's timers, which is up to a millisecond
// when nothing else runs, because epoll counts in milliseconds: it would be in every latency.
// The last milliseconds are a sleep in the kernel, which is late by some 60 microseconds and
// blocks a thread.
func waitPrecisely(ctx context.Context, t time.Time) bool {
	const coarse = 2 * time.Millisecond
	if !waitUntil(ctx, t.Add(-coarse)) {
		return false
	}
	for ctx.Err() == nil {
		left := time.Until(t)
		if left <= 0 {
			return true
		}
		nap := syscall.NsecToTimespec(int64(left))
		syscall.Nanosleep(&nap, nil) // a signal may end it early
	}
	return false
}
