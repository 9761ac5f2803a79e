// Command mutate breaks the program in many small ways, one at a time, to see which the tests
// find. docs/faults.md says how to run it and what it found.
//
// A mutant negates a condition, leaves out a save, sync or removal, ignores an error, never
// takes a branch, or moves a boundary by one. All mutants of a run are compiled into one set
// of test programs, from an overlay of the source (go help build, -overlay), and an
// environment variable selects the one that is active; so a mutant costs its tests and no
// build. First each test runs once without a mutant, to learn which mutants it reaches; it
// then runs only against those.
//
// A mutant goes through stages, and is dead at the first that fails or takes too long: the
// unit tests of its package, except slow ones; simulated worlds; the slow ones; and, with
// -wider, the tests of packages that use its package.
//
// Code that only logs or counts has no mutants. testdata/reasoned lists mutants that may live,
// each with its reason. testdata/killed lists some that a test is known to kill: -list runs
// only those, in seconds, and fails if one lives.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	root    string
	dirs    []string
	kinds   []kind
	match   *regexp.Regexp
	tests   *regexp.Regexp
	n       int
	seed    uint64
	workers int
	worlds  int
	limit   time.Duration
	temp    string
	list    string
	every   bool
	wider   bool
	slow    time.Duration
	verbose bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) (code int, err error) {
	o, err := parse(args)
	if err != nil {
		return 2, err
	}
	work, err := os.MkdirTemp(o.temp, "mutate-")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(work)
	r := &runner{options: *o, work: work, out: out}
	if o.list != "" {
		return r.runList(ctx)
	}
	return r.runAll(ctx)
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	flags.StringVar(&o.root, "root", ".", "the module's `directory`")
	dirs := flags.String("dirs", "raftnode,raftnode/walscan,kvstore,kvstore/engine,internal/keyruns,cachetier", "`directories` whose mutants are made")
	names := flags.String("kinds", "negated,omitted,ignored", "`kinds` of mutants: also never, boundary")
	match := flags.String("run", "", "only mutants whose line matches the `pattern`: file:line, function, kind, text")
	tests := flags.String("tests", "", "show mutants only to tests that match the `pattern`")
	flags.IntVar(&o.n, "n", 0, "run so many mutants, sampled evenly; 0: all")
	flags.Uint64Var(&o.seed, "seed", 1, "of the sample")
	flags.IntVar(&o.workers, "j", 1, "mutants at a time")
	flags.IntVar(&o.worlds, "worlds", 200, "worlds to simulate")
	flags.DurationVar(&o.limit, "limit", 2*time.Minute, "a stage of a mutant takes no longer")
	flags.StringVar(&o.temp, "temp", "", "`directory` for what is built and written; a gigabyte")
	flags.StringVar(&o.list, "list", "", "run the mutants of a `file` with the tests that kill them, and no others")
	flags.BoolVar(&o.every, "reasoned", false, "run those too that may live")
	flags.BoolVar(&o.wider, "wider", false, "show those that live to the tests of other packages too")
	flags.DurationVar(&o.slow, "slow", 0, "leave out tests that take more processor time, but for the simulation; 0: none")
	flags.BoolVar(&o.verbose, "v", false, "a line for each mutant as soon as its fate is known")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	var err error
	if o.root, err = filepath.Abs(o.root); err != nil {
		return nil, err
	}
	if o.match, err = regexp.Compile(*match); err != nil {
		return nil, err
	}
	if o.tests, err = regexp.Compile(*tests); err != nil {
		return nil, err
	}
	o.dirs = strings.Split(*dirs, ",")
	for name := range strings.SplitSeq(*names, ",") {
		o.kinds = append(o.kinds, kind(name))
	}
	return o, nil
}
