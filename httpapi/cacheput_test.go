package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// countedPuts counts the puts that were decided in frames.
type countedPuts struct {
	*forward.Handler
	mu      sync.Mutex
	decided int
}

func (c *countedPuts) Put(ctx context.Context, put *frame.Put) (forward.PutAnswer, error) {
	a, err := c.Handler.Put(ctx, put)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.decided++
	}
	return a, err
}

func (c *countedPuts) framed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decided
}

// newForwardingCache starts a cache node in front of a database node, with a stream of
// puts to it that is up.
func newForwardingCache(t *testing.T, adjust ...func(*DatabaseConfig)) (cache, database *node, frames *countedPuts) {
	t.Helper()
	database = newNode(t, adjust...)
	cache, frames = newCacheTo(t, database.url)
	cache.db = database.db
	return cache, database, frames
}

func newCacheTo(t *testing.T, database string) (cache *node, frames *countedPuts) {
	t.Helper()
	to := forward.New(forward.Config{Databases: func() []string { return []string{database} }})
	t.Cleanup(to.Close)
	frames = &countedPuts{Handler: to}
	cache = &node{t: t}
	cache.serve(NewCache(CacheConfig{Forward: frames, Stats: func() any { return nil }, Ready: func(context.Context) error { return nil }, BodyIdleTimeout: idleForTest}))
	poll(t, "a stream is up", func() bool {
		_, err := to.Put(t.Context(), &frame.Put{Key: "warm", Value: []byte("up")})
		return err == nil
	})
	return cache, frames
}

