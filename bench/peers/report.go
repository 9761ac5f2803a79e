package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// report is everything that a run has found.
type report struct {
	Machine  machine          `json:"machine"`
	Settings settings         `json:"settings"`
	Medians  []row            `json:"medians"`
	Ratios   []ratioRow       `json:"ratios"`
	Results  []*result        `json:"results"`
	Resident map[string]int64 `json:"resident_bytes"` // of the largest node of each system, at the end
}

// row is the median of each figure of a case over its rounds.
type row struct {
	Name      string  `json:"name"`
	Workers   int     `json:"workers"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	Errors    int64   `json:"errors"` // of all rounds
}

// ratio compares two cases round by round.
type ratio struct {
	name, of, to string
	p99          bool    // of the 99th percentiles, in place of the rates
	least, most  float64 // the aim; 0: none
}

var ratios = []ratio{
	{name: "PUT at the leader ÷ ceiling", of: "oncekv/http-put-leader", to: "ceiling/http-put", least: 0.5},
	{name: "PUT at a follower ÷ at the leader", of: "oncekv/http-put-follower", to: "oncekv/http-put-leader", least: 0.9},
	{name: "PUT at a cache node ÷ at the leader", of: "oncekv/http-put-cache", to: "oncekv/http-put-leader"},
	{name: "PUT ÷ etcd put", of: "oncekv/http-put-leader", to: "etcd/put", least: 3},
	{name: "client put ÷ etcd put", of: "oncekv/put", to: "etcd/put", least: 10},
	{name: "client put ÷ NATS Create", of: "oncekv/put", to: "nats/put", least: 4},
	{name: "client get ÷ etcd linearizable get", of: "oncekv/get", to: "etcd/get", least: 10},
	{name: "client get ÷ etcd serializable get", of: "oncekv/get", to: "etcd/get-serializable"},
	{name: "client get ÷ NATS Get", of: "oncekv/get", to: "nats/get"},
	{name: "client absent get ÷ etcd", of: "oncekv/get-absent", to: "etcd/get-absent"},
	{name: "client absent get ÷ NATS", of: "oncekv/get-absent", to: "nats/get-absent"},
	{name: "POST /keys ÷ etcd transactions of 64, keys", of: "oncekv/batch", to: "etcd/batch", least: 4},
	{name: "GET at the leader ÷ ceiling", of: "oncekv/http-get-leader", to: "ceiling/http-get", least: 0.92},
	{name: "GET at a follower ÷ ceiling", of: "oncekv/http-get-follower", to: "ceiling/http-get", least: 0.92},
	{name: "GET at a cache node ÷ ceiling", of: "oncekv/http-get-cache", to: "ceiling/http-get", least: 0.9},
	{name: "404 at the leader ÷ ceiling GET", of: "oncekv/http-absent-leader", to: "ceiling/http-get", least: 0.5},
	{name: "404 at a follower ÷ ceiling GET", of: "oncekv/http-absent-follower", to: "ceiling/http-get", least: 0.5},
	{name: "put p99 ÷ etcd's, at half of etcd's rate", of: "oncekv/put-paced", to: "etcd/put-paced", p99: true, most: 0.5},
}

// ratioRow is a ratio as it was measured.
type ratioRow struct {
	Name    string    `json:"name"`
	AtLeast float64   `json:"at_least,omitempty"`
	AtMost  float64   `json:"at_most,omitempty"`
	Median  float64   `json:"median"`
	Rounds  []float64 `json:"rounds"`
}

func (r ratioRow) aim() string {
	switch {
	case r.AtLeast > 0:
		return fmt.Sprintf("≥ %.4g", r.AtLeast)
	case r.AtMost > 0:
		return fmt.Sprintf("≤ %.4g", r.AtMost)
	}
	return ""
}

func (b *bench) report() report {
	r := report{Machine: thisMachine(), Settings: b.settings, Results: b.results, Resident: map[string]int64{}}
	for _, c := range b.results {
		one := row{Name: c.Name, Workers: c.Workers}
		for to, figure := range map[*float64]func(m measurement) float64{
			&one.PerSecond: func(m measurement) float64 { return m.PerSecond }, &one.P50: func(m measurement) float64 { return m.P50 },
			&one.P90: func(m measurement) float64 { return m.P90 }, &one.P99: func(m measurement) float64 { return m.P99 },
			&one.P999: func(m measurement) float64 { return m.P999 },
		} {
			*to = median(figures(c.Rounds, figure))
		}
		for _, m := range c.Rounds {
			one.Errors += m.Errors
		}
		r.Medians = append(r.Medians, one)
	}
	for _, q := range ratios {
		of, to := b.result(q.of), b.result(q.to)
		if of != nil && to != nil {
			r.Ratios = append(r.Ratios, q.row(of.Rounds, to.Rounds))
		}
	}
	for _, s := range b.systems {
		r.Resident[s.name] = s.residentBytes()
	}
	return r
}

// row divides round by round. A round in which the divisor is zero is left out.
func (q ratio) row(of, to []measurement) ratioRow {
	figure := func(m measurement) float64 { return m.PerSecond }
	if q.p99 {
		figure = func(m measurement) float64 { return m.P99 }
	}
	r := ratioRow{Name: q.name, AtLeast: q.least, AtMost: q.most}
	for i := range min(len(of), len(to)) {
		if below := figure(to[i]); below > 0 {
			r.Rounds = append(r.Rounds, figure(of[i])/below)
		}
	}
	r.Median = median(r.Rounds)
	return r
}

func figures(rounds []measurement, of func(measurement) float64) []float64 {
	var all []float64
	for _, m := range rounds {
		all = append(all, of(m))
	}
	return all
}

// median of nothing is 0.
func median(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(of))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// table writes the medians and the ratios for people, as Markdown.
func (r report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintf(t, "%s, %d CPUs, %s, %s; medians of %d rounds of %v, %d clients\n\n", r.Machine.OS, r.Machine.CPUs, r.Machine.Go,
		r.Machine.Time.Format("2006-01-02 15:04 MST"), r.Settings.Rounds, r.Settings.Duration, r.Settings.Clients)
	fmt.Fprintln(t, "| case\t| workers\t| keys/s\t| p50 ms\t| p90 ms\t| p99 ms\t| p99.9 ms\t| errors\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, m := range r.Medians {
		fmt.Fprintf(t, "| %s\t| %d\t| %.0f\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t| %d\t|\n", m.Name, m.Workers, m.PerSecond, m.P50, m.P90, m.P99, m.P999, m.Errors)
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "| ratio\t| aim\t| median\t| lowest\t| highest\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|")
	for _, q := range r.Ratios {
		if len(q.Rounds) > 0 {
			fmt.Fprintf(t, "| %s\t| %s\t| %.2f\t| %.2f\t| %.2f\t|\n", q.Name, q.aim(), q.Median, slices.Min(q.Rounds), slices.Max(q.Rounds))
		}
	}
	fmt.Fprintln(t)
	for _, name := range r.Settings.Systems {
		fmt.Fprintf(t, "memory of the largest node of %s (RSS without page cache): %d MB\n", name, r.Resident[name]>>20)
	}
	return t.Flush()
}
