package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/Focinfi/oncekv/internal/chart"
)

// colors of systems in pictures.
var colors = map[string]string{"ceiling": chart.Grey, "oncekv": chart.Blue, "etcd": chart.Orange, "nats": chart.Green}

// groups are the cases that one picture compares.
var groups = []struct {
	title string
	part  string // of the names of cases
}{
	{"Put a key, keys/s", "put"},
	{"Put many keys, keys/s", "keys"},
	{"Get a key that is set, keys/s", "get"},
	{"Look for a key that is not set, keys/s", "absent"},
}

// groupOf is the part of groups that a case belongs to; empty: none.
func groupOf(name string) string {
	_, name, _ = strings.Cut(name, "/")
	switch {
	case strings.HasSuffix(name, "paced") || strings.HasPrefix(name, "big") || name == "soak":
		return ""
	case name == "http-keys" || name == "put-all" || name == "txn-64" || name == "load":
		return "keys"
	case strings.Contains(name, "absent"):
		return "absent"
	case strings.Contains(name, "get"):
		return "get"
	}
	return "put"
}

// pictures writes files into a directory: aims.svg, rates.svg, and load.svg and
// soak.svg if these were measured.
func (r *report) pictures(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	about := fmt.Sprintf("%s, %d CPUs, %s; medians of %d rounds", r.Machine.OS, r.Machine.CPUs, r.Machine.Time.Format("2006-01-02"), r.Settings.Rounds)
	var errs []error
	draw := func(name, title string, panels []chart.Panel) {
		if len(panels) == 0 {
			return
		}
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			errs = append(errs, err)
			return
		}
		errs = append(errs, chart.Write(f, title, about, panels...), f.Close())
	}
	draw("aims.svg", "What was reached of every aim", r.aimPanels())
	draw("rates.svg", "Rates on one machine", r.ratePanels())
	draw("load.svg", "A long load", r.curvePanels("tenths"))
	draw("soak.svg", "A soak", r.curvePanels("minutes"))
	return errors.Join(errs...)
}

// aimPanels has a bar for each aim: all of it is 1.
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

// curvePanels has a diagram for each figure over the same thing, with all systems.
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
