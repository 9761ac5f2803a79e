package adminui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	intervalDefault = 500 * time.Millisecond
	silentMax       = 2 * time.Second // a node without an answer for longer is down
	askTimeout      = 2 * time.Second
	answerBytesMax  = 8 << 20
	pointEvery      = time.Second
	pointsMax       = 300
	nodesMax        = 2048 // of either kind; what is beyond is not shown
)

// WatchConfig configures a Watch. Nodes is required.
type WatchConfig struct {
	// Nodes are client URLs of database nodes to begin with; all others are
	// learned from them, and from one another. Watch never stops trying them.
	Nodes []string
	// Shares returns the part of all keys that each of the live cache nodes, at
	// least one, named by their URLs, owns. It may be nil: all shares are 0 then.
	Shares func(urls []string) map[string]float64
	// Owner returns which of them owns a key. If it is nil, none does.
	Owner func(urls []string, key kvstore.Key) string
	// Interval is the time between two looks at every node; default 500 ms.
	Interval time.Duration
	// Version is the admin's own, for State.Version.
	Version string

	Logger *slog.Logger // default: none
}

// Watch follows a cluster: it asks every node for its metrics, learns of nodes
// that come and go, and makes a State of it whenever something changes, and at
// every look. Reads are safe from any goroutine.
type Watch struct {
	cfg  WatchConfig
	http *http.Client
	look chan struct{} // capacity 1: look at once

	// Owned by Run.
	running   sync.WaitGroup // questions under way
	answers   chan reply
	dbs       map[string]*database // by client URL
	caches    map[string]*cache    // by URL
	listTime  time.Time            // when a database node last told who the members are
	shares    map[string]float64
	sharesOf  string // the nodes shares are for, joined
	pointTime time.Time

	mu      sync.Mutex
	state   *State
	encoded []byte
	number  uint64        // of state, from 1
	next    chan struct{} // closed when there is a newer state
	points  []Point
}

// reply is what became of one question.
type reply struct {
	url  string
	kind question
	at   time.Time // when the answer was there
	err  error

	stats   api.Stats
	cache   api.CacheStats
	members api.Members
	caches  []api.CacheNode
}

type question int

const (
	askDatabase  question = iota // a database node's metrics
	askCache                     // a cache node's metrics
	askDirectory                 // a database node's lists of nodes
)

// NewWatch returns a Watch that has not looked yet.
func NewWatch(cfg WatchConfig) (*Watch, error) {
	if len(cfg.Nodes) == 0 {
		return nil, errors.New("admin: no database nodes given; name at least one, such as http://127.0.0.1:11000")
	}
	cfg.Nodes = slices.Clone(cfg.Nodes)
	cfg.Interval = cmp.Or(cfg.Interval, intervalDefault)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Shares == nil {
		cfg.Shares = func([]string) map[string]float64 { return nil }
	}
	if cfg.Owner == nil {
		cfg.Owner = func([]string, kvstore.Key) string { return "" }
	}
	w := &Watch{
		cfg: cfg, look: make(chan struct{}, 1), answers: make(chan reply),
		dbs: map[string]*database{}, caches: map[string]*cache{}, next: make(chan struct{}),
		http: nodehttp.NewClient(nodehttp.Options{DialTimeout: askTimeout, IdleTimeout: time.Minute, IdlePerHost: 4}),
	}
	for i, node := range w.cfg.Nodes {
		node, err := nodeurl.Parse(node)
		if err != nil {
			return nil, fmt.Errorf("admin: database node: %w", err)
		}
		w.cfg.Nodes[i] = node
		w.dbs[node] = &database{url: node, seed: true, probe: probe{first: time.Now()}}
	}
	w.state = w.compose(time.Now())
	return w, nil
}

// Run watches until ctx ends and all questions are answered or given up.
func (w *Watch) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer w.http.CloseIdleConnections()
	defer w.running.Wait()
	defer cancel()
	tick := time.NewTicker(w.cfg.Interval)
	defer tick.Stop()
	w.ask(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.look:
			w.ask(ctx)
		case <-tick.C:
			w.publish(time.Now())
			w.ask(ctx)
		case a := <-w.answers:
			if w.note(a) {
				w.publish(time.Now())
			}
		}
	}
}

