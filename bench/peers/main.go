package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// valueBytes is the length of all values.
const valueBytes = 256

// settings are the flags.
type settings struct {
	Parts    []string      `json:"parts"`
	Rounds   int           `json:"rounds"`
	Workers  int           `json:"workers"`
	Clients  int           `json:"clients"`
	Duration time.Duration `json:"duration_ns"`
	WarmUp   time.Duration `json:"warm_up_ns"`
	Keys     int           `json:"keys"`
	BulkKeys int           `json:"bulk_keys"`
	Streams  int           `json:"streams"`
	Systems  []string      `json:"systems"`
	Cases    []string      `json:"cases"`

	BigKeys       int `json:"big_keys"`
	CompareKeys   int `json:"compare_keys"`
	CompareRounds int `json:"compare_rounds"`

	BulkStore int `json:"bulk_store"`

	HugeKeys      int       `json:"huge_keys"`
	HugePacedKeys int       `json:"huge_paced_keys"`
	HugeRate      float64   `json:"huge_rate"`
	HugeRoom      byteCount `json:"huge_room"`

	Soak       time.Duration `json:"soak_ns"`
	SoakMinute time.Duration `json:"-"` // tests have shorter ones

	Values valueSettings `json:"values"`

	SettleQuiet time.Duration `json:"settle_quiet_ns"` // how long a system at rest writes nothing

	Program   string        `json:"-"` // path of oncekv; empty: build it
	Bin       string        `json:"-"` // where programs are, or are built; empty: in the directory of the run
	Dir       string        `json:"-"`
	Results   []string      `json:"-"` // files to use instead of measuring
	JSON      string        `json:"-"`
	SVG       string        `json:"-"`
	Documents []string      `json:"-"`
	Timeout   time.Duration `json:"-"`
}

// part is a piece of a run that can run without the others.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

// parts are all parts in the order of a run.
var parts = []part{
	{name: "short", run: (*bench).shortPart},
	{name: "bulk", run: (*bench).bulkPart},
	{name: "big", run: (*bench).bigPart},
	{name: "huge", run: (*bench).hugePart},
	{name: "soak", run: (*bench).soakPart},
	{name: "values", run: (*bench).valuesPart},
}

