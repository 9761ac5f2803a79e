package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// The lists, below the module's root.
const (
	reasonedList = "internal/broken/mutate/testdata/reasoned"
	killedList   = "internal/broken/mutate/testdata/killed"
)

// wider maps a package to those whose tests run last against its mutants.
var wider = map[string][]string{
	"internal/keyruns": {"kvstore"},
	"kvstore":          {"httpapi", "server"},
	"kvstore/engine":   {"kvstore"},
	"cachetier":        {"httpapi", "server"},
}

// stage is what killed a mutant.
type stage int

const (
	byNothing stage = iota
	byUnit
	bySimulation
	byWider
	byTime
)

// result is the fate of one mutant.
type result struct {
	mutant *mutant
	stage  stage
	by     string // suite:test
	came   bool   // a test reached it
}

// runner makes mutants, tests them, and reports.
type runner struct {
	options
	work    string
	out     io.Writer
	all     []*mutant
	overlay string
	suites  map[string]*suite
}

func (r *runner) runAll(ctx context.Context) (code int, err error) {
	reasons, err := r.prepare(ctx, reasonedList)
	if err != nil {
		return 2, err
	}
	chosen := r.choose(reasons)
	fmt.Fprintf(r.out, "%d mutants in %s, %d chosen\n", len(r.all), strings.Join(r.dirs, ", "), len(chosen))
	for _, dir := range r.needed(chosen) {
		if err := r.measure(ctx, dir, chosen); err != nil {
			return 2, err
		}
	}
	results, err := r.testAll(ctx, chosen)
	r.tell(results)
	if err != nil {
		return 2, err
	}
	return 0, nil
}

// prepare makes the mutants, and reads the list if there is one.
func (r *runner) prepare(ctx context.Context, list string) (entries []entry, err error) {
	if r.all, r.overlay, err = find(r.root, r.work, r.dirs); err != nil {
		return nil, err
	}
	r.suites = map[string]*suite{}
	if !filepath.IsAbs(list) {
		list = filepath.Join(r.root, list)
	}
	if entries, err = readList(list); err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e entry) bool { return !slices.Contains(r.dirs, e.dir) })
	return entries, rotten(entries, r.all)
}

// choose samples the selected mutants evenly.
func (r *runner) choose(reasons []entry) []*mutant {
	var some []*mutant
	for _, m := range r.all {
		if !slices.Contains(r.kinds, m.kind) || !r.match.MatchString(m.String()) {
			continue
		}
		if !r.every && slices.ContainsFunc(reasons, func(e entry) bool { return e.names(m) }) {
			continue
		}
		some = append(some, m)
	}
	if r.n <= 0 || r.n >= len(some) {
		return some
	}
	random := rand.New(rand.NewPCG(r.seed, 1))
	from := random.Float64()
	var chosen []*mutant
	for i := range r.n {
		chosen = append(chosen, some[int((float64(i)+from)*float64(len(some))/float64(r.n))])
	}
	// An interrupted run should have an even sample too.
	random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	return chosen
}

// users returns the suites that run last against a package's mutants.
func (r *runner) users(dir string) []string {
	if !r.wider {
		return nil
	}
	return wider[dir]
}

// own returns the unit test suites for a package's mutants.
func own(dir string) []string {
	if dir == "raftnode/walscan" {
		return []string{dir, "raftnode"}
	}
	return []string{dir}
}

// simulated reports whether the simulation covers a package.
func simulated(dir string) bool {
	return dir == "raftnode" || dir == "raftnode/walscan" || dir == "kvstore" || dir == "kvstore/engine" || dir == "internal/keyruns"
}

