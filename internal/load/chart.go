package load

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// The picture, in pixels.
const (
	chartWidth  = 960
	chartLeft   = 84
	chartRight  = 36
	panelHeight = 190
	panelGap    = 74
	chartTop    = 110
)

// WriteSVG draws the result: answers over time, latency over time, and the
// latency by percentile. title and subtitle are plain text.
func (r *Result) WriteSVG(w io.Writer, title, subtitle string) error {
	panels := []panel{r.throughputPanel(), r.latencyPanel(), r.percentilePanel()}
	height := chartTop + len(panels)*(panelHeight+panelGap)
	c := &canvas{w: bufio.NewWriter(w)}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui,sans-serif" font-size="13" fill="#333">`+"\n", chartWidth, height, chartWidth, height)
	c.printf(`<title>%s</title>`+"\n", escape(title))
	c.printf(`<rect width="100%%" height="100%%" fill="#fff"/>` + "\n")
	c.text(chartLeft, 36, `font-size="20" font-weight="600"`, title)
	c.text(chartLeft, 58, `fill="#666"`, subtitle)
	for i, p := range panels {
		c.panel(p, float64(chartTop+i*(panelHeight+panelGap)))
	}
	c.printf("</svg>\n")
	return c.w.Flush()
}

// panel is one diagram. Its x values are placed by x, from 0 to 1.
type panel struct {
	title  string
	lines  []line
	xTicks []tick
	xTitle string
}

type line struct {
	name  string
	color string
	x, y  []float64
}

type tick struct {
	at   float64 // from 0 to 1
	text string
}

const (
	blue   = "#2563eb"
	green  = "#0d9488"
	orange = "#d97706"
	red    = "#dc2626"
)

func (r *Result) throughputPanel() panel {
	answers, errors := line{name: "answers", color: blue}, line{name: "errors", color: red}
	previous, failed := 0.0, false
	for _, i := range r.OverTime {
		answers.add(i.Seconds, i.PerSecond)
		if length := i.Seconds - previous; length > 0 {
			errors.add(i.Seconds, float64(i.Errors)/length)
		}
		failed = failed || i.Errors > 0
		previous = i.Seconds
	}
	p := panel{title: "Answers per second", lines: []line{answers}, xTitle: "seconds"}
	if failed {
		p.lines = append(p.lines, errors)
	}
	p.timeAxis()
	return p
}

func (r *Result) latencyPanel() panel {
	p50, p99, longest := line{name: "p50", color: green}, line{name: "p99", color: orange}, line{name: "max", color: red}
	for _, i := range r.OverTime {
		if i.Latency.Max == 0 { // nothing was answered
			continue
		}
		p50.add(i.Seconds, i.Latency.P50)
		p99.add(i.Seconds, i.Latency.P99)
		longest.add(i.Seconds, i.Latency.Max)
	}
	p := panel{title: "Latency in milliseconds, as answers came", lines: []line{longest, p99, p50}, xTitle: "seconds"}
	p.timeAxis()
	return p
}

// percentilePanel spreads the high percentiles: each nine is as wide as the next.
func (r *Result) percentilePanel() panel {
	curve := line{name: "latency", color: blue}
	nines := 1.0
	for _, point := range r.Curve {
		if point.Percentile < 100 {
			nines = max(nines, ninesOf(point.Percentile))
		}
	}
	for _, point := range r.Curve {
		curve.add(min(ninesOf(point.Percentile)/nines, 1), point.Milliseconds)
	}
	p := panel{title: "Latency in milliseconds, by percentile", lines: []line{curve}, xTitle: "percent of the requests took no longer"}
	for _, percentile := range []float64{0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999} {
		if at := ninesOf(percentile) / nines; at <= 1 {
			p.xTicks = append(p.xTicks, tick{at, strconv.FormatFloat(percentile, 'f', -1, 64)})
		}
	}
	return p
}

