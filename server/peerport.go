package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// peerHandler serves raftnode's peers, and tells clients that they want the other port.
func (d *Database) peerHandler() http.Handler {
	peers := d.node.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/raft") || strings.HasPrefix(r.URL.Path, "/oncekv/") {
			peers.ServeHTTP(w, r)
			return
		}
		d.refuseClient(w)
	})
}

// refuseClient answers a client's request. The status is not 404, which would mean that the
// key is not set; an answer to HEAD has nothing but its status.
func (d *Database) refuseClient(w http.ResponseWriter) {
	w.Header().Set("Content-Type", api.ContentTypeProblem)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusMisdirectedRequest)
	_ = json.NewEncoder(w).Encode(api.Problem{ // the client sees a broken body
		Type: api.ProblemNoRoute, Title: "Peer port", Status: http.StatusMisdirectedRequest,
		Detail: fmt.Sprintf("this is the peer port of the database node %s, for database nodes only; clients, cache nodes, the admin and --join use %s", d.cfg.Name, d.public.url),
	})
}
