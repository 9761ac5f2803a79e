package adminui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	askTimeout      = 2 * time.Second
	answerBytesMax  = 8 << 20
	pointEvery      = time.Second
	pointsMax       = 300
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
	running sync.WaitGroup // questions under way
	answers chan reply
	topology
	pointTime time.Time

	mu      sync.Mutex
	state   *State
	encoded []byte
	number  uint64        // of state, from 1
	next    chan struct{} // closed when there is a newer state
	points  []Point
}

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
		topology: topology{version: cfg.Version, shareOut: cfg.Shares, dbs: map[string]*database{}, caches: map[string]*cache{}}, next: make(chan struct{}),
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
