package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// networkRows are faults of packets between nodes.
func networkRows() []row {
	return []row{
		{name: "partition-leader", plan: plan{chunked: true}, attack: func(e *episode) { e.isolate(e.world.leader()) }},
		{name: "partition-follower", attack: func(e *episode) { e.isolate(e.follower()) }},
		{name: "partition-all", attack: partitionAll},
		{name: "partition-bridge", plan: plan{databases: 5}, attack: partitionBridge},
		{name: "partition-ring", attack: partitionRing},
		{name: "oneway-leader-mute", attack: func(e *episode) { e.oneWay(e.world.leader(), true) }},
		{name: "oneway-leader-deaf", attack: func(e *episode) { e.oneWay(e.world.leader(), false) }},
		{name: "oneway-follower-mute", attack: func(e *episode) { e.oneWay(e.follower(), true) }},
		{name: "oneway-follower-deaf", attack: func(e *episode) { e.oneWay(e.follower(), false) }},
		{name: "loss-20", attack: loss},
		{name: "slow-network", attack: slowNetwork},
	}
}

// isolate cuts one database node off from all others. Caches and clients still reach it.
func (e *episode) isolate(victim *node) {
	set := e.setEverywhere(20)
	rest := e.world.others(victim)
	cut(hosts(victim), hosts(rest...))
	since := e.history.now()
	e.writesBack("with "+victim.Name+" cut off", since, backAfterKill, rest...)
	e.minority(victim, set)
	e.hold(0, 2*time.Second)
	e.heal()
}

// heal ends all cuts and waits until every database node accepts puts.
func (e *episode) heal() {
	e.t.Helper()
	e.world.net.heal()
	e.writesBack("after the network healed", e.history.now(), backAfterHeal, e.world.dbs...)
}

// partitionAll cuts every database node off from every other: nobody has a majority.
func partitionAll(e *episode) {
	set := e.setEverywhere(20)
	for i, d := range e.world.dbs {
		cut(hosts(d), hosts(e.world.dbs[:i]...))
	}
	var running sync.WaitGroup
	for _, d := range e.world.dbs {
		running.Go(func() { e.minority(d, set) })
	}
	running.Wait()
	e.hold(0, 2*time.Second)
	e.heal()
}

// partitionBridge makes two halves with only one node that sees both.
func partitionBridge(e *episode) {
	order := e.rng.Perm(len(e.world.dbs))
	at := func(i int) *node { return e.world.dbs[order[i]] }
	left, right := []*node{at(0), at(1)}, []*node{at(2), at(3)}
	e.t.Logf("%s and %s | %s | %s and %s", at(0).Name, at(1).Name, at(4).Name, at(2).Name, at(3).Name)
	cut(hosts(left...), hosts(right...))
	term := e.world.term()
	e.hold(2*time.Second, 4*time.Second)
	e.progress(5)
	e.t.Logf("the term went from %d to %d", term, e.world.term())
	e.heal()
}

// partitionRing lets each database node reach only its two neighbours (of three nodes, one
// link is cut).
func partitionRing(e *episode) {
	dbs := e.world.dbs
	for i := range dbs {
		for j := range i {
			if d := i - j; d != 1 && (d != len(dbs)-1 || len(dbs) == 3) {
				cut(hosts(dbs[i]), hosts(dbs[j]))
			}
		}
	}
	term := e.world.term()
	e.hold(2*time.Second, 4*time.Second)
	e.progress(5)
	e.t.Logf("the term went from %d to %d", term, e.world.term())
	e.heal()
}

// electionsPerMinute bounds the elections that a cut in one direction may cause.
const electionsPerMinute = 2

// oneWay drops what one node sends to the other database nodes (mute), or what they send to
// it.
func (e *episode) oneWay(victim *node, mute bool) {
	set := e.setEverywhere(20)
	rest := e.world.others(victim)
	term := e.world.term()
	since := e.history.now()
	for _, other := range rest {
		if mute {
			oneWay(victim.host, other.host)
		} else {
			oneWay(other.host, victim.host)
		}
	}
	e.writesBack(fmt.Sprintf("with a cut in one direction at %s", victim.Name), since, backAfterKill, rest...)
	e.minority(victim, set)
	e.hold(3*time.Second, 4*time.Second)
	held := e.history.now() - since
	elections := e.world.term() - term
	e.t.Logf("ELECTIONS %s: %d in %v", e.row.name, elections, held.Round(time.Millisecond))
	if allowed := uint64(electionsPerMinute * (1 + held/time.Minute)); elections > allowed {
		e.t.Errorf("%d elections in %v with a cut in one direction; at most %d are allowed", elections, held, allowed)
	}
	e.heal()
}

// loss drops a fifth of all packets between any two nodes.
func loss(e *episode) {
	e.world.net.lose(20)
	e.hold(3*time.Second, 5*time.Second)
	e.progress(5)
	e.heal()
}

// slowNetwork gives every database node 1 Mbit/s, clients included.
func slowNetwork(e *episode) {
	for _, d := range e.world.dbs {
		d.host.slow("1mbit")
	}
	e.hold(3*time.Second, 5*time.Second)
	e.progress(5)
	for _, d := range e.world.dbs {
		d.host.fast()
	}
	e.writesBack("with the full rate again", e.history.now(), backAfterHeal, e.world.dbs...)
}

// setEverywhere puts keys and waits until every database node has them. They must be found
// there from now on, whatever happens to the network.
func (e *episode) setEverywhere(n int) []string {
	e.t.Helper()
	return e.putEverywhere(n, func(key string) []byte { return []byte("value of " + key) })
}

// putEverywhere is setEverywhere with the caller's values.
func (e *episode) putEverywhere(n int, value func(key string) []byte) []string {
	e.t.Helper()
	var keys []string
	p := newProber("before", e.world.leader(), e.history, attemptPatience)
	for i := range n {
		key := fmt.Sprintf("everywhere/%d", i)
		keys = append(keys, key)
		bytes := value(key)
		clustertest.Eventually(e.t, key+" is set", func() error {
			return answered(p.put(context.Background(), key, bytes, false), http.StatusCreated, http.StatusOK)
		})
	}
	for _, d := range e.world.dbs {
		p := newProber("before", d, e.history, attemptPatience)
		for _, key := range keys {
			clustertest.Eventually(e.t, d.Name+" has "+key, func() error {
				return answered(p.get(context.Background(), key), http.StatusOK)
			})
		}
	}
	return keys
}

// answered returns nil if a status is one of those wanted.
func answered(status int, wanted ...int) error {
	if !slices.Contains(wanted, status) {
		return fmt.Errorf("it was answered %d", status)
	}
	return nil
}

func (e *episode) mustFind(p *prober, key string) {
	if status := p.get(context.Background(), key); status != http.StatusOK {
		e.history.strange("%s: key %s is on every node and was answered %d", p.who, key, status)
	}
}

// minority asks a node without a majority: it still finds what it has, and never claims that a
// key is not set.
func (e *episode) minority(n *node, set []string) {
	p := newProber("minority", n, e.history, clustertest.Patience)
	for _, key := range set {
		e.mustFind(p, key)
	}
	status := e.probeKey(p, "unset", func(key string) int { return p.get(context.Background(), key) })
	if status != http.StatusServiceUnavailable {
		e.history.strange("%s has no majority and answered %d for a key that is not set", n.Name, status)
	}
}
