package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// farNet is a transport without a network: each host answers after its own
// time, on synctest's clock.
type farNet struct {
	mu       sync.Mutex
	delay    map[string]time.Duration
	down     map[string]bool
	leader   string
	puts     map[string]int
	requests map[string]int // those that are not pings
	pings    map[string]int
}

func newFarNet() *farNet {
	return &farNet{delay: map[string]time.Duration{}, down: map[string]bool{}, requests: map[string]int{}, pings: map[string]int{}, puts: map[string]int{}}
}

func (f *farNet) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	f.mu.Lock()
	delay, down, header := f.delay[host], f.down[host], http.Header{}
	if host == f.leader {
		header.Set(api.HeaderRole, RoleLeader)
	}
	if r.Method == http.MethodPut {
		f.puts[host]++
		if host != f.leader {
			delay += f.delay[f.leader] // forwarded
		}
	}
	if r.URL.Path == "/ping" {
		f.pings[host]++
	} else {
		f.requests[host]++
	}
	f.mu.Unlock()
	if down {
		return nil, fmt.Errorf("connection refused")
	}
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	body := `{"name":"` + host + `"}`
	if r.URL.Path == "/ping" {
		body = "pong\n"
	}
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// client makes a client of the hosts a, b and c.
func (f *farNet) client(t *testing.T) *Client {
	t.Helper()
	c, err := New(Config{Endpoints: []string{"http://a", "http://b", "http://c"}, HTTPClient: &http.Client{Transport: f}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask makes n requests, one a second, and returns who answered the last.
func ask(t *testing.T, c *Client, n int) string {
	t.Helper()
	var name string
	for range n {
		s, err := c.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		name = s.Name
		wait(t.Context(), time.Second)
	}
	return name
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func TestRanking_MovesToTheNearest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFarNet()
		f.delay["a"], f.delay["b"], f.delay["c"] = 30*time.Millisecond, 2*time.Millisecond, 10*time.Millisecond
		if got := ask(t, f.client(t), 20); got != "b" {
			t.Errorf("requests go to %s, want b, the nearest", got)
		}
		if f.requests["c"] != 0 {
			t.Errorf("%d requests to c", f.requests["c"])
		}
		for host, n := range f.pings {
			if n > 5 {
				t.Errorf("%d pings to %s in 20 seconds", n, host)
			}
		}
	})
}

// TestRanking_PutsBeginAtTheLeader: whoever leads gets them at once, wherever reads
// go.
func TestRanking_PutsBeginAtTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFarNet()
		f.delay["a"], f.delay["b"], f.delay["c"] = time.Millisecond, 9*time.Millisecond, 9*time.Millisecond
		c := f.client(t)
		puts := func(n int) map[string]int {
			f.puts = map[string]int{}
			for range n {
				if _, err := c.PutBytes(t.Context(), "k", nil, PutOptions{KeepExisting: true}); err != nil {
					t.Fatal(err)
				}
			}
			return f.puts
		}
		for _, f.leader = range []string{"b", "c", "a"} {
			ask(t, c, 10)
			puts(1) // hears of it
			if got := puts(5); got[f.leader] != 5 {
				t.Errorf("puts went to %v, %s leads", got, f.leader)
			}
			if got := ask(t, c, 1); got != "a" {
				t.Errorf("reads go to %s, a is the nearest", got)
			}
		}
		f.leader = "b"
		ask(t, c, 10)
		puts(1)
		f.down["b"] = true
		if got := puts(5); got["b"] != 1 {
			t.Errorf("puts went to %v, b is down", got)
		}
		f.leader = "" // of which nobody here knows
		ask(t, c, 20)
		if got := puts(5); got["a"] != 5 {
			t.Errorf("puts went to %v, and nobody leads", got)
		}
	})
}

func TestRanking_StaysAmongEquals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFarNet()
		f.delay["a"], f.delay["b"], f.delay["c"] = 1000*time.Microsecond, 900*time.Microsecond, 850*time.Microsecond
		ask(t, f.client(t), 60)
		if f.requests["b"]+f.requests["c"] != 0 {
			t.Errorf("requests moved to an endpoint that is not clearly nearer: %v", f.requests)
		}
	})
}

func TestRanking_ShortLivedAndSingleClientsDoNotMeasure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFarNet()
		ask(t, f.client(t), 4)
		one, err := New(Config{Endpoints: []string{"http://a"}, HTTPClient: &http.Client{Transport: f}})
		if err != nil {
			t.Fatal(err)
		}
		ask(t, one, 20)
		if len(f.pings) != 0 {
			t.Errorf("pings: %v", f.pings)
		}
	})
}

func TestRanking_LeavesWhoFailsAndComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFarNet()
		f.delay["a"], f.delay["b"], f.delay["c"] = time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
		c := f.client(t)
		ask(t, c, 10)
		f.down["a"] = true
		before := f.requests["a"]
		if got := ask(t, c, 5); got == "a" || f.requests["a"] != before+1 {
			t.Errorf("%s answered, and the dead endpoint got %d requests, want 1", got, f.requests["a"]-before)
		}
		f.down["a"] = false
		if got := ask(t, c, 30); got != "a" {
			t.Errorf("%s answers, want a again", got)
		}
	})
}

// An endpoint that stands still is left as soon as another one is known.
func TestRanking_LowerBoundCounts(t *testing.T) {
	t.Parallel()
	r := newRanking(2, time.Time{})
	r.observe(0, time.Millisecond, false)
	r.observe(1, time.Millisecond, false)
	r.observe(0, 500*time.Microsecond, true) // says nothing
	if r.roundTrip[0] != time.Millisecond {
		t.Errorf("round trip %v", r.roundTrip[0])
	}
	r.observe(0, 100*time.Millisecond, true)
	r.choose(time.Time{})
	if r.first(false) != 1 {
		t.Error("stays with an endpoint that did not answer in 100 ms")
	}
}
