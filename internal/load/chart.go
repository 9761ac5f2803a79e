package load

import (
	"io"
	"math"
	"strconv"

	"github.com/Focinfi/oncekv/internal/chart"
)

// WriteSVG draws the result: answers over time, latency over time, and latency by percentile.
// title and subtitle are plain text.
func (r *Result) WriteSVG(w io.Writer, title, subtitle string) error {
	return chart.Write(w, title, subtitle, r.throughputPanel(), r.latencyPanel(), r.percentilePanel())
}

func (r *Result) throughputPanel() *chart.Lines {
	answers, errors := chart.Line{Name: "answers", Color: chart.Blue}, chart.Line{Name: "errors", Color: chart.Red}
	previous, failed := 0.0, false
	for _, i := range r.OverTime {
		answers.Add(i.Seconds, i.PerSecond)
		if length := i.Seconds - previous; length > 0 {
			errors.Add(i.Seconds, float64(i.Errors)/length)
		}
		failed = failed || i.Errors > 0
		previous = i.Seconds
	}
	p := &chart.Lines{Title: "Answers per second", Lines: []chart.Line{answers}, XTitle: "seconds"}
	if failed {
		p.Lines = append(p.Lines, errors)
	}
	p.Scale()
	return p
}

func (r *Result) latencyPanel() *chart.Lines {
	p50, p99, longest := chart.Line{Name: "p50", Color: chart.Green}, chart.Line{Name: "p99", Color: chart.Orange}, chart.Line{Name: "max", Color: chart.Red}
	for _, i := range r.OverTime {
		if i.Latency.Max == 0 { // nothing was answered
			continue
		}
		p50.Add(i.Seconds, i.Latency.P50)
		p99.Add(i.Seconds, i.Latency.P99)
		longest.Add(i.Seconds, i.Latency.Max)
	}
	p := &chart.Lines{Title: "Latency in milliseconds, as answers came", Lines: []chart.Line{longest, p99, p50}, XTitle: "seconds"}
	p.Scale()
	return p
}

// percentilePanel spreads the high percentiles: each nine is as wide as the next.
func (r *Result) percentilePanel() *chart.Lines {
	curve := chart.Line{Name: "latency", Color: chart.Blue}
	nines := 1.0
	for _, point := range r.Curve {
		if point.Percentile < 100 {
			nines = max(nines, ninesOf(point.Percentile))
		}
	}
	for _, point := range r.Curve {
		curve.Add(min(ninesOf(point.Percentile)/nines, 1), point.Milliseconds)
	}
	p := &chart.Lines{Title: "Latency in milliseconds, by percentile", Lines: []chart.Line{curve}, XTitle: "percent of the requests took no longer"}
	for _, percentile := range []float64{0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999} {
		if at := ninesOf(percentile) / nines; at <= 1 {
			p.XTicks = append(p.XTicks, chart.Tick{At: at, Text: strconv.FormatFloat(percentile, 'f', -1, 64)})
		}
	}
	return p
}

// ninesOf returns 1 for 90 %, 2 for 99 %, 3 for 99.9 %.
func ninesOf(percentile float64) float64 { return -math.Log10(1 - percentile/100) }
