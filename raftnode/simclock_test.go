package raftnode

import (
	"math/rand/v2"
	"time"
)

// simClock is the clock of one machine: it is never right, goes too fast or too
// slow, and jumps when somebody sets it.
type simClock struct {
	rate  float64   // of raft's ticks too
	begun time.Time // when the world did
	at    time.Time
	read  time.Time // the true time at which it showed that
}

func newSimClock(r *rand.Rand) *simClock {
	now := time.Now()
	return &simClock{begun: now, rate: 0.9 + 0.2*r.Float64(), at: now.Add(time.Duration(r.Int64N(int64(4*time.Second))) - 2*time.Second), read: now}
}

func (c *simClock) now() time.Time {
	return c.at.Add(time.Duration(c.rate * float64(time.Since(c.read)))).Round(0)
}

// steady returns a time that goes as fast as the clock, and never jumps.
func (c *simClock) steady() time.Time {
	return time.Time{}.Add(time.Duration(c.rate * float64(time.Since(c.begun))))
}

// jump sets it, by seconds or by hours.
func (c *simClock) jump(r *rand.Rand) {
	most := []time.Duration{10 * time.Second, 3 * time.Hour}[r.IntN(2)]
	c.at, c.read = c.now().Add(time.Duration(r.Int64N(2*int64(most)))-most), time.Now()
}
