// Package load makes load and measures it. It knows neither the target nor the protocol: a
// Caller sends one request and waits for its answer; Run decides when, and keeps the
// measurements. Workload decides which keys and values.
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
// In a closed loop every caller sends its next request when the previous one is answered. That
// finds how much a system can do. It says little about how long users wait: while the system
// stands still, the loop stands still too, and the requests that users would have sent
// meanwhile, all of them slow, are never measured. Gil Tene named this coordinated omission
// ("How NOT to Measure Latency", 2013; the tool wrk2).
//
// In an open loop (Config.Rate) request i is due at start + i/rate, whatever happened to those
// before it. One goroutine, the pacer, hands each to a free caller. The latency is the time
// from when the request was due, not from when it was sent, until its answer is complete. If
// the system stands still for a second at 1000 requests a second, 1000 requests have waited
// between a second and nothing, and the histogram has them all: as many as were due, not as
// many as there are callers. Requests that could not even be sent before the end count as
// unfinished, and the histogram has the time that they had waited by then.
//
// # Invariants
//
//  1. Run starts every goroutine and waits for all of them: one for each
//     caller, the pacer of an open loop, and the collector of the intervals. A
//     Caller and a random generator belong to one goroutine.
//  2. When a request is due depends only on Config. No measurement changes it.
//  3. Every request that was due in the measured time is counted once: as
//     answered, as an error, or as unfinished.
//  4. The latency histogram has the answered and the unfinished requests.
//     Errors are counted apart: fast errors must not flatter.
//  5. The same seed gives the same keys and values, and each caller the same
//     order of them. Which caller is faster depends on the system.
//
// # Caveats
//
//   - In an open loop at most len(Callers) requests are in flight. Others wait
//     for a free caller, and their latency shows it.
//   - A histogram keeps three digits, from a microsecond to an hour.
//   - A load generator on the same machine takes processor time from what it
//     measures.
package load
