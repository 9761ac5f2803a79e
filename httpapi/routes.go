package httpapi

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
)

// router is a chi mux whose handlers return errors.
type router struct {
	mux      *chi.Mux
	counters *Counters
	logger   *slog.Logger
	missing  func(r *http.Request) *problem // what a 404 says
	traffic  Traffic                        // nil: none
	hosts    Hosts
	direct   []directRoute
}

// directRoute is a route of the mux that is found without it: of all paths that
// begin with prefix. The mux would copy the request and note the path's parts,
// which costs more than finding the value does.
type directRoute struct {
	method, prefix string
	do             http.HandlerFunc
}

// directly returns the handler of a direct route, nil if there is none.
func directly(routes []directRoute, r *http.Request) http.HandlerFunc {
	for i := range routes {
		if route := &routes[i]; r.Method == route.method && strings.HasPrefix(r.URL.Path, route.prefix) {
			return route.do
		}
	}
	return nil
}

func newRouter(counters *Counters, logger *slog.Logger, traffic Traffic, hosts Hosts, missing func(*http.Request) *problem) *router {
	if hosts == nil {
		hosts = everyHost{}
	}
	rt := &router{mux: chi.NewMux(), counters: counters, logger: logger, missing: missing, traffic: traffic, hosts: hosts}
	rt.mux.Use(routeByDecodedPath)
	rt.mux.NotFound(func(w http.ResponseWriter, r *http.Request) { rt.missing(r).write(w) })
	rt.mux.MethodNotAllowed(rt.methodNotAllowed)
	return rt
}

// routeByDecodedPath makes chi route on the bytes net/http decoded. By itself
// it routes on the escaped path if a URL was escaped in an unusual way, so that
// /%6bey/a would not be /key/a.
func routeByDecodedPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chi.RouteContext(r.Context()).RoutePath = r.URL.Path
		next.ServeHTTP(w, r)
	})
}

// get routes GET and HEAD.
func (rt *router) get(pattern string, do handler) {
	rt.on(http.MethodGet, pattern, reading, do)
	rt.on(http.MethodHead, pattern, reading, do)
}

// getBelow routes GET and HEAD of everything below a prefix, directly.
func (rt *router) getBelow(prefix string, do handler) {
	rt.below(http.MethodGet, prefix, reading, do)
	rt.below(http.MethodHead, prefix, reading, do)
}

// below routes one method of everything below a prefix, directly.
func (rt *router) below(method, prefix string, op operation, do handler) {
	rt.direct = append(rt.direct, directRoute{method: method, prefix: prefix, do: rt.on(method, prefix+"*", op, do)})
}

// on routes one method.
func (rt *router) on(method, pattern string, op operation, do handler) http.HandlerFunc {
	report := rt.reports(method, pattern)
	h := func(w http.ResponseWriter, r *http.Request) {
		routed(w, report)
		if err := do(w, r); err != nil {
			rt.failed(w, r, op, err)
		}
	}
	rt.mux.MethodFunc(method, pattern, h)
	return h
}

// failed answers an error and notes those that are this node's own.
func (rt *router) failed(w http.ResponseWriter, r *http.Request, op operation, err error) {
	p := problemFor(op, err)
	if p.document.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		rt.counters.Errors.Add(1)
		level := slog.LevelDebug // no leader, out of time: expected, and the client is told
		if p.document.Status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		rt.logger.Log(r.Context(), level, "request failed", "method", r.Method, "path", r.URL.Path, "request", requestID(w), "status", p.document.Status, "err", err)
	}
	p.write(w)
}

// methodNotAllowed answers 405 with the methods of the path, or 404 if it has none: chi
// calls it for every method that it does not know.
func (rt *router) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	allow := rt.allowed(r.URL.Path)
	if allow == "" {
		rt.missing(r).write(w)
		return
	}
	sentence := r.Method + " is not a method of this resource; it takes " + allow
	path, below := r.URL.Path, ""
	if rest, ok := strings.CutPrefix(path, pathAPI); ok { // an admin's; no other node has such a route
		path, below = rest, pathAPI
	}
	switch {
	case r.Method == http.MethodPost && carriesKey(path): // it means to set the key
		sentence = "to set this key, use PUT " + r.URL.EscapedPath() + " with the value as its body (or POST " + below + pathTwin + " with a JSON document); this resource takes " + allow
	case carriesKey(path):
		sentence = "keys are set once, and never changed or deleted, so there is no " + r.Method + "; this resource takes " + allow
	}
	newProblem(http.StatusMethodNotAllowed, api.ProblemMethod, "%s", sentence).with("Allow", allow).write(w)
}

func carriesKey(path string) bool {
	return path == pathTwin || strings.HasPrefix(path, pathKey) || strings.HasPrefix(path, pathKeep)
}

// allowed lists the methods of a path, "" if there is no such path.
func (rt *router) allowed(path string) string {
	if !strings.HasPrefix(path, "/") {
		return ""
	}
	var methods []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete} {
		if rt.mux.Match(chi.NewRouteContext(), method, path) {
			methods = append(methods, method)
		}
	}
	return strings.Join(methods, ", ")
}

// noRoute is the 404 of a path that is not part of the API.
func noRoute(r *http.Request) *problem {
	return newProblem(http.StatusNotFound, api.ProblemNoRoute, "there is no %q here; keys are under /key/", r.URL.Path)
}

// What a request without a route is reported under: what clients make up must
// not make up series of metrics.
const (
	patternNone = "none"
	methodOther = "other"
)

// documentedPath is a pattern of the router as the API's description has it.
func documentedPath(pattern string) string {
	if strings.HasSuffix(pattern, pathKey+"*") || strings.HasSuffix(pattern, pathKeep+"*") {
		return strings.TrimSuffix(pattern, "*") + "{key}"
	}
	return pattern
}

// reports returns what is told of the requests of a route; nil: nothing.
func (rt *router) reports(method, pattern string) reported {
	if rt.traffic == nil {
		return nil
	}
	return rt.traffic.Route(method, documentedPath(pattern))
}

// routed notes whose request this is.
func routed(w http.ResponseWriter, report reported) {
	if a, ok := w.(*answer); ok {
		a.report = report
	}
}

// elsewhere returns what hears of requests that no route takes.
func (rt *router) elsewhere() func(method string) reported {
	if rt.traffic == nil {
		return nil
	}
	byMethod := make(map[string]reported)
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, methodOther} {
		byMethod[method] = rt.traffic.Route(method, patternNone)
	}
	return func(method string) reported {
		if report, ok := byMethod[method]; ok {
			return report
		}
		return byMethod[methodOther]
	}
}

// metrics adds GET /metrics, if there is anything to show.
func (rt *router) metrics(h http.Handler, idle time.Duration) {
	if h == nil {
		return
	}
	rt.get("/metrics", noQuery(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		withProblems(newPacedWriter(w, idle), r, h)
		return nil
	}))
}

// peers adds what other nodes ask, whatever the method.
func (rt *router) peers(pattern string, h http.Handler) {
	report := rt.reports(http.MethodGet, pattern)
	rt.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		routed(w, report)
		withProblems(w, r, h)
	})
}
