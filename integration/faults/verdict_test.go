package faults

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/checker"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// verify judges an episode whose load has ended: replicas are equal, every key is read from
// every node and cache, and no client saw anything impossible.
func (e *episode) verify() {
	e.t.Helper()
	revision := e.sameHistory()
	keys := e.history.keys()
	for {
		e.readEverything(slices.Sorted(maps.Keys(keys)))
		again := e.sameHistory()
		if again == revision {
			break
		}
		revision = again // a put whose outcome was unknown has taken effect meanwhile
	}
	set := 0
	for _, value := range e.history.keys() {
		if value != "" {
			set++
		}
	}
	if uint64(set) != revision {
		e.t.Errorf("%d keys are set and the last revision is %d", set, revision)
	}
	for _, v := range checker.Check(e.history.ops) {
		e.t.Errorf("VIOLATION %v", v)
	}
	for _, odd := range e.history.odd {
		e.t.Errorf("WRONG ANSWER %s", odd)
	}
	e.t.Logf("EPISODE %s seed %d: %d operations on %d keys, %d nodes, revision %d, answers %v; the Go clients gave up %d times",
		e.row.name, e.seed, len(e.history.ops), len(keys), len(e.world.dbs), revision, e.history.counts, e.load.retries.Load())
}

// sameHistory waits until all members have the same revision and digest, and compares their
// digests on the way there.
func (e *episode) sameHistory() uint64 {
	e.t.Helper()
	var processes []*clustertest.Process
	for _, d := range e.world.dbs {
		processes = append(processes, d.Process)
	}
	revision, _ := clustertest.SameHistory(e.t, processes...)
	digests := map[uint64]string{}
	for _, d := range e.world.dbs {
		var s api.Stats
		clustertest.Eventually(e.t, "figures of "+d.Name, func() (err error) {
			s, err = d.Stats()
			return err
		})
		for _, c := range s.Checkpoints {
			if known := digests[c.Revision]; known != "" && known != c.Digest {
				e.t.Errorf("%s has another history at revision %d: %s, not %s", d.Name, c.Revision, c.Digest, known)
			}
			digests[c.Revision] = c.Digest
		}
	}
	return revision
}

// readers is how many concurrent requests read everything from one node.
const readers = 4

// readEverything reads all keys from all nodes, as further operations of the history: if an
// acknowledged put is missing somewhere, that contradicts it.
func (e *episode) readEverything(keys []string) {
	e.t.Helper()
	var running sync.WaitGroup
	for _, n := range e.world.all() {
		todo := make(chan string)
		running.Go(func() {
			defer close(todo)
			for _, key := range keys {
				todo <- key
			}
		})
		for range readers {
			running.Go(func() {
				p := newProber("after", n, e.history, clustertest.Patience)
				for key := range todo {
					e.readFinally(p, key)
				}
				p.http.CloseIdleConnections()
			})
		}
	}
	running.Wait()
}

// readFinally reads a key until the node answers, which it must.
func (e *episode) readFinally(p *prober, key string) {
	for deadline := e.history.now() + clustertest.Patience; ; e.pass(20 * time.Millisecond) {
		status := p.get(context.Background(), key)
		if status == http.StatusOK || status == http.StatusNotFound {
			return
		}
		if e.history.now() > deadline {
			e.history.strange("%s does not answer for key %s in the end: status %d", p.node, key, status)
			return
		}
	}
}
