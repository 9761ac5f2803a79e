package cachetier

import (
	"maps"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// unreportedMax is how long a node stays known that no database node reports.
const unreportedMax = 2 * time.Second

// membership is what this node knows of the others: the union of what database nodes
// answered lately. Its time stands still while nobody answers, so the last list stays.
type membership struct {
	self        string
	seeds       []string
	answered    time.Time            // of the last answer
	caches, dbs map[string]time.Time // URL → last reported
}

func newMembership(self string, seeds []string) *membership {
	return &membership{self: self, seeds: seeds, caches: map[string]time.Time{}, dbs: map[string]time.Time{}}
}

// heard adds one answer. It returns the URLs of the other cache nodes and of the database
// nodes, each sorted.
func (m *membership) heard(a api.HeartbeatAnswer, now time.Time) (caches, dbs []string) {
	// After a silence, the database node that answers first may have just started and know
	// nobody yet: everybody gets the time to be reported again.
	resumes := now.Sub(m.answered) > unreportedMax
	if now.After(m.answered) {
		m.answered = now
	}
	for _, reported := range []map[string]time.Time{m.caches, m.dbs} {
		for url, at := range reported {
			if resumes {
				reported[url] = now
			} else if m.answered.Sub(at) > unreportedMax {
				delete(reported, url)
			}
		}
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
	dbs = slices.AppendSeq(slices.Clone(m.seeds), maps.Keys(m.dbs))
	slices.Sort(dbs)
	return slices.Sorted(maps.Keys(m.caches)), slices.Compact(dbs)
}
