package cachetier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// fakeDB is a database node over loopback HTTP. Nodes of one test share their
// keys; each counts what it was asked.
type fakeDB struct {
	*httptest.Server
	t        testing.TB
	keys     *fakeKeys
	registry *Registry

	mu      sync.Mutex
	history *api.History   // nil: it tells none
	reads   map[string]int // by key
	hook    func(w http.ResponseWriter, r *http.Request, key string) (handled bool)
	puts    []*http.Request
}

type fakeKeys struct {
	mu     sync.Mutex
	values map[string]fakeValue
}

type fakeValue struct {
	meta kvstore.Meta
	body []byte
}

func newFakeKeys() *fakeKeys { return &fakeKeys{values: map[string]fakeValue{}} }

// put sets a key and returns when every node answers it: it is acknowledged.
func (k *fakeKeys) put(key string, body []byte) fakeValue {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := fakeValue{body: body, meta: kvstore.Meta{
		Key: kvstore.Key(key), Revision: kvstore.Revision(len(k.values) + 1), Size: int64(len(body)), SHA256: sha256.Sum256(body),
		ContentType: "text/x-" + fmt.Sprint(len(body)), Time: time.Date(2024, 5, 6, 7, 8, 9, len(k.values)+1, time.UTC),
	}}
	if len(k.values)%2 == 1 { // every other has all that a record may have
		v.meta.By = "somebody"
		v.meta.UserMeta, _ = kvstore.MakeUserMeta(map[string]string{"number": fmt.Sprint(len(k.values)), "empty": ""})
	}
	k.values[key] = v
	return v
}

func (k *fakeKeys) get(key string) (fakeValue, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.values[key]
	return v, ok
}

func newFakeDB(t testing.TB, keys *fakeKeys) *fakeDB {
	t.Helper()
	db := &fakeDB{t: t, keys: keys, reads: map[string]int{}}
	db.registry = NewRegistry(RegistryConfig{TTL: time.Hour, DBs: func() []api.DBNode {
		return []api.DBNode{{Name: "n", URL: db.URL, Healthy: true}}
	}})
	db.Server = httptest.NewServer(db)
	t.Cleanup(db.Close)
	return db
}

func (db *fakeDB) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/caches" {
		db.heartbeat(w, r)
		return
	}
	key := strings.TrimPrefix(r.URL.Path, "/key/")
	if r.URL.Path == "/key" {
		key = r.URL.Query().Get("key")
	}
	db.mu.Lock()
	if r.Method == http.MethodGet {
		db.reads[key]++
	} else {
		db.puts = append(db.puts, r.Clone(context.Background()))
	}
	hook, keys := db.hook, db.keys
	if db.history != nil {
		w.Header().Set(api.HeaderHistory, db.history.ID)
	}
	db.mu.Unlock()
	if hook != nil && hook(w, r, key) {
		return
	}
	if r.Method == http.MethodGet {
		keys.serve(w, r, key)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	v := keys.put(key, body)
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(api.PutAnswer{Key: key, Revision: uint64(v.meta.Revision), SHA256: v.meta.SHA256.String(), Size: v.meta.Size, Created: true})
}

func (db *fakeDB) heartbeat(w http.ResponseWriter, r *http.Request) {
	var h api.Heartbeat
	if err := json.NewDecoder(r.Body).Decode(&h); err != nil {
		db.t.Errorf("heartbeat: %v", err)
	}
	db.mu.Lock()
	registry, history := db.registry, db.history
	db.mu.Unlock()
	answer := registry.Heartbeat("127.0.0.1", h)
	answer.History = history
	json.NewEncoder(w).Encode(answer)
}

// becomes gives the node another history, and the keys in it.
func (db *fakeDB) becomes(history *api.History, keys *fakeKeys) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.history, db.keys = history, keys
}

func (k *fakeKeys) serve(w http.ResponseWriter, r *http.Request, key string) {
	v, ok := k.get(key)
	if !ok {
		answerAbsent(w)
		return
	}
	serveFake(w, r, v)
}

func answerAbsent(w http.ResponseWriter) {
	writeProblem(w, api.Problem{Type: api.ProblemNotFound, Title: "Not found", Status: http.StatusNotFound, Detail: "key is not set"})
}

func serveFake(w http.ResponseWriter, r *http.Request, v fakeValue) {
	fakeHeader(w, v)
	http.ServeContent(w, r, "", v.meta.Time, bytes.NewReader(v.body))
}

func fakeHeader(w http.ResponseWriter, v fakeValue) {
	h := w.Header()
	h.Set("ETag", `"`+v.meta.SHA256.String()+`"`)
	h.Set(api.HeaderRevision, fmt.Sprint(v.meta.Revision))
	h.Set(api.HeaderTime, v.meta.Time.Format(time.RFC3339Nano))
	h.Set("Content-Type", v.meta.ContentType)
	if v.meta.By != "" {
		h.Set(api.HeaderBy, v.meta.By)
	}
	for name, value := range v.meta.UserMeta.All() {
		h.Set(api.HeaderMetaPrefix+name, value)
	}
}

func (db *fakeDB) onRequest(hook func(w http.ResponseWriter, r *http.Request, key string) bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.hook = hook
}

