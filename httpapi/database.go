package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// NewDatabase returns the API of a database node. It must be served at the
// root and without anything in front that cleans paths, such as
// http.ServeMux. It is safe for concurrent use; no goroutine outlives the
// request it works for.
func NewDatabase(cfg DatabaseConfig) http.Handler {
	cfg.setDefaults()
	rt := newRouter(cfg.Counters, cfg.Logger, cfg.Traffic, cfg.Hosts, noRoute)
	rooms := newRooms(cfg.JSONBytesInFlight)
	from := &localFirst{db: cfg.DB, hot: cfg.Hot, timeout: cfg.AnswerTimeout}

	names := &identity{history: cfg.DB.History}
	g := &reads{from: from, headers: newValueHeaders(), names: names, counters: cfg.Counters, logger: cfg.Logger, idle: cfg.BodyIdleTimeout, memory: rooms.answers, values: budget.New(cfg.ValueBytesInFlight)}
	rt.reads(g)

	l := &lists{db: cfg.DB, names: names, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout, memory: rooms.answers}
	rt.get(pathKeys, names.in(l.keys))
	c := &changes{db: cfg.DB, names: names, logger: cfg.Logger, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout,
		heartbeat: cfg.Heartbeat, closing: cfg.Closing, memory: rooms.changes, streams: budget.New(cfg.StreamsMax)}
	rt.get(pathChanges, names.in(c.list))

	p := &puts{db: cfg.DB, from: from, counters: cfg.Counters, limit: cfg.MaxValueBytes, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout,
		documents: &jsonBodies{read: decodeStrict, limit: jsonPutBytesMax, idle: cfg.BodyIdleTimeout, small: rooms.small, large: rooms.large}}
	rt.below(http.MethodPut, pathKey, putting, names.in(keyed(p.put).at(inPath(pathKey, "on-conflict"))))
	rt.below(http.MethodPut, pathKeep, putting, names.in(keyed(p.keep).at(inPath(pathKeep, "on-conflict"))))
	rt.on(http.MethodPut, pathTwin, putting, names.in(keyed(p.put).at(inQuery("on-conflict"))))
	rt.on(http.MethodPost, pathTwin, putting, names.in(p.byDocument))
	rt.on(http.MethodPost, "/keys", putting, names.in(newManyPuts(&cfg, p).serve))
	rt.manyReads(newManyGets(&cfg, rooms.answers))

	m := &members{cluster: cfg.Cluster, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout,
		documents: &jsonBodies{read: decodeStrict, limit: jsonClusterBytesMax, idle: cfg.BodyIdleTimeout, small: rooms.cluster, large: rooms.cluster}}
	rt.get("/members", names.in(m.list))
	rt.on(http.MethodPost, "/members", changing, names.in(noQuery(m.add)))
	rt.on(http.MethodDelete, "/members/{name}", changing, names.in(m.remove))
	rt.on(http.MethodPost, "/members/{name}/promote", changing, names.in(noQuery(m.promote)))
	rt.on(http.MethodPost, "/leader", changing, noQuery(m.lead))

	n := &nodes{cluster: cfg.Cluster, registry: cfg.Registry, history: cfg.DB.History, idle: cfg.BodyIdleTimeout, memory: rooms.lists,
		beats: &jsonBodies{read: decodeOpen, limit: jsonClusterBytesMax, idle: cfg.BodyIdleTimeout, small: rooms.beats, large: rooms.beats}}
	rt.get("/caches", noQuery(n.caches))
	rt.on(http.MethodPost, "/caches", changing, noQuery(n.heartbeat))
	rt.get("/dbs", noQuery(n.dbs))

	rt.health(&health{
		stats: func(ctx context.Context) any { return cfg.Cluster.Stats(ctx) },
		ready: cfg.Cluster.Ready,
		leads: cfg.Cluster.Leads,
		names: names,
	})
	rt.metrics(cfg.Metrics, cfg.BodyIdleTimeout)
	return rt.behind(cfg.BodyIdleTimeout, cfg.RequestsInFlight)
}

// reads adds the routes that read keys.
func (rt *router) reads(g *reads) {
	get := keyed(g.get)
	rt.getBelow(pathKey, g.names.inWhenAsked(get.at(inPath(pathKey, "format", "consistency"))))
	rt.getBelow(pathKeep, g.names.inWhenAsked(get.at(inPath(pathKeep, "format", "consistency"))))
	rt.get(pathTwin, g.names.inWhenAsked(get.at(inQuery("format", "consistency"))))
}

// localFirst reads from a DB. A value that is found locally is right, so only an absence
// costs a timer and a question to the cluster. After the confirmation the key is looked up
// once more; DB.Get would do it a third time.
type localFirst struct {
	db      DB
	hot     Memory // nil: none
	timeout time.Duration
}

// Get implements Reader.
func (l *localFirst) Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, string, error) {
	if l.hot != nil {
		if v, found := l.hot.Held(key); found {
			return v, "", nil
		}
	}
	v, err := l.db.Get(ctx, key, kvstore.Local)
	if err == nil && l.hot != nil {
		l.hot.Hold(v)
	}
	if c == kvstore.Local || !errors.Is(err, kvstore.ErrNotFound) {
		return v, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	if err := l.db.Confirm(ctx); err != nil {
		return nil, "", err
	}
	v, err = l.db.Get(ctx, key, kvstore.Local)
	return v, "", err
}