// Look makes the Watch look now: something was changed.
func (w *Watch) Look() {
	select {
	case w.look <- struct{}{}:
	default:
	}
}

// ask sends a question to every node that owes no answer.
func (w *Watch) ask(ctx context.Context) {
	for _, d := range w.dbs {
		w.begin(ctx, &d.probe, d.url, askDatabase)
	}
	for _, c := range w.caches {
		w.begin(ctx, &c.probe, c.url, askCache)
	}
	if d := w.guide(); d != nil && !d.listing {
		d.listing = true
		w.running.Go(func() { w.deliver(ctx, w.question(ctx, d.url, askDirectory)) })
	}
}

func (w *Watch) begin(ctx context.Context, p *probe, url string, kind question) {
	if p.asked {
		return
	}
	p.asked = true
	w.running.Go(func() { w.deliver(ctx, w.question(ctx, url, kind)) })
}

func (w *Watch) deliver(ctx context.Context, a reply) {
	select {
	case w.answers <- a:
	case <-ctx.Done():
	}
}

// question asks one node.
func (w *Watch) question(ctx context.Context, url string, kind question) reply {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	a := reply{url: url, kind: kind}
	switch kind {
	case askDatabase:
		a.err = w.fetch(ctx, url+"/stats", &a.stats)
		if a.err == nil && a.stats.ID == "" {
			a.err = nodehttp.ErrAnswer
		}
		a.err = w.insteadOfDatabase(ctx, url, a.err)
	case askCache:
		a.err = w.fetch(ctx, url+"/stats", &a.cache)
		if a.err == nil && a.cache.Role != api.RoleCache {
			a.err = errors.New("what answers there is not a cache node")
		}
	case askDirectory:
		if a.err = w.fetch(ctx, url+"/members?consistency=local", &a.members); a.err == nil {
			a.err = w.fetch(ctx, url+"/caches", &a.caches)
		}
	}
	a.at = time.Now()
	return a
}

// insteadOfDatabase turns an answer that no database node gives into the sentence
// about who is there.
func (w *Watch) insteadOfDatabase(ctx context.Context, url string, err error) error {
	var status *nodehttp.StatusError
	if !errors.As(err, &status) && !errors.Is(err, nodehttp.ErrAnswer) {
		return err
	}
	switch who := nodehttp.Identify(ctx, w.http, url); who.Kind {
	case nodehttp.PeerPort, nodehttp.Cache, nodehttp.Admin:
		return errors.New(who.NoDatabase(url))
	}
	return err
}

func (w *Watch) fetch(ctx context.Context, url string, into any) error {
	return nodehttp.GetJSON(ctx, w.http, url, answerBytesMax, into)
}

// note takes an answer in and reports whether people should hear of it at
// once. Answers of forgotten nodes are dropped.
func (w *Watch) note(a reply) bool {
	switch a.kind {
	case askDatabase:
		d := w.dbs[a.url]
		if d == nil {
			return false
		}
		d.probe.note(a)
		if a.err == nil {
			d.stats = &a.stats
			d.history.add(a.at, databaseCounters(&a.stats))
		}
		return w.changed("database node", d.name(), &d.probe, d.outline())
	case askCache:
		c := w.caches[a.url]
		if c == nil {
			return false
		}
		c.probe.note(a)
		if a.err == nil {
			c.stats = &a.cache
			c.history.add(a.at, cacheCounters(&a.cache))
		}
		return w.changed("cache node", c.name, &c.probe, c.outline())
	}
	if d := w.dbs[a.url]; d != nil {
		d.listing = false
	}
	return a.err == nil && w.learn(a)
}

// changed notes what a node is now, logs it if it has come or gone, and reports
// whether people should hear of it at once.
func (w *Watch) changed(kind, name string, p *probe, now outline) bool {
	before := p.news
	p.news = now
	if before.status != now.status {
		w.cfg.Logger.Info("a node is "+now.status, "kind", kind, "name", name, "err", p.err)
	}
	return before != now
}

