package raftnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// noNodes are URLs that are accepted nowhere.
var noNodes = []string{
	"", "n4:12003", "https://10.0.0.4:12003", "http://10.0.0.4", "http://10.0.0.4:0", "http://10.0.0.4:70000", "http://u:p@10.0.0.4:1", "http://10.0.0.4:1/x",
	"http://10.0.0.4:1?", "http://10.0.0.4:1?a", "http://10.0.0.4:1#f", "http://169.254.169.254:80", "http://[::ffff:169.254.169.254]:80", "http://2852039166:80",
	"http://0xa9fea9fe:80", "http://[fe80::1]:80", "http://0.0.0.0:1", "http://[::]:1", "http://224.0.0.1:1", "http://a b:1", "http://" + strings.Repeat("a", 5000) + ":1",
}

// A URL that no node can have is refused where it comes in: from a client, and
// from another member's peer port.
func TestNode_AddMember_RefusesURLs(t *testing.T) {
	n := newTestCluster(t, 1, nil)[0]
	good := Member{ID: 100, Name: "n4", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:2"}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, bad := range noNodes {
		for _, field := range []string{"peer_url", "client_url"} {
			m := good
			if field == "peer_url" {
				m.PeerURL = bad
			} else {
				m.ClientURL = bad
			}
			if _, _, err := n.node.AddMember(ctx, m); !errors.Is(err, ErrBadMember) || !strings.Contains(err.Error(), field) {
				t.Errorf("%s %.80q: %v", field, bad, err)
			}
			if _, err := n.node.askLeader(ctx, n.cfg.PeerURL, changeRequest{Op: "add", Member: m}); !errors.Is(err, ErrBadMember) {
				t.Errorf("%s %.80q by the peer port: %v", field, bad, err)
			}
		}
	}
	if ms := n.node.Status().Members; len(ms) != 1 {
		t.Fatalf("there are members now that nobody can reach: %+v", ms)
	}
	good.PeerURL = "HTTP://127.0.0.1:1/"
	if m, created, err := n.node.AddMember(ctx, good); err != nil || !created || m.PeerURL != "http://127.0.0.1:1" {
		t.Errorf("%+v, created %v, %v", m, created, err)
	}
}

// What an older version wrote into the log is applied as it was then.
func TestTable_Check_KeepsOldRules(t *testing.T) {
	t.Parallel()
	tab := foundersTable(9, []Member{{ID: 1, Name: "n1", PeerURL: "http://n1:1", ClientURL: "http://n1:2"}})
	old := Member{ID: 2, Name: ".n2", PeerURL: "http://169.254.1.2:1", ClientURL: "http://0.0.0.0:2"}
	if err := tab.check(change{Op: opAdd, Member: old, Number: 1}); err != nil {
		t.Errorf("an entry in old logs is judged otherwise than it was: %v", err)
	}
	if _, err := old.Checked(); err == nil {
		t.Error("the same comes in anew")
	}
}

// The answer of what is no member goes to nobody who asked for a change.
func TestNode_AskLeader_ShowsNoStrangersAnswer(t *testing.T) {
	n := &Node{logger: slog.New(slog.DiscardHandler), changeClient: nodehttp.NewClient(nodehttp.Options{IdlePerHost: -1})}
	n.identity.Store(&identity{ID: 1, ClusterID: 9})
	banner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := banner.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "SSH-2.0-secret\r\n")
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = banner.Close(); serving.Wait() })
	urls := []string{"http://" + banner.Addr().String()}
	for _, h := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret", http.StatusForbidden) },
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"error":"secret","kind":"refused"}`) },
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"member":{"name":"secret"}}`) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(clusterHeader, ID(8).String())
			fmt.Fprint(w, `{"error":"secret"}`)
		},
		func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/secret", http.StatusTemporaryRedirect)
		},
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") },
	} {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		urls = append(urls, srv.URL)
	}
	for i, url := range urls {
		a, err := n.askLeader(context.Background(), url, changeRequest{Op: "promote", Name: "n2"})
		if err == nil || strings.Contains(err.Error(), "secret") || a.Member.Name != "" {
			t.Errorf("answer %d: %+v, %v", i, a, err)
		}
	}
}

