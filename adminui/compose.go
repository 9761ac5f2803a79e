package adminui

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// lagStarting is the lag, in entries, from which a database node counts as
// catching up. Nodes are asked one after another, so under load a smaller one
// means nothing.
const lagStarting = 5000

// staleAfter is how old the list of members may be.
const staleAfter = 5 * time.Second

// compose makes a State of what is known.
func (w *Watch) compose(now time.Time) *State {
	s := &State{Time: now.UTC(), Version: w.cfg.Version, Members: []Member{}, Caches: []Cache{}}
	leader, commit := w.lead(now)
	if leader != nil {
		s.Leader, s.Term = leader.stats.Leader, leader.stats.Term
	}
	s.Stale = s.Leader == "" || now.Sub(w.listTime) > staleAfter
	var databases, caches perSecond
	for _, d := range w.dbs {
		if d.member == nil {
			continue
		}
		var rates perSecond
		if d.answersAt(now) {
			rates = d.history.rates(now)
			databases.add(rates)
		}
		s.Members = append(s.Members, d.view(now, s.Leader, commit, &rates))
		if d.stats != nil && d.stats.Revision >= s.Revision {
			s.Revision, s.Keys, s.ValueBytes = d.stats.Revision, d.stats.Keys, d.stats.ValueBytes
			s.History, s.Level = d.stats.History, d.stats.Level
		}
	}
	shares := w.sharesNow(now)
	for _, c := range w.caches {
		var rates perSecond
		if c.answersAt(now) {
			rates = c.history.rates(now)
			caches.add(rates)
		}
		s.Caches = append(s.Caches, c.view(now, shares[c.url], &rates))
	}
	slices.SortFunc(s.Members, func(a, b Member) int { return cmp.Or(byName(a.Name, b.Name), strings.Compare(a.URL, b.URL)) })
	slices.SortFunc(s.Caches, func(a, b Cache) int { return cmp.Or(byName(a.Name, b.Name), strings.Compare(a.URL, b.URL)) })
	s.Rates = clientRates(databases, caches)
	s.Health = healthOf(s, w.outsiders(now))
	return s
}

// outsiders lists the nodes that were given to begin with and are not members,
// by URL.
func (w *Watch) outsiders(now time.Time) []outsider {
	var list []outsider
	for _, at := range slices.Sorted(maps.Keys(w.dbs)) {
		d := w.dbs[at]
		if d.member != nil {
			continue
		}
		o := outsider{url: d.url, name: d.url, Condition: d.condition(now, "")}
		if d.stats != nil {
			o.name = d.stats.Name
			if w.isMember(d.stats.ID) {
				continue // at another of its addresses
			}
		}
		list = append(list, o)
	}
	return list
}

func (w *Watch) isMember(id string) bool {
	for _, d := range w.dbs {
		if d.member != nil && d.member.ID == id {
			return true
		}
	}
	return false
}

// byName orders names as people do: n2 before n10.
func byName(a, b string) int {
	if len(a) != len(b) && strings.TrimRight(a, "0123456789") == strings.TrimRight(b, "0123456789") {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// lead returns an answering node that names the leader of the newest term, nil
// if none does, and the highest index that any of them knows to be committed.
func (w *Watch) lead(now time.Time) (teller *database, commit uint64) {
	for _, d := range w.dbs {
		if d.stats == nil || !d.answersAt(now) {
			continue
		}
		commit = max(commit, d.stats.CommitIndex)
		if d.stats.Leader != "" && (teller == nil || d.stats.Term > teller.stats.Term) {
			teller = d
		}
	}
	return teller, commit
}

func (d *database) view(now time.Time, leader string, commit uint64, rates *perSecond) Member {
	m := Member{
		ID: d.member.ID, Name: d.member.Name, URL: d.url, PeerURL: d.member.PeerURL, Healthy: d.member.Healthy,
		Role: api.RoleFollower, Rates: NodeRates{Puts: rates[puts], Gets: rates[gets]}, Stats: d.stats,
	}
	switch {
	case m.Name == leader:
		m.Role = api.RoleLeader
	case d.member.Role == api.RoleLearner:
		m.Role = api.RoleLearner
	}
	starting := ""
	if d.stats != nil {
		m.Lag = commit - min(commit, d.stats.AppliedIndex)
		switch {
		case m.Lag >= lagStarting:
			starting = fmt.Sprintf("catching up: %d entries to go", m.Lag)
		case d.stats.Leader == "" && leader != "":
			starting, m.outOfTouch = "it knows no leader yet", true
		}
	}
	m.Condition = d.condition(now, starting)
	return m
}

func (c *cache) view(now time.Time, share float64, rates *perSecond) Cache {
	starting := ""
	if c.stats != nil && !c.stats.Ready {
		starting = "no database node answers it"
	}
	view := Cache{
		Name: cmp.Or(c.name, c.url), URL: c.url, Condition: c.condition(now, starting), Share: share, Stats: c.stats,
		Rates: CacheRates{Gets: rates[gets], HitRatio: rates.hitRatio()},
	}
	if view.Status == StatusDown && c.left {
		view.Left, view.Reason = true, "it was stopped, and said goodbye"
	}
	return view
}

// sharesNow returns the shares of the live cache nodes, worked out anew when
// they are others than before.
func (w *Watch) sharesNow(now time.Time) map[string]float64 {
	urls := w.liveCaches(now)
	if len(urls) == 0 {
		return nil
	}
	if of := strings.Join(urls, " "); w.shares == nil || of != w.sharesOf {
		w.shares, w.sharesOf = w.cfg.Shares(urls), of
	}
	return w.shares
}

// liveCaches returns the URLs of the cache nodes that answer, sorted.
func (w *Watch) liveCaches(now time.Time) []string {
	var urls []string
	for _, at := range slices.Sorted(maps.Keys(w.caches)) {
		if w.caches[at].answersAt(now) {
			urls = append(urls, at)
		}
	}
	return urls
}

// DBs lists the database nodes as GET /dbs does.
func (w *Watch) DBs() []api.DBNode {
	var list []api.DBNode
	for _, m := range w.State().Members {
		n := api.DBNode{Name: m.Name, URL: m.URL, Healthy: m.Status != StatusDown, Role: m.Role}
		if m.Stats != nil {
			n.AppliedIndex, n.Revision, n.DiskLow = m.Stats.AppliedIndex, m.Stats.Revision, m.Stats.DiskLow
		}
		list = append(list, n)
	}
	return list
}

// Caches lists the cache nodes as GET /caches does.
func (w *Watch) Caches() []api.CacheNode {
	now := w.State()
	var list []api.CacheNode
	for _, c := range now.Caches {
		n := api.CacheNode{Name: c.Name, URL: c.URL, Healthy: c.Status != StatusDown, LastSeen: now.Time, Left: c.Left}
		if c.Status == StatusDown {
			n.LastSeen = c.Since
		}
		if c.Stats != nil {
			n.CacheFigures = c.Stats.CacheFigures
		}
		list = append(list, n)
	}
	return list
}

// Owner returns the live cache node that owns a key, false when none lives.
func (w *Watch) Owner(key kvstore.Key) (api.CacheNode, bool) {
	live := map[string]api.CacheNode{}
	for _, n := range w.Caches() {
		if n.Healthy {
			live[n.URL] = n
		}
	}
	if len(live) == 0 {
		return api.CacheNode{}, false
	}
	owner, ok := live[w.cfg.Owner(slices.Sorted(maps.Keys(live)), key)]
	return owner, ok
}
