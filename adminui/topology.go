package adminui

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// lagStarting is the lag, in entries, from which a database node counts as
// catching up. Nodes are asked one after another, so under load a smaller one
// means nothing.
const lagStarting = 5000

// staleAfter is how old the list of members may be.
const staleAfter = 5 * time.Second

// nodesMax bounds the database nodes, and the cache nodes, that are shown.
const nodesMax = 2048

// topology is what the admin knows of the nodes. Watch.Run owns it.
type topology struct {
	version  string               // of the admin
	dbs      map[string]*database // by client URL
	caches   map[string]*cache    // by URL
	listTime time.Time            // when a database node last told who the members are

	shareOut func(urls []string) map[string]float64
	shares   map[string]float64
	sharesOf string // the nodes shares are for, joined
}

// compose makes a State of what is known.
func (t *topology) compose(now time.Time) *State {
	s := &State{Time: now.UTC(), Version: t.version, Members: []Member{}, Caches: []Cache{}}
	leader, commit := t.lead(now)
	if leader != nil {
		s.Leader, s.Term = leader.stats.Leader, leader.stats.Term
	}
	s.Stale = s.Leader == "" || now.Sub(t.listTime) > staleAfter
	var databases, caches perSecond
	for _, d := range t.dbs {
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
	shares := t.sharesNow(now)
	for _, c := range t.caches {
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
	s.Health = healthOf(s, t.outsiders(now))
	return s
}

// outsiders lists the nodes that were given to begin with and are not members,
// by URL.
func (t *topology) outsiders(now time.Time) []outsider {
	var list []outsider
	for _, at := range slices.Sorted(maps.Keys(t.dbs)) {
		d := t.dbs[at]
		if d.member != nil {
			continue
		}
		o := outsider{url: d.url, name: d.url, Condition: d.condition(now, "")}
		if d.stats != nil {
			o.name = d.stats.Name
			if t.isMember(d.stats.ID) {
				continue // at another of its addresses
			}
		}
		list = append(list, o)
	}
	return list
}

func (t *topology) isMember(id string) bool {
	for _, d := range t.dbs {
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
func (t *topology) lead(now time.Time) (teller *database, commit uint64) {
	for _, d := range t.dbs {
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
func (t *topology) sharesNow(now time.Time) map[string]float64 {
	urls := t.liveCaches(now)
	if len(urls) == 0 {
		return nil
	}
	if of := strings.Join(urls, " "); t.shares == nil || of != t.sharesOf {
		t.shares, t.sharesOf = t.shareOut(urls), of
	}
	return t.shares
}

// liveCaches returns the URLs of the cache nodes that answer, sorted.
func (t *topology) liveCaches(now time.Time) []string {
	var urls []string
	for _, at := range slices.Sorted(maps.Keys(t.caches)) {
		if t.caches[at].answersAt(now) {
			urls = append(urls, at)
		}
	}
	return urls
}

// guide returns the database node whose lists count: the leader if it answers,
// else the one that has got farthest, else any.
func (t *topology) guide() *database {
	var best *database
	for _, d := range t.dbs {
		if best == nil || better(d, best) {
			best = d
		}
	}
	return best
}

func better(a, b *database) bool {
	sa, sb := cmp.Or(a.stats, &api.Stats{}), cmp.Or(b.stats, &api.Stats{})
	first := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	return cmp.Or(
		first(a.answers())-first(b.answers()),
		first(a.stats != nil)-first(b.stats != nil),
		first(a.leads())-first(b.leads()),
		cmp.Compare(sb.Term, sa.Term),
		cmp.Compare(sb.AppliedIndex, sa.AppliedIndex),
		cmp.Compare(a.url, b.url),
	) < 0
}

// learn takes lists of nodes over and reports whether a node came or went, or
// changed its part.
func (t *topology) learn(a reply) bool {
	if len(a.members.Members) == 0 {
		return false // it has not formed or joined a cluster yet
	}
	t.listTime = a.at
	changed := t.learnMembers(a)
	return t.learnCaches(a) || changed
}

func (t *topology) learnMembers(a reply) bool {
	changed := false
	listed := map[string]bool{}
	for _, m := range a.members.Members[:min(len(a.members.Members), nodesMax)] {
		at, err := nodeurl.Parse(m.ClientURL)
		if err != nil {
			continue // it cannot be asked
		}
		listed[at] = true
		d := t.dbs[at]
		if d == nil {
			d = &database{url: at, probe: probe{first: a.at}}
			t.dbs[at] = d
		}
		changed = changed || d.member == nil || d.member.Role != m.Role || d.member.ID != m.ID
		d.member = &m
	}
	for at, d := range t.dbs {
		if listed[at] {
			continue
		}
		changed = changed || d.member != nil
		d.member = nil
		if !d.seed {
			delete(t.dbs, at)
		}
	}
	return changed
}

// learnCaches drops a cache node that is not listed any more only if it does
// not answer either: a database node that has just started has not heard of all.
func (t *topology) learnCaches(a reply) bool {
	changed := false
	listed := map[string]bool{}
	for _, n := range a.caches[:min(len(a.caches), nodesMax)] {
		at, err := nodeurl.Parse(n.URL)
		if err != nil {
			continue
		}
		listed[at] = true
		c := t.caches[at]
		if c == nil {
			c = &cache{url: at, probe: probe{first: n.LastSeen}}
			t.caches[at] = c
			changed = true
		}
		c.name, c.left = n.Name, n.Left
	}
	for at, c := range t.caches {
		if !listed[at] && !c.answers() {
			delete(t.caches, at)
			changed = true
		}
	}
	return changed
}
