package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// bigPart loads many keys into oncekv and into etcd, each alone on the machine, and then
// examines an even larger store of oncekv.
func (b *bench) bigPart(ctx context.Context) error {
	names := b.comparedStores()
	for round := range b.CompareRounds {
		for _, name := range names {
			say("load %d of %d of %s, %d keys: ", round+1, b.CompareRounds, name, b.CompareKeys)
			if err := b.with(ctx, lineup{systems: []string{name}}, b.compare); err != nil {
				return fmt.Errorf("load %s: %w", name, err)
			}
		}
	}
	if of, to := b.report.of("oncekv/load"), b.report.of("etcd/load"); of != nil && to != nil {
		q := ratio{name: fmt.Sprintf("POST /keys ÷ etcd transactions of 64, %s keys, flushing included", count(b.CompareKeys)), least: 2}
		b.report.found(q.finding(of.Rounds, to.Rounds))
	}
	if b.BigKeys == 0 || !slices.Contains(names, "oncekv") {
		return nil
	}
	return b.with(ctx, lineup{systems: []string{"oncekv"}}, b.bigStore)
}

// count returns 5 million for 5000000, and 200,000 for 200000.
func count(n int) string {
	if n >= 1e6 && n%1e6 == 0 {
		return fmt.Sprintf("%d million", n/1e6)
	}
	digits := fmt.Sprint(n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// compare loads the only running system, and counts until it writes no more.
func (b *bench) compare(ctx context.Context) error {
	sys := b.systems[0]
	t := sys.tasks[bulkOf[sys.name]]
	start, before := time.Now(), cpuOf(sys)
	r, err := t.bulk.run(ctx, sys, b.session(), b.CompareKeys)
	acknowledged := time.Now()
	if err != nil {
		return errors.Join(err, sys.ended())
	}
	written, err := b.settled(ctx, sys)
	if err != nil {
		return err
	}
	if written.Before(acknowledged) {
		written = acknowledged
	}
	r.PerSecond = float64(b.CompareKeys) / written.Sub(start).Seconds()
	r.spread(cpuOf(sys).since(before), float64(b.CompareKeys))
	say("%.0f keys/s, and the last bytes %.1f s behind the last answer\n", r.PerSecond, written.Sub(acknowledged).Seconds())
	b.keep(sys.name+"/load", t.workers, r.measurement)
	b.report.Curves = append(b.report.Curves, curve{Name: sys.name, Figure: fmt.Sprintf("keys/s while %s keys are loaded", count(b.CompareKeys)), Over: "tenths", Points: r.Tenths})
	return nil
}

// bulkOf names the tasks that load the systems.
var bulkOf = map[string]string{"oncekv": "http-keys", "etcd": "txn-64"}

// How settled detects the end of the writes.
const (
	settleEvery = 200 * time.Millisecond
	settleNoise = 64 << 10 // bytes in settleEvery that do not count as flushing
	settleLimit = 10 * time.Minute
)

// settled waits until the nodes of a system have written nothing for SettleQuiet, and returns
// the time of the last write.
func (b *bench) settled(ctx context.Context, sys *system) (time.Time, error) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	limit := time.Now().Add(settleLimit)
	last, before := time.Now(), sys.written()
	for {
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-tick.C:
		}
		if err := sys.ended(); err != nil {
			return last, err
		}
		now, written := time.Now(), sys.written()
		if written-before > settleNoise {
			last = now
		}
		before = written
		switch {
		case now.Sub(last) >= b.SettleQuiet:
			return last, nil
		case now.After(limit):
			return last, fmt.Errorf("%s still writes, %v after the load", sys.name, settleLimit)
		}
	}
}

// bigStore fills a store of oncekv and measures what the many keys cost.
func (b *bench) bigStore(ctx context.Context) error {
	sys := b.systems[0]
	s := b.session()
	stop := watchMemory(sys.nodes)
	defer stop()

	say("big store, %d keys: ", b.BigKeys)
	r, err := bulk(sys.oncekv.postKeys).run(ctx, sys, s, b.BigKeys)
	if err != nil {
		return errors.Join(err, sys.ended())
	}
	say("%.0f keys/s\n", r.PerSecond)
	b.keep("oncekv/big-load", b.Streams, r.measurement)
	b.report.Curves = append(b.report.Curves, curve{Name: "oncekv", Figure: fmt.Sprintf("keys/s while %s keys are loaded", count(b.BigKeys)), Over: "tenths", Points: r.Tenths})
	b.about(b.BigKeys, "last tenth of the load ÷ first tenth", atLeast(0.8), r.Tenths[9]/r.Tenths[0])

	// At once, while much is only in memory.
	if err := b.restarts(ctx, sys); err != nil {
		return fmt.Errorf("restart a node: %w", err)
	}
	if _, err := b.settled(ctx, sys); err != nil {
		return err
	}
	payload := float64(b.BigKeys) * (keyBytes + valueBytes)
	if err := b.bytes(sys, b.BigKeys, payload, atMost(1.45), atMost(4)); err != nil {
		return err
	}
	if err := b.sizedGets(ctx, sys, "big", b.BigKeys, s, atLeast(0.8), atLeast(0.6)); err != nil {
		return err
	}
	ofFourth, err := b.catchUp(ctx, sys)
	if err != nil {
		return fmt.Errorf("a node that catches up: %w", err)
	}
	b.about(b.BigKeys, "memory of the largest node, RSS without page cache, MB", atMost(350), float64(max(stop(), ofFourth))/1e6)
	return nil
}

