package cachetier

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// unreportedMax is how long a node that no database node reports any more
// stays known.
const unreportedMax = 2 * time.Second

// membership is what this node knows of the others: the union of what database
// nodes answered lately. Time stands still for it while nobody answers, so the
// last list stays for as long as that lasts.
type membership struct {
	self  string
	seeds []string

	mu       sync.Mutex
	answered time.Time            // of the last answer
	caches   map[string]time.Time // URL → last reported
	dbs      map[string]time.Time
}

func newMembership(self string, seeds []string) *membership {
	return &membership{self: self, seeds: seeds, caches: map[string]time.Time{}, dbs: map[string]time.Time{}}
}

// heard adds one answer. It returns the URLs of the other cache nodes and of
// the database nodes, each sorted.
func (m *membership) heard(a api.HeartbeatAnswer, now time.Time) (caches, dbs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.answered) > unreportedMax {
		m.resume(now)
	}
	if now.After(m.answered) {
		m.answered = now
	}
	for _, c := range a.Caches {
		if url, err := nodeurl.Parse(c.URL); err == nil && url != m.self {
			m.caches[url] = now
		}
	}
	for _, d := range a.DBs {
		if url, err := nodeurl.Parse(d.URL); err == nil {
			m.dbs[url] = now
		}
	}
	return m.current()
}

// resume is called with the first answer after a silence. The database node
// that gives it may have just started and know nobody yet: everybody gets the
// time to be reported again.
func (m *membership) resume(now time.Time) {
	for _, reported := range []map[string]time.Time{m.caches, m.dbs} {
		for url := range reported {
			reported[url] = now
		}
	}
}

func (m *membership) current() (caches, dbs []string) {
	for _, reported := range []map[string]time.Time{m.caches, m.dbs} {
		maps.DeleteFunc(reported, func(_ string, at time.Time) bool { return m.answered.Sub(at) > unreportedMax })
	}
	dbs = slices.Clone(m.seeds)
	for url := range m.dbs {
		if !slices.Contains(dbs, url) {
			dbs = append(dbs, url)
		}
	}
	slices.Sort(dbs)
	return slices.Sorted(maps.Keys(m.caches)), dbs
}
