package adminui

import (
	"slices"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// rateWindow is how far back rates look: long enough for numbers that do not jump about,
// short enough to follow.
const rateWindow = 3 * time.Second

// The counters of a node that rates are made of.
const (
	puts = iota
	created
	conflicts
	gets
	hits  // of a cache node
	loads // of a cache node, from database nodes
	absences
	failures
	counted // how many there are
)

type (
	counters  [counted]uint64
	perSecond [counted]float64
)

func databaseCounters(s *api.Stats) counters {
	return counters{puts: s.Puts, created: s.Created, conflicts: s.Conflicts, gets: s.Gets, absences: s.Absences, failures: s.Errors}
}

func cacheCounters(s *api.CacheStats) counters {
	return counters{gets: s.Gets, hits: s.Hits, loads: s.DatabaseLoads, absences: s.Absences, failures: s.Errors}
}

// history is a node's counters over the last seconds.
type history struct {
	samples []sample // oldest first
}

type sample struct {
	at    time.Time
	count counters
}

func (h *history) add(at time.Time, count counters) {
	h.samples = append(h.samples, sample{at, count})
	h.trim(at)
}

// trim leaves one sample that is older than the window, to count from.
func (h *history) trim(now time.Time) {
	for len(h.samples) > 1 && now.Sub(h.samples[1].at) >= rateWindow {
		h.samples = slices.Delete(h.samples, 0, 1)
	}
}

// rates is how fast the counters grow, 0 when there is nothing to compare, also for a
// node that has stopped answering. A counter that fell began again with its process.
func (h *history) rates(now time.Time) (r perSecond) {
	h.trim(now)
	if len(h.samples) < 2 {
		return r
	}
	first, last := h.samples[0], h.samples[len(h.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds == 0 {
		return r
	}
	for i, n := range last.count {
		if n >= first.count[i] {
			n -= first.count[i]
		}
		r[i] = float64(n) / seconds
	}
	return r
}

func (r *perSecond) add(other perSecond) {
	for i := range r {
		r[i] += other[i]
	}
}

// hitRatio is nil when nothing was read.
func (r *perSecond) hitRatio() *float64 {
	if r[gets] == 0 {
		return nil
	}
	return new(min(1, r[hits]/r[gets]))
}

// clientRates are the requests of clients, of all database and cache nodes together.
// What cache nodes asked of the database does not count a second time.
func clientRates(databases, caches perSecond) Rates {
	return Rates{
		Puts: databases[puts], Created: databases[created], Conflicts: databases[conflicts],
		Gets:     caches[gets] + max(0, databases[gets]-caches[loads]),
		Absences: max(caches[absences], databases[absences]),
		Errors:   databases[failures] + caches[failures], HitRatio: caches.hitRatio(),
	}
}
