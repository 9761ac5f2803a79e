package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/kvstore"
)

func cacheStats(c *clustertest.Process) (s api.CacheStats, err error) {
	err = getJSON(c.URL()+"/stats", &s)
	return s, err
}

// figures returns the statistics of each cache node.
func figures(t *testing.T, caches []*clustertest.Process) []api.CacheStats {
	t.Helper()
	all := make([]api.CacheStats, len(caches))
	for i, c := range caches {
		var err error
		if all[i], err = cacheStats(c); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// visitor is an HTTP client with one connection to one node.
type visitor struct {
	hc  *http.Client
	url string
}

func newVisitor(url string) *visitor {
	return &visitor{hc: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: clustertest.Patience}, url: url}
}

func (v *visitor) close() { v.hc.CloseIdleConnections() }

// read expects the value of a key, or 404 if want is absent. It does not retry.
func (v *visitor) read(key, want string) error {
	status, body, err := v.get(key)
	if err != nil {
		return err
	}
	wantStatus := http.StatusOK
	if want == absent {
		wantStatus = http.StatusNotFound
	}
	if status != wantStatus || want != absent && body != want {
		return fmt.Errorf("%s, key %s: status %d, %.200q; want status %d, %q", v.url, key, status, body, wantStatus, want)
	}
	return nil
}

func (v *visitor) get(key string) (status int, body string, err error) {
	resp, err := v.hc.Get(v.url + "/key/" + key)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

const absent = "\x00absent" // no value of a test

// callers are clients of cache nodes, in equal parts, with one open connection each.
type callers []*visitor

func newCallers(t *testing.T, size int, key, value string, caches []*clustertest.Process) callers {
	t.Helper()
	c := make(callers, size)
	for i := range c {
		c[i] = newVisitor(caches[i%len(caches)].URL())
		t.Cleanup(c[i].close)
	}
	c.each(t, func(_ int, v *visitor) error { return v.read(key, value) })
	return c
}

// each runs all clients at once, and fails the test with the first few errors.
func (c callers) each(t *testing.T, act func(i int, v *visitor) error) {
	t.Helper()
	var acts sync.WaitGroup
	errs := make([]error, len(c))
	begin := make(chan struct{})
	for i, v := range c {
		acts.Go(func() {
			<-begin
			errs[i] = act(i, v)
		})
	}
	close(begin)
	acts.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	for _, err := range errs[:min(len(errs), 5)] {
		t.Error(err)
	}
	if len(errs) > 0 {
		t.Fatalf("%d of %d clients had errors", len(errs), len(c))
	}
}

// heldMax bounds how long the database's first answer is held back: less than a cache node
// waits for an owner (2.5 s) or in all (5 s).
const heldMax = 1500 * time.Millisecond

// burst makes all clients read one key while the database's answers are held back until every
// client has arrived at a cache node, for heldMax at most. It returns how often each cache
// node has read the key from the database, and whether all clients had arrived before the
// first answer.
func (g *gated) burst(t *testing.T, c callers, key, want string) (loads []uint64, together bool) {
	t.Helper()
	before := figures(t, g.caches)
	for _, gate := range g.gates {
		gate.close(key)
	}
	open := func() {
		for _, gate := range g.gates {
			gate.open()
		}
	}
	began := time.Now()
	var holding sync.WaitGroup
	holding.Go(func() {
		tooLate := make(chan struct{})
		timer := time.AfterFunc(heldMax, func() { defer close(tooLate); open() })
		g.waitArrived(before, len(c), tooLate)
		if together = timer.Stop(); together {
			open()
		} else {
			<-tooLate
		}
	})
	c.each(t, func(_ int, v *visitor) error { return v.read(key, want) })
	holding.Wait()
	t.Logf("%d clients of %d cache nodes were answered within %v; all had come before the first answer: %v", len(c), len(g.caches), time.Since(began).Round(time.Millisecond), together)
	for i, s := range figures(t, g.caches) {
		// A read that began beside a slow owner may not have arrived yet.
		told := s.DatabaseLoads - before[i].DatabaseLoads
		total, most := g.gates[i].reads(key)
		loads = append(loads, max(told, uint64(total)))
		if most > 1 {
			t.Errorf("%s read key %s %d times at the same time", s.Name, key, most)
		}
		t.Logf("%s: %d gets, %d database loads (%d seen there), %d answers of peers, %d to peers", s.Name, s.Gets-before[i].Gets,
			told, total, s.PeerLoads-before[i].PeerLoads, s.PeerServed-before[i].PeerServed)
	}
	return loads, together
}

// waitArrived waits until the cache nodes have been asked n times, or for late.
func (g *gated) waitArrived(before []api.CacheStats, n int, late <-chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		sum := uint64(0)
		for i, c := range g.caches {
			if s, err := cacheStats(c); err == nil {
				sum += s.Gets - before[i].Gets
			}
		}
		if sum == uint64(n) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			return
		}
	}
}

func sumOf(loads []uint64) (sum uint64) {
	for _, n := range loads {
		sum += n
	}
	return sum
}

