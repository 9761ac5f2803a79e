package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/Focinfi/oncekv/internal/load"
)

// benchDocument is the output of --json. Fields are added, never changed.
type benchDocument struct {
	Mode         string   `json:"mode"`
	Loop         string   `json:"loop"` // closed or open
	Rate         float64  `json:"rate,omitempty"`
	Connections  int      `json:"connections"`
	GoClient     bool     `json:"go_client,omitempty"`
	Nodes        []string `json:"nodes"`
	KeySize      string   `json:"key_size"`
	ValueSize    string   `json:"value_size"`
	Seed         uint64   `json:"seed"`
	PutPrefix    string   `json:"put_prefix,omitempty"`
	ReadPrefix   string   `json:"read_prefix,omitempty"`
	ReadKeys     uint64   `json:"read_keys,omitempty"`
	Distribution string   `json:"distribution,omitempty"`
	BatchKeys    int      `json:"batch_keys,omitempty"`
	Mix          string   `json:"mix,omitempty"`

	*load.Result
}

func (r *benchRun) document(result *load.Result) benchDocument {
	d := benchDocument{
		Mode: r.mode, Loop: "closed", Rate: r.rate, Connections: r.connections, GoClient: r.goClient, Nodes: r.targets,
		KeySize: r.keySize.String(), ValueSize: r.valueSize.String(), Seed: r.seed, PutPrefix: r.writes, ReadPrefix: r.reads, Result: result,
	}
	if r.rate > 0 {
		d.Loop = "open"
	}
	if r.mix.Has(load.Get) {
		d.ReadKeys, d.Distribution = r.keys, r.distribution
	}
	if r.mix.Has(load.Batch) {
		d.BatchKeys = r.batchKeys
	}
	if r.mode == benchMixed {
		d.Mix = r.mixText
	}
	return d
}

func (a *app) showBench(r *benchRun, result *load.Result) error {
	if a.json {
		return writeJSON(a.stdout, r.document(result))
	}
	return r.write(a.stdout, result)
}

// write shows a result to people.
func (r *benchRun) write(w io.Writer, result *load.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "MODE\tREQUESTS\tERRORS\tPER SECOND\tMEAN ms\tP50\tP90\tP99\tP99.9\tMAX\t")
	fmt.Fprintf(t, "%s\t%d\t%d\t%.0f\t%s\n", r.mode, result.Requests, result.Errors, result.PerSecond, columns(result.Latency))
	if r.mix.Several() {
		for k := load.Put; k <= load.Batch; k++ {
			if one, ok := result.Kinds[k.String()]; ok {
				fmt.Fprintf(t, "%s\t%d\t\t%.0f\t%s\n", k, one.Requests, one.PerSecond, columns(one.Latency))
			}
		}
	}
	if result.Service != nil {
		fmt.Fprintf(t, "once sent\t\t\t\t%s\n", columns(*result.Service))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, r.remarks(result))
	return err
}

func columns(l load.Latency) string {
	var b strings.Builder
	for _, ms := range []float64{l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max} {
		fmt.Fprintf(&b, "%s\t", milliseconds(ms))
	}
	return b.String()
}

// milliseconds returns three digits, or all those before the point.
func milliseconds(ms float64) string {
	switch {
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 2, 64)
	case ms < 100:
		return strconv.FormatFloat(ms, 'f', 1, 64)
	}
	return strconv.FormatFloat(ms, 'f', 0, 64)
}

// remarks returns the sentences below the table.
func (r *benchRun) remarks(result *load.Result) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	var keys []string
	for o := load.Created; o <= load.NotFound; o++ {
		if n := result.Keys[o.String()]; n > 0 {
			keys = append(keys, fmt.Sprintf("%d %s", n, strings.ReplaceAll(o.String(), "_", " ")))
		}
	}
	if len(keys) > 0 {
		say("keys: %s; %.0f per second", strings.Join(keys, ", "), result.KeysPerSecond)
	}
	if prefixes := slices.DeleteFunc([]string{r.reads, r.writes}, func(s string) bool { return s == "" }); len(prefixes) > 0 {
		say("prefix: %s, seed %d", shown(strings.Join(prefixes, ", ")), r.seed)
	}
	for _, e := range result.ByError {
		say("%d × %s, at most %s ms; first: %s", e.Count, e.Kind, milliseconds(e.MaxMS), legible(e.First))
	}
	if result.Unfinished > 0 {
		say("%d requests were due but had no answer at the end; the latency includes how long they had waited.", result.Unfinished)
	}
	if result.Interrupted {
		say("Interrupted after %.1f s.", result.Seconds)
	}
	if result.Corrected {
		say("Latency counts from when a request was due, so a stall counts for every request that was due during it.")
	} else {
		say("In a closed loop a stall counts once per connection (coordinated omission is not corrected); use --rate to measure what users see.")
	}
	return b.String()
}
