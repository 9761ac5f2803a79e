package raftnode

import (
	"errors"
	"io"
	"net/http"
	"os"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

// servePosted takes a message that another member posted, in place of rafthttp's handler.
// That keeps a metric of every remote port and sender, logs each message, and answers what
// the node refuses with a panic.
func (h *httpTransport) servePosted(w http.ResponseWriter, r *http.Request) {
	cluster := types.ID(h.cluster).String()
	w.Header().Set(clusterIDHeader, cluster)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "raft messages are posted", http.StatusMethodNotAllowed)
		return
	}
	if r.Header.Get(clusterIDHeader) != cluster {
		http.Error(w, rafthttp.ErrClusterIDMismatch.Error(), http.StatusPreconditionFailed)
		return
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		status, sentence := bodyFailure(err)
		http.Error(w, sentence, status)
		return
	}
	var m raftpb.Message
	if err := m.Unmarshal(raw); err != nil {
		http.Error(w, "the body is not a raft message", http.StatusBadRequest)
		return
	}
	if err := h.receiver.receive(m); err != nil {
		http.Error(w, "no member of this cluster sends such a message: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// bodyFailure is the answer to a body that could not be read.
func bodyFailure(err error) (status int, sentence string) {
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return http.StatusRequestEntityTooLarge, "a raft message is never this large"
	case errors.Is(err, errBodyMemory):
		return http.StatusServiceUnavailable, err.Error() + "; send it again"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, "the body did not arrive in time"
	}
	return http.StatusBadRequest, "the body broke off"
}
