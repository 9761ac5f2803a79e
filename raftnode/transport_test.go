package raftnode

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

// deafReceiver is a node that no message reaches.
type deafReceiver struct{}

func (deafReceiver) receive(raftpb.Message) error { return nil }
func (deafReceiver) isRemoved(ID) bool            { return false }
func (deafReceiver) lost(ID)                      {}

// A member that accepts streams and then says nothing, as one behind a cut
// network, is dialled again: a healed network must not wait for TCP.
func TestTransport_SilentStream_IsDialledAgain(t *testing.T) {
	const self, other, cluster = ID(1), ID(2), ID(3)
	dials, end := make(chan string, 100), make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, rafthttp.RaftStreamPrefix) {
			return
		}
		w.Header().Set("X-Etcd-Cluster-Id", "3")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		dials <- r.URL.Path
		<-end
	}))
	defer silent.Close()
	defer close(end)
	h, err := newHTTPTransport(self, cluster, "http://127.0.0.1:1", t.TempDir(), deafReceiver{}, make(chan error, 1), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.stop()
	h.setPeer(other, silent.URL)
	seen := map[string]int{}
	for patience := time.After(60 * time.Second); ; {
		select {
		case path := <-dials:
			if seen[path]++; seen[path] == 2 {
				return
			}
		case <-patience:
			t.Fatalf("the streams %v were never dialled again", seen)
		}
	}
}

func TestTransport_Timeouts_AreRafthttpsOwn(t *testing.T) {
	tr := &rafthttp.Transport{}
	if err := withTimeouts(tr); err == nil {
		t.Error("a transport that was not started has no round trippers, yet they were set")
	}
}
