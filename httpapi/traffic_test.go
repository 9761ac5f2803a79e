package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// fakeTraffic keeps what it is told, as "GET /key/{key} 200".
type fakeTraffic struct {
	mu       sync.Mutex
	ended    []string
	inFlight int
	most     int
	done     chan struct{} // one for each request that ended
}

func newFakeTraffic() *fakeTraffic { return &fakeTraffic{done: make(chan struct{}, 100)} }

func (f *fakeTraffic) Route(method, pattern string) func(int, time.Duration) {
	return func(status int, took time.Duration) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if took < 0 {
			status = -1
		}
		f.ended = append(f.ended, fmt.Sprintf("%s %s %d", method, pattern, status))
		f.done <- struct{}{}
	}
}

func (f *fakeTraffic) InFlight(change int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight += change
	f.most = max(f.most, f.inFlight)
}

// wantEnded waits for one request to end and checks how it was reported.
func (f *fakeTraffic) wantEnded(t *testing.T, line string) {
	t.Helper()
	select {
	case <-f.done:
	case <-time.After(patience):
		t.Fatalf("nothing ended, want %s", line)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := f.ended[len(f.ended)-1]; got != line {
		t.Errorf("reported %q, want %q", got, line)
	}
	if f.inFlight != 0 || f.most != 1 {
		t.Errorf("%d in flight, %d at most; want 0 and 1", f.inFlight, f.most)
	}
}

func TestTraffic(t *testing.T) {
	t.Parallel()
	traffic := newFakeTraffic()
	n := newNode(t, func(c *DatabaseConfig) { c.Traffic = traffic })
	n.db.set("a", "", "v")
	for _, tt := range []struct{ method, target, line string }{
		{"GET", "/key/a", "GET /key/{key} 200"},
		{"HEAD", "/key/a/b", "HEAD /key/{key} 404"},
		{"GET", "/keep/a", "GET /keep/{key} 200"},
		{"GET", "/key?key=a", "GET /key 200"},
		{"PUT", "/key/a", "PUT /key/{key} 409"},
		{"PUT", "/key/b", "PUT /key/{key} 201"},
		{"POST", "/members/n1/promote", "POST /members/{name}/promote 200"},
		{"GET", "/elsewhere", "GET none 404"},
		{"BREW", "/key/a", "other none 405"},
		{"GET", "/metrics", "GET none 404"},
	} {
		n.send(tt.method, tt.target, "", "Content-Length: 0")
		traffic.wantEnded(t, tt.line)
	}
	n.put("/key/c", "v", "Sec-Fetch-Site: cross-site")
	traffic.wantEnded(t, "PUT none 403")
}

// TestTraffic_BrokenOff: an answer that was not finished is no success.
func TestTraffic_BrokenOff(t *testing.T) {
	t.Parallel()
	for _, with := range []any{"bug", http.ErrAbortHandler} {
		traffic := newFakeTraffic()
		n := newNode(t, func(c *DatabaseConfig) { c.Traffic = traffic; c.DB = panickyDB{with: with} })
		conn := n.dial()
		io.WriteString(conn, "GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
		if with == "bug" {
			traffic.wantEnded(t, "GET /key/{key} 500")
		} else {
			traffic.wantEnded(t, "GET /key/{key} 0")
		}
		conn.Close()
	}
}

func TestTraffic_OnCache(t *testing.T) {
	t.Parallel()
	traffic := newFakeTraffic()
	cache, database, _ := newCacheNode(t, func(c *CacheConfig) { c.Traffic = traffic })
	database.db.set("a", "", "v")
	cache.get("/key/a")
	traffic.wantEnded(t, "GET /key/{key} 200")
	cache.put("/key/b", "v")
	traffic.wantEnded(t, "PUT /key/{key} 201")
	cache.get("/peer/x")
	traffic.wantEnded(t, "GET /peer/* 200")
}

// TestTraffic_TakenOver: a connection that a handler takes over was answered
// with a 101.
func TestTraffic_TakenOver(t *testing.T) {
	t.Parallel()
	traffic := newFakeTraffic()
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) {
		c.Traffic = traffic
		c.PeerHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			conn.Close()
		})
	})
	conn := cache.dial()
	defer conn.Close()
	io.WriteString(conn, "GET /peer/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	traffic.wantEnded(t, "GET /peer/* 101")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		io.WriteString(w, "# HELP oncekv_x y\n")
	})
	database := newNode(t, func(c *DatabaseConfig) { c.Metrics = show })
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) { c.Metrics = show })
	for _, n := range []*node{database, cache} {
		got := want(t, n.get("/metrics"), 200)
		wantHeader(t, got, "Cache-Control", "no-store")
		if got.body != "# HELP oncekv_x y\n" {
			t.Errorf("metrics are %q", got.body)
		}
		want(t, n.send("HEAD", "/metrics", ""), 200)
		want(t, n.get("/metrics?x=y"), 400).problem(t)
		want(t, n.post("/metrics", ""), 405).problem(t)
	}
}
