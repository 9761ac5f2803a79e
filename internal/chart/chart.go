package chart

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Width is the width of every picture in pixels.
const Width = 960

// Positions in the picture in pixels.
const (
	left        = 84
	right       = Width - 36
	top         = 110
	panelHeight = 190
	panelGap    = 74
)

// Colors of lines and bars.
const (
	Blue   = "#2563eb"
	Green  = "#0d9488"
	Orange = "#d97706"
	Red    = "#dc2626"
	Grey   = "#9ca3af"
)

// Panel is one diagram of a picture: *Lines or *Bars.
type Panel interface {
	height() float64
	draw(c *canvas, top float64)
}

// Write draws panels below one another. title and subtitle are plain text.
func Write(w io.Writer, title, subtitle string, panels ...Panel) error {
	height := float64(top)
	for _, p := range panels {
		height += p.height()
	}
	c := &canvas{w: bufio.NewWriter(w)}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" font-family="system-ui,sans-serif" font-size="13" fill="#333">`+"\n", Width, height, Width, height)
	c.printf(`<title>%s</title>`+"\n", escape(title))
	c.printf(`<rect width="100%%" height="100%%" fill="#fff"/>` + "\n")
	c.text(left, 36, `font-size="20" font-weight="600"`, title)
	c.text(left, 58, `fill="#666"`, subtitle)
	y := float64(top)
	for _, p := range panels {
		p.draw(c, y)
		y += p.height()
	}
	c.printf("</svg>\n")
	return c.w.Flush()
}

// Lines is a diagram of curves over the same axis.
type Lines struct {
	Title  string
	Lines  []Line
	XTicks []Tick
	XTitle string
}

// Line is a curve. When it is drawn, its X are from 0 to 1.
type Line struct {
	Name  string
	Color string
	X, Y  []float64
}

// Tick is a mark on the axis.
type Tick struct {
	At   float64 // from 0 to 1
	Text string
}

// Add appends the value y of an interval that ended at x. The first began at 0.
func (l *Line) Add(x, y float64) {
	if len(l.X) == 0 {
		l.X, l.Y = append(l.X, 0), append(l.Y, y)
	}
	l.X, l.Y = append(l.X, x), append(l.Y, y)
}

// Scale scales X values to 0 to 1, and makes an axis from 0 to the greatest.
func (p *Lines) Scale() {
	longest := 0.0
	for _, l := range p.Lines {
		for _, x := range l.X {
			longest = max(longest, x)
		}
	}
	if longest == 0 {
		return
	}
	for _, l := range p.Lines {
		for i := range l.X {
			l.X[i] /= longest
		}
	}
	for _, t := range roundTicks(longest, 10) {
		if t <= longest {
			p.XTicks = append(p.XTicks, Tick{t / longest, Number(t)})
		}
	}
}

func (p *Lines) height() float64 { return panelHeight + panelGap }

func (p *Lines) draw(c *canvas, top float64) {
	highest := 0.0
	for _, l := range p.Lines {
		for _, y := range l.Y {
			highest = max(highest, y)
		}
	}
	ticks := roundTicks(highest, 5)
	highest = ticks[len(ticks)-1]
	bottom := top + panelHeight
	c.text(left, top-14, `font-weight="600"`, p.Title)
	for _, t := range ticks {
		y := bottom - t/highest*panelHeight
		c.printf(`<path d="M%.1f %.1fH%.1f" stroke="#e5e7eb"/>`+"\n", float64(left), y, float64(right))
		c.text(left-8, y+4, `text-anchor="end" fill="#666"`, Number(t))
	}
	for _, t := range p.XTicks {
		x := left + t.At*(right-left)
		c.printf(`<path d="M%.1f %.1fv5" stroke="#9ca3af"/>`+"\n", x, bottom)
		c.text(x, bottom+19, `text-anchor="middle" fill="#666"`, t.Text)
	}
	c.text(right, bottom+36, `text-anchor="end" fill="#666"`, p.XTitle)
	for i, l := range p.Lines {
		c.line(l, bottom, highest)
		if len(p.Lines) > 1 {
			c.text(right-float64(i)*70, top-14, fmt.Sprintf(`text-anchor="end" fill="%s" font-weight="600"`, l.Color), l.Name)
		}
	}
}

// Bars is a diagram of named values, one below the other.
type Bars struct {
	Title string
	Bars  []Bar
	Mark  float64 // a value marked by a line through all bars; 0: none
}

// Bar is one bar.
type Bar struct {
	Name  string
	Value float64
	Text  string // beside the bar
	Color string
}

// Positions in a diagram of bars in pixels.
const (
	barsLeft  = 500 // names end there, and have room for some 75 characters
	barsRight = Width - 150
	barHeight = 16
	barPitch  = 24
)

func (p *Bars) height() float64 { return float64(len(p.Bars))*barPitch + panelGap }

func (p *Bars) draw(c *canvas, top float64) {
	longest := p.Mark
	for _, b := range p.Bars {
		longest = max(longest, b.Value)
	}
	if !(longest > 0) {
		longest = 1
	}
	scale := (barsRight - barsLeft) / longest
	c.text(left, top-14, `font-weight="600"`, p.Title)
	for i, b := range p.Bars {
		y, length := top+float64(i)*barPitch, max(b.Value, 0)*scale
		c.text(barsLeft-10, y+13, `text-anchor="end" font-size="12"`, b.Name)
		c.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`+"\n", float64(barsLeft), y, length, barHeight, b.Color)
		if mark := p.Mark * scale; length < mark {
			length = mark // the line would go through the text
		}
		c.text(barsLeft+length+8, y+13, `fill="#666"`, b.Text)
	}
	if p.Mark > 0 {
		c.printf(`<path d="M%.1f %.1fv%.1f" stroke="#333" stroke-dasharray="4 3"/>`+"\n", barsLeft+p.Mark*scale, top-6, float64(len(p.Bars))*barPitch)
	}
}

// roundTicks returns about n round numbers from 0 to the first that is not below top.
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

// Number formats a number briefly: 12000 is 12k.
func Number(f float64) string {
	switch {
	case f >= 1e6:
		return strconv.FormatFloat(f/1e6, 'g', 4, 64) + "M"
	case f >= 1e4:
		return strconv.FormatFloat(f/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(f, 'g', 4, 64)
}

// canvas writes elements. The first error stays in w until the flush.
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

func (c *canvas) line(l Line, bottom, highest float64) {
	if len(l.X) == 0 {
		return
	}
	var path strings.Builder
	for i := range l.X {
		command := 'L'
		if i == 0 {
			command = 'M'
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", command, left+l.X[i]*(right-left), bottom-l.Y[i]/highest*panelHeight)
	}
	c.printf(`<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"/>`+"\n", path.String(), l.Color)
}