// needed returns the suites for the chosen mutants.
func (r *runner) needed(chosen []*mutant) []string {
	var dirs []string
	add := func(more ...string) {
		for _, dir := range more {
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	for _, m := range chosen {
		add(own(m.dir)...)
		if simulated(m.dir) {
			add("raftnode")
		}
	}
	for _, m := range chosen {
		add(r.users(m.dir)...)
	}
	return dirs
}

// measure builds a suite and runs each test without a mutant, to learn how long it takes and
// which mutants it reaches.
func (r *runner) measure(ctx context.Context, dir string, chosen []*mutant) error {
	s, err := r.suite(ctx, dir)
	if err != nil {
		return err
	}
	names, err := s.names(ctx, r.root)
	if err != nil {
		return err
	}
	// raftnode's suite may be needed only for the simulation.
	unit := slices.ContainsFunc(chosen, func(m *mutant) bool {
		return slices.Contains(own(m.dir), dir) || slices.Contains(r.users(m.dir), dir)
	})
	began := time.Now()
	for _, name := range names {
		if !r.tests.MatchString(name) || !unit && !strings.HasPrefix(name, simulation) {
			continue
		}
		t := &test{suite: s, name: name, args: r.args(name)}
		reached := filepath.Join(r.work, "reached")
		if err := os.WriteFile(reached, make([]byte, len(r.all)+1), 0o600); err != nil {
			return err
		}
		f := try(ctx, r.root, r.work, &trial{suite: s, tests: []string{name}, args: t.args, reached: reached, limit: 10 * time.Minute})
		if f.program != nil {
			return f.program
		}
		if f.dead {
			fmt.Fprintf(r.out, "%s of %s fails without a mutant and is left out: %.2000s\n", name, dir, f.output)
			continue
		}
		if t.reached, err = os.ReadFile(reached); err != nil {
			return err
		}
		if t.work, t.took = f.work, f.took; r.slow > 0 && t.work > r.slow && !strings.HasPrefix(name, simulation) {
			fmt.Fprintf(r.out, "%s of %s takes %v of processor time and is left out\n", name, dir, t.work.Round(time.Second))
			continue
		}
		s.tests = append(s.tests, t)
	}
	fmt.Fprintf(r.out, "%s: %d tests in %v\n", dir, len(s.tests), time.Since(began).Round(time.Second))
	return nil
}

// args returns the flags of a test.
func (r *runner) args(name string) []string {
	if strings.HasPrefix(name, simulation) {
		return []string{fmt.Sprintf("-sim.seeds=%d", r.worlds)}
	}
	return []string{"-test.short"}
}

func (r *runner) suite(ctx context.Context, dir string) (*suite, error) {
	if s := r.suites[dir]; s != nil {
		return s, nil
	}
	program, err := build(ctx, r.root, r.work, r.overlay, dir)
	if err != nil {
		return nil, err
	}
	r.suites[dir] = &suite{dir: dir, program: program}
	return r.suites[dir], nil
}

// testAll tests mutants, several at a time.
func (r *runner) testAll(ctx context.Context, chosen []*mutant) ([]*result, error) {
	var mu sync.Mutex
	var results []*result
	var broken error
	next := make(chan *mutant)
	var wg sync.WaitGroup
	for range r.workers {
		wg.Go(func() {
			for m := range next {
				res, err := r.test(ctx, m)
				mu.Lock()
				if err != nil {
					broken = errors.Join(broken, err)
				} else {
					results = append(results, res)
					if r.verbose {
						fmt.Fprintln(r.out, res.line())
					}
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range chosen {
		if ctx.Err() != nil {
			break
		}
		next <- m
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return results, errors.New("interrupted: the figures are of what was done")
	}
	return results, broken
}

// test runs the tests that reach a mutant, stage after stage.
func (r *runner) test(ctx context.Context, m *mutant) (*result, error) {
	res := &result{mutant: m}
	var unit, worlds, wide []*test
	for _, dir := range own(m.dir) {
		unit = append(unit, r.suites[dir].comeBy(m, false)...)
	}
	if simulated(m.dir) {
		worlds = r.suites["raftnode"].comeBy(m, true)
	}
	for _, dir := range r.users(m.dir) {
		wide = append(wide, r.suites[dir].comeBy(m, false)...)
	}
	for _, p := range parts(unit, worlds, wide) {
		res.came = true
		f := try(ctx, r.root, r.work, r.trial(m, p.tests))
		if f.program != nil {
			return nil, fmt.Errorf("%s: %w", m, f.program)
		}
		if f.dead {
			res.stage, res.by = p.stage, p.tests[0].suite.dir+":"+f.by
			if f.slow {
				res.stage = byTime
			}
			return res, nil
		}
	}
	return res, nil
}

// comeBy returns the tests that reach a mutant: those of the simulation, or all others.
func (s *suite) comeBy(m *mutant, simulated bool) (tests []*test) {
	for _, t := range s.tests {
		if t.reached[m.id] != 0 && strings.HasPrefix(t.name, simulation) == simulated {
			tests = append(tests, t)
		}
	}
	return tests
}

// Tests that take more processor time run later.
const (
	quick  = 300 * time.Millisecond
	medium = 3 * time.Second
)

// part is some tests of one suite that run in one process.
type part struct {
	stage stage
	tests []*test
}

// parts orders the tests for a mutant: quick ones first, each group split by suite.
func parts(unit, worlds, wide []*test) (all []part) {
	add := func(s stage, tests []*test, from, to time.Duration) {
		var last *suite
		for _, t := range tests {
			if t.work < from || t.work >= to {
				continue
			}
			if t.suite != last {
				all, last = append(all, part{stage: s}), t.suite
			}
			all[len(all)-1].tests = append(all[len(all)-1].tests, t)
		}
	}
	const forever = 1<<63 - 1
	add(byUnit, unit, 0, quick)
	add(byUnit, unit, quick, medium)
	add(bySimulation, worlds, 0, forever)
	add(byUnit, unit, medium, forever)
	add(byWider, wide, 0, quick)
	add(byWider, wide, quick, forever)
	return all
}

func (r *runner) trial(m *mutant, tests []*test) *trial {
	t := &trial{suite: tests[0].suite, args: tests[0].args, mutant: m.id}
	for _, x := range tests {
		t.tests = append(t.tests, x.name)
		t.limit += x.took
	}
	t.limit = min(10*time.Second+5*t.limit, r.limit)
	return t
}

// runList runs the mutants of a list, each with the test that kills it.
func (r *runner) runList(ctx context.Context) (code int, err error) {
	entries, err := r.prepare(ctx, r.list)
	if err != nil {
		return 2, err
	}
	lives := 0
	for _, e := range entries {
		dir, name, ok := strings.Cut(e.note, ":")
		if !ok {
			return 2, fmt.Errorf("%s %s: %q is not package:test", e.function, e.text, e.note)
		}
		s, err := r.suite(ctx, dir)
		if err != nil {
			return 2, err
		}
		m := r.all[slices.IndexFunc(r.all, e.names)] // the first, where several have one text
		f := try(ctx, r.root, r.work, &trial{suite: s, tests: []string{name}, args: r.args(name), mutant: m.id, limit: r.limit})
		if f.program != nil {
			return 2, f.program
		}
		if !f.dead {
			lives++
			fmt.Fprintf(r.out, "LIVES after %s: %s\n", e.note, m)
		} else if r.verbose {
			fmt.Fprintf(r.out, "dead after %v: %s\n", f.took.Round(time.Millisecond), m)
		}
	}
	fmt.Fprintf(r.out, "%d mutants, %d of them alive\n", len(entries), lives)
	if lives > 0 {
		return 1, nil
	}
	return 0, nil
}

var stageNames = map[stage]string{byNothing: "LIVES", byUnit: "unit", bySimulation: "simulation", byWider: "wider", byTime: "time"}

func (res *result) line() string {
	by := res.by
	if res.stage == byNothing && !res.came {
		by = "no test comes by"
	}
	return fmt.Sprintf("%s\t%s\t%s", stageNames[res.stage], res.mutant, by)
}

// tell prints a table of the mutants' fates, and those that live.
func (r *runner) tell(results []*result) {
	type row struct {
		count int
		stage [byTime + 1]int
	}
	rows := map[string]*row{}
	for _, res := range results {
		for _, name := range []string{res.mutant.dir, "of all, " + string(res.mutant.kind), "of all"} {
			if rows[name] == nil {
				rows[name] = &row{}
			}
			rows[name].stage[res.stage]++
			rows[name].count++
		}
	}
	fmt.Fprintln(r.out)
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tmutants\tunit tests\tsimulation\twider\ttime\talive\tscore")
	var names []string
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		x := rows[name]
		score := 1 - float64(x.stage[byNothing])/float64(x.count)
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.3f\n", name, x.count, x.stage[byUnit], x.stage[bySimulation], x.stage[byWider], x.stage[byTime], x.stage[byNothing], score)
	}
	_ = w.Flush()
	fmt.Fprintln(r.out)
	slices.SortFunc(results, func(a, b *result) int { return a.mutant.id - b.mutant.id })
	for _, res := range results {
		if res.stage == byNothing {
			fmt.Fprintln(r.out, res.line())
		}
	}
}
