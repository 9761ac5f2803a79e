package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// gate stands between a cache node and a database node, as the only database node that the
// cache node knows. It counts the cache node's reads, can hold reads back, and can tell the
// cache node of made-up peers.
type gate struct {
	server *httptest.Server
	proxy  *httputil.ReverseProxy
	caches []string // told instead of the real ones, unless nil

	mu     sync.Mutex
	now    map[string]int // reads under way, by key
	total  map[string]int
	most   map[string]int // of now
	hold   string         // reads of this key wait for opened
	opened chan struct{}
}

func newGate(t *testing.T, database *clustertest.Process, caches []string) *gate {
	t.Helper()
	target, err := url.Parse(database.URL())
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{caches: caches, now: map[string]int{}, total: map[string]int{}, most: map[string]int{}}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	g.proxy = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: g.rewrite,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Transport:      transport,
	}
	g.server = httptest.NewUnstartedServer(g)
	g.server.Start() // after it is g's, as answers name its address
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(g.server.Close)
	return g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if key, read := strings.CutPrefix(r.URL.Path, "/key/"); read && r.Method == http.MethodGet {
		defer g.leave(key)
		if held := g.enter(key); held != nil {
			select {
			case <-held:
			case <-r.Context().Done():
			}
		}
	}
	g.proxy.ServeHTTP(w, r)
}

func (g *gate) enter(key string) (held chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now[key]++
	g.total[key]++
	g.most[key] = max(g.most[key], g.now[key])
	if key == g.hold {
		return g.opened
	}
	return nil
}

// leave runs before the next read of a cache node that waits for the answer: small answers are
// sent when the handler returns.
func (g *gate) leave(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now[key]--
}

// close holds back reads of a key until open.
func (g *gate) close(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold, g.opened = key, make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold = ""
	close(g.opened)
}

// reads returns how often the key was read, and how often at the same time.
func (g *gate) reads(key string) (total, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total[key], g.most[key]
}

// rewrite makes this gate the only database node in a heartbeat's answer, so that no read
// bypasses it.
func (g *gate) rewrite(resp *http.Response) error {
	if resp.Request.URL.Path != "/caches" || resp.StatusCode != http.StatusOK {
		return nil
	}
	var answer api.HeartbeatAnswer
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	answer.DBs = []api.DBNode{{Name: "gate", URL: g.server.URL, Healthy: true}}
	if g.caches != nil {
		answer.Caches = nil
		for _, url := range g.caches {
			answer.Caches = append(answer.Caches, api.CacheNode{Name: url, URL: url, Healthy: true})
		}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	err = resp.Body.Close()
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Del("Content-Length")
	return err
}

// gated is one database node, and cache nodes that each reach it through a gate.
type gated struct {
	database *clustertest.Process
	gates    []*gate
	caches   []*clustertest.Process
}

// startGated starts a database node and three cache nodes or, with told, one for each list of
// made-up peers that told returns.
func startGated(t *testing.T, told func(caches []*clustertest.Process) [][]string) *gated {
	t.Helper()
	p := clustertest.NewProcesses(t, bin, 1, 3)
	g := &gated{database: p.DBs[0], caches: p.Caches}
	lists := make([][]string, len(g.caches))
	if told != nil {
		lists = told(g.caches)
		g.caches = g.caches[:len(lists)]
	}
	g.database.Start()
	g.database.WaitReady()
	for i, c := range g.caches {
		g.gates = append(g.gates, newGate(t, g.database, lists[i]))
		c.Args = []string{"cache", "--name", c.Name, "--listen", c.Addr, "--nodes", g.gates[i].server.URL}
		c.Start()
	}
	for i, c := range g.caches {
		c.WaitReady()
		peers := len(g.caches) - 1
		if lists[i] != nil {
			peers = len(lists[i])
		}
		waitPeers(t, peers, c)
	}
	return g
}

// waitPeers waits until each of the cache nodes has n others in its ring.
func waitPeers(t *testing.T, n int, caches ...*clustertest.Process) {
	t.Helper()
	for _, c := range caches {
		clustertest.Eventually(t, c.Name+" knows its peers", func() error {
			s, err := cacheStats(c)
			if err == nil && s.Peers != n {
				err = fmt.Errorf("%d peers, not %d", s.Peers, n)
			}
			return err
		})
	}
}
