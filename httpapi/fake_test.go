package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// fakeDB keeps everything in memory by the rules of kvstore.DB. Values over
// inlineMax come back streamed.
type fakeDB struct {
	mu        sync.Mutex
	values    map[kvstore.Key]*kvstore.Value
	requests  []kvstore.PutRequest // those whose body was complete, without it
	putErr    error                // answered instead of deciding, once the body is read
	putBefore error                // answered before the body is read
	getErr    error
	inlineMax int64
	block     bool          // Put waits for its context after the body
	blocking  chan struct{} // if not nil, the one Put that does closes it
	broken    io.ReadSeeker // what streamed values are read from, if set
	gets      []kvstore.Consistency

	held kvstore.History

	confirms   int   // calls of Confirm
	confirmErr error // what it returns
}

func newFakeDB() *fakeDB {
	return &fakeDB{values: make(map[kvstore.Key]*kvstore.Value), inlineMax: 1 << 20}
}

// fakeTime is when every value was put.
var fakeTime = time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)

func (db *fakeDB) PutMany(ctx context.Context, puts []kvstore.SmallPut, each func(i int, r kvstore.PutResult, err error)) {
	putEach(ctx, db, puts, each)
}

// putEach is PutMany by a Put for each, at the same time. A panic of one is its
// caller's.
func putEach(ctx context.Context, db DB, puts []kvstore.SmallPut, each func(i int, r kvstore.PutResult, err error)) {
	type answer struct {
		i      int
		result kvstore.PutResult
		err    error
		cause  any
	}
	answers := make(chan answer)
	for i, p := range puts {
		go func() {
			a := answer{i: i}
			defer func() {
				a.cause = recover()
				answers <- a
			}()
			a.result, a.err = db.Put(ctx, kvstore.PutRequest{Key: p.Key, ContentType: p.ContentType, PutID: p.PutID, Body: bytes.NewReader(p.Value), Size: int64(len(p.Value)), SHA256: p.SHA256, By: p.By, UserMeta: p.UserMeta})
		}()
	}
	var cause any
	for range puts {
		a := <-answers
		if a.cause != nil {
			cause = a.cause
			continue
		}
		each(a.i, a.result, a.err)
	}
	if cause != nil {
		panic(cause)
	}
}

