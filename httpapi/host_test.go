package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// ownHost is the only name that nodes of these tests have.
type ownHost string

func (h ownHost) Allows(host string) bool { return host == string(h) }

// TestHost_EveryRoute: a page that made its own name lead to a node reads nothing
// there and changes nothing, though to the browser the node is the page's own
// server.
func TestHost_EveryRoute(t *testing.T) {
	t.Parallel()
	const own = ownHost("node.example:11000")
	db := newFakeDB()
	db.set("a", "", "secret")
	refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s %s is passed on", r.Method, r.URL) })
	for kind, h := range map[string]http.Handler{
		"database": NewDatabase(DatabaseConfig{DB: db, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, Metrics: refuse, Hosts: own}),
		"cache": NewCache(CacheConfig{Reader: &sourced{db: db}, Forward: refuse, PeerHandler: refuse, Metrics: refuse, Hosts: own,
			Stats: func() any { return api.CacheStats{} }, Ready: func(context.Context) error { return nil }}),
		"admin": NewAdmin(AdminConfig{Topology: &fakeTopology{}, Page: fakePage{"/", "/assets/x", "/favicon.svg"}, Forward: refuse, Metrics: refuse, Hosts: own,
			Stats: func() any { return api.AdminStats{} }, Ready: func(context.Context) error { return nil }}),
	} {
		exempt := []string{"/livez", "/readyz", "/ping"}
		targets := []string{"GET /nothing", "BREW /key/a", "OPTIONS *", "GET /livez/", "GET //livez"}
		err := chi.Walk(h.(*front).next.(*chi.Mux), func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
			targets = append(targets, method+" "+strings.NewReplacer("*", "x", "{name}", "n1").Replace(pattern))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range targets {
			for _, host := range []string{"attacker.example:11000", "", "node.example", "node.example:11000.attacker.example"} {
				method, path, _ := strings.Cut(target, " ")
				r := httptest.NewRequest(method, path, nil)
				r.Host = host
				r.Header.Set("Origin", "http://"+host)
				r.Header.Set("Sec-Fetch-Site", "same-origin")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if isExempt := slices.Contains(exempt, path); isExempt != (w.Code != http.StatusMisdirectedRequest) {
					t.Errorf("%s node, %s of %q: %d %s", kind, target, host, w.Code, w.Body)
				} else if !isExempt && (strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), api.ProblemMisdirected) || !strings.Contains(w.Body.String(), "--allowed-hosts")) {
					t.Errorf("%s node, %s of %q: %s", kind, target, host, w.Body)
				}
			}
		}
	}
	if _, err := db.Get(context.Background(), "x", kvstore.Local); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("a key was set: %v", err)
	}
}

// TestHost_OverSockets: what net/http takes for the Host of a request is judged,
// and a node's own name is one of its names for everything.
func TestHost_OverSockets(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.Hosts = ownHost("node.example") })
	for head, want := range map[string]int{
		"PUT /key/a HTTP/1.1\r\nHost: attacker.example:11000\r\nOrigin: http://attacker.example:11000\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 1": 421,
		"PUT http://attacker.example/key/a HTTP/1.1\r\nHost: node.example\r\nContent-Length: 1":                                                            421,
		"PUT /key/a HTTP/1.1\r\nHost: \r\nContent-Length: 1":                                                                                               421,
		"PUT /key/a HTTP/1.0\r\nContent-Length: 1":                                                                                                         421,
		"PUT /key/a HTTP/1.1\r\nHost: node.example\r\nHost: attacker.example\r\nContent-Length: 1":                                                         400,
		"PUT /key/a HTTP/1.1\r\nContent-Length: 1":                                                                                                         400,
		"PUT /key/b HTTP/1.1\r\nHost: node.example\r\nContent-Length: 1":                                                                                   201,
		"PUT http://node.example/key/c HTTP/1.1\r\nHost: whatever.example\r\nContent-Length: 1":                                                            201,
		"PUT /key/d HTTP/1.1\r\nHost: node.example\r\nOrigin: http://attacker.example\r\nContent-Length: 1":                                                403,
		"PUT /key/d HTTP/1.1\r\nHost: node.example\r\nOrigin: http://node.example\r\nOrigin: http://attacker.example\r\nContent-Length: 1":                 403,
		"PUT /key/d HTTP/1.1\r\nHost: node.example\r\nOrigin: \r\nOrigin: http://attacker.example\r\nContent-Length: 1":                                    403,
		"PUT /key/d HTTP/1.1\r\nHost: node.example\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 1":                      403,
		"GET /livez HTTP/1.1\r\nHost: node.example\r\nOrigin: http://node.example\r\nOrigin: http://attacker.example\r\nContent-Length: 1":                 200,
		"GET /livez HTTP/1.0\r\nContent-Length: 1":                                                                                                         200,
	} {
		conn := n.dial()
		fmt.Fprintf(conn, "%s\r\n\r\nx", head)
		if got := n.receive(conn, http.MethodPut); got.status != want {
			t.Errorf("%q: %d %s, want %d", head, got.status, got.body, want)
		}
		conn.Close()
	}
	for _, key := range []kvstore.Key{"a", "d"} {
		if _, err := n.db.Get(context.Background(), key, kvstore.Local); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("%s was set: %v", key, err)
		}
	}
}

// TestGuard: a handler of other packages is asked only by who may ask.
func TestGuard(t *testing.T) {
	t.Parallel()
	asked := 0
	h := Guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }), ownHost("node.example"))
	for _, tt := range []struct {
		method, host, origin string
		want                 int
	}{
		{"POST", "attacker.example", "http://attacker.example", 421},
		{"GET", "attacker.example", "", 421},
		{"POST", "node.example", "http://attacker.example", 403},
		{"POST", "node.example", "", 200},
		{"GET", "node.example", "", 200},
		{"POST", "node.example", "http://node.example http://attacker.example", 403},
		{"BREW", "node.example", "http://node.example http://node.example", 403},
	} {
		r := httptest.NewRequest(tt.method, "/raft", nil)
		r.Host = tt.host
		for origin := range strings.FieldsSeq(tt.origin) {
			r.Header.Add("Origin", origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%+v: %d %s", tt, w.Code, w.Body)
		}
	}
	if asked != 2 {
		t.Errorf("%d requests came through", asked)
	}
}

// TestHost_ShowsNoMoreThanAName: what the answer repeats is bounded.
func TestHost_ShowsNoMoreThanAName(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "/key/a", nil)
	r.Host = strings.Repeat("ä", 30_000)
	w := httptest.NewRecorder()
	NewDatabase(DatabaseConfig{DB: newFakeDB(), Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, Hosts: ownHost("x")}).ServeHTTP(w, r)
	if w.Code != http.StatusMisdirectedRequest || w.Body.Len() > 2048 {
		t.Errorf("%d with %d bytes", w.Code, w.Body.Len())
	}
}
