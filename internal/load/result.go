package load

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what was measured. Other programs read its JSON: fields are added, not changed.
type Result struct {
	Started     time.Time `json:"started"` // the measurement, after the warm-up
	Seconds     float64   `json:"seconds"`
	Interrupted bool      `json:"interrupted,omitempty"` // before its end

	// Corrected: latencies count from when requests were due (an open loop), so coordinated
	// omission is corrected. False: from when they were sent.
	Corrected bool `json:"corrected"`

	Requests      uint64  `json:"requests"`   // requests with a good answer
	Errors        uint64  `json:"errors"`     // failed requests
	Unfinished    uint64  `json:"unfinished"` // due, but unanswered at the end; Latency includes their waits
	PerSecond     float64 `json:"per_second"` // of Requests
	KeysPerSecond float64 `json:"keys_per_second"`

	Latency Latency            `json:"milliseconds"`
	Service *Latency           `json:"service_milliseconds,omitempty"` // in an open loop: from when they were sent
	Kinds   map[string]ByKind  `json:"kinds"`
	Keys    map[string]uint64  `json:"keys_by_outcome"`
	ByError []ErrorCount       `json:"errors_by_kind"`
	Curve   []PercentileOfTime `json:"percentiles"`

	OverTime []Interval `json:"over_time"`
}

// Latency is in milliseconds, with three digits.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// ByKind describes one kind of requests.
type ByKind struct {
	Requests  uint64  `json:"requests"`
	PerSecond float64 `json:"per_second"`
	Latency   Latency `json:"milliseconds"`
}

// ErrorCount counts the errors of one kind.
type ErrorCount struct {
	Kind  string  `json:"kind"`
	Count uint64  `json:"count"`
	MaxMS float64 `json:"max_milliseconds"` // the longest
	First string  `json:"first"`            // text of the first
}

// Interval describes the interval that ends Seconds after the start.
type Interval struct {
	Seconds       float64 `json:"seconds"`
	Requests      uint64  `json:"requests"`
	PerSecond     float64 `json:"per_second"`
	KeysPerSecond float64 `json:"keys_per_second"`
	Errors        uint64  `json:"errors"`
	Latency       Latency `json:"milliseconds"`
}

// PercentileOfTime is a point of the curve: this percentage of requests took no longer.
type PercentileOfTime struct {
	Percentile   float64 `json:"percentile"`
	Milliseconds float64 `json:"milliseconds"`
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := h.ValueAtPercentilesSlice([]float64{50, 90, 99, 99.9})
	return Latency{
		Mean: math.Round(h.Mean()) / 1000, P50: ms(at[0]), P90: ms(at[1]), P99: ms(at[2]), P999: ms(at[3]), Max: ms(h.Max()),
	}
}

func ms(microseconds int64) float64 { return float64(microseconds) / 1000 }

// curvePercentiles are the points of Result.Curve, as far as there are enough requests.
var curvePercentiles = []float64{
	0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 96, 97, 98, 99,
	99.25, 99.5, 99.75, 99.9, 99.925, 99.95, 99.975, 99.99, 99.995, 99.999, 99.9999,
}

// curve ends with the maximum, at the percentile of a single request.
func curve(h *hdrhistogram.Histogram) []PercentileOfTime {
	n := float64(h.TotalCount())
	points := []PercentileOfTime{}
	if n == 0 {
		return points
	}
	last := 100 * (1 - 1/n)
	for _, p := range curvePercentiles {
		if p < last {
			points = append(points, PercentileOfTime{p, ms(h.ValueAtPercentile(p))})
		}
	}
	return append(points, PercentileOfTime{100, ms(h.Max())})
}

// result must be called after the collector has ended.
func (r *recorder) result(cfg *Config, over time.Time, interrupted bool) *Result {
	w := r.total
	seconds := max(over.Sub(r.from).Seconds(), 0)
	tally := w.tally()
	sum := &Result{
		Started: r.from, Seconds: seconds, Interrupted: interrupted, Corrected: cfg.Rate > 0,
		Requests: w.answered(), Errors: w.errors, Unfinished: w.unfinished,
		PerSecond: perSecond(w.answered(), seconds), KeysPerSecond: perSecond(tally.keys(), seconds),
		Latency: latencyOf(w.all), Kinds: map[string]ByKind{}, Keys: map[string]uint64{},
		ByError: w.errorCounts(), Curve: curve(w.all), OverTime: r.overTime,
	}
	if cfg.Rate > 0 {
		service := latencyOf(w.service)
		sum.Service = &service
	}
	for k, n := range tally {
		if n > 0 {
			sum.Keys[Outcome(k).String()] = n
		}
	}
	for k := range w.kinds {
		if h := w.kinds[k].latency; h != nil && h.TotalCount() > 0 {
			n := w.kinds[k].answered
			sum.Kinds[Kind(k).String()] = ByKind{Requests: n, PerSecond: perSecond(n, seconds), Latency: latencyOf(h)}
		}
	}
	return sum
}

func perSecond(n uint64, seconds float64) float64 {
	if seconds == 0 {
		return 0
	}
	return float64(n) / seconds
}
