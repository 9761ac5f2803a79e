package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// servingSM answers what another node asks of its state with some bytes and an error.
type servingSM struct {
	*listSM
	bytes string
	err   error
}

func (s *servingSM) Serve(_ context.Context, _ string, w io.Writer) error {
	if s.bytes != "" {
		if _, err := io.WriteString(w, s.bytes); err != nil {
			return err
		}
	}
	return s.err
}

// Whoever pulls a snapshot's data sees what is wrong: a status as long as there is no
// body, and a body that breaks off.
func TestNode_ServeSnapshot_Answers(t *testing.T) {
	at := newCrashCluster(t, 1, -1).nodes[1].node.progress.index()
	for what, c := range map[string]struct {
		index, bytes string
		err          error
		status       int
		broken       bool
	}{
		"no index":         {"", "data", nil, http.StatusBadRequest, false},
		"no number":        {"one", "data", nil, http.StatusBadRequest, false},
		"not applied yet":  {fmt.Sprint(at + 1), "data", nil, http.StatusServiceUnavailable, false},
		"data":             {fmt.Sprint(at), "data", nil, http.StatusOK, false},
		"no data":          {fmt.Sprint(at), "", errors.New("no"), http.StatusServiceUnavailable, false},
		"data that breaks": {fmt.Sprint(at), "data", errors.New("no"), http.StatusOK, true},
	} {
		n := newCrashCluster(t, 1, -1).nodes[1].node
		n.sm = &servingSM{&listSM{}, c.bytes, c.err}
		srv := httptest.NewServer(http.HandlerFunc(n.serveSnapshot))
		defer srv.Close()
		resp, err := http.Get(srv.URL + "?index=" + c.index)
		if err != nil {
			if !c.broken {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != c.status || (err != nil) != c.broken || c.status == http.StatusOK && !c.broken && string(got) != "data" {
			t.Errorf("%s: status %d, %q, %v", what, resp.StatusCode, got, err)
		}
	}
}

// What is no request for a change is refused before anything looks at it.
func TestNode_ServeMembers_RefusesNonsense(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	for body, status := range map[string]int{
		"":                          http.StatusBadRequest,
		"nonsense":                  http.StatusBadRequest,
		`{"op":"promote","force":1`: http.StatusBadRequest,
		`{"name":"` + strings.Repeat("a", 1<<16) + `"}`: http.StatusBadRequest,
		`{"op":"what"}`: http.StatusOK, // with an error in it
	} {
		w := httptest.NewRecorder()
		n.serveMembers(w, httptest.NewRequest(http.MethodPost, membersPath, strings.NewReader(body)))
		if w.Code != status || status == http.StatusOK && !strings.Contains(w.Body.String(), `"kind":"bad-member"`) {
			t.Errorf("%.40q: %d %s", body, w.Code, w.Body)
		}
	}
}

// askingNode is what asks others.
func askingNode() *Node {
	n := &Node{logger: slog.New(slog.DiscardHandler), client: nodehttp.NewClient(nodehttp.Options{}), changeClient: nodehttp.NewClient(nodehttp.Options{IdlePerHost: -1})}
	n.identity.Store(&identity{ID: 1, Name: "n1", ClusterID: 9})
	return n
}

// connRequests counts the requests of a connection.
type connRequests struct{}

// A change never goes by a connection that something else has left idle: the other side
// may have closed it, and then nobody could tell whether the change was carried out.
func TestNode_AskLeader_UsesNoIdleConnection(t *testing.T) {
	n := askingNode()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(connRequests{}).(*atomic.Int32).Add(1) > 1 {
			panic(http.ErrAbortHandler) // as one that has stopped meanwhile
		}
		if r.URL.Path == nodehttp.IdentityPath {
			writeJSON(w, http.StatusOK, introduction{Name: "n2", ID: 2, ClientURL: "http://n2:1", ClusterID: 9})
			return
		}
		w.Header().Set(clusterHeader, r.Header.Get(clusterHeader))
		writeJSON(w, http.StatusOK, changeAnswer{})
	}))
	srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, connRequests{}, new(atomic.Int32))
	}
	srv.Start()
	defer srv.Close()
	for i := range 3 {
		if _, err := n.introductionOf(t.Context(), srv.URL, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := n.askLeader(t.Context(), srv.URL, changeRequest{Op: "promote", Name: "n2"}); err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

// Who asks a leader for a change learns whether it may have been carried out.
func TestNode_AskLeader_Outcomes(t *testing.T) {
	n := askingNode()
	answer := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(clusterHeader, r.Header.Get(clusterHeader))
		_, _ = io.WriteString(w, answer)
	}))
	defer srv.Close()
	ask := func(url string) (changeAnswer, error) {
		return n.askLeader(t.Context(), url, changeRequest{Op: "promote", Name: "n2"})
	}
	for _, c := range []struct {
		answer string
		want   error
	}{
		{"{}", nil},
		{`{"member":{"name":"n2"},"created":true}`, nil},
		{`{"member`, ErrOutcomeUnknown},
		{`{"error":"no","kind":"refused"}`, ErrRefused},
		{`{"error":"no","kind":"unknown-member"}`, ErrUnknownMember},
		{`{"error":"no","kind":"bad-member"}`, ErrBadMember},
		{`{"error":"no","kind":"unavailable"}`, ErrUnavailable},
		{`{"error":"no","kind":"unknown-outcome"}`, ErrOutcomeUnknown},
		{`{"error":"no","kind":"stopped"}`, ErrStopped},
		{`{"error":"no","kind":"of the future"}`, ErrOutcomeUnknown},
	} {
		answer = c.answer
		a, err := ask(srv.URL)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) || a.Created && a.Member.Name != "n2" {
			t.Errorf("%s: %+v, %v, want %v", c.answer, a, err, c.want)
		}
		if err != nil && strings.HasPrefix(c.answer, `{"error`) && err.Error() != "no" {
			t.Errorf("%s became %q", c.answer, err)
		}
		// And what an error is on this side, it is on the other.
		if c.want != nil && !strings.Contains(c.answer, "future") && strings.HasPrefix(c.answer, `{"error`) {
			var there changeAnswer
			there.setError(fmt.Errorf("no (%w)", c.want))
			if !errors.Is(there.err(), c.want) || !strings.Contains(c.answer, there.Kind) {
				t.Errorf("%v travels as %q", c.want, there.Kind)
			}
		}
	}
	if _, err := ask("http://a b:1"); err == nil {
		t.Error("a URL that is none was asked")
	}
	if _, err := ask("http://127.0.0.1:1"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody is there: %v", err)
	}
}