// A list of members that would make rafthttp panic at every start is not stored.
func TestNode_Join_BadList_IsNotStored(t *testing.T) {
	for _, bad := range []Member{{ID: 2, Name: "n2", PeerURL: "n2", ClientURL: "http://n2:1"}, {Name: "n2", PeerURL: "http://n2:1", ClientURL: "http://n2:2"}} {
		n := newTestNode(t, "n3")
		n.cfg.Join = func(context.Context, Member) ([]Member, error) { return []Member{bad}, nil }
		node, err := Open(n.cfg, n.sm)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.join(context.Background()); !errors.Is(err, ErrBadMember) {
			t.Errorf("%+v: %v", bad, err)
		}
		if settled, err := Belongs(n.cfg.Dir); err != nil || settled {
			t.Errorf("it belongs to a cluster: %v, %v", settled, err)
		}
	}
}

// A table in a snapshot, or old data, may hold anything.
func TestTransport_SetPeer_NoURL_IsNotReached(t *testing.T) {
	h := newTestTransport(t)
	for i, bad := range []string{"n2", "http://", "http://h:1/path", "unix://x", "\x00", "http://h"} {
		h.setPeer(ID(10+i), bad)
		h.setPeer(ID(10+i), bad)
	}
	h.setPeer(20, "http://127.0.0.1:1")
	h.setPeer(20, "http://h:1?x")
	h.setPeer(20, "")
	if len(h.peers) != 0 {
		t.Errorf("peers: %v", h.peers)
	}
}

func newTestTransport(t *testing.T) *httpTransport {
	t.Helper()
	h, err := newHTTPTransport(1, 3, "http://127.0.0.1:1", t.TempDir(), deafReceiver{}, make(chan error, 1), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	return h
}

// A request says where its sender is reached, and anybody may send it.
func TestTransport_StrangersURLs_AreBounded(t *testing.T) {
	h := newTestTransport(t)
	srv := httptest.NewServer(h.handler())
	defer srv.Close()
	request := func(method, path, cluster string, from ID, url string) {
		req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{clusterIDHeader: cluster, "X-Server-Version": "3.5.0", "X-Min-Cluster-Version": "3.0.0", senderHeader: fmt.Sprintf("%x", uint64(from)), senderURLsHeader: url} {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", url, err) // a panic ends the connection
		}
		_ = resp.Body.Close()
	}
	send := func(from ID, url string) { request(http.MethodPost, rafthttp.RaftPrefix, "3", from, url) }
	remotes := func() int { return reflect.ValueOf(h.t).Elem().FieldByName("remotes").Len() }
	for i, bad := range []string{"nonsense", "http://h:1/path", "http://169.254.169.254:80", "http://a:1,http://b:1", "unix://x"} {
		send(ID(1000+i), bad)
	}
	if n := remotes(); n != 0 {
		t.Errorf("%d senders are answered at URLs of no node", n)
	}
	for i := range 3 * remotesMax { // of another cluster
		request(http.MethodPost, rafthttp.RaftPrefix, "4", ID(2000+i), "http://127.0.0.1:1")
		request(http.MethodGet, fmt.Sprintf("%s/message/%x", rafthttp.RaftStreamPrefix, 2000+i), "4", ID(2000+i), "http://127.0.0.1:1")
	}
	if n := remotes(); n != 0 || len(h.remotes) != 0 {
		t.Errorf("%d senders of another cluster are answered, %d have a place", n, len(h.remotes))
	}
	for i := range 3 * remotesMax { // who says to be somebody else at each of its streams
		request(http.MethodGet, fmt.Sprintf("%s/message/%x", rafthttp.RaftStreamPrefix, 2000+i), "3", 2000, "http://127.0.0.1:1")
	}
	if n := remotes(); n != 1 {
		t.Errorf("one sender is answered as %d", n)
	}
	for i := range 3 * remotesMax {
		send(ID(2000+i), "http://127.0.0.1:1")
	}
	if n := remotes(); n != remotesMax {
		t.Errorf("%d made-up senders are answered, want %d", n, remotesMax)
	}
}

func TestTransport_Clients_UseNoProxy(t *testing.T) {
	h := newTestTransport(t)
	for field, own := range map[string]*http.Transport{"streamRt": h.clients.streams, "pipelineRt": h.clients.pipelines} {
		theirs, err := roundTripperOf(h.t, field)
		if err != nil {
			t.Fatal(err)
		}
		if own.Proxy != nil {
			t.Errorf("%s uses a proxy", field)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not go by this node's own client", field)
				}
			}()
			theirs.RegisterProtocol("http", own)
		}()
	}
}