// TestCachePut_AnswersAsProxied: whether a put goes to the database node as a frame or
// as a request makes no difference to the client.
func TestCachePut_AnswersAsProxied(t *testing.T) {
	t.Parallel()
	history := func(cfg *DatabaseConfig) {
		cfg.DB.(*fakeDB).held = kvstore.History{ID: kvstore.HistoryID{7}}
	}
	framed, framedDB, frames := newForwardingCache(t, history)
	proxied, proxiedDB, hidden := newForwardingCache(t, history)
	proxied.serve(NewCache(CacheConfig{Forward: struct{ http.Handler }{hidden}, Stats: func() any { return nil }, Ready: func(context.Context) error { return nil }, BodyIdleTimeout: idleForTest}))

	digest := digestHeader("one")
	type put struct {
		name, target, body string
		lines              []string
		framed             bool // it is decided in a frame
		err                error
	}
	for _, p := range []put{
		{name: "created", target: "/key/a%2F../%20b", body: "one", lines: []string{"Content-Type: text/x-one"}, framed: true},
		{name: "unchanged", target: "/key/a%2F../%20b", body: "one", framed: true},
		{name: "conflict", target: "/key/a%2F../%20b", body: "two", framed: true},
		{name: "by query", target: "/key?key=a/../+b", body: "two", framed: true},
		{name: "keep a loser", target: "/keep/a%2F../%20b", body: "two", framed: true},
		{name: "keep the same", target: "/keep/a%2F../%20b", body: "one", framed: true},
		{name: "on-conflict", target: "/key/a%2F../%20b?on-conflict=keep", body: "two", framed: true},
		{name: "on-conflict by query", target: "/key?on-conflict=keep&key=kept", body: "two", framed: true},
		{name: "if absent, set", target: "/key/a%2F../%20b", body: "one", lines: []string{"If-None-Match: *"}, framed: true},
		{name: "if absent, keep", target: "/keep/a%2F../%20b", body: "two", lines: []string{"If-None-Match: *"}, framed: true},
		{name: "if absent", target: "/key/fresh", body: "one", lines: []string{"If-None-Match: *", "Oncekv-Put-Id: mine"}, framed: true},
		{name: "the same put id", target: "/key/fresh", body: "one", lines: []string{"If-None-Match: *", "Oncekv-Put-Id: mine"}, framed: true},
		{name: "metadata", target: "/key/meta", body: "one", lines: []string{"Oncekv-Meta-Job: 7", "Oncekv-Meta-Host: ci"}, framed: true},
		{name: "a digest", target: "/key/digest", body: "one", lines: []string{digest}, framed: true},
		{name: "an odd key", target: "/key/%00%ff%22", body: "one"},
		{name: "a key to escape", target: "/key/%22%ff%F0%9F", body: "one", framed: true},
		{name: "empty", target: "/key/empty", framed: true},
		{name: "a name of its own", target: "/key/named", body: "x", lines: []string{"X-Request-Id: call-7"}, framed: true},
		{name: "an error with a name of its own", target: "/key/named", body: "y", lines: []string{"X-Request-Id: call-8"}, framed: true},
		{name: "a form", target: "/key/form", body: "x", lines: []string{"Content-Type: application/x-www-form-urlencoded"}, framed: true},

		{name: "another digest", target: "/key/x", body: "two", lines: []string{digest}},
		{name: "half a digest", target: "/key/x", body: "two", lines: []string{"Repr-Digest: sha-256=:AA==:"}},
		{name: "a tag", target: "/key/a%2F../%20b", body: "one", lines: []string{`If-None-Match: "x"`}},
		{name: "if match", target: "/key/a%2F../%20b", body: "one", lines: []string{"If-Match: *"}},
		{name: "if match, absent", target: "/key/x", body: "one", lines: []string{"If-Match: *"}},
		{name: "a part", target: "/key/x", body: "one", lines: []string{"Content-Range: bytes 0-2/10"}},
		{name: "a coding", target: "/key/x", body: "one", lines: []string{"Content-Encoding: gzip"}},
		{name: "no content type", target: "/key/x", body: "one", lines: []string{"Content-Type: text"}},
		{name: "bad metadata", target: "/key/x", body: "one", lines: []string{"Oncekv-Meta-A_b: x"}},
		{name: "a bad put id", target: "/key/x", body: "one", lines: []string{"Oncekv-Put-Id: a b"}},
		{name: "a parameter", target: "/key/x?ttl=1", body: "one"},
		{name: "no key", target: "/key?on-conflict=keep", body: "one"},
		{name: "a long key", target: "/key/" + strings.Repeat("k", 1025), body: "one"},
		{name: "too large for a frame", target: "/key/x", body: strings.Repeat("x", framedPutBytes+1)},

		{name: "over the limit", target: "/key/x", body: "one", err: &kvstore.TooLargeError{LimitBytes: 2}},
		{name: "overloaded", target: "/key/x", body: "one", err: kvstore.ErrOverloaded},
		{name: "no leader", target: "/key/x", body: "one", err: kvstore.ErrUnavailable},
		{name: "no room", target: "/key/x", body: "one", err: kvstore.ErrDiskReserve},
		{name: "outcome unknown", target: "/key/x", body: "one", err: kvstore.ErrOutcomeUnknown, framed: true},
		{name: "out of time", target: "/key/x", body: "one", err: context.DeadlineExceeded, framed: true},
		{name: "a fault", target: "/key/x", body: "one", err: errors.New("a fault"), framed: true},
	} {
		framedDB.db.putErr, proxiedDB.db.putErr = p.err, p.err
		before := frames.framed()
		got, want := framed.put(p.target, p.body, p.lines...), proxied.put(p.target, p.body, p.lines...)
		for _, r := range []reply{got, want} {
			if r.header.Get("X-Request-Id") == "" || strings.Contains(p.name, "name of its own") != strings.HasPrefix(r.header.Get("X-Request-Id"), "call-") {
				t.Errorf("%s: named %q", p.name, r.header.Get("X-Request-Id"))
			}
			r.header.Del("Date")
			r.header.Del("X-Request-Id")
		}
		if got.status != want.status || got.body != want.body || !reflect.DeepEqual(got.header, want.header) {
			t.Errorf("%s: as a frame %d %q %v\nproxied %d %q %v", p.name, got.status, got.body, got.header, want.status, want.body, want.header)
		}
		if was := frames.framed() > before; was != p.framed {
			t.Errorf("%s: decided in a frame: %v (%d %s)", p.name, was, got.status, got.body)
		}
	}
	if hidden.framed() != 0 {
		t.Error("frames where there are to be none")
	}
	if !maps.EqualFunc(framedDB.db.values, proxiedDB.db.values, func(a, b *kvstore.Value) bool { return reflect.DeepEqual(a.Meta, b.Meta) }) {
		t.Errorf("values %v and %v", slices.Collect(maps.Keys(framedDB.db.values)), slices.Collect(maps.Keys(proxiedDB.db.values)))
	}
}

// TestCachePut_StrictPutGetsAnID: what a strict put without an id of its own may be
// told is not that it lost to itself.
func TestCachePut_StrictPutGetsAnID(t *testing.T) {
	t.Parallel()
	cache, database, _ := newForwardingCache(t)
	want(t, cache.put("/key/a", "x", "If-None-Match: *"), 201)
	want(t, cache.put("/key/b", "x"), 201)
	if id := database.db.values["a"].PutID; len(id) != 32 {
		t.Errorf("put id %q", id)
	}
	if id := database.db.values["b"].PutID; id != "" {
		t.Errorf("put id %q of a put that is not strict", id)
	}
}