// burstSize is how many clients ask for one key.
const burstSize = 2000

// TestCacheTier_ColdKey: 2,000 clients of three cache nodes ask for a key that no node holds,
// all before the database has answered the first. Normally that is one read of the database;
// if the machine is so busy that the owner seems silent, the other cache nodes read it
// themselves, once each.
func TestCacheTier_ColdKey(t *testing.T) {
	g := startGated(t, nil)
	cl := clustertest.Client(t, g.database.URL())
	mustPut(t, cl, "warm", "warm")
	c := newCallers(t, burstSize, "warm", "warm", g.caches)
	for round := range 3 {
		key := fmt.Sprint("cold/", round)
		mustPut(t, cl, key, "value of "+key)
		loads, _ := g.burst(t, c, key, "value of "+key)
		t.Logf("%d clients, %d database reads in the whole tier: %v", burstSize, sumOf(loads), loads)
		for i, n := range loads {
			if n > 1 {
				t.Errorf("%s read the key %d times; want once at most", g.caches[i].Name, n)
			}
		}
	}
}

// TestCacheTier_AbsentKey: the same with a key that is not set. Then it is set, and read at
// once through each cache node.
func TestCacheTier_AbsentKey(t *testing.T) {
	g := startGated(t, nil)
	cl := clustertest.Client(t, g.database.URL())
	mustPut(t, cl, "warm", "warm")
	c := newCallers(t, burstSize, "warm", "warm", g.caches)
	for round := range 3 {
		key := fmt.Sprint("absent/", round)
		loads, together := g.burst(t, c, key, absent)
		t.Logf("%d clients, %d database reads in the whole tier: %v", burstSize, sumOf(loads), loads)
		// Two for each burst of callers, and a node may have three: its own clients, and the
		// requests of each of the others.
		if n := slices.Max(loads); together && n > 2*uint64(len(g.caches)) {
			t.Errorf("database reads by node: %v; want two for each burst of callers at most", loads)
		}
		mustPut(t, cl, key, "value of "+key)
		for _, node := range g.caches {
			v := newVisitor(node.URL())
			if err := v.read(key, "value of "+key); err != nil {
				t.Errorf("after the put: %v", err)
			}
			v.close()
		}
	}
}

