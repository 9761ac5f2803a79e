package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// fakeTopology knows what a test tells it.
type fakeTopology struct {
	mu     sync.Mutex
	number uint64
	next   chan struct{}
	alone  bool // no cache node is up
}

func (f *fakeTopology) DBs() []api.DBNode {
	return []api.DBNode{{Name: "n1", URL: "http://n1", Healthy: true, Role: api.RoleLeader}}
}
func (f *fakeTopology) Caches() []api.CacheNode { return nil }
func (f *fakeTopology) History() any            { return map[string]any{"points": []int{1, 2}} }
func (f *fakeTopology) Owner(key kvstore.Key) (api.CacheNode, bool) {
	return api.CacheNode{Name: "owner of " + string(key), URL: "http://c1"}, !f.alone
}

// fakePage is the paths of a page.
type fakePage []string

func (p fakePage) Has(path string) bool { return slices.Contains(p, path) }
func (p fakePage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "page "+r.URL.Path)
}

// change makes a new state.
func (f *fakeTopology) change() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	if f.next != nil {
		close(f.next)
		f.next = nil
	}
}

func (f *fakeTopology) Next(ctx context.Context, after uint64) ([]byte, uint64, error) {
	for {
		f.mu.Lock()
		number := f.number
		if f.next == nil {
			f.next = make(chan struct{})
		}
		next := f.next
		f.mu.Unlock()
		if number > after {
			return fmt.Appendf(nil, `{"number":%d}`, number), number, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// newAdminNode starts an admin in front of a database node.
func newAdminNode(t *testing.T, adjust ...func(*AdminConfig)) (admin, database *node, seen *fakeTopology) {
	t.Helper()
	database = newNode(t)
	to, err := url.Parse(database.url)
	if err != nil {
		t.Fatal(err)
	}
	seen = &fakeTopology{number: 1}
	cfg := AdminConfig{
		Topology: seen, Forward: forwardTo(to),
		Page:  fakePage{"/", "/assets/a.js", "/favicon.svg"},
		Stats: func() any { return api.AdminStats{Role: api.RoleAdmin} },
		Ready: func(context.Context) error { return nil },
	}
	for _, f := range adjust {
		f(&cfg)
	}
	admin = &node{t: t, db: database.db, cluster: database.cluster}
	admin.serve(NewAdmin(cfg))
	return admin, database, seen
}

func TestAdmin_PageAndLists(t *testing.T) {
	t.Parallel()
	admin, _, seen := newAdminNode(t)
	for _, path := range []string{"/", "/assets/a.js", "/favicon.svg"} {
		if got := want(t, admin.get(path), 200); got.body != "page "+path {
			t.Errorf("%s: %q", path, got.body)
		}
	}
	if got := want(t, admin.get("/dbs"), 200); !strings.HasPrefix(got.body, `[{"name":"n1",`) {
		t.Errorf("dbs: %s", got.body)
	}
	if got := want(t, admin.get("/caches"), 200); strings.TrimSpace(got.body) != "[]" {
		t.Errorf("caches: %s", got.body)
	}
	if got := want(t, admin.get("/owner?key=a+b%2Fc"), 200); !strings.Contains(got.body, `"owner of a b/c"`) {
		t.Errorf("owner: %s", got.body)
	}
	for _, target := range []string{"/owner", "/owner?key=", "/owner?key=%00", "/owner?key=a&x=1", "/dbs?x=1", "/caches?x=1", "/events?x=1"} {
		want(t, admin.get(target), 400).problem(t)
	}
	seen.alone = true
	want(t, admin.get("/owner?key=a"), 503).problem(t)
	for _, path := range []string{"/key/a", "/keys", "/members", "/nothing", "/api", "/api/stats", "/api/caches", "/assets/", "/assets/b.js"} {
		want(t, admin.get(path), 404).problem(t)
	}
	for _, path := range []string{"/stats", "/ping", "/livez", "/readyz", "/openapi.yaml"} {
		want(t, admin.get(path), 200)
	}
}

// TestAdmin_PassesOn: what is below /api is the database's, byte for byte.
func TestAdmin_PassesOn(t *testing.T) {
	t.Parallel()
	admin, database, _ := newAdminNode(t)
	const odd = "/key/..%2Fa%20%20+%2F/%FF"
	want(t, admin.put("/api"+odd, "value", "Content-Type: text/x"), 201)
	want(t, admin.put("/api"+odd, "value"), 200)
	want(t, admin.put("/api"+odd, "other"), 409).problem(t)
	if got := want(t, database.get(odd), 200); got.body != "value" {
		t.Errorf("the database has %q", got.body)
	}
	for _, target := range []string{odd, "/key?key=..%2Fa++%2B%2F%2F%FF", odd + "?format=json", "/key/absent"} {
		got, direct := admin.get("/api"+target), database.get(target)
		if got.status != direct.status || got.body != direct.body || got.header.Get("Etag") != direct.header.Get("Etag") || got.header.Get("Content-Security-Policy") != direct.header.Get("Content-Security-Policy") {
			t.Errorf("%s: %d %q, directly %d %q", target, got.status, got.body, direct.status, direct.body)
		}
	}
	want(t, admin.put("/api/key?key=q", "v"), 201)
	at := want(t, admin.post("/api/key", `{"key":"j","value":"v"}`), 201).header.Get("Location")
	if got := want(t, admin.get(at), 200); got.body != "v" {
		t.Errorf("at %s there is %q", at, got.body)
	}
	want(t, admin.get("/api/members"), 200)
	want(t, admin.post("/api/leader", `{"to":"n2"}`), 200)
	want(t, admin.send("POST", "/api/members/n2/promote", ""), 200)
	want(t, admin.send("DELETE", "/api/members/n2?force=true", ""), 200)
	for request, says := range map[string]string{
		"DELETE /api/key?key=q": "set once", "DELETE /api/key/q": "set once", "POST /api/key/q": "use PUT /api/key/q ", "POST /%61pi/key/a%2Fb": "use PUT /%61pi/key/a%2Fb ",
		"POST /api/keep/q": "", "PUT /key/q": "",
	} {
		method, target, _ := strings.Cut(request, " ")
		if says == "" {
			want(t, admin.send(method, target, "", "Content-Length: 0"), 404).problem(t)
			continue
		}
		got := want(t, admin.send(method, target, "", "Content-Length: 0"), 405)
		if p := got.problem(t); !strings.Contains(p.Detail, says) {
			t.Errorf("%s: %s", request, p.Detail)
		}
		allow := "GET, HEAD, PUT"
		if strings.Contains(target, "?") {
			allow += ", POST"
		}
		wantHeader(t, got, "Allow", allow)
	}
	if p := want(t, admin.post("/api/key?key=abc", "v"), 400).problem(t); !strings.Contains(p.Detail, "use PUT /api/key?key=abc ") {
		t.Errorf("POST with a key in the query: %s", p.Detail)
	}
}

// TestAdmin_CrossOrigin: no other site's page may change anything through the
// admin either.
func TestAdmin_CrossOrigin(t *testing.T) {
	t.Parallel()
	admin, _, _ := newAdminNode(t)
	want(t, admin.put("/api/key?key=a", "v", "Sec-Fetch-Site: cross-site"), 403).problem(t)
	want(t, admin.send("DELETE", "/api/members/n2", "", "Origin: http://evil.example"), 403).problem(t)
	want(t, admin.put("/api/key?key=a", "v", "Origin: http://"+admin.addr, "Sec-Fetch-Site: same-origin"), 201)
}

// event reads one event, "" at the end.
func event(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	var lines []string
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF && line == "" {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		if line == "\n" {
			return strings.Join(lines, "|")
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
}

func TestAdmin_Events(t *testing.T) {
	t.Parallel()
	closing := make(chan struct{})
	admin, _, seen := newAdminNode(t, func(c *AdminConfig) { c.Closing = closing })
	resp, err := http.Get(admin.url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", resp.Header)
	}
	in := bufio.NewReader(resp.Body)
	for _, expected := range []string{`event: history|data: {"points":[1,2]}`, `id: 1|event: state|data: {"number":1}`} {
		if got := event(t, in); got != expected {
			t.Errorf("event %q, want %q", got, expected)
		}
	}
	seen.change()
	if got := event(t, in); got != `id: 2|event: state|data: {"number":2}` {
		t.Errorf("after a change: %q", got)
	}
	close(closing)
	if got := event(t, in); got != `event: end|data: {"reason":"closing"}` {
		t.Errorf("at the end: %q", got)
	}
	if got := event(t, in); got != "" {
		t.Errorf("after the end: %q", got)
	}
	var p api.Problem
	if err := json.Unmarshal([]byte(want(t, admin.get("/events"), 503).body), &p); err != nil || p.Detail == "" {
		t.Errorf("a stream while closing: %+v, %v", p, err)
	}
}

// TestAdmin_EventsGiveWay: tabs that are open keep no new one from being shown. The
// one that has waited longest is told to come again.
func TestAdmin_EventsGiveWay(t *testing.T) {
	t.Parallel()
	admin, _, _ := newAdminNode(t, func(c *AdminConfig) { c.StreamsMax = 1 })
	var streams []*bufio.Reader
	for range 2 {
		resp, err := http.Get(admin.url + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
		in := bufio.NewReader(resp.Body)
		event(t, in)
		if got := event(t, in); got != `id: 1|event: state|data: {"number":1}` {
			t.Fatalf("event %q", got)
		}
		streams = append(streams, in)
	}
	if got := event(t, streams[0]); got != `event: end|data: {"reason":"overloaded"}` {
		t.Errorf("the first stream ends with %q", got)
	}
}
