package raftnode

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// peerPort serves a node's peer port, with a transport that goes nowhere.
func peerPort(t *testing.T, configure func(*Node)) (n *Node, addr string) {
	t.Helper()
	tn := newTestNode(t, "n1")
	_ = tn.ln.Close()
	n, err := Open(tn.cfg, tn.sm)
	if err != nil {
		t.Fatal(err)
	}
	configure(n)
	h, err := newHTTPTransport(n.ID(), 3, tn.cfg.PeerURL, t.TempDir(), deafReceiver{}, make(chan error, 1), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	handler := h.handler()
	n.raftHTTP.Store(&handler)
	srv := httptest.NewServer(n.Handler())
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	return n, srv.Listener.Addr().String()
}

const peerHeaders = "Host: x\r\nX-Server-From: 2\r\nX-Etcd-Cluster-Id: 3\r\nX-Server-Version: 3.5.0\r\nX-Min-Cluster-Version: 3.0.0\r\nOncekv-Cluster: 0000000000000003\r\n"

// A body that stops in the middle is given up, whichever route it was sent to and
// whether that reads it or not.
func TestNode_PeerPort_HalfBodies_AreGivenUp(t *testing.T) {
	n, addr := peerPort(t, func(n *Node) { n.bodyIdle = 100 * time.Millisecond })
	id := n.self
	id.ClusterID = 3
	n.identity.Store(&id)
	for _, path := range []string{rafthttp.RaftPrefix, rafthttp.ProbingPrefix, rafthttp.RaftStreamPrefix + "/message/2", rafthttp.RaftSnapshotPrefix, membersPath, nodehttp.IdentityPath, snapshotPath, "/nothing"} {
		for _, length := range []string{"Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"} {
			for _, body := range []string{"", "8\r\n{\"op\": \""} {
				t.Run(fmt.Sprintf("%s %.8s %d", path, length, len(body)), func(t *testing.T) {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
						t.Fatal(err)
					}
					if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n%s%s\r\n%s", path, peerHeaders, length, body); err != nil {
						t.Fatal(err)
					}
					began := time.Now()
					if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
						t.Fatalf("still open after %v", time.Since(began))
					}
				})
			}
		}
	}
	if n.budget.used != 0 || len(n.budget.of) != 0 {
		t.Errorf("%d bytes are still reserved: %v", n.budget.used, n.budget.of)
	}
}

// Bodies take memory as they arrive, one address a share of it, and small messages
// come through.
func TestNode_PeerPort_Bodies_AreBounded(t *testing.T) {
	n, addr := peerPort(t, func(n *Node) { n.budget = newBodyBudget(4 << 20) })
	send := func(size int) int {
		r, err := http.NewRequest(http.MethodPost, "http://"+addr+rafthttp.RaftPrefix, bytes.NewReader(make([]byte, size)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Etcd-Cluster-Id", "3")
		r.Header.Set("X-Server-Version", "3.5.0")
		r.Header.Set("X-Min-Cluster-Version", "3.0.0")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0 // the connection was closed before all was sent
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	// Announced, and not sent: nothing is reserved.
	for range 20 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n%sContent-Length: 8000000\r\n\r\nx", rafthttp.RaftPrefix, peerHeaders); err != nil {
			t.Fatal(err)
		}
	}
	if status := send(900 << 10); status != http.StatusBadRequest { // zeros are no message
		t.Errorf("900 KiB beside announcements: %d", status)
	}
	if status := send(2 << 20); status != http.StatusServiceUnavailable && status != 0 {
		t.Errorf("2 MiB of a share of 1: %d", status)
	}
	if !n.budget.take("elsewhere", 1<<20) || !n.budget.take("127.0.0.1", 1<<20) || n.budget.take("127.0.0.1", 1) {
		t.Fatal("an address has no quarter of the budget, or more")
	}
	if status := send(peerBodyFree / 2); status != http.StatusBadRequest {
		t.Errorf("a small message beside a full budget: %d", status)
	}
	n.budget.give("127.0.0.1", 1<<20)
	n.budget.give("elsewhere", 1<<20)
	eventually(t, "everything is given back", func() bool {
		n.budget.mu.Lock()
		defer n.budget.mu.Unlock()
		return n.budget.used == 0
	})
}

// Nonsense from many ports, in the name of many members, leaves nothing behind: no
// metric of each.
func TestNode_PeerPort_Nonsense_LeavesNoTrace(t *testing.T) {
	_, addr := peerPort(t, func(*Node) {})
	series := func() (n int) {
		families, err := prometheus.DefaultGatherer.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			n += len(f.GetMetric())
		}
		return n
	}
	before := series()
	statuses := map[int]int{}
	for i := range uint64(100) {
		honest, err := (&raftpb.Message{Type: raftpb.MsgHeartbeat, From: 1000 + i, To: 1, Term: 1}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range [][]byte{[]byte("nonsense"), honest} {
			r, err := http.NewRequest(http.MethodPost, "http://"+addr+rafthttp.RaftPrefix, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Close = true // the next one comes from another port
			for name, value := range map[string]string{"X-Etcd-Cluster-Id": "3", "X-Server-Version": "3.5.0", "X-Min-Cluster-Version": "3.0.0", "X-Server-From": "7", "X-PeerURLs": "no URL"} {
				r.Header.Set(name, value)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			statuses[resp.StatusCode]++
		}
	}
	if statuses[http.StatusBadRequest] != 100 || statuses[http.StatusNoContent] != 100 {
		t.Errorf("answered with %v", statuses)
	}
	if grown := series() - before; grown > 10 {
		t.Errorf("%d metrics more after 200 messages", grown)
	}
}

// Memory that a body gives back is there for its address again, and no more than that.
func TestBodyBudget(t *testing.T) {
	t.Parallel()
	b := newBodyBudget(40)
	for _, step := range []struct {
		take, give int
		ok         bool
	}{{10, 0, true}, {1, 0, false}, {0, 4, true}, {5, 0, false}, {4, 0, true}, {1, 0, false}, {0, 10, true}, {10, 0, true}, {0, 10, true}} {
		if step.take > 0 && b.take("h", step.take) != step.ok {
			t.Errorf("%+v: %v", step, b.of)
		}
		b.give("h", step.give)
	}
	if len(b.of) != 0 || b.used != 0 {
		t.Errorf("%d bytes, of %v", b.used, b.of)
	}
}
