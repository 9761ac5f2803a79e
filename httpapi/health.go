package httpapi

import (
	"context"
	_ "embed"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// readyTimeout bounds /readyz, which is about this moment.
const readyTimeout = 2 * time.Second

// health answers what every node says about itself.
type health struct {
	stats func(context.Context) any
	ready func(context.Context) error
	leads func() bool // nil: never
	names *identity   // nil: of a node that holds no history
}

// ping answers that the node lives and serves. Clients choose by the answers where
// to send puts: the leader's say so.
func (s *health) ping(w http.ResponseWriter, r *http.Request) error {
	if s.leads != nil && s.leads() {
		w.Header().Set(api.HeaderRole, api.RoleLeader)
	}
	return writeBody(w, http.StatusOK, contentTypeText, []byte("pong"))
}

func (s *health) figures(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, s.stats(r.Context()))
}

func (s *health) readyz(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := s.ready(ctx); err != nil {
		return newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "this node is not ready: %v", err).with("Retry-After", retryAfter)
	}
	return writeBody(w, http.StatusOK, contentTypeText, []byte("ready"))
}

// description is the API's own, for every kind of node. It is never written to.
//
//go:embed openapi.yaml
var description []byte

// fixed answers with what never changes.
func fixed(contentType string, body []byte) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return writeBody(w, http.StatusOK, contentType, body)
	}
}

// health adds the routes every node has.
func (rt *router) health(s *health) {
	rt.get("/stats", s.names.in(noQuery(s.figures)))
	rt.get(pathPing, s.names.in(noQuery(s.ping)))
	rt.get(pathLive, noQuery(fixed(contentTypeText, []byte("ok"))))
	rt.get(pathReady, noQuery(s.readyz))
	rt.get("/openapi.yaml", noQuery(fixed("application/yaml", description)))
}