func (db *fakeDB) Put(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
	if db.putBefore != nil {
		return kvstore.PutResult{}, db.putBefore
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Size >= 0 && int64(len(body)) != r.Size {
		return kvstore.PutResult{}, errors.Join(kvstore.ErrBodyRead, err)
	}
	if db.block {
		if db.blocking != nil {
			close(db.blocking)
		}
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return kvstore.PutResult{}, context.Cause(ctx)
	}
	if db.putErr != nil {
		return kvstore.PutResult{}, db.putErr
	}
	sum := kvstore.Digest(sha256.Sum256(body))
	if r.SHA256 != nil && *r.SHA256 != sum {
		return kvstore.PutResult{}, kvstore.ErrDigestMismatch
	}
	return db.decide(r, body, sum), nil
}

func (db *fakeDB) decide(r kvstore.PutRequest, body []byte, sum kvstore.Digest) kvstore.PutResult {
	db.mu.Lock()
	defer db.mu.Unlock()
	r.Body = nil
	db.requests = append(db.requests, r)
	won, set := db.values[r.Key]
	switch {
	case !set:
		m := kvstore.Meta{Key: r.Key, Revision: kvstore.Revision(len(db.values) + 1), Size: int64(len(body)), SHA256: sum,
			ContentType: r.ContentType, Time: fakeTime, PutID: r.PutID, By: r.By, UserMeta: r.UserMeta}
		db.values[r.Key] = db.valueOf(m, body)
		return kvstore.PutResult{Outcome: kvstore.Created, Meta: m}
	case won.SHA256 != sum:
		return kvstore.PutResult{Outcome: kvstore.Conflict, Meta: won.Meta}
	case r.PutID != "" && r.PutID == won.PutID:
		return kvstore.PutResult{Outcome: kvstore.Created, Meta: won.Meta}
	}
	return kvstore.PutResult{Outcome: kvstore.Unchanged, Meta: won.Meta}
}

func (db *fakeDB) valueOf(m kvstore.Meta, body []byte) *kvstore.Value {
	if m.Size <= db.inlineMax {
		return kvstore.NewValue(m, body)
	}
	return kvstore.NewStreamedValue(m, func(context.Context) io.ReadSeekCloser {
		if db.broken != nil {
			return readSeekNopCloser{db.broken}
		}
		return readSeekNopCloser{bytes.NewReader(body)}
	})
}

type readSeekNopCloser struct{ io.ReadSeeker }

func (readSeekNopCloser) Close() error { return nil }

func (db *fakeDB) Get(_ context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.gets = append(db.gets, c)
	if db.getErr != nil {
		return nil, db.getErr
	}
	if v, ok := db.values[key]; ok {
		return v, nil
	}
	return nil, kvstore.ErrNotFound
}

func (db *fakeDB) GetMany(keys []kvstore.Key, each func(i int, v *kvstore.Value, err error)) {
	for i, key := range keys {
		err := key.Validate()
		var v *kvstore.Value
		if err == nil {
			v, err = db.Get(context.Background(), key, kvstore.Local)
		}
		each(i, v, err)
	}
}

func (db *fakeDB) Confirm(context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.confirms++
	return db.confirmErr
}

// set puts a value past the API.
func (db *fakeDB) set(key, contentType, value string) *kvstore.Value {
	r := kvstore.PutRequest{Key: kvstore.Key(key), ContentType: contentType}
	db.decide(r, []byte(value), sha256.Sum256([]byte(value)))
	db.mu.Lock()
	defer db.mu.Unlock()
	db.requests = nil
	return db.values[kvstore.Key(key)]
}

func (db *fakeDB) lastRequest(t *testing.T) kvstore.PutRequest {
	t.Helper()
	db.mu.Lock()
	defer db.mu.Unlock()
	if len(db.requests) == 0 {
		t.Fatal("no put reached the database")
	}
	return db.requests[len(db.requests)-1]
}

// nothingSet fails if any put was decided.
func (db *fakeDB) nothingSet(t *testing.T) {
	t.Helper()
	db.mu.Lock()
	defer db.mu.Unlock()
	if len(db.requests) > 0 {
		t.Errorf("a put reached the database: %+v", db.requests)
	}
}

// refused is an ErrRefused in words of its own.
type refused string

func (r refused) Error() string { return string(r) }
func (refused) Unwrap() error   { return ErrRefused }

// fakeCluster answers what its fields say and keeps what it was asked.
type fakeCluster struct {
	mu      sync.Mutex
	members api.Members
	created bool
	err     error
	ready   error
	asked   []string
	block   bool
	leads   bool
}

func (c *fakeCluster) ask(ctx context.Context, what ...string) error {
	c.mu.Lock()
	c.asked = append(c.asked, strings.Join(what, " "))
	c.mu.Unlock()
	if c.block {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.err
}

func (c *fakeCluster) Members(ctx context.Context, local bool) (api.Members, error) {
	what := "members"
	if local {
		what = "members local"
	}
	return c.members, c.ask(ctx, what)
}

func (c *fakeCluster) AddMember(ctx context.Context, m api.AddMember) (api.Member, bool, error) {
	what := []string{"add", m.Name, m.Role}
	if m.Level > 0 {
		what = append(what, fmt.Sprint("level ", m.Level))
	}
	err := c.ask(ctx, what...)
	return api.Member{Name: m.Name, ID: m.ID, Role: api.RoleLearner}, c.created, err
}

func (c *fakeCluster) RemoveMember(ctx context.Context, name string, force bool) error {
	if force {
		return c.ask(ctx, "remove", name, "force")
	}
	return c.ask(ctx, "remove", name)
}

func (c *fakeCluster) PromoteMember(ctx context.Context, name string) error {
	return c.ask(ctx, "promote", name)
}

func (c *fakeCluster) TransferLeader(ctx context.Context, to string) error {
	return c.ask(ctx, "lead", to)
}

func (c *fakeCluster) DBs(context.Context) []api.DBNode { return nil }
func (c *fakeCluster) Stats(context.Context) api.Stats {
	return api.Stats{Name: "n1", Role: api.RoleLeader, Level: api.Levels{Store: 1, Program: 1}, Keys: 7}
}
func (c *fakeCluster) Leads() bool                 { return c.leads }
func (c *fakeCluster) Ready(context.Context) error { return c.ready }
func (c *fakeCluster) lastAsked() string           { return c.asked[len(c.asked)-1] }
func (r *fakeRegistry) Caches() []api.CacheNode    { return r.caches }

func hexSum(value string) string { s := sha256.Sum256([]byte(value)); return hex.EncodeToString(s[:]) }
func (r *fakeRegistry) Heartbeat(_ string, b api.Heartbeat) api.HeartbeatAnswer {
	r.last = b
	return api.HeartbeatAnswer{Caches: r.caches}
}

type fakeRegistry struct {
	caches []api.CacheNode
	last   api.Heartbeat
}

// node is a database node's API on a real socket.
type node struct {
	t        *testing.T
	db       *fakeDB
	cluster  *fakeCluster
	registry *fakeRegistry
	counters *Counters
	url      string
	addr     string
}

// newNode starts a node; adjust may change its configuration.
func newNode(t *testing.T, adjust ...func(*DatabaseConfig)) *node {
	t.Helper()
	n := &node{t: t, db: newFakeDB(), cluster: &fakeCluster{}, registry: &fakeRegistry{}, counters: &Counters{}}
	cfg := DatabaseConfig{DB: n.db, Cluster: n.cluster, Registry: n.registry, Counters: n.counters}
	for _, f := range adjust {
		f(&cfg)
	}
	n.serve(NewDatabase(cfg))
	return n
}

func (n *node) serve(h http.Handler) {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Config.DisableGeneralOptionsHandler = true // as nodes have it
	server.Start()
	n.t.Cleanup(server.Close)
	n.url, n.addr = server.URL, server.Listener.Addr().String()
}

// reply is one answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) problem(t *testing.T) api.Problem {
	t.Helper()
	if got := r.header.Get("Content-Type"); got != api.ContentTypeProblem {
		t.Fatalf("status %d has content type %q, want a problem document; body %q", r.status, got, r.body)
	}
	var p api.Problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("problem document: %v in %q", err, r.body)
	}
	if p.Status != r.status || p.Title == "" || p.Detail == "" || !strings.HasPrefix(p.Type, "urn:oncekv:problem:") {
		t.Errorf("problem document of a %d is incomplete: %q", r.status, r.body)
	}
	if got := r.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("problem has Cache-Control %q, want no-store", got)
	}
	return p
}

