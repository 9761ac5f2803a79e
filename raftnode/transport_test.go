package raftnode

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
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
	for late := time.After(patience); ; {
		select {
		case path := <-dials:
			if seen[path]++; seen[path] == 2 {
				return
			}
		case <-late:
			t.Fatalf("the streams %v were never dialled again", seen)
		}
	}
}

// A member that has opened a stream anew, because the old one is dead, gets its
// messages there, although a write to the old one blocks.
func TestTransport_BlockedStream_IsGivenUp(t *testing.T) {
	const self, other, cluster = ID(1), ID(2), ID(3)
	h, err := newHTTPTransport(self, cluster, "http://127.0.0.1:1", t.TempDir(), deafReceiver{}, make(chan error, 1), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.stop()
	srv := httptest.NewServer(h.handler())
	defer srv.Close()
	defer srv.CloseClientConnections()
	h.setPeer(other, "http://127.0.0.1:1") // it can dial here, not the other way
	open := func() net.Conn {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "GET %s/msgapp/2 HTTP/1.1\r\nHost: x\r\nX-Server-From: 2\r\nX-Raft-To: 1\r\n"+
			"X-Etcd-Cluster-Id: 3\r\nX-Server-Version: 3.5.0\r\nX-Min-Cluster-Version: 3.0.0\r\n\r\n", rafthttp.RaftStreamPrefix)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	if _, err := http.ReadResponse(bufio.NewReader(open()), nil); err != nil { // and nothing more is read
		t.Fatal(err)
	}
	entry := raftpb.Entry{Data: make([]byte, 1<<20)}
	fill := time.NewTicker(5 * time.Millisecond)
	defer fill.Stop()
	for i := range uint64(40) { // more than socket buffers hold
		entry.Index = i
		h.send([]raftpb.Message{{Type: raftpb.MsgApp, To: uint64(other), From: uint64(self), Index: i - 1, Entries: []raftpb.Entry{entry}}})
		<-fill.C
	}
	again := open()
	if err := again.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(again), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != nil { // of a heartbeat of the link
		t.Fatalf("the new stream carries nothing: %v", err)
	}
}

func TestTransport_Clients_ReplaceRafthttpsOwn(t *testing.T) {
	if _, err := newPeerClients(&rafthttp.Transport{}); err == nil {
		t.Error("a transport that was not started has no round trippers, yet they were replaced")
	}
}
