package bodies

import (
	"context"
	"time"
)

// pacer bounds how fast something goes: it is for one goroutine.
type pacer struct {
	rate int64 // bytes a second; zero: no bound
	free time.Time
}

// spend returns when n more bytes may be spent, or ctx ends.
func (p *pacer) spend(ctx context.Context, n int64) {
	if p.rate <= 0 || n <= 0 {
		return
	}
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	wait := time.NewTimer(p.free.Sub(now))
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
}
