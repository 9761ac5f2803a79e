package load

import (
	"context"
	"time"
)

// due is when the i-th request of an open loop is due. It is computed from the
// start, and not from the request before, so that nothing adds up.
func (r *run) due(i uint64) time.Time {
	return r.started.Add(time.Duration(float64(i) / r.Rate * float64(time.Second)))
}

// pace hands out when requests are due, each at that time or, when all callers
// were busy, as soon as one is free. It closes out at the end.
func (r *run) pace(ctx context.Context, out chan<- time.Time) {
	defer close(out)
	var last <-chan time.Time
	if !r.end.IsZero() {
		end := time.NewTimer(time.Until(r.end))
		defer end.Stop()
		last = end.C
	}
	for i := uint64(0); ; i++ {
		at := r.due(i)
		if !r.begin(at) {
			return
		}
		if !r.wait(ctx, at) {
			return // not due before the interrupt
		}
		select {
		case out <- at:
			continue
		default:
		}
		select {
		case out <- at:
			continue
		case <-last:
		case <-ctx.Done():
		}
		r.leave(i, time.Now())
		return
	}
}

// leave counts the requests from the i-th on that were due before the end, and
// that nobody was free to send.
func (r *run) leave(i uint64, now time.Time) {
	shard := r.recorder.shard(0)
	for counted := uint64(0); ; i++ {
		at := r.due(i)
		if !at.Before(now) || r.over(at) || counted > 0 && !r.begin(at) {
			return
		}
		if counted++; !at.Before(r.from) {
			shard.unfinished(kindUnknown, now.Sub(at))
		}
	}
}

// waitUntil returns at t, or at once if that is over; false if ctx ended before.
func waitUntil(ctx context.Context, t time.Time) bool {
	left := time.Until(t)
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