func atLeast(f float64) finding { return finding{AtLeast: f} }
func atMost(f float64) finding  { return finding{AtMost: f} }

// about adds a finding about a store of so many keys.
func (b *bench) about(keys int, what string, f finding, rounds ...float64) {
	f.Name, f.Rounds = count(keys)+" keys: "+what, rounds
	say("%s: %s\n", f.Name, short(median(rounds)))
	b.report.found(f)
}

// watchMemory samples the memory of nodes every second, until stop, which returns the largest
// sample.
func watchMemory(nodes []*process) (stop func() int64) {
	over := make(chan struct{})
	most := int64(0)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			most = max(most, largest(nodes, (*process).residentBytes))
			select {
			case <-over:
				return
			case <-tick.C:
			}
		}
	})
	end := sync.OnceFunc(func() { close(over) })
	return func() int64 {
		end()
		watcher.Wait()
		return most
	}
}

// restarts restarts each database node once, the leader last, and measures the time from the
// start of the new process until it is ready.
func (b *bench) restarts(ctx context.Context, sys *system) error {
	o := sys.oncekv
	leader, err := o.member(ctx, true)
	if err != nil {
		return err
	}
	var followers []*process
	for _, p := range sys.nodes[:nodes] {
		if p.name != leader.Name {
			followers = append(followers, p)
		}
	}
	var took []float64
	for _, end := range []struct {
		of *process
		by func(*process)
	}{{followers[0], (*process).kill}, {followers[1], (*process).stop}, {o.process(leader.Name), (*process).kill}} {
		d, err := o.restart(ctx, end.of, end.by)
		if err != nil {
			return err
		}
		took = append(took, d.Seconds())
	}
	b.about(b.BigKeys, "restart to ready after SIGTERM, s", atMost(2), took[1])
	// A follower, and the leader.
	b.about(b.BigKeys, "restart to ready after kill -9, s", atMost(1), took[0], took[2])
	return nil
}

// bytes compares what a node stores and writes with payload, the bytes of the keys and values
// in it.
func (b *bench) bytes(sys *system, keys int, payload float64, onDisk, written finding) error {
	var stored int64
	databases := sys.nodes[:len(sys.oncekv.urls)]
	for _, p := range databases {
		n, err := storedBytes(filepath.Join(sys.dir, p.name))
		if err != nil {
			return err
		}
		stored = max(stored, n)
	}
	b.about(keys, "bytes on disk, all but the log, ÷ keys and values", onDisk, float64(stored)/payload)
	b.about(keys, "bytes written, the log included, ÷ keys and values", written, float64(largest(databases, (*process).written))/payload)
	return nil
}

// sizedGets reads at the leader of a store whose keys are those of a session: random keys,
// always the same key, and keys that are not set. random and absent are the aims, relative to
// the rate of the same key.
func (b *bench) sizedGets(ctx context.Context, sys *system, prefix string, keys int, s session, random, absent finding) error {
	every, hot := s, s
	every.known = func(r *rand.Rand) string { return s.key(0, uint32(r.IntN(keys))) }
	hot.known = func(*rand.Rand) string { return s.key(0, 0) }
	found, missing := sys.tasks["http-get-leader"].open, sys.tasks["http-absent-leader"].open
	l := loop{workers: b.Workers, warmUp: b.WarmUp, duration: b.Duration}
	for range b.Rounds {
		for _, one := range []struct {
			name string
			of   session
			open opener
		}{{"random", every, found}, {"hot", hot, found}, {"absent", b.session(), missing}} {
			say("%s keys, %s: ", count(keys), one.name)
			if err := b.loop(ctx, sys, prefix+"-get-"+one.name, l, one.of, one.open); err != nil {
				return err
			}
		}
	}
	for _, one := range []struct {
		name, what string
		aim        finding
	}{{"random", "GET of random keys ÷ of one key", random}, {"absent", "GET of keys that are not set ÷ of one that is", absent}} {
		q := ratio{of: "oncekv/" + prefix + "-get-" + one.name, to: "oncekv/" + prefix + "-get-hot", least: one.aim.AtLeast}
		f := q.finding(b.report.of(q.of).Rounds, b.report.of(q.to).Rounds)
		b.about(keys, one.what, f, f.Rounds...)
	}
	return nil
}

