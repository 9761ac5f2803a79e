package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// away keeps a node down while large values are put, kills nodes while it catches up, and
// reads everything from it.
func (v *values) away(ctx context.Context) error {
	leader, err := v.sys.oncekv.member(ctx, true)
	if err != nil {
		return err
	}
	dbs := v.databases()
	i := slices.IndexFunc(dbs, func(p *process) bool { return p.name != leader.Name })
	away := dbs[i]
	present := slices.DeleteFunc(slices.Clone(dbs), func(p *process) bool { return p == away })
	away.kill()
	say("%s is away, %s leads\n", away.name, leader.Name)

	most := v.watch(dbs)
	defer most.stop()
	set, err := v.fill(ctx, leader.ClientURL)
	if err != nil {
		return err
	}
	if err := v.rest(ctx); err != nil {
		return err
	}
	name := fmt.Sprintf("%s while a node is away: ", sized(int64(v.Values.Away)))
	log, memory := most.take()
	for _, p := range present {
		v.figure(fmt.Sprintf("%slog of the %s, MB at most", name, role(p, leader.Name)), finding{}, float64(log[p])/1e6)
		v.figure(fmt.Sprintf("%smemory of the %s, RSS without page cache, MB at most", name, role(p, leader.Name)), finding{}, float64(memory[p])/1e6)
	}

	start := time.Now()
	if err := away.start(); err != nil {
		return err
	}
	kills, err := v.catchesUp(ctx, away)
	if err != nil {
		return err
	}
	log, memory = most.take()
	v.figure(fmt.Sprintf("%sit has caught up after, s, with nodes killed %d times", name, kills), finding{}, time.Since(start).Seconds())
	v.figure(name+"log of the one that catches up, MB at most", finding{}, float64(log[away])/1e6)
	v.figure(name+"memory of the one that catches up, RSS without page cache, MB at most", finding{}, float64(memory[away])/1e6)
	others := int64(0)
	for _, p := range present {
		others = max(others, memory[p])
	}
	v.figure(name+"memory of the others meanwhile, RSS without page cache, MB at most", finding{}, float64(others)/1e6)
	return v.readAll(ctx, v.sys.oncekv.urls[i], set)
}

func role(p *process, leader string) string {
	if p.name == leader {
		return "leader"
	}
	return "follower"
}

// fillSizes are the sizes of the values, in turn.
var fillSizes = []int64{20 << 10, 64 << 10, 1 << 20, 1<<20 + 1, 16 << 20, 3 << 20}

// fillAtATime is how many values are put at a time.
const fillAtATime = 4

// fill puts values of several sizes through one node.
func (v *values) fill(ctx context.Context, url string) (set map[string]*content, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	set = map[string]*content{}
	todo := make(chan string)
	var workers sync.WaitGroup
	for n, sum := 0, int64(0); sum < int64(v.Values.Away); n++ {
		size := fillSizes[n%len(fillSizes)]
		key, value := v.fresh(size)
		set[key] = value
		sum += size
	}
	for range fillAtATime {
		workers.Go(func() {
			for key := range todo {
				if err := v.put(ctx, url, key, set[key]); err != nil {
					cancel(err)
				}
			}
		})
	}
	for key := range set {
		select {
		case todo <- key:
		case <-ctx.Done():
		}
	}
	close(todo)
	workers.Wait()
	return set, context.Cause(ctx)
}

// killAfterMax bounds the time between two kills.
const killAfterMax = 1500 * time.Millisecond

// catchesUp waits until a node has what the others have, and meanwhile kills it and others at
// random.
func (v *values) catchesUp(ctx context.Context, away *process) (kills int, err error) {
	random := rand.New(rand.NewPCG(1, 2))
	for ; kills < v.Values.Kills; kills++ {
		if err := pass(ctx, time.Duration(random.Int64N(int64(killAfterMax)))); err != nil {
			return kills, err
		}
		if v.equal(ctx) == nil {
			break
		}
		victim := away
		if kills%2 == 1 {
			if m, err := v.sys.oncekv.member(ctx, true); err == nil {
				victim = v.sys.oncekv.process(m.Name)
			}
		}
		say("killing %s\n", victim.name)
		victim.kill()
		if err := victim.start(); err != nil {
			return kills, err
		}
	}
	return kills, until(ctx, 50*time.Millisecond, settleLimit, "all have the same history", v.sys.nodes, v.equal)
}

// equal returns nil if all database nodes have the same history and are ready.
func (v *values) equal(ctx context.Context) error {
	var digests []string
	for _, url := range v.sys.oncekv.urls {
		s, err := stats(ctx, url)
		if err == nil {
			err = answers(ctx, url+"/readyz")
		}
		if err != nil {
			return err
		}
		digests = append(digests, fmt.Sprintf("%s at revision %d", s.Digest, s.Revision))
	}
	if all := slices.Compact(digests); len(all) > 1 {
		return fmt.Errorf("they have %q", all)
	}
	return nil
}

// readAll reads values from one node and compares them.
func (v *values) readAll(ctx context.Context, url string, set map[string]*content) error {
	for key, value := range set {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/key/"+key, nil)
		if err != nil {
			return err
		}
		resp, err := v.http.Do(req)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		} else {
			err = value.equals(resp.Body)
		}
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return fmt.Errorf("read %s of %s: %w", key, sized(value.size), err)
		}
	}
	say("%d values are readable\n", len(set))
	return nil
}

// watching samples the logs and the memory of nodes all the time.
type watching struct {
	stop func()

	mu          sync.Mutex
	log, memory map[*process]int64 // the most since take
}

// watchEvery is the interval of the samples.
const watchEvery = 50 * time.Millisecond

func (v *values) watch(dbs []*process) *watching {
	w := &watching{}
	w.take()
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			for _, p := range dbs {
				w.look(p, logRoom(filepath.Join(v.sys.dir, p.name)))
			}
			select {
			case <-over:
				return
			case <-tick.C:
			}
		}
	})
	end := sync.OnceFunc(func() { close(over) })
	w.stop = func() {
		end()
		watcher.Wait()
	}
	return w
}

func (w *watching) look(p *process, log int64) {
	memory := p.residentBytes()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log[p], w.memory[p] = max(w.log[p], log), max(w.memory[p], memory)
}

// take returns the peaks of each node, and starts again.
func (w *watching) take() (log, memory map[*process]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	log, memory = w.log, w.memory
	w.log, w.memory = map[*process]int64{}, map[*process]int64{}
	return log, memory
}