func (db *fakeDB) readsOf(key string) int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.reads[key]
}

// testNode is a cache node that serves its peers over loopback HTTP.
type testNode struct {
	*Node
	server *httptest.Server
	gate   atomic.Pointer[func(r *http.Request)] // runs before a peer's request is served
	plain  atomic.Bool                           // it is older than streams
	hang   *hang
}

// hang is a listener whose connections stand still while it is set, as those of
// a process do that was stopped.
type hang struct {
	net.Listener
	mu sync.Mutex
	on chan struct{} // closed when it is over; nil: it is not set
}

type hangingConn struct {
	net.Conn
	hang   *hang
	closed chan struct{}
	once   sync.Once
}

func (h *hang) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hangingConn{Conn: c, hang: h, closed: make(chan struct{})}, nil
}

func (h *hang) set() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on = make(chan struct{})
}

func (h *hang) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on != nil {
		close(h.on)
		h.on = nil
	}
}

func (c *hangingConn) wait() {
	c.hang.mu.Lock()
	on := c.hang.on
	c.hang.mu.Unlock()
	if on == nil {
		return
	}
	select {
	case <-on:
	case <-c.closed:
	}
}

func (c *hangingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wait()
	return n, err
}

func (c *hangingConn) Write(p []byte) (int, error) {
	c.wait()
	return c.Conn.Write(p)
}

func (c *hangingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// newTestNode makes a node that no clock of the test machine can surprise: it
// hedges only when the test says so, and is patient.
func newTestNode(t testing.TB, change func(*NodeConfig), dbs ...*fakeDB) *testNode {
	t.Helper()
	tn := &testNode{}
	tn.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tn.plain.Load() && r.URL.Path == peerStream {
			http.NotFound(w, r)
			return
		}
		if gate := tn.gate.Load(); gate != nil {
			(*gate)(r)
		}
		tn.PeerHandler().ServeHTTP(w, r)
	}))
	tn.hang = &hang{Listener: tn.server.Listener}
	tn.server.Listener = tn.hang
	tn.server.Start()
	cfg := NodeConfig{
		Name: "c", URL: tn.server.URL, Logger: slog.New(slog.DiscardHandler),
		HedgeDelay: time.Hour, PeerTimeout: patience, LoadTimeout: 4 * patience, StreamIdle: patience,
		heartbeatTime: patience, goodbyeTime: patience, departureTime: patience,
	}
	for _, db := range dbs {
		cfg.Nodes = append(cfg.Nodes, db.URL)
	}
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tn.Node = n
	t.Cleanup(func() {
		tn.hang.release()
		tn.server.Close()
		n.Close()
	})
	return tn
}

// frozen stops a node's clock: a database node that failed stays demoted.
func frozen(cfg *NodeConfig) {
	now := time.Now()
	cfg.now = func() time.Time { return now }
}

// connect makes each node know all the others.
func connect(nodes ...*testNode) {
	for _, n := range nodes {
		var urls []string
		for _, other := range nodes {
			if other != n {
				urls = append(urls, other.server.URL)
			}
		}
		n.knows(urls)
	}
}

func newTestNodes(t *testing.T, count int, change func(*NodeConfig), dbs ...*fakeDB) []*testNode {
	t.Helper()
	nodes := make([]*testNode, count)
	for i := range nodes {
		nodes[i] = newTestNode(t, change, dbs...)
	}
	connect(nodes...)
	return nodes
}

// keyOwnedBy finds a key that owner owns, in the eyes of n.
func keyOwnedBy(t testing.TB, n, owner *testNode) kvstore.Key {
	t.Helper()
	for i := range 10_000 {
		key := fmt.Sprintf("key-%d", i)
		if n.view.Load().ring.owner(key) == owner.server.URL {
			return kvstore.Key(key)
		}
	}
	t.Fatal("no key of that owner among 10,000")
	return ""
}

func readAll(t testing.TB, v *kvstore.Value) []byte {
	t.Helper()
	r := v.Open(t.Context())
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %q: %v", v.Key, err)
	}
	return b
}

// mustGet gets a key and checks everything about it.
func mustGet(t testing.TB, n *testNode, want fakeValue) (source string) {
	t.Helper()
	v, source, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
	if err != nil {
		t.Fatalf("get %.40q: %v", want.meta.Key, err)
	}
	if v.Meta != want.meta {
		t.Fatalf("get %.40q: meta %+v, want %+v", want.meta.Key, v.Meta, want.meta)
	}
	if got := readAll(t, v); !bytes.Equal(got, want.body) {
		t.Fatalf("get %.40q: %d bytes differ from the %d put", want.meta.Key, len(got), len(want.body))
	}
	return source
}

// patience is how long a test waits for what has to come.
const patience = time.Minute

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// receive waits for a signal.
func receive[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
	return v
}

func writeProblem(w http.ResponseWriter, p api.Problem) {
	w.Header().Set("Content-Type", api.ContentTypeProblem)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// knows makes a ring with peers that have answered.
func (n *Node) knows(urls []string) {
	n.setPeers(urls)
	for _, p := range n.view.Load().peers {
		p.answers()
	}
}
