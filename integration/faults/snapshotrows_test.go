package faults

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

const (
	// bulkBytes is more than a leader keeps of its log for members that are behind, so that a
	// member that was away needs a snapshot.
	bulkBytes = 24 << 20
	bulkValue = 1 << 20
	// pullRate makes the pull of a snapshot take some seconds.
	pullRate = "60mbit"
)

// snapshotRows are faults while a member pulls what it lacks.
func snapshotRows() []row {
	p := plan{databases: 3, peerProxy: true, chunked: true, flags: []string{"--snapshot-log-bytes", "1MiB"}}
	return []row{
		{name: "snapshot-lagging", plan: p, attack: func(e *episode) { e.lag(func(*node) {}) }},
		{name: "snapshot-killed-receiver", plan: p, attack: func(e *episode) { e.lag(e.killReceiver) }},
		{name: "snapshot-killed-sender", plan: p, attack: func(e *episode) { e.lag(e.killSender) }},
		{name: "snapshot-corrupted", plan: p, attack: corruptedSnapshot},
		{name: "snapshot-join", plan: p, attack: snapshotJoin},
	}
}

// lag keeps a node away until the log that it needs is gone, lets it come back, and calls
// meanwhile while it pulls.
func (e *episode) lag(meanwhile func(*node)) {
	away := e.follower()
	kill(away)
	e.bulk(e.world.others(away)...)
	away.host.slow(pullRate)
	since := e.history.now()
	away.Start()
	e.pulls(away)
	meanwhile(away)
	away.host.fast()
	e.writesBack("after a snapshot", since, 4*backAfterHeal, away)
}

func (e *episode) killReceiver(n *node) {
	e.pass(time.Duration(e.rng.Int64N(int64(time.Second))))
	kill(n)
	n.Start()
}

func (e *episode) killSender(*node) {
	e.pass(time.Duration(e.rng.Int64N(int64(time.Second))))
	sender := e.world.leader()
	kill(sender)
	sender.Start()
}

// pulls waits until a node has begun to pull.
func (e *episode) pulls(n *node) {
	e.t.Helper()
	clustertest.Eventually(e.t, n.Name+" pulls a snapshot", func() error {
		if !strings.Contains(n.Log(), "pulling the data of a snapshot") {
			return fmt.Errorf("it does not say so")
		}
		return nil
	})
}

// bulk puts much data through the leader of some nodes, and waits until each has taken a
// snapshot of nearly all of it and dropped the log before: any may lead later.
func (e *episode) bulk(nodes ...*node) {
	e.t.Helper()
	through := e.world.leader(nodes...)
	p := newProber("bulk", through, e.history, clustertest.Patience)
	value := make([]byte, bulkValue)
	nearly := uint64(0)
	for i := 0; i < bulkBytes; i += bulkValue {
		if s, err := through.Stats(); err == nil && i < bulkBytes-4*bulkValue {
			nearly = s.AppliedIndex
		}
		for j := range value {
			value[j] = byte(e.rng.Uint32())
		}
		key := fmt.Sprintf("bulk/%d/%d", e.history.now(), i)
		clustertest.Eventually(e.t, "a large put", func() error {
			if status := p.put(context.Background(), key, value, false); status != http.StatusCreated && status != http.StatusOK {
				return fmt.Errorf("it was answered %d", status)
			}
			return nil
		})
	}
	for _, n := range nodes {
		clustertest.Eventually(e.t, n.Name+" takes a snapshot", func() error {
			if at := snapshotIndex(n); at < nearly {
				return fmt.Errorf("its newest is at %d, not yet at %d", at, nearly)
			}
			return nil
		})
	}
}

// snapshotIndex returns the log index of a node's newest snapshot, 0 without one.
func snapshotIndex(n *node) (index uint64) {
	names, _ := filepath.Glob(filepath.Join(n.Dir, "snap", "*.snap"))
	for _, name := range names {
		var term, at uint64
		if _, err := fmt.Sscanf(filepath.Base(name), "%016x-%016x.snap", &term, &at); err == nil {
			index = max(index, at)
		}
	}
	return index
}

// corruptedSnapshot damages everything that a node pulls. The node must never accept it, and
// catches up when the damage ends.
func corruptedSnapshot(e *episode) {
	for _, d := range e.world.dbs {
		d.proxy.perBody = 10 + e.rng.Int64N(20_000)
		d.proxy.damaging.Store(true)
	}
	e.lag(func(n *node) {
		clustertest.Eventually(e.t, "bodies are damaged", func() error {
			if damaged := e.damagedBodies(); damaged < 2 {
				return fmt.Errorf("%d were", damaged)
			}
			return nil
		})
		if p := newProber("corrupted", n, e.history, attemptPatience); p.ready() == http.StatusOK {
			e.t.Errorf("%s is ready with a damaged snapshot", n.Name)
		}
		for _, d := range e.world.dbs {
			d.proxy.damaging.Store(false)
		}
	})
	e.t.Logf("%d bodies were damaged", e.damagedBodies())
}

func (e *episode) damagedBodies() (n int64) {
	for _, d := range e.world.dbs {
		n += d.proxy.damaged.Load()
	}
	return n
}

// snapshotJoin lets a new member pull everything while the load continues, and kills it
// half-way.
func snapshotJoin(e *episode) {
	e.bulk(e.world.dbs...)
	n := e.world.database("n4")
	n.host.slow(pullRate)
	e.join(n)
	e.pulls(n)
	e.killReceiver(n)
	n.host.fast()
	e.becomesVoter(n)
}
