package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// hugeValueBytes is the length of values when there are many keys.
const hugeValueBytes = 32

// Limits of a node's disk space: for each of these keys, and besides for its log and for
// merges, which hold their input and their output at the same time.
const (
	hugeRoomOfKey = 240
	hugeRoomAside = 2 << 30
)

// pauseMax is how long a put may take at half of the load's rate.
const pauseMax = 100 * time.Millisecond

// huge measures more keys than fit into memory, on one node.
type huge struct {
	*bench
	watch *hugeWatch // watches the running node
}

// hugePart loads a node as fast as it can and measures what the many keys cost; then it loads
// another node at half of that rate and measures every put.
func (b *bench) hugePart(ctx context.Context) error {
	if !slices.Contains(b.Systems, "oncekv") {
		return nil
	}
	h, rate := &huge{bench: b}, b.HugeRate
	if b.HugeKeys > 0 {
		err := h.node(ctx, b.HugeKeys, func(ctx context.Context, sys *system) error {
			reached, err := h.fill(ctx, sys)
			if rate == 0 {
				rate = reached / 2
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("a load of %s keys: %w", count(b.HugeKeys), err)
		}
	}
	if b.HugePacedKeys == 0 {
		return nil
	}
	err := h.node(ctx, b.HugePacedKeys, func(ctx context.Context, sys *system) error { return h.paced(ctx, sys, rate) })
	if err != nil {
		return fmt.Errorf("a load of %s keys at half of the rate: %w", count(b.HugePacedKeys), err)
	}
	return nil
}

// node runs do with a node without data, and ends it if the node takes more room than allowed.
func (h *huge) node(ctx context.Context, keys int, do func(context.Context, *system) error) error {
	room := int64(h.HugeRoom)
	if room == 0 {
		room = int64(keys)*hugeRoomOfKey + hugeRoomAside
	}
	free, err := freeBytes(h.work)
	if err != nil {
		return err
	}
	if free < room {
		return fmt.Errorf("it may take up to %.1f GB of the disk of %s, which has %.1f GB free: make room, name another directory with -dir, or take fewer keys", gb(room), h.Dir, gb(free))
	}
	say("%s keys on one node, which may take up to %.1f GB of the disk\n", count(keys), gb(room))
	return h.with(ctx, lineup{systems: []string{"oncekv"}, alone: true}, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		sys := h.systems[0]
		h.watch = watchHuge(sys, keys, room, cancel)
		defer h.watch.stop()
		return errors.Join(do(ctx, sys), sys.ended())
	})
}

func gb(bytes int64) float64 { return float64(bytes) / 1e9 }

// freeBytes returns the free space of a directory's file system.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("how much room is free in %s: %w", dir, err)
	}
	return int64(float64(s.Bavail) * float64(s.Bsize)), nil
}

// hugeSession has the keys of a load.
func (h *huge) hugeSession() session {
	s := h.session()
	s.value = s.value[:hugeValueBytes]
	return s
}

// fill loads a node, and returns its rate in keys a second.
func (h *huge) fill(ctx context.Context, sys *system) (perSecond float64, err error) {
	keys, s := h.HugeKeys, h.hugeSession()
	payload := float64(keys) * (keyBytes + hugeValueBytes)
	silence := &silence{last: time.Now()}
	put := func(ctx context.Context, s session, keys int, acknowledged func(n int)) error {
		return sys.oncekv.postKeys(ctx, s, keys, func(n int) {
			silence.ends(time.Now())
			h.watch.set.Add(int64(n))
			acknowledged(n)
		})
	}
	r, err := bulk(put).run(ctx, sys, s, keys)
	if err != nil {
		return 0, err
	}
	h.keep("oncekv/huge-load", h.Streams, r.measurement)
	h.report.Curves = append(h.report.Curves, curve{Name: "oncekv", Figure: fmt.Sprintf("keys/s while %s keys are loaded into one node", count(keys)), Over: "tenths", Points: r.Tenths})
	h.about(keys, "last tenth of the load ÷ first tenth", atLeast(0.7), r.Tenths[9]/r.Tenths[0])
	h.about(keys, "longest time without an answer in the load, ms", finding{}, float64(silence.longest.Microseconds())/1000)

	// At once, while much is only in memory.
	var took []float64
	for range hugeKills {
		d, err := sys.oncekv.restart(ctx, sys.nodes[0], (*process).kill)
		if err != nil {
			return 0, fmt.Errorf("restart the node: %w", err)
		}
		took = append(took, d.Seconds())
	}
	h.about(keys, "restart to ready after kill -9, s", atMost(4), took...)
	if _, err := h.settled(ctx, sys); err != nil {
		return 0, err
	}
	if err := h.index(ctx, sys, keys); err != nil {
		return 0, err
	}
	if err := h.bytes(sys, keys, payload, finding{}, finding{}); err != nil {
		return 0, err
	}
	if err := h.sizedGets(ctx, sys, "huge", keys, s, finding{}, finding{}); err != nil {
		return 0, err
	}
	h.about(keys, "memory of the node at the end, RSS without page cache, MB", finding{}, float64(sys.residentBytes())/1e6)
	memory, room := h.watch.most()
	h.about(keys, "memory of the node at most, RSS without page cache, MB", atMost(600), float64(memory)/1e6)
	h.about(keys, "room of the node at most, the log included, GB", finding{}, gb(room))
	return r.PerSecond, nil
}

// hugeKills is how often the node is killed.
const hugeKills = 3

// silence is the longest time without an answer. It is safe for concurrent use.
type silence struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

