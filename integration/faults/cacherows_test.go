package faults

import (
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// cacheRows are faults of cache nodes. They hold nothing that cannot be read again.
func cacheRows() []row {
	return []row{
		{name: "cache-kill", plan: plan{chunked: true}, attack: func(e *episode) { e.withoutCache(func(n *node) { kill(n) }, func(n *node) { n.Start() }) }},
		{name: "cache-stop", attack: func(e *episode) { e.withoutCache(e.stopInOrder, func(n *node) { n.Start() }) }},
		{name: "cache-hang", attack: func(e *episode) { e.withoutCache((*node).freeze, (*node).thaw) }},
		{name: "cache-restart-all", attack: cacheRestartAll},
		{name: "partition-caches", attack: partitionCaches},
		{name: "partition-cache-database", attack: partitionCacheDatabase},
	}
}

// cacheDetour bounds a read through a cache while the owner of its key, or a database node,
// does not answer.
const cacheDetour = 2 * time.Second

// withoutCache takes one cache down and brings it back. The others go on.
func (e *episode) withoutCache(down, up func(*node)) {
	set := e.setEverywhere(60)
	victim := e.world.caches[e.rng.IntN(cacheNodes)]
	var rest []*node
	for _, c := range e.world.caches {
		if c != victim {
			rest = append(rest, c)
		}
	}
	down(victim)
	e.cachesFind(rest, set)
	e.hold(0, 3*time.Second)
	e.writesBack("without "+victim.Name, e.history.now(), backAfterHeal, rest...)
	up(victim)
	e.writesBack("with the cache back", e.history.now(), backAfterHeal, victim)
	e.noVisibleErrors()
}

// cachesFind reads keys through caches; each must be found soon.
func (e *episode) cachesFind(caches []*node, keys []string) {
	e.t.Helper()
	slowest := time.Duration(0)
	for _, c := range caches {
		p := newProber("caches", c, e.history, clustertest.Patience)
		for _, key := range keys {
			began := e.history.now()
			e.mustFind(p, key)
			slowest = max(slowest, e.history.now()-began)
		}
	}
	e.t.Logf("the slowest of %d reads through caches took %v", len(keys)*len(caches), slowest.Round(time.Millisecond))
	if slowest > tolerated(cacheDetour) {
		e.t.Errorf("a read through a cache took %v", slowest)
	}
}

// cacheRestartAll kills every cache, so that all memory is cold.
func cacheRestartAll(e *episode) {
	set := e.setEverywhere(20)
	kill(e.world.caches...)
	e.hold(0, time.Second)
	for _, c := range e.world.caches {
		c.Start()
	}
	e.writesBack("with new caches", e.history.now(), backAfterHeal, e.world.caches...)
	e.cachesFind(e.world.caches, set)
	e.noVisibleErrors()
}

// partitionCaches separates all caches from one another.
func partitionCaches(e *episode) {
	set := e.setEverywhere(60)
	for i, c := range e.world.caches {
		cut(hosts(c), hosts(e.world.caches[:i]...))
	}
	e.cachesFind(e.world.caches, set)
	e.hold(0, 3*time.Second)
	e.world.net.heal()
	e.cachesFind(e.world.caches, set)
	e.noVisibleErrors()
}

// partitionCacheDatabase cuts all caches off from one database node or, one after the other,
// from several, but not from all.
func partitionCacheDatabase(e *episode) {
	set := e.setEverywhere(60)
	lost := e.world.others(e.anyDB())
	for _, d := range lost {
		cut(hosts(d), hosts(e.world.caches...))
	}
	since := e.history.now()
	e.cachesFind(e.world.caches, set)
	e.writesBack(fmt.Sprintf("through caches that reach %d database nodes less", len(lost)), since, 2*backAfterHeal, e.world.caches...)
	e.hold(0, 2*time.Second)
	e.heal()
	e.noVisibleErrors()
}