// ninesOf is 1 for 90 %, 2 for 99 %, 3 for 99.9 %.
func ninesOf(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

// add draws the figure y of what ended at x. The first began at 0.
func (l *line) add(x, y float64) {
	if len(l.x) == 0 {
		l.x, l.y = append(l.x, 0), append(l.y, y)
	}
	l.x, l.y = append(l.x, x), append(l.y, y)
}

// timeAxis scales x from seconds.
func (p *panel) timeAxis() {
	longest := 0.0
	for _, l := range p.lines {
		for _, x := range l.x {
			longest = max(longest, x)
		}
	}
	if longest == 0 {
		return
	}
	for _, l := range p.lines {
		for i := range l.x {
			l.x[i] /= longest
		}
	}
	for _, t := range roundTicks(longest, 10) {
		if t <= longest {
			p.xTicks = append(p.xTicks, tick{t / longest, number(t)})
		}
	}
}

// roundTicks are round numbers from 0 to the first that is not below top, about n.
func roundTicks(top float64, n int) []float64 {
	if !(top > 0) {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(top/float64(n))))
	for _, factor := range []float64{1, 2, 5, 10} {
		if step*factor*float64(n) >= top {
			step *= factor
			break
		}
	}
	ticks := []float64{0}
	for i := 1; ticks[len(ticks)-1] < top; i++ {
		ticks = append(ticks, float64(i)*step)
	}
	return ticks
}

// number is short: 12000 is 12k.
func number(f float64) string {
	switch {
	case f >= 1e6:
		return strconv.FormatFloat(f/1e6, 'g', 4, 64) + "M"
	case f >= 1e4:
		return strconv.FormatFloat(f/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(f, 'g', 4, 64)
}

// canvas writes elements. The first error stays in w until it is flushed.
type canvas struct{ w *bufio.Writer }

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(c.w, format, args...) }

func (c *canvas) text(x, y float64, attributes, text string) {
	c.printf(`<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, escape(text))
}

func escape(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text)) // a Builder does not fail
	return b.String()
}

func (c *canvas) panel(p panel, top float64) {
	const left, right = float64(chartLeft), float64(chartWidth - chartRight)
	highest := 0.0
	for _, l := range p.lines {
		for _, y := range l.y {
			highest = max(highest, y)
		}
	}
	ticks := roundTicks(highest, 5)
	highest = ticks[len(ticks)-1]
	bottom := top + panelHeight
	c.text(left, top-14, `font-weight="600"`, p.title)
	for _, t := range ticks {
		y := bottom - t/highest*panelHeight
		c.printf(`<path d="M%.1f %.1fH%.1f" stroke="#e5e7eb"/>`+"\n", left, y, right)
		c.text(left-8, y+4, `text-anchor="end" fill="#666"`, number(t))
	}
	for _, t := range p.xTicks {
		x := left + t.at*(right-left)
		c.printf(`<path d="M%.1f %.1fv5" stroke="#9ca3af"/>`+"\n", x, bottom)
		c.text(x, bottom+19, `text-anchor="middle" fill="#666"`, t.text)
	}
	c.text(right, bottom+36, `text-anchor="end" fill="#666"`, p.xTitle)
	for i, l := range p.lines {
		c.line(l, left, right, bottom, highest)
		if len(p.lines) > 1 {
			c.text(right-float64(i)*70, top-14, fmt.Sprintf(`text-anchor="end" fill="%s" font-weight="600"`, l.color), l.name)
		}
	}
}

func (c *canvas) line(l line, left, right, bottom, highest float64) {
	if len(l.x) == 0 {
		return
	}
	var path strings.Builder
	for i := range l.x {
		command := 'L'
		if i == 0 {
			command = 'M'
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", command, left+l.x[i]*(right-left), bottom-l.y[i]/highest*panelHeight)
	}
	c.printf(`<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"/>`+"\n", path.String(), l.color)
}