// copies is how often the data is copied for comparison.
const copies = 3

// catchUp adds a fourth node, and measures how long it takes to have everything and write no
// more; and how long a copy of its files takes.
func (b *bench) catchUp(ctx context.Context, sys *system) (memory int64, err error) {
	took, memory, err := b.joinFourth(ctx, sys.oncekv)
	if err != nil {
		return 0, err
	}
	var ratios []float64
	for range copies {
		to := filepath.Join(sys.dir, "copy")
		start := time.Now()
		if err := copyStored(filepath.Join(sys.dir, "n4"), to); err != nil {
			return 0, err
		}
		ratios = append(ratios, time.Since(start).Seconds()/took.Seconds())
		if err := os.RemoveAll(to); err != nil {
			return 0, err
		}
	}
	b.about(b.BigKeys, "a fourth node catching up from nothing, s", finding{}, took.Seconds())
	b.about(b.BigKeys, "copy and fsync of its files ÷ catching up", atLeast(0.4), ratios...)
	return memory, nil
}

// joinFourth starts n4 without data. It returns how long n4 took to be ready with all
// revisions and have everything written, and its peak memory.
func (b *bench) joinFourth(ctx context.Context, o *oncekv) (took time.Duration, memory int64, err error) {
	want, err := stats(ctx, o.urls[0])
	if err != nil {
		return 0, 0, err
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return 0, 0, err
	}
	say("a fourth node joins\n")
	url, start := "http://"+addrs[0], time.Now()
	if err := o.system.run(o.system.dir, "n4", o.path, "serve", "--name", "n4", "--data-dir", filepath.Join(o.system.dir, "n4"), "--listen", addrs[0],
		"--peer-listen", addrs[1], "--join", o.urls[0]); err != nil {
		return 0, 0, err
	}
	stop := watchMemory([]*process{o.process("n4")})
	defer stop()
	var done time.Time
	err = until(ctx, 20*time.Millisecond, settleLimit, "n4 has caught up", o.system.nodes, func(ctx context.Context) error {
		has, err := stats(ctx, url)
		switch {
		case err != nil:
			return err
		case has.Revision < want.Revision:
			return fmt.Errorf("n4 is at revision %d of %d", has.Revision, want.Revision)
		case has.Digest != want.Digest:
			return fmt.Errorf("n4 has another history at revision %d", has.Revision)
		}
		done = time.Now()
		return answers(ctx, url+"/readyz")
	})
	if err != nil {
		return 0, 0, err
	}
	last, err := b.settled(ctx, o.system)
	if err != nil {
		return 0, 0, err
	}
	if last.After(done) {
		done = last
	}
	indexed, err := metric(ctx, url, "oncekv_store_indexed_revision")
	if err != nil {
		return 0, 0, err
	}
	// The rest is in memory: a node at rest keeps the newest keys there.
	b.about(b.BigKeys, "of these in the index of a fourth node that has caught up, %", finding{}, 100*indexed/float64(want.Revision))
	return done.Sub(start), stop(), nil
}

// restart ends a node with end, and returns how long the next process took from its start
// until it was ready.
func (o *oncekv) restart(ctx context.Context, p *process, end func(*process)) (time.Duration, error) {
	i := slices.Index(o.system.nodes, p)
	end(p)
	start := time.Now()
	if err := p.start(); err != nil {
		return 0, err
	}
	err := until(ctx, 5*time.Millisecond, startTimeout, p.name+" is ready", o.system.nodes, func(ctx context.Context) error { return answers(ctx, o.urls[i]+"/readyz") })
	return time.Since(start), err
}

// process returns the node with that name.
func (o *oncekv) process(name string) *process {
	i := slices.IndexFunc(o.system.nodes, func(p *process) bool { return p.name == name })
	return o.system.nodes[i]
}

// stats returns the statistics of a node.
func stats(ctx context.Context, url string) (api.Stats, error) {
	var s api.Stats
	text, err := fetch(ctx, url+"/stats")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

// metric returns one Prometheus metric of a node.
func metric(ctx context.Context, url, name string) (float64, error) {
	text, err := fetch(ctx, url+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if figure, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(figure), 64)
		}
	}
	return 0, fmt.Errorf("%s: %w", name, errNoMetric)
}

var errNoMetric = errors.New("this version has no such metric")
