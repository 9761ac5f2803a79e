package httpapi

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// CacheConfig is what a cache node's API stands on. Reader, Forward, Stats and
// Ready are required; every other zero value has a default. A Reader that is a
// Holder too is asked for what it holds first.
type CacheConfig struct {
	Reader      Reader
	Forward     http.Handler                // takes puts and lists to a database node and brings the answer back; a *forward.Handler takes small puts as frames
	PeerHandler http.Handler                // answers other cache nodes below /peer/; nil: no such route
	Stats       func() any                  // GET /stats
	Ready       func(context.Context) error // nil when this node can answer; else a sentence about what it waits for
	History     func() kvstore.History      // of all that Reader finds; it never comes back to one that it has left. nil: of none

	Logger   *slog.Logger // nil: none
	Counters *Counters    // Gets, Absences and Errors are counted into; nil: the handler's own
	Metrics  http.Handler // GET /metrics; nil: no such route
	Traffic  Traffic      // is told of every request; nil: none
	Hosts    Hosts        // the names that requests may use, 421 for others; nil: all

	BodyIdleTimeout   time.Duration // without a byte of a body, either way; default 30 s
	AnswerTimeout     time.Duration // for finding a value; default 10 s
	JSONBytesInFlight int64         // memory for values as JSON; default 64 MiB

	Closing <-chan struct{} // closed when the node stops, before its server does: breaks forwarded streams off; nil: never

	ValueBytesInFlight int64 // memory for values on their way to readers; default 256 MiB
	RequestsInFlight   int   // of keys, at the same time; default 8192
}

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
	rt.below(http.MethodPut, pathKey, putting, puts.byPath(pathKey, false))
	rt.below(http.MethodPut, pathKeep, putting, puts.byPath(pathKeep, true))
	rt.on(http.MethodPut, pathTwin, putting, puts.byQuery)
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

func (cfg *CacheConfig) setDefaults() {
	cfg.BodyIdleTimeout = cmp.Or(cfg.BodyIdleTimeout, defaultBodyIdleTimeout)
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, defaultAnswerTimeout)
	cfg.JSONBytesInFlight = cmp.Or(cfg.JSONBytesInFlight, defaultJSONBytesInFlight)
	cfg.ValueBytesInFlight = cmp.Or(cfg.ValueBytesInFlight, defaultValueBytesInFlight)
	cfg.RequestsInFlight = cmp.Or(cfg.RequestsInFlight, defaultRequestsInFlight)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Counters = cmp.Or(cfg.Counters, new(Counters))
}

// forwarder hands a put on as it came. Its body is read at the pace of both
// sides, and by a goroutine of the transport that may outlive the answer;
// closing the body keeps that one off the connection.
func forwarder(next http.Handler, idle time.Duration) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := refuseUnframed(r); err != nil { // a proxy would give it a length
			return err
		}
		r.Header.Set(headerRequestID, requestID(w)) // one name on both nodes
		if r.ContentLength != 0 {
			body := newPacedBody(w, r, idle, bodyUnlimited)
			defer body.Close()
			r = r.WithContext(r.Context())
			r.Body = body
		}
		next.ServeHTTP(w, r)
		return nil
	}
}

// readForwarder hands a read on. Its answer may never end: it goes to the
// client at the client's pace, and is broken off when closing is closed. Where
// it broke off is for the client to see: in its last line.
func readForwarder(next http.Handler, idle time.Duration, closing <-chan struct{}) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, end := untilClosed(r.Context(), closing)
		defer end()
		r = r.WithContext(ctx)
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil // a read has none
		next.ServeHTTP(newPacedWriter(w, idle), r)
		return nil
	}
}

// untilClosed returns a context that also ends when closing is closed. end ends
// it, and returns when nothing of it is left.
func untilClosed(parent context.Context, closing <-chan struct{}) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(parent)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		watching.Wait()
	}
}

// duplexForwarder hands a request on whose answer comes while its body is being
// sent. A client that asked for a go-ahead gets it from this node: the answer
// may begin before anything of the body is needed.
func duplexForwarder(next http.Handler, idle time.Duration) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := refuseUnframed(r); err != nil {
			return err
		}
		d := newDuplex(w, r, 2*idle) // so that the database node, which can say so in its answer, is first
		defer d.Close()
		if r.ContentLength != 0 {
			r = r.WithContext(r.Context())
			r.Body = d
		}
		next.ServeHTTP(d, r)
		return nil
	}
}

// bodyUnlimited leaves the limit to the database node.
const bodyUnlimited = 1<<63 - 1

// timedReader gives every read the same time. What is held needs none, nor a
// context and a timer of its own.
type timedReader struct {
	next    Reader
	held    Holder // nil: next cannot tell
	timeout time.Duration
}

func newTimedReader(next Reader, timeout time.Duration) *timedReader {
	held, _ := next.(Holder)
	return &timedReader{next: next, held: held, timeout: timeout}
}

// Get implements Reader. The value outlives the context: what is streamed
// later runs under the request's own.
func (t *timedReader) Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, string, error) {
	if t.held != nil {
		if v, found := t.held.Held(key); found {
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
