package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// readyTimeout bounds /readyz: whoever asks wants to know about now.
const readyTimeout = 2 * time.Second

// Paths that probes ask, by whatever name leads to a node.
const (
	pathPing  = "/ping"
	pathLive  = "/livez"
	pathReady = "/readyz"
)

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
	return fixed("pong")(w, r)
}

func (s *health) figures(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.stats(r.Context()))
}

func (s *health) readyz(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := s.ready(ctx); err != nil {
		return newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "this node is not ready: %v", err).with("Retry-After", retryAfter)
	}
	return writeText(w, "ready")
}

// fixed answers with a word: the process lives and serves.
func fixed(word string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := parseQuery(r.URL.RawQuery); err != nil {
			return err
		}
		return writeText(w, word)
	}
}

func writeText(w http.ResponseWriter, text string) error {
	h := w.Header()
	h.Set("Content-Type", contentTypeText)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	w.Write([]byte(text)) // an error here is the client's going away
	return nil
}