// TestCacheTier_Disagreement: each of two cache nodes believes that the other owns the
// requested keys.
func TestCacheTier_Disagreement(t *testing.T) {
	const (
		clients = 200
		keys    = 60
	)
	var a, b, alias string
	g := startGated(t, func(c []*clustertest.Process) [][]string {
		a, b = c[0].URL(), c[1].URL()
		// The second node under another name. Two lists in which every node has one name never
		// contradict each other for one key.
		alias = "http://" + strings.Replace("[::ffff:"+c[1].Addr, ":"+port(c[1].Addr), "]:"+port(c[1].Addr), 1)
		return [][]string{{alias}, {a}}
	})
	cl := clustertest.Client(t, g.database.URL())
	mustPut(t, cl, "warm", "warm")
	c := newCallers(t, clients, "warm", "warm", g.caches)

	// Keys that belong to alias for a, and to a for b: half of them set.
	var asked []string
	for i := 0; len(asked) < keys; i++ {
		key := fmt.Sprint("mutual/", i)
		if cachetier.Owner([]string{a, alias}, kvstore.Key(key)) == alias && cachetier.Owner([]string{a, b}, kvstore.Key(key)) == a {
			asked = append(asked, key)
		}
	}
	want := map[string]string{}
	for i, key := range asked {
		if want[key] = absent; i%2 == 0 {
			want[key] = "value of " + key
			mustPut(t, cl, key, want[key])
		}
	}
	before := figures(t, g.caches)
	began := time.Now()
	c.each(t, func(_ int, v *visitor) error {
		for _, key := range asked {
			if err := v.read(key, want[key]); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("%d reads by %d clients in %v", clients*keys, clients, time.Since(began).Round(time.Millisecond))
	for i, s := range figures(t, g.caches) {
		served := s.PeerServed - before[i].PeerServed
		t.Logf("%s: %d gets, %d answers to the other, %d answers from it, %d errors of it, %d database loads", s.Name, s.Gets-before[i].Gets,
			served, s.PeerLoads-before[i].PeerLoads, s.PeerErrors-before[i].PeerErrors, s.DatabaseLoads-before[i].DatabaseLoads)
		if served == 0 {
			t.Errorf("%s was never asked by the other: they did not disagree", s.Name)
		}
		for _, key := range asked {
			if total, most := g.gates[i].reads(key); most > 1 || want[key] != absent && total > 1 {
				t.Errorf("%s read key %s %d times, %d times at once", s.Name, key, total, most)
			}
		}
	}
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// TestCacheTier_HotKey: a key that is requested at every cache node costs its owner only a few
// answers, even if all memories are full.
func TestCacheTier_HotKey(t *testing.T) {
	const (
		clients    = 48
		gets       = 200 // each
		cacheBytes = 1 << 20
		others     = 1500 // keys of 1 KiB
	)
	p := clustertest.NewProcesses(t, bin, 1, 3)
	for _, c := range p.Caches {
		c.Args = append(c.Args, "--cache-bytes", fmt.Sprint(cacheBytes))
	}
	p.StartAll()
	waitPeers(t, 2, p.Caches...)
	cl := clustertest.Client(t, p.DBs[0].URL())
	fill := putMany(t, cl, "fill/", others, 1<<10)
	mustPut(t, cl, "hot", "the hot value")
	c := newCallers(t, clients, "fill/0", fill["fill/0"], p.Caches)
	c.each(t, func(i int, v *visitor) error {
		for k := i / len(p.Caches); k < others; k += clients / len(p.Caches) { // each key at each node
			key := fmt.Sprint("fill/", k)
			if err := v.read(key, fill[key]); err != nil {
				return err
			}
		}
		return nil
	})
	before := figures(t, p.Caches)
	for _, s := range before {
		if s.Evictions+s.Unadmitted == 0 {
			t.Errorf("%s holds all it was asked for: its memory is not full", s.Name)
		}
	}
	c.each(t, func(_ int, v *visitor) error {
		for range gets {
			if err := v.read("hot", "the hot value"); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("the owner is %s", cachetier.Owner(clustertest.URLs(p.Caches...), "hot"))
	for i, s := range figures(t, p.Caches) {
		got, hits, served := s.Gets-before[i].Gets, s.Hits-before[i].Hits, s.PeerServed-before[i].PeerServed
		t.Logf("%s: %d gets, %d hits, %d of them mirrored, %d answers to peers", s.Name, got, hits, s.MirroredHits-before[i].MirroredHits, served)
		if served > clients*gets/100 {
			t.Errorf("%s was asked by its peers %d times in %d gets of clients; want 1 in 100 at most", s.Name, served, clients*gets)
		}
		if hits < got*9/10 {
			t.Errorf("%s had the key in memory for %d of %d gets; want 9 in 10", s.Name, hits, got)
		}
	}
}

// TestCacheTier_AllDatabasesDead: every cache node keeps serving what it holds, whoever owns
// it, and refuses the rest with a sentence.
func TestCacheTier_AllDatabasesDead(t *testing.T) {
	const keys = 200
	p := clustertest.NewProcesses(t, bin, 3, 3)
	p.StartAll()
	waitPeers(t, 2, p.Caches...)
	want := putMany(t, clustertest.Client(t, clustertest.URLs(p.DBs...)...), "held/", keys, 100)
	c := newCallers(t, len(p.Caches), "held/0", want["held/0"], p.Caches)
	readAll := func(_ int, v *visitor) error {
		for key, value := range want {
			if err := v.read(key, value); err != nil {
				return err
			}
		}
		return nil
	}
	c.each(t, readAll)
	for _, d := range p.DBs {
		d.Kill9()
	}
	for round := range 3 {
		c.each(t, readAll)
		c.each(t, func(_ int, v *visitor) error {
			status, body, err := v.get(fmt.Sprint("unheld/", round))
			if err != nil {
				return err
			}
			var problem api.Problem
			if err := json.Unmarshal([]byte(body), &problem); err != nil {
				return fmt.Errorf("status %d with %q: %w", status, body, err)
			}
			if status != http.StatusServiceUnavailable || problem.Type != api.ProblemUnavailable || !strings.Contains(problem.Detail, " ") {
				return fmt.Errorf("status %d, %+v; want 503 with a sentence", status, problem)
			}
			if v == c[0] {
				t.Logf("unheld: %s", problem.Detail)
			}
			return nil
		})
		for _, node := range p.Caches { // until the rings and lists could have changed
			clustertest.Eventually(t, node.Name+" says that it has no database node", func() error {
				status, body, err := (&visitor{http.DefaultClient, node.URL()}).ready()
				if err == nil && status != http.StatusServiceUnavailable {
					err = fmt.Errorf("status %d: %s", status, body)
				}
				return err
			})
		}
	}
}

func (v *visitor) ready() (status int, body string, err error) {
	resp, err := v.hc.Get(v.url + "/readyz")
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func mustPut(t *testing.T, cl *client.Client, key, value string) {
	t.Helper()
	if _, err := cl.PutBytes(clustertest.WithTimeout(t), key, []byte(value), client.PutOptions{}); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// putMany sets n numbered keys to values of the given size and returns them.
func putMany(t *testing.T, cl *client.Client, prefix string, n, size int) map[string]string {
	t.Helper()
	want := make(map[string]string, n)
	items := func(yield func(client.PutItem) bool) {
		for i := range n {
			key := fmt.Sprint(prefix, i)
			value := pattern(key, size)
			want[key] = string(value)
			if !yield(client.PutItem{Key: key, Value: value}) {
				return
			}
		}
	}
	for r, err := range cl.PutAll(clustertest.WithTimeout(t), items) {
		if err != nil || r.Err != nil {
			t.Fatalf("put %s: %v, %v", r.Key, err, r.Err)
		}
	}
	return want
}
