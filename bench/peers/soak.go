package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/internal/load"
	"github.com/Focinfi/oncekv/internal/load/wire"
)

// soakMix is the mix of a soak's requests.
var soakMix = load.Mix{load.Get: 60, load.Put: 30, load.Absent: 10}

// soakBatch is how many keys a request sets while a soak is prepared.
const soakBatch = 500

// soakPart keeps the connections of all database nodes busy for long, and compares the last
// minute with the second: in the first, everything is still cold.
func (b *bench) soakPart(ctx context.Context) error {
	if !slices.Contains(b.Systems, "oncekv") {
		return nil
	}
	return b.with(ctx, lineup{systems: []string{"oncekv"}}, b.soak)
}

func (b *bench) soak(ctx context.Context) error {
	sys := b.systems[0]
	set, err := soakData("set/", 1)
	if err != nil {
		return err
	}
	puts, err := soakData("put/", 2)
	if err != nil {
		return err
	}
	requests := (b.Keys + soakBatch - 1) / soakBatch
	cfg := load.Config{Requests: uint64(requests), Next: (&load.Workload{Mix: load.Only(load.Batch), Puts: set, BatchKeys: soakBatch}).Next}
	for i := range b.Workers {
		c, err := wire.New(sys.oncekv.urls[i%nodes], answerLimit)
		if err != nil {
			return err
		}
		defer c.Close()
		cfg.Callers = append(cfg.Callers, c)
	}
	prepared, err := load.Run(ctx, cfg)
	if err := errors.Join(err, context.Cause(ctx)); err != nil {
		return err
	}
	if prepared.Errors > 0 {
		return fmt.Errorf("set the keys to be read: %s", prepared.ByError[0].First)
	}

	known := uint64(requests * soakBatch)
	work := &load.Workload{Mix: soakMix, Reads: set, Puts: puts, Pick: func(random *rand.Rand) uint64 { return random.Uint64N(known) }}
	cfg.Requests, cfg.Next = 0, work.Next
	cfg.Warmup, cfg.Duration, cfg.Interval = b.WarmUp, b.Soak.Truncate(b.SoakMinute), b.SoakMinute
	minute := 0
	cfg.Progress = func(i load.Interval) {
		minute++
		say("soak, minute %d: %.0f/s, p99 %.2f ms, %d errors\n", minute, i.PerSecond, i.Latency.P99, i.Errors)
	}
	before := cpuOf(sys)
	r, err := load.Run(ctx, cfg)
	if err := errors.Join(err, context.Cause(ctx), sys.ended()); err != nil {
		return err
	}
	b.soaked(r, cpuOf(sys).since(before))
	return nil
}

// soaked keeps the result of a soak.
func (b *bench) soaked(r *load.Result, used cpu) {
	m := measurementOf(r)
	m.spread(used, r.KeysPerSecond*r.Seconds)
	b.keep("oncekv/soak", b.Workers, m)
	c := curve{Name: "oncekv", Figure: "answers/s of the soak", Over: "minutes"}
	for _, i := range r.OverTime {
		c.Points = append(c.Points, i.PerSecond)
	}
	b.report.Curves = append(b.report.Curves, c)
	f := finding{Name: fmt.Sprintf("soak of %s: last minute ÷ second", minutes(b.Soak)), AtLeast: 0.97}
	if n := len(c.Points); n > 1 && c.Points[1] > 0 {
		f.Rounds = []float64{c.Points[n-1] / c.Points[1]}
	}
	b.report.found(f)
}

// minutes returns 10 minutes for 10m0s.
func minutes(d time.Duration) string {
	if d%time.Minute == 0 {
		return things(int(d/time.Minute), "minute")
	}
	return d.String()
}

// soakData returns keys and values of the usual sizes.
func soakData(prefix string, seed uint64) (*load.Data, error) {
	return load.NewData(load.DataConfig{Prefix: prefix, Seed: seed, KeySize: load.Fixed(keyBytes), ValueSize: load.Fixed(valueBytes)})
}
