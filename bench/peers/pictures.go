package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/internal/chart"
)

// colors are the colors of the systems.
var colors = map[string]string{"ceiling": chart.Grey, "oncekv": chart.Blue, "etcd": chart.Orange, "nats": chart.Green}

// groups are the cases that one picture compares.
var groups = []struct {
	title string
	part  string // part of the cases' names
}{
	{"Put a key, keys/s", "put"},
	{"Put many keys, keys/s", "keys"},
	{"Get a key that is set, keys/s", "get"},
	{"Look for a key that is not set, keys/s", "absent"},
}

// groupOf returns the group of a case, "" for none.
func groupOf(name string) string {
	_, name, _ = strings.Cut(name, "/")
	switch {
	case strings.HasSuffix(name, "paced") || strings.HasPrefix(name, "big") || strings.HasPrefix(name, "huge") || name == "bulk-fill" || name == "soak":
		return ""
	case name == "http-keys" || name == "put-all" || name == "txn-64" || name == "load" || strings.HasPrefix(name, "bulk-"):
		return "keys"
	case strings.Contains(name, "absent"):
		return "absent"
	case strings.Contains(name, "get"):
		return "get"
	}
	return "put"
}

// pictures returns SVG by name: aims, rates, and load and soak if these were measured.
func (r *report) pictures() (map[string][]byte, error) {
	all := map[string][]byte{}
	var errs []error
	draw := func(name, title string, panels []chart.Panel) {
		if len(panels) > 0 {
			var out bytes.Buffer
			errs = append(errs, chart.Write(&out, title, r.about(), panels...))
			all[name] = out.Bytes()
		}
	}
	draw("aims", "What was reached of every aim", r.aimPanels())
	draw("rates", "Rates on one machine", r.ratePanels())
	draw("load", "A long load", r.curvePanels("tenths"))
	draw("soak", "A soak", r.curvePanels("minutes"))
	return all, errors.Join(errs...)
}

// about says where and when the report's runs took place.
func (r *report) about() string {
	first, last := r.Machine.Time, r.Machine.Time
	for _, run := range r.runs {
		if run.Machine.Time.Before(first) {
			first = run.Machine.Time
		}
	}
	when := last.Format(time.DateOnly)
	if from := first.Format(time.DateOnly); from != when {
		when = from + " to " + when
	}
	return fmt.Sprintf("%s, %d CPUs, %s; medians of several rounds", r.Machine.OS, r.Machine.CPUs, when)
}

// writePictures writes the pictures into a directory.
func (r *report) writePictures(dir, prefix string) error {
	all, err := r.pictures()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, picture := range all {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, prefix+name+".svg"), picture, 0o644))
	}
	return err
}

// aimPanels has a bar for each aim; 1 means that it is reached.
func (r *report) aimPanels() []chart.Panel {
	p := &chart.Bars{Title: "Measured ÷ aim, or aim ÷ measured where less is better; cut at 4", Mark: 1}
	for _, f := range r.Findings {
		part, ok := f.ofAim()
		if !ok {
			continue
		}
		color := chart.Green
		if part < 1 {
			color = chart.Red
		}
		p.Bars = append(p.Bars, chart.Bar{Name: f.Name, Value: min(part, 4), Text: fmt.Sprintf("%s (%s)", short(f.Median), f.aim()), Color: color})
	}
	if len(p.Bars) == 0 {
		return nil
	}
	return []chart.Panel{p}
}

func (r *report) ratePanels() []chart.Panel {
	var panels []chart.Panel
	for _, g := range groups {
		p := &chart.Bars{Title: g.title}
		for _, m := range r.Medians {
			if groupOf(m.Name) == g.part {
				system, _, _ := strings.Cut(m.Name, "/")
				p.Bars = append(p.Bars, chart.Bar{Name: m.Name, Value: m.PerSecond, Text: chart.Number(m.PerSecond), Color: colors[system]})
			}
		}
		if len(p.Bars) > 0 {
			panels = append(panels, p)
		}
	}
	return panels
}

// curvePanels has a diagram for each curve over the same quantity, with all systems.
func (r *report) curvePanels(over string) []chart.Panel {
	byFigure := map[string]*chart.Lines{}
	var panels []chart.Panel
	for _, c := range r.Curves {
		if c.Over != over {
			continue
		}
		p := byFigure[c.Figure]
		if p == nil {
			p = &chart.Lines{Title: c.Figure, XTitle: over}
			byFigure[c.Figure], panels = p, append(panels, p)
		}
		l := chart.Line{Name: c.Name, Color: colors[c.Name]}
		for i, y := range c.Points {
			l.Add(float64(i+1), y)
		}
		p.Lines = append(p.Lines, l)
	}
	for _, p := range byFigure {
		p.Scale()
	}
	return panels
}