// An endless answer to a posted message is given up.
func TestTransport_EndlessAnswer_IsCut(t *testing.T) {
	end := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := bytes.Repeat([]byte("x"), 32<<10)
		for i := 0; i < 1000; i++ {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		<-end
	}))
	defer srv.Close()
	defer close(end)
	h := newTestTransport(t)
	req, err := http.NewRequest(http.MethodPost, srv.URL+rafthttp.RaftPrefix, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := answerLimiter{h.clients.pipelines}.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if n, err := got.ReadFrom(resp.Body); err != nil || n != refusalBytesMax {
		t.Errorf("%d bytes were read, %v", n, err)
	}
}

// logLines keeps what a node logs.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logLines) with(word string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, word) {
			n++
		}
	}
	return n
}

// Who is missing is told with the reason, again when that changes, and not at
// every try.
func TestNode_Form_SaysWhyWhoIsMissing(t *testing.T) {
	var answer struct {
		sync.Mutex
		http.HandlerFunc
	}
	asked := make(chan struct{}, 1000)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer.Lock()
		h := answer.HandlerFunc
		answer.Unlock()
		h(w, r)
		select {
		case asked <- struct{}{}:
		default:
		}
	}))
	defer other.Close()
	serve := func(h http.HandlerFunc) {
		answer.Lock()
		defer answer.Unlock()
		answer.HandlerFunc = h
	}
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	serve(http.NotFound)
	log := &logLines{}
	n := newTestNode(t, "n1")
	n.cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	n.cfg.InitialCluster = []Peer{{"n1", n.cfg.PeerURL}, {"n2", nobody}, {"n3", other.URL}}
	n.start()
	eventually(t, "n2 is refused", func() bool { return log.with("n2 ("+nobody+": connection refused)") == 1 })
	eventually(t, "n3 is a stranger", func() bool { return log.with("n3 ("+other.URL+": that is not an oncekv node") == 1 })
	for range 20 {
		<-asked
	}
	if lines := log.with("missing="); lines != 1 {
		t.Errorf("%d lines about the same", lines)
	}
	serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stats" {
			fmt.Fprint(w, `{"name":"n3","id":"00a3","role":"follower"}`)
			return
		}
		http.NotFound(w, r)
	})
	eventually(t, "n3 is a client port", func() bool {
		return log.with("that is where clients reach a database node, n3; give the URL at which") == 1
	})
	serve(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{}`) })
	eventually(t, "n3 answers as no node does", func() bool { return log.with("that is not an oncekv node; give the URL at which") == 1 })
	serve(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"id":"00a3"}`) })
	eventually(t, "n3 has no name", func() bool { return log.with("n3 ("+other.URL+": gives an answer that no oncekv node gives)") == 1 })
	serve(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(introduction{Name: "n3", ID: 3, ClientURL: "http://169.254.169.254:80"})
	})
	eventually(t, "n3 has an unusable client URL", func() bool { return log.with("link-local") == 1 })
}

func TestTeller_DoesNotTellAllTheTime(t *testing.T) {
	log := &logLines{}
	tell := teller{node: &Node{logger: slog.New(slog.NewTextHandler(log, nil))}, message: "waiting"}
	for i := range 100 {
		tell.missing([]string{fmt.Sprint(i)})
	}
	if lines := log.with("waiting"); lines != 1 {
		t.Errorf("%d lines at once", lines)
	}
	tell.at = time.Now().Add(-tellEvery)
	tell.missing([]string{"last"})
	if lines := log.with("last"); lines != 1 {
		t.Error("what has changed was never told")
	}
}