func main() {
	s := settings{SoakMinute: time.Minute, SettleQuiet: 3 * time.Second}
	which := flag.String("parts", "short,bulk,big,soak,values", "what to measure, with commas between: the short cases, many keys into a store that has many, the big store, huge (very many keys on one node), the soak, and large values")
	only := flag.String("only", "ceiling,oncekv,etcd,nats", "systems, with commas between")
	cases := flag.String("cases", "", "short cases, with commas between; empty: all")
	flag.IntVar(&s.Rounds, "rounds", 5, "how often every case is measured")
	flag.IntVar(&s.Workers, "workers", 256, "goroutines, or connections, at the same time")
	flag.IntVar(&s.Clients, "clients", 1, "clients of each system, which the workers share")
	flag.DurationVar(&s.Duration, "duration", 5*time.Second, "of one measurement")
	flag.DurationVar(&s.WarmUp, "warm-up", time.Second, "before each measurement")
	flag.IntVar(&s.Keys, "keys", 10_000, "keys that are set before, and read")
	flag.IntVar(&s.BulkKeys, "bulk-keys", 200_000, "keys of a stream, or of all transactions, in a short case")
	flag.IntVar(&s.Streams, "streams", 1, "requests of POST /keys at the same time, where many keys are put")
	flag.IntVar(&s.BulkStore, "bulk-store", 2_000_000, "keys that stores have before many are put, in the part bulk")
	flag.IntVar(&s.BigKeys, "big-keys", 10_000_000, "keys of the big store; 0: none")
	flag.IntVar(&s.CompareKeys, "compare-keys", 5_000_000, "keys that are loaded into oncekv and into etcd, in the part of the big store")
	flag.IntVar(&s.CompareRounds, "compare-rounds", 1, "how often they are; 0: not at all")
	flag.IntVar(&s.HugeKeys, "huge-keys", 100_000_000, "keys that are loaded into one node, in the part huge; 0: none")
	flag.IntVar(&s.HugePacedKeys, "huge-paced-keys", 100_000_000, "keys that are loaded into another one at half of the rate, every one of which is looked at; 0: none")
	flag.Float64Var(&s.HugeRate, "huge-rate", 0, "keys a second of this load; 0: half of what the load before it reached")
	flag.Var(&s.HugeRoom, "huge-room", "bytes of the disk that a node of the part huge may take; 0: as many as are needed for that many keys, and some")
	flag.DurationVar(&s.Soak, "soak", 10*time.Minute, "of the soak, in whole minutes")
	s.Values.flags(flag.CommandLine)
	flag.StringVar(&s.Program, "program", "", "oncekv to measure, such as one of another version; empty: build this one")
	flag.StringVar(&s.Dir, "dir", os.TempDir(), "where a directory is made for programs and data, and removed at the end")
	flag.StringVar(&s.JSON, "json", "", "file for everything that was measured; - is standard output, in place of the tables")
	flag.StringVar(&s.SVG, "svg", "", "directory for pictures of it; empty: none")
	results := flag.String("results", "", "files that -json has written, or directories of them, with commas between: what they have is taken, and nothing is measured")
	docs := flag.String("docs", "", "documents, with commas between, whose tables and pictures are made anew of -results")
	flag.DurationVar(&s.Timeout, "timeout", 6*time.Hour, "of everything")
	flag.Parse()
	s.Parts, s.Systems, s.Cases, s.Results, s.Documents = list(*which), list(*only), list(*cases), list(*results), list(*docs)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func (s *settings) check() error {
	if len(s.Documents) > 0 && len(s.Results) == 0 {
		return errors.New("-docs writes what result files have: name them with -results, and measure with -json before")
	}
	if s.JSON != "" && len(s.Results) > 0 {
		return errors.New("-json is for what is measured, and with -results nothing is")
	}
	switch {
	case s.Rounds < 1 || s.Workers < 1 || s.Workers > 1<<16 || s.Clients < 1 || s.Keys < 1 || s.BulkKeys < 1 || s.Streams < 1:
		return errors.New("-rounds, -workers, -clients, -keys, -bulk-keys and -streams must be at least 1, and -workers at most 65536")
	case s.Streams > min(s.BulkKeys, s.CompareKeys):
		return errors.New("-streams must not be more than there are keys")
	case s.Duration <= 0 || s.WarmUp < 0:
		return errors.New("-duration must be above zero, and -warm-up not below")
	case s.Rounds*len(sequence) >= 1<<15:
		return errors.New("too many rounds")
	case s.BigKeys < 0 || s.CompareRounds < 0 || s.CompareKeys < 10 || s.BigKeys > 0 && s.BigKeys < 10 || max(s.BigKeys, s.CompareKeys, s.BulkKeys) > math.MaxInt32:
		return errors.New("-big-keys and -compare-keys must be at least 10, and they and -bulk-keys at most 2147483647")
	case s.BulkStore < 1 || s.BulkStore > math.MaxInt32:
		return errors.New("-bulk-store must be from 1 to 2147483647")
	case min(s.HugeKeys, s.HugePacedKeys) < 0 || s.HugeKeys > 0 && s.HugeKeys < 10 || max(s.HugeKeys, s.HugePacedKeys) > math.MaxInt32:
		return errors.New("-huge-keys must be 0 or at least 10, -huge-paced-keys not below 0, and both at most 2147483647")
	case s.HugeRate < 0 || s.HugeRoom < 0 || s.HugeKeys == 0 && s.HugePacedKeys > 0 && s.HugeRate == 0:
		return errors.New("-huge-rate and -huge-room must not be below 0, and without the load of -huge-keys somebody has to say the -huge-rate")
	case s.Soak < 3*s.SoakMinute:
		return errors.New("-soak must be three minutes at least: the last one is compared with the second")
	}
	for _, name := range s.Parts {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("-parts: there is no part %q", name)
		}
	}
	for _, name := range s.Systems {
		if !slices.ContainsFunc(starters, func(st starter) bool { return st.name == name }) {
			return fmt.Errorf("-only: there is no system %q", name)
		}
	}
	for _, name := range s.Cases {
		if !slices.ContainsFunc(sequence, func(c step) bool { return c.name == name }) {
			return fmt.Errorf("-cases: there is no case %q", name)
		}
	}
	return s.Values.check()
}

// run measures the parts, one after the other, or takes earlier results, and writes the report
// to w.
func run(ctx context.Context, s settings, w io.Writer) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	if len(s.Results) > 0 {
		return takeResults(s, w)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, errors.New("-timeout is over"))
	defer cancel()
	dir, err := os.MkdirTemp(s.Dir, "oncekv-peers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{settings: s, work: dir, value: value(), next: setupTag, report: report{Machine: thisMachine(), Settings: s}}
	for _, p := range parts {
		if ctx.Err() == nil && slices.Contains(s.Parts, p.name) { // each has its own systems, so it runs even after one that failed
			b.report.part = p.name
			err = errors.Join(err, p.run(b, ctx))
		}
	}
	b.report.addMedians()
	if len(b.report.Medians) == 0 && len(b.report.Findings) == 0 {
		return err // nothing was measured
	}
	b.report.runs = []*report{&b.report}
	return errors.Join(err, b.report.write(s, w)) // also what was measured before an error
}

// write writes the report in the requested forms.
func (r *report) write(s settings, w io.Writer) error {
	var errs []error
	if s.SVG != "" {
		errs = append(errs, r.writePictures(s.SVG, ""))
	}
	if s.JSON != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if text = append(text, '\n'); s.JSON == "-" {
			_, err := w.Write(text)
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, os.WriteFile(s.JSON, text, 0o600))
	}
	return errors.Join(append(errs, r.print(w))...)
}

// value returns the value of all keys: letters and digits, so that it is the same in JSON and
// in bytes, and nothing compresses it much.
func value() []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_."
	v := make([]byte, valueBytes)
	for i := range v {
		v[i] = letters[scatter(uint64(i))>>58]
	}
	return v
}

// machine describes the machine of a measurement.
type machine struct {
	OS   string    `json:"os"`
	CPUs int       `json:"cpus"`
	Go   string    `json:"go"`
	Time time.Time `json:"time"`
}

func thisMachine() machine {
	return machine{runtime.GOOS + "/" + runtime.GOARCH, runtime.NumCPU(), runtime.Version(), time.Now().UTC().Truncate(time.Second)}
}