// guide returns the database node whose lists count: the leader if it answers,
// else the one that has got farthest, else any.
func (w *Watch) guide() *database {
	var best *database
	for _, d := range w.dbs {
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
func (w *Watch) learn(a reply) bool {
	if len(a.members.Members) == 0 {
		return false // it has not formed or joined a cluster yet
	}
	w.listTime = a.at
	changed := w.learnMembers(a)
	return w.learnCaches(a) || changed
}

func (w *Watch) learnMembers(a reply) bool {
	changed := false
	listed := map[string]bool{}
	for _, m := range a.members.Members[:min(len(a.members.Members), nodesMax)] {
		at, err := nodeurl.Parse(m.ClientURL)
		if err != nil {
			continue // it cannot be asked
		}
		listed[at] = true
		d := w.dbs[at]
		if d == nil {
			d = &database{url: at, probe: probe{first: a.at}}
			w.dbs[at] = d
		}
		changed = changed || d.member == nil || d.member.Role != m.Role || d.member.ID != m.ID
		d.member = &m
	}
	for at, d := range w.dbs {
		if listed[at] {
			continue
		}
		changed = changed || d.member != nil
		d.member = nil
		if !d.seed {
			delete(w.dbs, at)
		}
	}
	return changed
}

// learnCaches drops a cache node that is not listed any more only if it does
// not answer either: a database node that has just started has not heard of all.
func (w *Watch) learnCaches(a reply) bool {
	changed := false
	listed := map[string]bool{}
	for _, n := range a.caches[:min(len(a.caches), nodesMax)] {
		at, err := nodeurl.Parse(n.URL)
		if err != nil {
			continue
		}
		listed[at] = true
		c := w.caches[at]
		if c == nil {
			c = &cache{url: at, probe: probe{first: n.LastSeen}}
			w.caches[at] = c
			changed = true
		}
		c.name, c.left = n.Name, n.Left
	}
	for at, c := range w.caches {
		if !listed[at] && !c.answers() {
			delete(w.caches, at)
			changed = true
		}
	}
	return changed
}

// publish makes the state of now the newest.
func (w *Watch) publish(now time.Time) {
	s := w.compose(now)
	encoded, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("a state cannot be written as JSON: %v", err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state, w.encoded = s, encoded
	w.number++
	close(w.next)
	w.next = make(chan struct{})
	if now.Sub(w.pointTime) >= pointEvery-w.cfg.Interval/2 {
		w.pointTime = now
		w.points = append(w.points, Point{Time: s.Time, Revision: s.Revision, Rates: s.Rates})
		w.points = slices.Delete(w.points, 0, max(0, len(w.points)-pointsMax))
	}
}

// State returns the newest state. It is shared; do not change it.
func (w *Watch) State() *State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Next returns the newest state as JSON, and its number, when that is not the
// one numbered after; else it waits for one, or for the end of ctx. States in
// between are left out. A number that this Watch has not reached is one of
// another process: it does not wait.
func (w *Watch) Next(ctx context.Context, after uint64) (state []byte, number uint64, err error) {
	for {
		w.mu.Lock()
		state, number, next := w.encoded, w.number, w.next
		w.mu.Unlock()
		if state != nil && number != after {
			return state, number, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// History returns the last five minutes, as a History.
func (w *Watch) History() any {
	w.mu.Lock()
	defer w.mu.Unlock()
	return History{Points: append([]Point{}, w.points...)}
}

// Databases returns the URLs of the database nodes that requests may be sent
// to, the leader first. Those that are down are listed only if all are, because waiting for
// one that hangs takes long. A member that never answered with its own id is never listed:
// its URL may belong to something else.
func (w *Watch) Databases() []string {
	members := slices.DeleteFunc(slices.Clone(w.State().Members), func(m Member) bool { return m.Stats == nil || m.Stats.ID != m.ID })
	if len(members) == 0 {
		return w.cfg.Nodes
	}
	isDown := func(m Member) bool { return m.Status == StatusDown }
	if slices.ContainsFunc(members, func(m Member) bool { return !isDown(m) }) {
		members = slices.DeleteFunc(members, isDown)
	}
	slices.SortStableFunc(members, func(a, b Member) int { return rank(a) - rank(b) })
	urls := make([]string, len(members))
	for i, m := range members {
		urls[i] = m.URL
	}
	return urls
}

func rank(m Member) int {
	switch {
	case m.Status == StatusStarting:
		return 2
	case m.Role == api.RoleLeader:
		return 0
	}
	return 1
}