// What comes to the peer port before the node takes part, from a cluster that has
// ended, or from another one.
func TestNode_PeerPort_WhoIsAnswered(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	n.budget, n.bodyIdle = newBodyBudget(1<<20), time.Second
	n.forced.Store(&[]Forcing{{Parent: 5, Cluster: 9, By: "n7"}})
	ask := func(method, path, header string, cluster ID) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, strings.NewReader("{}"))
		r.Header.Set(header, cluster.String())
		n.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusGone && !strings.Contains(w.Body.String(), "n7") {
			t.Errorf("it does not say who ended the cluster: %s", w.Body)
		}
		return w.Code
	}
	for _, path := range []string{rafthttp.RaftPrefix, rafthttp.ProbingPrefix, rafthttp.RaftStreamPrefix + "/message/1"} {
		if status := ask(http.MethodGet, path, clusterIDHeader, 9); status != http.StatusServiceUnavailable {
			t.Errorf("%s before the node takes part: %d", path, status)
		}
		if status := ask(http.MethodGet, path, clusterIDHeader, 5); status != http.StatusGone {
			t.Errorf("%s of a cluster that has ended: %d", path, status)
		}
	}
	if status := ask(http.MethodPost, membersPath, clusterHeader, 8); status != http.StatusPreconditionFailed {
		t.Errorf("a change of another cluster: %d", status)
	}
	if status := ask(http.MethodPost, membersPath, clusterHeader, 9); status != http.StatusOK {
		t.Errorf("a change of its own: %d", status)
	}
	self := n.self
	self.ClusterID = 0
	n.identity.Store(&self)
	if status := ask(http.MethodPost, membersPath, clusterHeader, 0); status != http.StatusPreconditionFailed {
		t.Errorf("a change of a node without a cluster: %d", status)
	}
}

// An address is what stands before the port, or all of it if there is none. Two of
// them do not share what one may take.
func TestNode_PaceBodies_ByAddress(t *testing.T) {
	n := &Node{budget: newBodyBudget(4 << 20), bodyIdle: time.Second}
	for address, host := range map[string]string{"10.0.0.1:77": "10.0.0.1", "somebody": "somebody", "[::1]:5": "::1"} {
		handler := n.paceBodies(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				t.Errorf("%s: %v", address, err)
			}
			if n.budget.of[host] == 0 {
				t.Errorf("nothing is reserved for %s: %v", host, n.budget.of)
			}
		}))
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 100<<10)))
		r.RemoteAddr = address
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	if n.budget.used != 0 {
		t.Errorf("%d bytes stay reserved", n.budget.used)
	}
}

// deadlines notes the last read deadline of a connection.
type deadlines struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (d *deadlines) SetReadDeadline(by time.Time) error { d.read = by; return nil }

// A body has its time by progress, but no more in all than peerBodyTotal.
func TestPacedBody_Deadlines(t *testing.T) {
	d := &deadlines{}
	latest := time.Now().Add(time.Hour)
	b := &pacedBody{ReadCloser: io.NopCloser(strings.NewReader("xy")), control: http.NewResponseController(d), idle: time.Minute, latest: latest, budget: newBodyBudget(10), host: "h"}
	began := time.Now()
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if in := d.read.Sub(began); in < time.Minute || in > 2*time.Minute {
		t.Errorf("the first byte has %v", in)
	}
	b.idle = 2 * time.Hour
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if !d.read.Equal(latest) {
		t.Errorf("the second byte has until %v, not %v", d.read, latest)
	}
}

