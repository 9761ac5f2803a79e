package load

import (
	"context"
	"time"
)

// due returns when the i-th request of an open loop is due. It counts from the start, not from
// the request before, so that errors do not add up.
func (r *run) due(i uint64) time.Time {
	return r.started.Add(time.Duration(float64(i) / r.Rate * float64(time.Second)))
}

// pace hands out due times, each at its time or, if all callers are busy, as soon as one is
// free. It closes out at the end.
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

// leave counts the requests from the i-th on that were due before the end and for which no
// caller was free.
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

// waitUntil returns at t, or at once if t has passed; false if ctx ended first.
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
