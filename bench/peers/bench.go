package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// step is one measurement of a round.
type step struct {
	system, name string
	as           string // the task, if its name differs from the case's
	rate         func(b *bench) float64
}

// sequence is a round. Cases that are compared are adjacent, so that they are measured in the
// same minute.
var sequence = []step{
	{system: "ceiling", name: "http-put"},
	{system: "oncekv", name: "http-put-leader"},
	{system: "oncekv", name: "http-put-follower"},
	{system: "oncekv", name: "http-put-cache"},
	{system: "oncekv", name: "put"},
	{system: "etcd", name: "put"},
	{system: "nats", name: "put"},
	{system: "oncekv", name: "http-keys"},
	{system: "oncekv", name: "put-all"},
	{system: "etcd", name: "txn-64"},
	{system: "ceiling", name: "http-get"},
	{system: "oncekv", name: "http-get-leader"},
	{system: "oncekv", name: "http-get-follower"},
	{system: "oncekv", name: "http-get-cache"},
	{system: "oncekv", name: "http-absent-leader"},
	{system: "oncekv", name: "http-absent-follower"},
	{system: "oncekv", name: "get"},
	{system: "etcd", name: "get"},
	{system: "etcd", name: "get-serializable"},
	{system: "nats", name: "get"},
	{system: "oncekv", name: "get-absent"},
	{system: "etcd", name: "get-absent"},
	{system: "nats", name: "get-absent"},
	{system: "oncekv", name: "put-paced", as: "put", rate: halfOfEtcd},
	{system: "etcd", name: "put-paced", as: "put", rate: halfOfEtcd},
}

// halfOfEtcd returns half of the highest rate of etcd's puts so far, as the median of the
// rounds; 0 if it was not measured.
func halfOfEtcd(b *bench) float64 {
	r := b.report.of("etcd/put")
	if r == nil {
		return 0
	}
	return median(figures(r.Rounds, perSecond)) / 2
}

// setupTag is the number of sessions that set the keys to read.
const setupTag = 16

// bench is a run of this program.
type bench struct {
	settings
	work    string // directory of programs and data
	systems []*system
	value   []byte
	set     []string
	next    uint16 // the next session's tag
	report  report
}

// result is a case with its rounds.
type result struct {
	Name    string        `json:"name"`
	Part    string        `json:"part"`
	Workers int           `json:"workers"`
	Rounds  []measurement `json:"rounds"`
}