func (s *silence) ends(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest, s.last = max(s.longest, now.Sub(s.last)), now
}

// index records what the node reports about its index.
func (h *huge) index(ctx context.Context, sys *system, keys int) error {
	var runs, filters, indexed float64
	for metricName, into := range map[string]*float64{
		"oncekv_index_runs": &runs, "oncekv_index_filter_bytes": &filters, "oncekv_index_keys": &indexed,
	} {
		var err error
		if *into, err = metric(ctx, sys.url, metricName); err != nil {
			return err
		}
	}
	h.about(keys, "runs of the index", finding{}, runs)
	h.about(keys, "bits of filters a key", atMost(12), 8*filters/max(indexed, 1))
	return nil
}

// paced loads a node at a steady rate, and measures every put from when it was due.
func (h *huge) paced(ctx context.Context, sys *system, rate float64) error {
	keys := h.HugePacedKeys
	leader, err := sys.oncekv.member(ctx, true)
	if err != nil {
		return err
	}
	c, err := dialRaw(strings.TrimPrefix(leader.ClientURL, "http://"))
	if err != nil {
		return err
	}
	defer c.close()
	say("%.0f keys/s are due\n", rate)
	before := cpuOf(sys)
	puts := newPauses(&pace{start: time.Now(), second: rate})
	_, err = c.postKeys(ctx, stream{session: h.hugeSession(), to: uint32(keys), atOnce: 1, pace: puts.pace, acknowledged: func(int) {
		puts.answered(time.Now())
		h.watch.set.Add(1)
	}})
	if err != nil {
		return err
	}
	m := puts.measurement(time.Now())
	m.spread(cpuOf(sys).since(before), float64(keys))
	h.keep("oncekv/huge-paced", 1, m)
	h.about(keys, "at half of the rate of the load: keys/s", finding{}, m.PerSecond)
	h.about(keys, "… put p99, ms", finding{}, m.P99)
	h.about(keys, "… worst put, ms", atMost(float64(pauseMax.Milliseconds())), m.Max)
	h.about(keys, fmt.Sprintf("… puts of over %d ms", pauseMax.Milliseconds()), finding{}, float64(puts.late))
	h.about(keys, fmt.Sprintf("… pauses with puts of over %d ms", pauseMax.Milliseconds()), finding{}, float64(puts.pauses))
	return nil
}

// pauses examines puts that are due, and answered, in order. It is for one goroutine.
type pauses struct {
	pace   *pace
	next   uint32 // the next put to be answered
	took   *hdrhistogram.Histogram
	late   int // puts that took longer than pauseMax
	pauses int // series of late puts without one in time between them

	worst time.Duration // of the current pause; 0: none
}

func newPauses(p *pace) *pauses {
	return &pauses{pace: p, took: hdrhistogram.New(1, time.Hour.Microseconds(), 3)}
}

// answered records the answer to the next put.
func (p *pauses) answered(at time.Time) {
	due := p.pace.due(p.next)
	took := max(at.Sub(due), time.Microsecond)
	p.next++
	_ = p.took.RecordValue(min(took.Microseconds(), time.Hour.Microseconds())) // within its range
	switch {
	case took > pauseMax:
		if p.late++; p.worst == 0 {
			p.pauses++
		}
		p.worst = max(p.worst, took)
	case p.worst > 0:
		say("a pause: puts took up to %d ms, %.1f s from the start\n", p.worst.Milliseconds(), due.Sub(p.pace.start).Seconds())
		p.worst = 0
	}
}

func (p *pauses) measurement(end time.Time) measurement {
	at := func(percentile float64) float64 { return float64(p.took.ValueAtPercentile(percentile)) / 1000 }
	return measurement{PerSecond: float64(p.next) / end.Sub(p.pace.start).Seconds(), Requests: uint64(p.next),
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(p.took.Max()) / 1000}
}

// hugeWatch watches a node all the time, and reports the load's progress.
type hugeWatch struct {
	stop func()
	set  atomic.Int64 // keys, so far

	mu           sync.Mutex
	memory, room int64 // the most so far
}

// How often hugeWatch looks, and how often it reports.
const (
	hugeLook = time.Second
	hugeSay  = 10 // looks
)

// watchHuge calls giveUp if the node takes more room than allowed.
func watchHuge(sys *system, keys int, room int64, giveUp context.CancelCauseFunc) *hugeWatch {
	w := &hugeWatch{}
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(hugeLook)
		defer tick.Stop()
		for looks := int64(0); ; looks++ {
			memory, taken, err := w.look(sys)
			switch {
			case err != nil:
				giveUp(err)
			case taken > room:
				giveUp(fmt.Errorf("the node takes %.1f GB of the disk, and may take %.1f (-huge-room)", gb(taken), gb(room)))
			}
			if n := w.set.Load(); looks%hugeSay == hugeSay-1 && n < int64(keys) {
				say("%d of %d keys, %d MB of memory, %.1f GB of the disk\n", n, keys, memory/1e6, gb(taken))
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

func (w *hugeWatch) look(sys *system) (memory, room int64, err error) {
	p := sys.nodes[0]
	memory = p.residentBytes()
	dir := filepath.Join(sys.dir, p.name)
	if room, err = storedBytes(dir); err != nil {
		return 0, 0, err
	}
	room += logRoom(dir)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory, w.room = max(w.memory, memory), max(w.room, room)
	return memory, room, nil
}

// most returns the node's peak memory and room.
func (w *hugeWatch) most() (memory, room int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.memory, w.room
}
