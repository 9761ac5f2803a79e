package httpapi

import (
	"bytes"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// logged is a logger whose lines can be looked at while it is written to.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) at(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "v")
	for _, target := range []string{"/key/a", "/key/none", "/ping", "/nothing"} {
		wantHeader(t, n.get(target, "X-Request-Id: mine-1"), "X-Request-Id", "mine-1")
	}
	// A value's answer is kept by caches and has no name that nobody gave.
	wantHeader(t, want(t, n.get("/key/a"), 200), "X-Request-Id", "")
	made := regexp.MustCompile(`^[0-9a-f]{16}$`)
	for _, lines := range [][]string{
		nil, {"X-Request-Id: "}, {"X-Request-Id: a b"}, {"X-Request-Id: \xff"}, {"X-Request-Id: " + strings.Repeat("x", 65)}, {"X-Request-Id: a", "X-Request-Id: b"},
	} {
		if got := n.get("/key/none", lines...).header.Get("X-Request-Id"); !made.MatchString(got) {
			t.Errorf("%q: the error is named %q", lines, got)
		}
	}
}

// TestRequestID_Logged: a failure, and at the debug level every request, is in
// the log under the name that the client sees, and without the value.
func TestRequestID_Logged(t *testing.T) {
	t.Parallel()
	var log logged
	n := newNode(t, func(c *DatabaseConfig) { c.DB = panickyDB{with: "bug"}; c.Logger = log.at(slog.LevelInfo) })
	got := want(t, n.put("/key/a", "secret-value"), 500)
	id := got.header.Get("X-Request-Id")
	poll(t, "the failure is logged", func() bool { return strings.Contains(log.String(), "request="+id) })
	if strings.Contains(log.String(), "msg=request ") {
		t.Errorf("requests are logged at the info level: %s", log.String())
	}

	var debug logged
	n = newNode(t, func(c *DatabaseConfig) { c.Logger = debug.at(slog.LevelDebug) })
	want(t, n.put("/key/a", "secret-value", "X-Request-Id: mine-2"), 201)
	poll(t, "the request is logged", func() bool {
		return strings.Contains(debug.String(), "msg=request method=PUT path=/key/a status=201") && strings.Contains(debug.String(), "request=mine-2")
	})
	want(t, n.get("/key/a?format=json"), 200)
	if text := log.String() + debug.String(); strings.Contains(text, "secret") {
		t.Errorf("a value is in the log: %s", text)
	}
}

// TestRequestID_Forwarded: a request has one name on both nodes it passes.
func TestRequestID_Forwarded(t *testing.T) {
	t.Parallel()
	var got []string
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) {
		next := c.Forward
		c.Forward = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = append(got, r.Header.Get("X-Request-Id"))
			next.ServeHTTP(w, r)
		})
	})
	wantHeader(t, want(t, cache.put("/key/a", "v", "X-Request-Id: mine-3"), 201), "X-Request-Id", "mine-3")
	named := want(t, cache.put("/key/b", "v"), 201)
	if len(got) != 2 || got[0] != "mine-3" || got[1] == "" || named.header.Get("X-Request-Id") != got[1] || len(named.header["X-Request-Id"]) != 1 {
		t.Errorf("forwarded as %q, answered as %q", got, named.header["X-Request-Id"])
	}
}