// A message that is posted in the wrong way is answered, and does not arrive.
func TestTransport_Posted_Answers(t *testing.T) {
	h := newTestTransport(t)
	for what, c := range map[string]struct {
		method, cluster string
		status          int
	}{
		"not posted":       {http.MethodGet, "3", http.StatusMethodNotAllowed},
		"another cluster":  {http.MethodPost, "4", http.StatusPreconditionFailed},
		"no cluster":       {http.MethodPost, "", http.StatusPreconditionFailed},
		"as members do it": {http.MethodPost, "3", http.StatusNoContent},
	} {
		r := httptest.NewRequest(c.method, rafthttp.RaftPrefix, strings.NewReader(""))
		r.Header.Set(clusterIDHeader, c.cluster)
		w := httptest.NewRecorder()
		h.handler().ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get(clusterIDHeader) != "3" {
			t.Errorf("%s: %d, cluster %q", what, w.Code, w.Header().Get(clusterIDHeader))
		}
	}
	r := httptest.NewRequest(http.MethodPost, rafthttp.RaftPrefix, strings.NewReader(""))
	r.ContentLength = peerMessageBytesMax + 1
	w := httptest.NewRecorder()
	h.handler().ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("what says that it is too large: %d", w.Code)
	}
}

// A body that cannot be read is answered with why.
func TestBodyFailure(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("read: %w", new(http.MaxBytesError)), http.StatusRequestEntityTooLarge},
		{fmt.Errorf("read: %w", errBodyMemory), http.StatusServiceUnavailable},
		{fmt.Errorf("read: %w", os.ErrDeadlineExceeded), http.StatusRequestTimeout},
		{io.ErrUnexpectedEOF, http.StatusBadRequest},
	} {
		if status, sentence := bodyFailure(c.err); status != c.status || sentence == "" {
			t.Errorf("%v: %d %q", c.err, status, sentence)
		}
	}
}

// A transport that cannot be reached anywhere is none.
func TestTransport_BadURL(t *testing.T) {
	if h, err := newHTTPTransport(1, 3, "no URL", t.TempDir(), deafReceiver{}, make(chan error, 1), slog.New(slog.DiscardHandler)); err == nil {
		h.stop()
		t.Error("a transport without a URL")
	}
}

// A member that has moved is reached at its new URL, and one that was removed is
// reached no more.
func TestTransport_SetPeer_Moves(t *testing.T) {
	dialled := make(chan string, 1000)
	serve := func(name string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			dialled <- name
			http.NotFound(w, nil)
		}))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	h := newTestTransport(t)
	before, after := serve("before"), serve("after")
	until := func(name string) {
		t.Helper()
		for late := time.After(patience); ; {
			select {
			case at := <-dialled:
				if at == name {
					return
				}
			case <-late:
				t.Fatalf("the member is not dialled at its URL %s", name)
			}
		}
	}
	h.setPeer(1, before) // itself
	if len(h.peers) != 0 || h.t.Get(types.ID(1)) != nil {
		t.Error("it is a peer of itself")
	}
	h.setPeer(2, before)
	until("before")
	h.setPeer(2, after)
	until("after")
	if h.peers[2] != after {
		t.Errorf("peers %v", h.peers)
	}
	h.setPeer(2, after)
	h.setPeer(2, "")
	h.setPeer(2, "")
	if h.t.Get(types.ID(2)) != nil || len(h.peers) != 0 {
		t.Error("a member that was removed has a connection still")
	}
}

// lossReceiver notes whom messages could not be sent to.
type lossReceiver struct {
	deafReceiver
	ids []ID
}

func (l *lossReceiver) lost(id ID) { l.ids = append(l.ids, id) }

// A snapshot that could not be sent is a message that was lost; one that was, is not.
func TestRaftEnd_ReportSnapshot(t *testing.T) {
	l := &lossReceiver{}
	raftEnd{l}.ReportSnapshot(2, raft.SnapshotFinish)
	raftEnd{l}.ReportSnapshot(3, raft.SnapshotFailure)
	if len(l.ids) != 1 || l.ids[0] != 3 {
		t.Errorf("lost to %v", l.ids)
	}
}

// A node takes so many hints that somebody is not reached, and no more.
func TestInbox_IsClosed(t *testing.T) {
	t.Parallel()
	in := newInbox()
	for i := range uint64(100) {
		in.addLost(i)
	}
	if len(in.mail.lost) != 64 {
		t.Errorf("%d hints", len(in.mail.lost))
	}
	in.addCall(func(*core) {})
	in.addRead(newRead())
	if left := in.close(); len(left.calls) != 1 || len(left.reads) != 1 || len(left.lost) != 64 {
		t.Errorf("%d calls, %d reads and %d hints were left", len(left.calls), len(left.reads), len(left.lost))
	}
	ws := newWaiters(1)
	if in.addCall(func(*core) {}) || in.addRead(newRead()) || in.addCommands(1, ws.add([][]byte{nil}), 1<<20) {
		t.Error("something is taken after the end")
	}
	in.addMessage(raftpb.Message{}, 1<<20)
	if m := in.take(); len(m.msgs)+len(m.calls)+len(m.reads)+len(m.cmds) > 0 {
		t.Errorf("kept after the end: %+v", m)
	}
}
