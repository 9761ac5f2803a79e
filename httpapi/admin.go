package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// NewAdmin returns the API of an admin: the page, what it shows, and the
// database's own API below /api, so that a browser talks to one origin. The
// rules of NewDatabase hold for it too.
func NewAdmin(cfg AdminConfig) http.Handler {
	cfg.setDefaults()
	rt := newRouter(cfg.Counters, cfg.Logger, cfg.Traffic, cfg.Hosts, notOnAdmin)
	page := func(w http.ResponseWriter, r *http.Request) error {
		if !cfg.Page.Has(r.URL.Path) {
			return notOnAdmin(r)
		}
		withProblems(newPacedWriter(w, cfg.BodyIdleTimeout), r, cfg.Page)
		return nil
	}
	rt.get("/", page)
	rt.get("/assets/*", page)
	rt.get("/favicon.svg", page)

	o := &topology{from: cfg.Topology, idle: cfg.BodyIdleTimeout, closing: cfg.Closing, streams: budget.New(cfg.StreamsMax)}
	rt.get("/dbs", noQuery(o.dbs))
	rt.get("/caches", noQuery(o.caches))
	rt.get("/owner", keyed(o.owner).at(inQuery()))
	rt.get("/events", noQuery(o.events))

	below := stripAPI(located(cfg.Forward))
	forward := forwarder(below, cfg.BodyIdleTimeout)
	rt.get(pathAPI+pathKey+"*", readForwarder(below, cfg.BodyIdleTimeout, nil))
	rt.get(pathAPI+pathTwin, readForwarder(below, cfg.BodyIdleTimeout, nil))
	rt.on(http.MethodPut, pathAPI+pathKey+"*", putting, forward)
	rt.on(http.MethodPut, pathAPI+pathTwin, putting, forward)
	rt.on(http.MethodPost, pathAPI+pathTwin, putting, func(w http.ResponseWriter, r *http.Request) error {
		if err := keyPosted(r); err != nil { // a database node would name its own path
			return err
		}
		return forward(w, r)
	})
	rt.get(pathAPI+pathKeys, readForwarder(below, cfg.BodyIdleTimeout, nil))
	rt.on(http.MethodPost, pathAPI+pathKeys, putting, duplexForwarder(below, cfg.BodyIdleTimeout))
	rt.on(http.MethodPost, pathAPI+pathManyGets, reading, duplexForwarder(below, cfg.BodyIdleTimeout))
	rt.get(pathAPI+pathChanges, readForwarder(below, cfg.BodyIdleTimeout, cfg.Closing))
	rt.get(pathAPI+"/members", readForwarder(below, cfg.BodyIdleTimeout, nil))
	change := changeForwarder(below, cfg.BodyIdleTimeout)
	rt.on(http.MethodPost, pathAPI+"/members", changing, change)
	rt.on(http.MethodDelete, pathAPI+"/members/{name}", changing, change)
	rt.on(http.MethodPost, pathAPI+"/members/{name}/promote", changing, change)
	rt.on(http.MethodPost, pathAPI+"/leader", changing, change)

	rt.health(&health{stats: func(context.Context) any { return cfg.Stats() }, ready: cfg.Ready})
	rt.metrics(cfg.Metrics, cfg.BodyIdleTimeout)
	return rt.behind(cfg.BodyIdleTimeout, cfg.RequestsInFlight)
}

// notOnAdmin is the 404 of a path an admin does not have.
func notOnAdmin(r *http.Request) *problem {
	return newProblem(http.StatusNotFound, api.ProblemNoRoute, "there is no %q here; the page is at /, and the database's API below %s", r.URL.Path, pathAPI)
}

// topology answers what an admin knows itself.
type topology struct {
	from    Topology
	idle    time.Duration
	closing <-chan struct{}
	streams *budget.Budget // places
}

func (o *topology) dbs(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, present(o.from.DBs()))
}

func (o *topology) caches(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, present(o.from.Caches()))
}

// owner tells which cache node owns a key.
func (o *topology) owner(w http.ResponseWriter, r *http.Request, key kvstore.Key, _ parameters) error {
	node, ok := o.from.Owner(key)
	if !ok {
		return newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "no cache node is up, so none owns this key; database nodes serve it").with("Retry-After", retryAfter)
	}
	return writeJSON(w, http.StatusOK, api.Owner{Name: node.Name, URL: node.URL})
}

// events answers with a stream that ends when either side stops it: first the last
// minutes, then every new state. A slow reader misses states, but never the newest.
func (o *topology) events(w http.ResponseWriter, r *http.Request) error {
	ctx, lose := context.WithCancelCause(r.Context())
	defer lose(nil)
	paced := newPacedWriter(w, o.idle)
	place := o.streams.Hold(hostOf(r), graceOf(o.idle), func() {
		lose(errPlaceNeeded)
		paced.within(placeLinger)
	})
	defer place.Close()
	if err := room(ctx, place, 1); err != nil {
		return err
	}
	if closed(o.closing) {
		return kvstore.ErrClosed
	}
	h := w.Header()
	h.Set("Content-Type", contentTypeEvents)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	ctx, end := untilClosed(ctx, o.closing)
	defer end()
	paced.held = place
	o.stream(ctx, paced, place)
	return nil
}

func (o *topology) stream(ctx context.Context, w *pacedWriter, place *budget.Holder) {
	past, err := json.Marshal(o.from.History())
	if err != nil {
		panic(fmt.Sprintf("the last minutes cannot be written as JSON: %v", err))
	}
	if !sendEvent(w, "event: history\ndata: %s\n\n", past) {
		return
	}
	for number := uint64(0); ; {
		var state []byte
		place.Resting()
		if state, number, err = o.from.Next(ctx, number); err != nil {
			break
		}
		if !sendEvent(w, "id: %d\nevent: state\ndata: %s\n\n", number, state) {
			return
		}
	}
	switch {
	case closed(o.closing):
		sendEvent(w, "event: %s\ndata: %s\n\n", api.EventEnd, `{"reason":"`+api.EndClosing+`"}`)
	case errors.Is(context.Cause(ctx), errPlaceNeeded):
		sendEvent(w, "event: %s\ndata: %s\n\n", api.EventEnd, `{"reason":"`+api.EndOverloaded+`"}`)
	}
}

// sendEvent reports whether the client took it.
func sendEvent(w *pacedWriter, format string, args ...any) bool {
	_, err := w.Write(fmt.Appendf(nil, format, args...))
	return err == nil && w.conn.Flush() == nil
}
