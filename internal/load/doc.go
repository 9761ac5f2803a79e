// Package load makes load and measures it. It knows neither what is loaded nor
// over which protocol: a Caller sends one request and waits for its answer; Run
// decides when, and keeps the figures. Workload decides which keys and values.
//
//	data, err := load.NewData(load.DataConfig{Prefix: "bench/r1/", Seed: 1, KeySize: load.Fixed(32), ValueSize: load.Fixed(256)})
//	…
//	work := &load.Workload{Mix: load.Only(load.Put), Puts: data}
//	result, err := load.Run(ctx, load.Config{Callers: callers, Next: work.Next, Rate: 5000, Duration: 30 * time.Second})
//	…
//	err = result.WriteSVG(f, "puts", "5000 a second")
//
// # Closed and open loop
//
// In a closed loop every caller sends its next request when the one before is
// answered. That finds how much a system can do. It says little about how long
// users wait: while the system stands still, the loop stands still with it, and
// the requests that users would have sent meanwhile, all of which would have been
// slow, are never measured. Gil Tene named this coordinated omission ("How NOT to
// Measure Latency", 2013; the tool wrk2).
//
// In an open loop (Config.Rate) request i is due at start + i/rate, whatever
// became of those before it. One goroutine, the pacer, hands each to whichever
// caller is free. The latency is the time from when the request was due, not from
// when it was sent, until its answer is complete. If the system stands still for a
// second at 1000 requests a second, 1000 requests have waited between a second and
// nothing, and the histogram has them all: as many as were due, not as many as
// there are callers. Those that could not even be sent before the end are counted
// as unfinished, and the histogram has the time that they had waited by then.
//
// # Invariants
//
//  1. Every goroutine is Run's, which waits for all of them: one for each
//     caller, the pacer of an open loop, and the collector, which takes the
//     figures of each interval. A Caller and a random generator belong to one
//     goroutine.
//  2. When a request is due depends on Config alone. Nothing that is measured
//     changes it.
//  3. Every request that was due in the measured time is counted once: as
//     answered, as an error, or as unfinished.
//  4. The latency histogram has the answered and the unfinished requests.
//     Errors have figures of their own: one that comes fast must not flatter.
//  5. The same seed gives the same keys and values, and to each caller the same
//     order of them. Which caller is faster is for the system to say.
//
// # Caveats
//
//   - In an open loop not more than len(Callers) requests are in flight. Others
//     wait for a free caller, and their latency says so.
//   - A histogram keeps three digits, from a microsecond to an hour.
//   - A load generator on the same machine takes processors from what it
//     measures.
package load