func (b *bench) system(name string) *system {
	i := slices.IndexFunc(b.systems, func(s *system) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return b.systems[i]
}

// lineup is what one part of the run starts.
type lineup struct {
	systems []string
	serve   []string // more flags of oncekv's database nodes
	alone   bool     // one database node of oncekv, and no cache node
}

// start starts systems without data.
func (b *bench) start(ctx context.Context, l lineup) error {
	var err error
	b.systems, err = startAll(ctx, place{bin: b.Bin, dir: b.work, clients: b.Clients, streams: b.Streams, oncekv: b.Program, serve: l.serve, alone: l.alone}, l.systems)
	if o := b.system("oncekv"); err == nil && o != nil && b.report.Oncekv == "" {
		b.report.Oncekv, err = o.oncekv.version(ctx)
	}
	return err
}

// stop ends the systems and removes their data.
func (b *bench) stop() error {
	var errs []error
	for _, s := range b.systems {
		s.stop()
		errs = append(errs, os.RemoveAll(filepath.Join(b.work, s.name)))
	}
	b.systems = nil
	return errors.Join(errs...)
}

// with runs one part of the run with its own systems.
func (b *bench) with(ctx context.Context, l lineup, part func(context.Context) error) (err error) {
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.start(ctx, l); err != nil {
		return err
	}
	return part(ctx)
}

// shortPart measures all cases, round by round.
func (b *bench) shortPart(ctx context.Context) error {
	err := b.with(ctx, lineup{systems: b.Systems}, b.rounds)
	b.report.addRatios()
	return err
}

func (b *bench) rounds(ctx context.Context) error {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	for round := range b.Rounds {
		for _, st := range sequence {
			sys := b.system(st.system)
			if sys == nil || len(b.Cases) > 0 && !slices.Contains(b.Cases, st.name) {
				continue
			}
			say("round %d of %d: %s/%s ", round+1, b.Rounds, st.system, st.name)
			if err := b.measure(ctx, sys, st); err != nil {
				return fmt.Errorf("%s/%s: %w", st.system, st.name, err)
			}
		}
	}
	b.report.Resident = map[string]int64{}
	for _, s := range b.systems {
		b.report.Resident[s.name] = s.residentBytes()
	}
	return nil
}

// say reports progress to people.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format, args...) }

// measure does one step and keeps the result.
func (b *bench) measure(ctx context.Context, sys *system, st step) error {
	name := st.as
	if name == "" {
		name = st.name
	}
	t := sys.tasks[name]
	if t.bulk != nil {
		r, err := t.bulk.run(ctx, sys, b.session(), b.BulkKeys)
		if err != nil {
			return errors.Join(err, sys.ended())
		}
		say("%.0f keys/s\n", r.PerSecond)
		b.keep(sys.name+"/"+st.name, t.workers, r.measurement)
		return nil
	}
	l := loop{workers: b.Workers, warmUp: b.WarmUp, duration: b.Duration}
	if st.rate != nil {
		if l.rate = st.rate(b); l.rate == 0 {
			say("left out: etcd/put was not measured\n")
			return nil
		}
	}
	return b.loop(ctx, sys, st.name, l, b.session(), t.open)
}

// loop runs a loop of requests and keeps the result.
func (b *bench) loop(ctx context.Context, sys *system, name string, l loop, s session, open opener) error {
	m, err := l.run(ctx, sys, func(ctx context.Context, worker int) (operation, func(), error) { return open(ctx, s, worker) })
	if err := errors.Join(err, sys.ended()); err != nil {
		return err
	}
	say("%.0f/s, p50 %.2f ms, p99 %.2f ms, %d errors %s\n", m.PerSecond, m.P50, m.P99, m.Errors, m.firstError)
	b.keep(sys.name+"/"+name, l.workers, m)
	return nil
}

func (b *bench) session() session {
	b.next++
	return session{tag: b.next, value: b.value, known: b.known}
}

func (b *bench) known(random *rand.Rand) string { return b.set[random.IntN(len(b.set))] }

func (b *bench) keep(name string, workers int, m measurement) {
	r := b.report.of(name)
	if r == nil {
		r = &result{Name: name, Part: b.report.part, Workers: workers}
		b.report.Cases = append(b.report.Cases, r)
	}
	r.Rounds = append(r.Rounds, m)
}

// setUp sets the keys to read, the same in all systems.
func (b *bench) setUp(ctx context.Context) error {
	all := session{tag: 0, value: b.value}
	for n := range uint32(b.Keys) {
		b.set = append(b.set, all.key(0, n))
	}
	for _, sys := range b.systems {
		t, ok := sys.tasks["put"]
		if !ok {
			continue
		}
		say("setting %d keys of %s\n", b.Keys, sys.name)
		if err := b.setAll(ctx, t.open); err != nil {
			return fmt.Errorf("set the keys of %s: %w", sys.name, err)
		}
	}
	return nil
}

// setAll puts every key once: each worker takes the next.
func (b *bench) setAll(ctx context.Context, open opener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left := numbers{end: int64(len(b.set))}
	var workers sync.WaitGroup
	for worker := range min(b.Workers, 64) {
		mine := &taken{left: &left, set: b.set}
		op, done, err := open(ctx, session{value: b.value, given: mine.key}, worker)
		if err != nil {
			cancel(err)
			break
		}
		workers.Go(func() {
			defer done()
			for ctx.Err() == nil && mine.more() {
				if _, err := op(ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// taken hands keys to one worker. All workers share left.
type taken struct {
	left *numbers
	set  []string
	now  string
}

func (t *taken) more() bool {
	from, to := t.left.take(1)
	if from == to {
		return false
	}
	t.now = t.set[from]
	return true
}

func (t *taken) key() string { return t.now }