// send writes a request exactly as given (no client in between that would
// clean its path, check its headers or add a length) and reads one answer.
// Header lines are "Name: value".
func (n *node) send(method, target, body string, lines ...string) reply {
	n.t.Helper()
	var b strings.Builder
	b.WriteString(method + " " + target + " HTTP/1.1\r\nHost: " + n.addr + "\r\n")
	for _, line := range lines {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n" + body)
	conn := n.dial()
	defer conn.Close()
	if _, err := io.WriteString(conn, b.String()); err != nil {
		n.t.Fatalf("send %s %s: %v", method, target, err)
	}
	got := n.receive(conn, method)
	n.fits(method, target, got)
	return got
}

func (n *node) dial() *net.TCPConn {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Minute)) // only so that nothing hangs
	return conn.(*net.TCPConn)
}

func (n *node) receive(conn net.Conn, method string) reply {
	n.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		n.t.Fatalf("read the answer to %s: %v", method, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("read the answer's body: %v", err)
	}
	return reply{resp.StatusCode, resp.Header, string(got)}
}

// put sends a PUT with a length.
func (n *node) put(target, body string, lines ...string) reply {
	n.t.Helper()
	return n.send("PUT", target, body, append(lines, "Content-Length: "+itoa(len(body)))...)
}

// post sends a POST with a length.
func (n *node) post(target, body string, lines ...string) reply {
	n.t.Helper()
	return n.send("POST", target, body, append(lines, "Content-Length: "+itoa(len(body)))...)
}

func (n *node) get(target string, lines ...string) reply {
	n.t.Helper()
	return n.send("GET", target, "", lines...)
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// want fails unless the reply has the status.
func want(t *testing.T, got reply, status int) reply {
	t.Helper()
	if got.status != status {
		t.Fatalf("status %d, want %d; body %q", got.status, status, got.body)
	}
	return got
}

// wantHeader fails unless the reply has the header.
func wantHeader(t *testing.T, got reply, name, value string) {
	t.Helper()
	if g := got.header.Get(name); g != value {
		t.Errorf("header %s is %q, want %q", name, g, value)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// patience is how long a test waits for what has to come, on a machine with two
// cores, the race detector, and other tests beside.
const patience = 2 * time.Minute

// poll asks again and again until ok.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}
