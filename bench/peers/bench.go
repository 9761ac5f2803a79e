package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// step is one measurement of a round.
type step struct {
	system, name string
	as           string // the task, if it has another name than the case
	rate         func(b *bench) float64
}

// sequence is a round. What is compared stands together, so that it is measured
// in the same minute.
var sequence = []step{
	{system: "ceiling", name: "http-put"},
	{system: "oncekv", name: "http-put-leader"},
	{system: "oncekv", name: "http-put-follower"},
	{system: "oncekv", name: "http-put-cache"},
	{system: "oncekv", name: "put"},
	{system: "etcd", name: "put"},
	{system: "nats", name: "put"},
	{system: "oncekv", name: "batch"},
	{system: "etcd", name: "batch"},
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

// halfOfEtcd is half of the most that etcd has put so far, as the median of the
// rounds; 0 if it was not measured.
func halfOfEtcd(b *bench) float64 { return median(b.perSecond("etcd/put")) / 2 }

// setupTag is the number of sessions that set keys to be read.
const setupTag = 16

// bench is a run of this program.
type bench struct {
	settings
	systems []*system
	value   []byte
	set     []string
	next    uint16 // the next session's tag
	results []*result
}

// result is a case with its rounds.
type result struct {
	Name    string        `json:"name"`
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

func (b *bench) measureAll(ctx context.Context) error {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	for round := range b.Rounds {
		for _, st := range sequence {
			sys := b.system(st.system)
			if sys == nil || len(b.Cases) > 0 && !slices.Contains(b.Cases, st.name) {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s/%s ", round+1, b.Rounds, st.system, st.name)
			if err := b.measure(ctx, sys, st); err != nil {
				return fmt.Errorf("%s/%s: %w", st.system, st.name, err)
			}
		}
	}
	return nil
}

// measure does one step and keeps what came of it.
func (b *bench) measure(ctx context.Context, sys *system, st step) error {
	name := st.as
	if name == "" {
		name = st.name
	}
	t := sys.tasks[name]
	l := load{workers: b.Workers, warmUp: b.WarmUp, duration: b.Duration}
	if t.workers > 0 {
		l.workers = t.workers
	}
	if st.rate != nil {
		if l.rate = st.rate(b); l.rate == 0 {
			fmt.Fprintln(os.Stderr, "left out: etcd/put was not measured")
			return nil
		}
	}
	s := b.session()
	m, err := l.run(ctx, func(ctx context.Context, worker int) (operation, func(), error) { return t.open(ctx, s, worker) })
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%.0f/s, p50 %.2f ms, p99 %.2f ms, %d errors\n", m.PerSecond, m.P50, m.P99, m.Errors)
	if m.firstError != nil {
		fmt.Fprintln(os.Stderr, m.firstError)
	}
	for _, p := range sys.nodes {
		if err := p.ended(); err != nil {
			return err
		}
	}
	b.keep(sys.name+"/"+st.name, l.workers, m)
	return nil
}

func (b *bench) session() session {
	b.next++
	return session{tag: b.next, value: b.value, set: b.set}
}

func (b *bench) keep(name string, workers int, m measurement) {
	r := b.result(name)
	if r == nil {
		r = &result{Name: name, Workers: workers}
		b.results = append(b.results, r)
	}
	r.Rounds = append(r.Rounds, m)
}

func (b *bench) result(name string) *result {
	i := slices.IndexFunc(b.results, func(r *result) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return b.results[i]
}

func (b *bench) perSecond(name string) []float64 {
	var all []float64
	if r := b.result(name); r != nil {
		for _, m := range r.Rounds {
			all = append(all, m.PerSecond)
		}
	}
	return all
}

// setUp sets the keys that are read, the same in all systems.
func (b *bench) setUp(ctx context.Context) error {
	b.next = setupTag
	all := session{tag: 0, value: b.value}
	for n := range uint32(b.Keys) {
		b.set = append(b.set, all.key(0, n))
	}
	for _, sys := range b.systems {
		t, ok := sys.tasks["put"]
		if !ok {
			continue
		}
		fmt.Fprintf(os.Stderr, "setting %d keys of %s\n", b.Keys, sys.name)
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
	var next atomic.Int64
	var workers sync.WaitGroup
	for worker := range min(b.Workers, 64) {
		mine := &taken{next: &next, set: b.set}
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

// taken deals keys out to workers. It belongs to one of them; next is shared.
type taken struct {
	next *atomic.Int64
	set  []string
	now  string
}

func (t *taken) more() bool {
	i := t.next.Add(1) - 1
	if i >= int64(len(t.set)) {
		return false
	}
	t.now = t.set[i]
	return true
}

func (t *taken) key() string { return t.now }
