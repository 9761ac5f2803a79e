package faults

import (
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

const (
	backAfterKill = 3 * time.Second // after kill -9 of the leader
	backAfterHeal = 5 * time.Second // after a partition
	stopsWithin   = 4 * time.Second // after SIGTERM
)

// processRows are faults of processes.
func processRows() []row {
	return []row{
		{name: "kill-follower", attack: killFollower},
		{name: "kill-leader", plan: plan{chunked: true}, attack: killLeader},
		{name: "kill-all", plan: plan{chunked: true}, attack: killAll},
		{name: "kill-majority", attack: killMajority},
		{name: "pause-follower", attack: pauseFollower},
		{name: "pause-leader", plan: plan{chunked: true}, attack: pauseLeader},
		{name: "rolling-restart", plan: plan{chunked: true}, attack: rollingRestart},
	}
}

func killFollower(e *episode) {
	victim := e.follower()
	kill(victim)
	since := e.history.now()
	e.writesBack("with one follower dead", since, backAfterKill, e.world.others(victim)...)
	e.hold(0, time.Second)
	victim.Start()
	e.writesBack("with the follower back", e.history.now(), backAfterHeal, victim)
}

func killLeader(e *episode) {
	leader := e.world.leader()
	since := e.history.now()
	kill(leader)
	e.writesBack("after kill -9 of the leader", since, backAfterKill, e.world.others(leader)...)
	e.hold(0, time.Second)
	leader.Start()
	e.writesBack("with the old leader back", e.history.now(), backAfterHeal, leader)
}

func killAll(e *episode) {
	kill(e.world.dbs...)
	e.hold(0, time.Second)
	since := e.history.now()
	for _, d := range e.world.dbs {
		d.Start()
	}
	e.writesBack("after kill -9 of all", since, 2*backAfterHeal, e.world.dbs...)
}

// killMajority leaves one database node alone. It finds what it has and confirms nothing.
func killMajority(e *episode) {
	set := e.setEverywhere(20)
	survivor := e.anyDB()
	rest := e.world.others(survivor)
	kill(rest...)
	e.minority(survivor, set)
	e.hold(0, time.Second)
	since := e.history.now()
	for _, d := range rest {
		d.Start()
	}
	e.writesBack("with a majority again", since, 2*backAfterHeal, e.world.dbs...)
}

func pauseFollower(e *episode) {
	victim := e.follower()
	e.pauseOf(victim)
}

func pauseLeader(e *episode) {
	e.pauseOf(e.world.leader())
}

// pauseOf stops a node for a while. It wakes up and believes what it knew.
func (e *episode) pauseOf(victim *node) {
	victim.freeze()
	if e.rng.IntN(2) == 0 { // long enough for the others to notice
		e.writesBack("while "+victim.Name+" is stopped", e.history.now(), backAfterKill, e.world.others(victim)...)
	}
	e.hold(500*time.Millisecond, 2*time.Second)
	victim.thaw()
	e.writesBack("after SIGCONT", e.history.now(), backAfterHeal, e.world.dbs...)
}

// rollingRestart restarts every node in turn, as an upgrade does. A client that retries must
// not notice.
func rollingRestart(e *episode) {
	for _, n := range e.world.all() {
		began := e.history.now()
		n.Signal(syscall.SIGTERM)
		if code := n.WaitFor(clustertest.Patience); code != 0 {
			e.t.Errorf("%s ended with code %d; its log:\n%s", n.Name, code, n.Log())
		}
		if took := e.history.now() - began; took > tolerated(stopsWithin) {
			e.t.Errorf("%s took %v to stop in order, %v are promised", n.Name, took, stopsWithin)
		}
		n.Start()
		n.WaitReady()
		e.progress(5)
	}
	e.noVisibleErrors()
}

// noVisibleErrors fails if a client that retries has given up a request.
func (e *episode) noVisibleErrors() {
	e.t.Helper()
	if n := e.load.retries.Load(); n != 0 {
		e.t.Errorf("%d requests of clients that retry failed, the last one: %s", n, *e.load.lastFail.Load())
	}
}
