package httpapi

import (
	"net/http"
	"strings"
	"time"
)

// Traffic hears of every request, for metrics. Its methods and what Route
// returns are called concurrently and must be quick.
type Traffic interface {
	// Route returns what is told of the requests of one method and path of the
	// API, such as GET and /key/{key}: the status, 0 for an answer that was
	// broken off, and the time from the request's header to the answer's end.
	// It is called once for each when the handler is made.
	Route(method, pattern string) func(status int, took time.Duration)
	// InFlight is told 1 when a request begins and -1 when it ends.
	InFlight(change int)
}

// reported is what Traffic.Route returns.
type reported = func(status int, took time.Duration)

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

// reports returns what hears of the requests of a route, nil if nobody does.
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