// TestCachePut_BodyBreaksOff: a body that breaks off, or stands still, is answered as
// that of a forwarded request, and sets nothing.
func TestCachePut_BodyBreaksOff(t *testing.T) {
	t.Parallel()
	cache, database, _ := newForwardingCache(t)
	for status, breakOff := range map[int]bool{400: true, 408: false} {
		conn := cache.dial()
		defer conn.Close()
		io.WriteString(conn, "PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
		if breakOff {
			conn.CloseWrite()
		}
		got := want(t, cache.receive(conn, "PUT"), status)
		if p := got.problem(t); !strings.Contains(p.Detail, "nothing was set") {
			t.Errorf("%q", p.Detail)
		}
	}
	if len(database.db.values) != 1 {
		t.Errorf("%d keys are set, one by the test", len(database.db.values))
	}
}

// TestCachePut_NoAnswer: nobody knows about a put whose stream broke off, so it is not
// sent again.
func TestCachePut_NoAnswer(t *testing.T) {
	t.Parallel()
	var singles atomic.Int64
	database := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			singles.Add(1)
			return
		}
		answerFrames(w, r, func(frame.Put) []byte { panic(http.ErrAbortHandler) })
	}))
	database.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(database.Close)
	cache, _ := newCacheTo(t, database.URL)
	p := want(t, cache.put("/key/a", "x"), 504).problem(t)
	if p.Type != api.ProblemOutcomeUnknown || !strings.Contains(p.Detail, "repeat the same put") || !strings.Contains(p.Detail, database.URL) || singles.Load() != 0 {
		t.Errorf("%+v, %d requests", p, singles.Load())
	}
}

// TestCachePut_Many: many puts at a time are decided in frames, each for itself.
func TestCachePut_Many(t *testing.T) {
	t.Parallel()
	cache, database, frames := newForwardingCache(t)
	var puts sync.WaitGroup
	for i := range 200 {
		puts.Go(func() {
			key := fmt.Sprint("k", i/2)
			if got := cache.put("/key/"+key, fmt.Sprint("v", i/2)); got.status != 200 && got.status != 201 || !strings.Contains(got.body, `"`+key+`"`) {
				t.Errorf("%s: %d %s", key, got.status, got.body)
			}
		})
	}
	puts.Wait()
	if len(database.db.values) != 101 || frames.framed() != 200 {
		t.Errorf("%d keys, %d puts in frames", len(database.db.values), frames.framed())
	}
}

// TestCachePut_SlowAnswer: a put that a frame did not decide waits for the answer to a
// request of its own as long as any, however short the time for bodies is.
func TestCachePut_SlowAnswer(t *testing.T) {
	t.Parallel()
	h := NewDatabase(DatabaseConfig{DB: newFakeDB(), Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, Counters: &Counters{}})
	database := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			answerFrames(w, r, func(p frame.Put) []byte { return appendProblem(nil, p.ID, problemFor(putting, kvstore.ErrUnavailable)) })
			return
		}
		select {
		case <-r.Context().Done():
		case <-time.After(2 * idleForTest):
		}
		h.ServeHTTP(w, r)
	}))
	database.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	database.Start()
	t.Cleanup(database.Close)
	cache, _ := newCacheTo(t, database.URL)
	want(t, cache.put("/key/a", "x"), http.StatusCreated)
}

// answerFrames answers the puts of a stream, all but that of newCacheTo with answer.
func answerFrames(w http.ResponseWriter, r *http.Request, answer func(frame.Put) []byte) {
	conn := http.NewResponseController(w)
	_ = conn.EnableFullDuplex()
	defer func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }() // or net/http waits for the body's end before it closes the connection
	w.WriteHeader(http.StatusContinue)
	w.Header().Set("Content-Type", api.ContentTypeFrames)
	w.WriteHeader(http.StatusOK)
	_ = conn.Flush()
	for frames := frame.NewReader(r.Body); ; {
		f, err := frames.Next()
		put, bad := f.Put()
		switch {
		case err != nil || bad != nil:
			panic(http.ErrAbortHandler)
		case put.Key == "warm":
			w.Write(frame.AppendSet(nil, &frame.Set{ID: put.ID, Created: true}))
		default:
			w.Write(answer(put))
		}
		_ = conn.Flush()
	}
}
