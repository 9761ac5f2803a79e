package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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
	Rounds   int           `json:"rounds"`
	Workers  int           `json:"workers"`
	Clients  int           `json:"clients"`
	Duration time.Duration `json:"duration_ns"`
	WarmUp   time.Duration `json:"warm_up_ns"`
	Keys     int           `json:"keys"`
	Systems  []string      `json:"systems"`
	Cases    []string      `json:"cases"`
	Dir      string        `json:"dir"`
	JSON     string        `json:"-"`
	Timeout  time.Duration `json:"-"`
}

func main() {
	var s settings
	only := flag.String("only", "ceiling,oncekv,etcd,nats", "systems, with commas between")
	cases := flag.String("cases", "", "cases, with commas between; empty: all")
	flag.IntVar(&s.Rounds, "rounds", 5, "how often every case is measured")
	flag.IntVar(&s.Workers, "workers", 256, "goroutines, or connections, at the same time")
	flag.IntVar(&s.Clients, "clients", 1, "clients of each system, which the workers share")
	flag.DurationVar(&s.Duration, "duration", 5*time.Second, "of one measurement")
	flag.DurationVar(&s.WarmUp, "warm-up", time.Second, "before each measurement")
	flag.IntVar(&s.Keys, "keys", 10_000, "keys that are set before, and read")
	flag.StringVar(&s.Dir, "dir", os.TempDir(), "where a directory is made for programs and data, and removed at the end")
	flag.StringVar(&s.JSON, "json", "", "file for everything that was measured; - is standard output, in place of the tables")
	flag.DurationVar(&s.Timeout, "timeout", 3*time.Hour, "of everything")
	flag.Parse()
	s.Systems, s.Cases = list(*only), list(*cases)

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
	switch {
	case s.Rounds < 1 || s.Workers < 1 || s.Workers > 1<<16 || s.Clients < 1 || s.Keys < 1:
		return errors.New("-rounds, -workers, -clients and -keys must be at least 1, and -workers at most 65536")
	case s.Duration <= 0 || s.WarmUp < 0:
		return errors.New("-duration must be above zero, and -warm-up not below")
	case s.Rounds*len(sequence) >= 1<<16-setupTag:
		return errors.New("too many rounds")
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
	return nil
}

// run starts the systems, measures, stops them, and writes the report to w.
func run(ctx context.Context, s settings, w io.Writer) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, errors.New("-timeout is over"))
	defer cancel()
	dir, err := os.MkdirTemp(s.Dir, "oncekv-peers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	systems, err := startAll(ctx, dir, s.Clients, s.Systems)
	defer func() {
		for _, sys := range systems {
			sys.stop()
		}
	}()
	if err != nil {
		return err
	}
	b := &bench{settings: s, systems: systems, value: value()}
	if err = b.measureAll(ctx); len(b.results) == 0 {
		return err
	}
	return errors.Join(err, b.write(w)) // what was measured until an error, too
}

// write writes the report in the form that was asked for.
func (b *bench) write(w io.Writer) error {
	r, s := b.report(), b.settings
	if s.JSON == "" {
		return r.table(w)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if s.JSON == "-" {
		_, err = fmt.Fprintf(w, "%s\n", text)
		return err
	}
	return errors.Join(os.WriteFile(s.JSON, append(text, '\n'), 0o600), r.table(w))
}

// value is what all keys are set to: nothing compresses it much.
func value() []byte {
	v := make([]byte, valueBytes)
	for i := range v {
		v[i] = byte(scatter(uint64(i)))
	}
	return v
}

// machine says what was measured on.
type machine struct {
	OS   string    `json:"os"`
	CPUs int       `json:"cpus"`
	Go   string    `json:"go"`
	Time time.Time `json:"time"`
}

func thisMachine() machine {
	return machine{runtime.GOOS + "/" + runtime.GOARCH, runtime.NumCPU(), runtime.Version(), time.Now().UTC().Truncate(time.Second)}
}
