package httpapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// NewCache returns the API of a cache node: it reads keys itself and forwards
// puts and lists, and nothing else. The rules of NewDatabase hold for it too.
func NewCache(cfg CacheConfig) http.Handler {
	cfg.setDefaults()
	rt := newRouter(cfg.Counters, cfg.Logger, cfg.Traffic, cfg.Hosts, notOnCache)
	from, memory := newTimedReader(cfg.Reader, cfg.AnswerTimeout), budget.New(cfg.JSONBytesInFlight)
	var stands *identity
	if cfg.History != nil {
		stands = &identity{history: cfg.History}
	}
	rt.reads(&reads{from: from, stands: stands, headers: newValueHeaders(), counters: cfg.Counters,
		logger: cfg.Logger, idle: cfg.BodyIdleTimeout, memory: memory, values: budget.New(cfg.ValueBytesInFlight)})
	rt.manyReads(newCachedGets(&cfg, from, memory))

	puts := newForwardedPuts(&cfg)
	rt.below(http.MethodPut, pathKey, putting, puts.at(inPath(pathKey, "on-conflict"), false))
	rt.below(http.MethodPut, pathKeep, putting, puts.at(inPath(pathKeep, "on-conflict"), true))
	rt.on(http.MethodPut, pathTwin, putting, puts.at(inQuery("on-conflict"), false))
	rt.on(http.MethodPost, pathTwin, putting, puts.asIs)
	rt.get(pathKeys, readForwarder(cfg.Forward, cfg.BodyIdleTimeout, nil))
	rt.get(pathChanges, readForwarder(cfg.Forward, cfg.BodyIdleTimeout, cfg.Closing))
	rt.on(http.MethodPost, "/keys", putting, duplexForwarder(cfg.Forward, cfg.BodyIdleTimeout))
	if cfg.PeerHandler != nil {
		rt.peers("/peer/*", cfg.PeerHandler)
	}
	rt.health(&health{stats: func(context.Context) any { return cfg.Stats() }, ready: cfg.Ready, names: stands})
	rt.metrics(cfg.Metrics, cfg.BodyIdleTimeout)
	return rt.behind(cfg.BodyIdleTimeout, cfg.RequestsInFlight)
}

// timedReader gives every read the same time. What is held needs none, nor a
// context and a timer of its own.
type timedReader struct {
	next    Reader
	holder  Holder // nil: next cannot tell
	timeout time.Duration
}

func newTimedReader(next Reader, timeout time.Duration) *timedReader {
	holder, _ := next.(Holder)
	return &timedReader{next: next, holder: holder, timeout: timeout}
}

// Get implements Reader. The value outlives the context: what is streamed
// later runs under the request's own.
func (t *timedReader) Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, string, error) {
	if t.holder != nil {
		if v, found := t.holder.Held(key); found {
			return v, sourceHeld, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.next.Get(ctx, key, c)
}

// sourceHeld is where a Holder's value is from.
const sourceHeld = "hit"

// notOnCache is the 404 of a path a cache node does not have; of those only a
// database node has it says so.
func notOnCache(r *http.Request) *problem {
	for _, prefix := range []string{"/members", "/leader", "/caches", "/dbs"} {
		if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
			return newProblem(http.StatusNotFound, api.ProblemNoRoute, "%q is not on a cache node; ask a database node", r.URL.Path)
		}
	}
	return noRoute(r)
}
