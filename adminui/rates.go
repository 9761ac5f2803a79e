package adminui

import (
	"slices"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// rateWindow is how far back rates look: long enough for figures that do not
// jump about, short enough to follow.
const rateWindow = 3 * time.Second

// databaseCount are the counters of a database node that rates are made of.
type databaseCount struct{ puts, created, conflicts, gets, absences, errors uint64 }

// cacheCount are those of a cache node.
type cacheCount struct{ gets, hits, loads, absences, errors uint64 }

func databaseCounters(s *api.Stats) databaseCount {
	return databaseCount{puts: s.Puts, created: s.Created, conflicts: s.Conflicts, gets: s.Gets, absences: s.Absences, errors: s.Errors}
}

func cacheCounters(s *api.CacheStats) cacheCount {
	return cacheCount{gets: s.Gets, hits: s.Hits, loads: s.DatabaseLoads, absences: s.Absences, errors: s.Errors}
}

// history is a node's counters over the last seconds.
type history[C any] struct {
	samples []sample[C] // oldest first
}

type sample[C any] struct {
	at    time.Time
	count C
}

func (h *history[C]) add(at time.Time, count C) {
	h.samples = append(h.samples, sample[C]{at, count})
	h.trim(at)
}

// trim leaves one sample that is older than the window, to count from.
func (h *history[C]) trim(now time.Time) {
	for len(h.samples) > 1 && now.Sub(h.samples[1].at) >= rateWindow {
		h.samples = slices.Delete(h.samples, 0, 1)
	}
}

// span returns the oldest and the newest sample and the seconds between them, 0
// when there is nothing to compare, also for a node that says nothing any more.
func (h *history[C]) span(now time.Time) (from, to C, seconds float64) {
	h.trim(now)
	if len(h.samples) < 2 {
		return from, to, 0
	}
	first, last := h.samples[0], h.samples[len(h.samples)-1]
	return first.count, last.count, last.at.Sub(first.at).Seconds()
}

// since is the growth of a counter. One that fell began again with its process.
func since(from, to uint64) float64 {
	if to < from {
		return float64(to)
	}
	return float64(to - from)
}

// databaseGrowth is what one database node did, a second.
type databaseGrowth struct{ puts, created, conflicts, gets, absences, errors float64 }

func databaseGrowthOf(h *history[databaseCount], now time.Time) (g databaseGrowth) {
	from, to, seconds := h.span(now)
	if seconds == 0 {
		return g
	}
	return databaseGrowth{
		puts: since(from.puts, to.puts) / seconds, created: since(from.created, to.created) / seconds,
		conflicts: since(from.conflicts, to.conflicts) / seconds, gets: since(from.gets, to.gets) / seconds,
		absences: since(from.absences, to.absences) / seconds, errors: since(from.errors, to.errors) / seconds,
	}
}

// cacheGrowth is what one cache node did, a second.
type cacheGrowth struct{ gets, hits, loads, absences, errors float64 }

func cacheGrowthOf(h *history[cacheCount], now time.Time) (g cacheGrowth) {
	from, to, seconds := h.span(now)
	if seconds == 0 {
		return g
	}
	return cacheGrowth{
		gets: since(from.gets, to.gets) / seconds, hits: since(from.hits, to.hits) / seconds, loads: since(from.loads, to.loads) / seconds,
		absences: since(from.absences, to.absences) / seconds, errors: since(from.errors, to.errors) / seconds,
	}
}

func (g cacheGrowth) hitRatio() *float64 {
	if g.gets == 0 {
		return nil
	}
	ratio := min(1, g.hits/g.gets)
	return &ratio
}

// total adds nodes up.
type total struct {
	databases databaseGrowth
	caches    cacheGrowth
}

func (t *total) addDatabase(g databaseGrowth) {
	d := &t.databases
	d.puts, d.created, d.conflicts = d.puts+g.puts, d.created+g.created, d.conflicts+g.conflicts
	d.gets, d.absences, d.errors = d.gets+g.gets, d.absences+g.absences, d.errors+g.errors
}

func (t *total) addCache(g cacheGrowth) {
	c := &t.caches
	c.gets, c.hits, c.loads = c.gets+g.gets, c.hits+g.hits, c.loads+g.loads
	c.absences, c.errors = c.absences+g.absences, c.errors+g.errors
}

// rates are the requests of clients: what cache nodes asked of the database is
// not counted a second time.
func (t *total) rates() Rates {
	d, c := t.databases, t.caches
	return Rates{
		Puts: d.puts, Created: d.created, Conflicts: d.conflicts,
		Gets:     c.gets + max(0, d.gets-c.loads),
		Absences: max(c.absences, d.absences),
		Errors:   d.errors + c.errors, HitRatio: c.hitRatio(),
	}
}
