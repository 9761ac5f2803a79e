package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is everything that a run has found.
type report struct {
	Machine  machine          `json:"machine"`
	Oncekv   string           `json:"oncekv"` // which one was measured
	Settings settings         `json:"settings"`
	Medians  []row            `json:"medians"`
	Findings []finding        `json:"findings"`
	Curves   []curve          `json:"curves"`
	Cases    []*result        `json:"cases"`
	Resident map[string]int64 `json:"resident_bytes"` // of the largest node of each system after the cases

	part string    // the part being measured
	runs []*report // the runs that were merged
}

// row holds the medians of a case over its rounds.
type row struct {
	Name      string  `json:"name"`
	Part      string  `json:"part"`
	Workers   int     `json:"workers"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	SystemCPU float64 `json:"system_cpu_us"`
	LoaderCPU float64 `json:"loader_cpu_us"`
	Errors    uint64  `json:"errors"` // of all rounds
}

// curve is a measurement over time.
type curve struct {
	Name   string    `json:"name"` // of the system
	Figure string    `json:"figure"`
	Over   string    `json:"over"` // what the points are
	Points []float64 `json:"points"`
}

// ratio compares two cases round by round.
type ratio struct {
	name, of, to string
	p99          bool    // compares 99th percentiles instead of rates
	least, most  float64 // the aim; 0: none
}

var ratios = []ratio{
	{name: "PUT at the leader ÷ ceiling", of: "oncekv/http-put-leader", to: "ceiling/http-put", least: 0.5},
	{name: "PUT at a follower ÷ at the leader", of: "oncekv/http-put-follower", to: "oncekv/http-put-leader", least: 0.9},
	{name: "PUT at a cache node ÷ at the leader", of: "oncekv/http-put-cache", to: "oncekv/http-put-leader"},
	{name: "PUT ÷ etcd put", of: "oncekv/http-put-leader", to: "etcd/put", least: 3},
	{name: "client put ÷ etcd put", of: "oncekv/put", to: "etcd/put", least: 7},
	{name: "client put ÷ NATS Create", of: "oncekv/put", to: "nats/put", least: 3},
	{name: "client get ÷ etcd linearizable get", of: "oncekv/get", to: "etcd/get", least: 10},
	{name: "client get ÷ etcd serializable get", of: "oncekv/get", to: "etcd/get-serializable"},
	{name: "client get ÷ NATS Get", of: "oncekv/get", to: "nats/get"},
	{name: "client absent get ÷ etcd", of: "oncekv/get-absent", to: "etcd/get-absent"},
	{name: "client absent get ÷ NATS", of: "oncekv/get-absent", to: "nats/get-absent"},
	{name: "POST /keys ÷ etcd transactions of 64, keys", of: "oncekv/http-keys", to: "etcd/txn-64", least: 4},
	{name: "client PutAll ÷ etcd transactions of 64, keys", of: "oncekv/put-all", to: "etcd/txn-64"},
	{name: "GET at the leader ÷ ceiling", of: "oncekv/http-get-leader", to: "ceiling/http-get", least: 0.92},
	{name: "GET at a follower ÷ ceiling", of: "oncekv/http-get-follower", to: "ceiling/http-get", least: 0.92},
	{name: "GET at a cache node ÷ ceiling", of: "oncekv/http-get-cache", to: "ceiling/http-get", least: 0.9},
	{name: "404 at the leader ÷ ceiling GET", of: "oncekv/http-absent-leader", to: "ceiling/http-get", least: 0.5},
	{name: "404 at a follower ÷ ceiling GET", of: "oncekv/http-absent-follower", to: "ceiling/http-get", least: 0.5},
	{name: "put p99 ÷ etcd's, at half of etcd's rate", of: "oncekv/put-paced", to: "etcd/put-paced", p99: true, most: 0.5},
}

// finding is a number that may have an aim.
type finding struct {
	Name    string    `json:"name"`
	Part    string    `json:"part"` // part that found it
	AtLeast float64   `json:"at_least,omitempty"`
	AtMost  float64   `json:"at_most,omitempty"`
	Median  float64   `json:"median"`
	Rounds  []float64 `json:"rounds"`

	// ByCPU is what a ratio of rates would be if only processors limited both: computed from
	// the processor time that they, and the loader, took for a key. Other work on the machine
	// moves it less than the rates. 0: unknown.
	ByCPU float64 `json:"by_cpu,omitempty"`

	run *report // the merged run from which it comes
}

func (f finding) aim() string {
	switch {
	case f.AtLeast > 0:
		return fmt.Sprintf("≥ %.4g", f.AtLeast)
	case f.AtMost > 0:
		return fmt.Sprintf("≤ %.4g", f.AtMost)
	}
	return ""
}

// ofAim returns how far the aim is reached, from 1 on fully. ok is false without an aim.
func (f finding) ofAim() (part float64, ok bool) {
	switch {
	case f.AtLeast > 0:
		return f.Median / f.AtLeast, true
	case f.AtMost > 0 && f.Median > 0:
		return f.AtMost / f.Median, true
	}
	return 0, false
}

func (f finding) reached() string {
	part, ok := f.ofAim()
	switch {
	case !ok:
		return ""
	case part >= 1:
		return "yes"
	}
	return "no"
}

// found adds a number that was measured several times.
func (r *report) found(f finding) {
	if len(f.Rounds) > 0 {
		f.Part, f.Median = r.part, median(f.Rounds)
		r.Findings = append(r.Findings, f)
	}
}

func (r *report) of(name string) *result {
	i := slices.IndexFunc(r.Cases, func(c *result) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return r.Cases[i]
}

func perSecond(m measurement) float64 { return m.PerSecond }

// addMedians adds the medians of all cases.
func (r *report) addMedians() {
	for _, c := range r.Cases {
		one := row{Name: c.Name, Part: c.Part, Workers: c.Workers}
		for to, figure := range map[*float64]func(m measurement) float64{
			&one.PerSecond: perSecond, &one.P50: func(m measurement) float64 { return m.P50 },
			&one.P90: func(m measurement) float64 { return m.P90 }, &one.P99: func(m measurement) float64 { return m.P99 },
			&one.P999:      func(m measurement) float64 { return m.P999 },
			&one.SystemCPU: func(m measurement) float64 { return m.SystemCPU }, &one.LoaderCPU: func(m measurement) float64 { return m.LoaderCPU },
		} {
			*to = median(figures(c.Rounds, figure))
		}
		for _, m := range c.Rounds {
			one.Errors += m.Errors
		}
		r.Medians = append(r.Medians, one)
	}
}

// addRatios adds the ratios whose two cases were measured.
func (r *report) addRatios() {
	for _, q := range ratios {
		of, to := r.of(q.of), r.of(q.to)
		if of != nil && to != nil {
			r.found(q.finding(of.Rounds, to.Rounds))
		}
	}
}

// finding divides round by round. It leaves out rounds in which the divisor is zero.
func (q ratio) finding(of, to []measurement) finding {
	figure := perSecond
	if q.p99 {
		figure = func(m measurement) float64 { return m.P99 }
	}
	f := finding{Name: q.name, AtLeast: q.least, AtMost: q.most}
	var byCPU []float64
	for i := range min(len(of), len(to)) {
		if below := figure(to[i]); below > 0 {
			f.Rounds = append(f.Rounds, figure(of[i])/below)
		}
		if below := of[i].SystemCPU + of[i].LoaderCPU; below > 0 {
			byCPU = append(byCPU, (to[i].SystemCPU+to[i].LoaderCPU)/below)
		}
	}
	if !q.p99 {
		f.ByCPU = median(byCPU)
	}
	return f
}

func figures(rounds []measurement, of func(measurement) float64) []float64 {
	var all []float64
	for _, m := range rounds {
		all = append(all, of(m))
	}
	return all
}

// median returns 0 for nothing.
func median(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(of))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// table is rows of Markdown.
type table struct {
	head []string
	rows [][]string
}

// lines returns all rows, including the line below the head.
func (t table) lines() [][]string {
	return slices.Concat([][]string{t.head, slices.Repeat([]string{"---"}, len(t.head))}, t.rows)
}

// pad writes a table with aligned columns, and an empty line. It omits a table without rows.
func (t table) pad(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	out := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for _, cells := range t.lines() {
		fmt.Fprintf(out, "| %s\t|\n", strings.Join(cells, "\t| "))
	}
	fmt.Fprintln(out)
	return out.Flush()
}

// runTable says what was measured when, where and how often.
func (r *report) runTable() table {
	t := table{head: []string{"parts", "when", "of", "where", "rounds"}}
	for _, run := range r.runs {
		s := run.Settings
		rounds := fmt.Sprintf("%d of %v", s.Rounds, s.Duration)
		if slices.Contains(s.Parts, "values") {
			rounds += fmt.Sprintf("; %d of large values", s.Values.Rounds)
		}
		t.rows = append(t.rows, []string{strings.Join(s.Parts, ", "), run.Machine.Time.Format("2006-01-02 15:04 MST"), run.Oncekv,
			fmt.Sprintf("%s, %d processors", run.Machine.OS, run.Machine.CPUs), rounds})
	}
	return t
}

func figureTable(all []finding) table {
	t := table{head: []string{"figure", "aim", "median", "lowest", "highest", "reached", "by CPU"}}
	for _, f := range all {
		t.rows = append(t.rows, []string{f.Name, f.aim(), short(f.Median), short(slices.Min(f.Rounds)), short(slices.Max(f.Rounds)), f.reached(), known(f.ByCPU)})
	}
	return t
}

func caseTable(all []row) table {
	t := table{head: []string{"case", "workers", "keys/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "CPU of nodes, µs/key", "of the loader", "errors"}}
	for _, m := range all {
		t.rows = append(t.rows, []string{m.Name, fmt.Sprint(m.Workers), fmt.Sprintf("%.0f", m.PerSecond), known(m.P50), known(m.P90), known(m.P99), known(m.P999),
			known(m.SystemCPU), known(m.LoaderCPU), fmt.Sprint(m.Errors)})
	}
	return t
}

// print writes everything for people, as Markdown.
func (r *report) print(w io.Writer) error {
	for _, t := range []table{r.runTable(), figureTable(r.Findings), caseTable(r.Medians)} {
		if err := t.pad(w); err != nil {
			return err
		}
	}
	for _, c := range r.Curves {
		fmt.Fprintf(w, "%s of %s, over %s:", c.Figure, c.Name, c.Over)
		for _, p := range c.Points {
			fmt.Fprintf(w, " %.0f", p)
		}
		fmt.Fprintln(w)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Resident)) {
		fmt.Fprintf(w, "memory of the largest node of %s after the cases (RSS without page cache): %d MB\n", name, r.Resident[name]/1e6)
	}
	return nil
}

// known returns "" for 0, which means not measured.
func known(f float64) string {
	if f == 0 {
		return ""
	}
	return short(f)
}

// short keeps two decimals where they matter.
func short(f float64) string {
	if f >= 100 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
