package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/Focinfi/oncekv/adminui"
	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	crowdDBs    = 7
	crowdCaches = 30
)

// crowd is a busy system that exists only in what an admin reports.
type crowd struct {
	mu    sync.Mutex
	state adminui.State
	past  []adminui.Point
	moved chan struct{} // closed by the next move
	moves uint64
}

// newCrowd returns a crowd with five minutes behind it.
func newCrowd() *crowd {
	c := &crowd{moved: make(chan struct{}), past: []adminui.Point{}}
	now := time.Now().UTC()
	c.state = adminui.State{
		Version: "simulated", Leader: "n1", Term: 3, ValueBytes: 3 << 30, Revision: 1_000_000,
		Health: adminui.Health{Level: adminui.LevelOK, Sentence: "All is well: 7 database nodes led by n1, of which 3 may fail, and 30 cache nodes.", Problems: []string{}},
	}
	up := adminui.Condition{Status: adminui.StatusUp, Since: now.Add(-time.Hour)}
	for i := range crowdDBs {
		m := adminui.Member{ID: fmt.Sprintf("%016x", i+1), Name: fmt.Sprintf("n%d", i+1), Role: api.RoleFollower, Condition: up, Healthy: true, Stats: &api.Stats{Version: "simulated"}}
		m.URL, m.PeerURL = fmt.Sprintf("http://10.0.0.%d:11000", i+1), fmt.Sprintf("http://10.0.0.%d:12000", i+1)
		if i == 0 {
			m.Role = api.RoleLeader
		}
		c.state.Members = append(c.state.Members, m)
	}
	for i := range crowdCaches {
		stats := &api.CacheStats{Role: api.RoleCache, Ready: true, Version: "simulated"}
		stats.LimitBytes = 64 << 20
		c.state.Caches = append(c.state.Caches, adminui.Cache{
			Name: fmt.Sprintf("c%d", i+1), URL: fmt.Sprintf("http://10.0.1.%d:5551", i+1), Condition: up, Share: 1.0 / crowdCaches, Stats: stats,
		})
	}
	for i := range 300 {
		c.past = append(c.past, adminui.Point{Time: now.Add(time.Duration(i-300) * time.Second), Revision: uint64(i), Rates: busy()})
	}
	c.move()
	return c
}

func busy() adminui.Rates {
	hits := 0.9 + rand.Float64()/10
	return adminui.Rates{Puts: 500 * rand.Float64(), Created: 400 * rand.Float64(), Gets: 20_000 * rand.Float64(), HitRatio: &hits}
}

// move makes a new state in which every number of every node differs.
func (c *crowd) move() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().UTC()
	next := c.state
	next.Time, next.Rates, next.Revision = now, busy(), c.state.Revision+137
	next.Keys = next.Revision
	next.Members, next.Caches = slices.Clone(c.state.Members), slices.Clone(c.state.Caches)
	for i := range next.Members {
		m := &next.Members[i]
		s := *m.Stats
		s.Revision, s.AppliedIndex, s.CommitIndex, s.Keys = next.Revision, next.Revision*2, next.Revision*2, next.Keys
		s.HistoryBytes, s.IndexBytes, s.DiskFreeBytes = s.HistoryBytes+1<<20, s.IndexBytes+1<<18, 1<<37-s.HistoryBytes
		s.Puts, s.Gets, s.UptimeSeconds = s.Puts+70, s.Gets+900, s.UptimeSeconds+0.5
		m.Stats, m.Rates, m.Lag = &s, adminui.NodeRates{Puts: 100 * rand.Float64(), Gets: 1000 * rand.Float64()}, rand.Uint64N(20)
	}
	for i := range next.Caches {
		n := &next.Caches[i]
		s := *n.Stats
		s.Gets, s.Hits, s.PeerLoads, s.Absences = s.Gets+500, s.Hits+450, s.PeerLoads+30, s.Absences+20
		s.Items, s.Bytes, s.UptimeSeconds = s.Items+5, (s.Bytes+1<<18)%s.LimitBytes, s.UptimeSeconds+0.5
		hits := rand.Float64()
		n.Stats, n.Rates = &s, adminui.CacheRates{Gets: 1000 * rand.Float64(), HitRatio: &hits}
	}
	c.state = next
	c.moves++
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *crowd) revision() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Revision
}

func (c *crowd) Next(ctx context.Context, after uint64) ([]byte, uint64, error) {
	for {
		c.mu.Lock()
		state, number, moved := c.state, c.moves, c.moved
		c.mu.Unlock()
		if number != after {
			b, err := json.Marshal(&state)
			return b, number, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (c *crowd) History() any                            { return adminui.History{Points: c.past} }
func (c *crowd) DBs() []api.DBNode                       { return nil }
func (c *crowd) Caches() []api.CacheNode                 { return nil }
func (c *crowd) Owner(kvstore.Key) (api.CacheNode, bool) { return api.CacheNode{}, false }

// watchFrames scrolls the page down and up, a little in every frame, and records how long
// frames and long tasks take.
const watchFrames = `(() => {
	const seen = window.fluency = {frames: [], long: []}
	new PerformanceObserver((list) => seen.long.push(...list.getEntries().map((e) => e.duration))).observe({type: 'longtask'})
	let last = performance.now(), by = 8
	requestAnimationFrame(function frame(now) {
		seen.frames.push(now - last)
		last = now
		const at = scrollY
		scrollBy({top: by, behavior: 'instant'})
		if (scrollY === at) by = -by
		requestAnimationFrame(frame)
	})
})()`

// With the largest realistic system, the page keeps up with two states a second in which every
// number changes, and its memory does not grow.
func TestBrowser_Fluency(t *testing.T) {
	chromium(t)
	system := newCrowd()
	closing := make(chan struct{})
	server := httptest.NewServer(httpapi.NewAdmin(httpapi.AdminConfig{
		Topology: system, Page: adminui.NewPage(), Forward: http.NotFoundHandler(), Closing: closing,
		Stats: func() any { return api.AdminStats{Role: api.RoleAdmin} }, Ready: func(context.Context) error { return nil },
	}))
	t.Cleanup(func() {
		close(closing)
		server.Close()
	})
	p := openPage(t, server.URL)
	p.sees(crowdDBs, hook("db-card", "[data-status=up]"))
	p.sees(crowdCaches, hook("cache-card", "[data-status=up]"))
	p.look("fluency")
	eval[chromedp.Void](p, watchFrames)

	const updates = 36
	pace := time.NewTicker(500 * time.Millisecond)
	defer pace.Stop()
	var script, work []float64 // milliseconds for each update
	var heap float64
	before := p.spent()
	for i := range updates {
		<-pace.C
		if i == updates/4 {
			heap = p.heap() // everything that is needed only once is loaded
			before = p.spent()
		}
		system.move()
		if i >= updates/4 {
			now := p.spent()
			script, work = append(script, now.script-before.script), append(work, now.task-before.task)
			before = now
		}
	}
	p.reads(hook("db-card", "[data-name=n7]"), grouped(system.revision()))
	grown := p.heap() - heap
	frames, long := eval[[]float64](p, "fluency.frames"), eval[[]float64](p, "fluency.long")
	slices.Sort(script)
	slices.Sort(work)
	slices.Sort(frames)
	slices.Sort(long)
	t.Logf("each update: script %s ms, all work with scrolling %s ms", spread(script), spread(work))
	t.Logf("%d frames: %s ms; %d tasks over 50 ms: %s ms", len(frames), spread(frames), len(long), spread(long))
	t.Logf("heap %.1f MB, grown by %.2f MB in %d updates", heap/1e6, grown/1e6, updates*3/4)
	if median := script[len(script)/2]; median > 400 { // about 20 on a free machine; 500 would be all of the time
		t.Errorf("an update takes %.0f ms of scripting; want 400 at most", median)
	}
	if median := frames[len(frames)/2]; median > 250 {
		t.Errorf("a frame takes %.0f ms while scrolling; want 250 at most", median)
	}
	if grown > 3e6 {
		t.Errorf("the heap grows by %.2f MB in %d updates", grown/1e6, updates*3/4)
	}
	p.clean("fluency")
}

// grouped formats a number as the page does: 1,000,137.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// spread describes sorted numbers in words.
func spread(sorted []float64) string {
	if len(sorted) == 0 {
		return "none"
	}
	n := len(sorted)
	return fmt.Sprintf("median %.1f, 95 %% %.1f, most %.1f", sorted[n/2], sorted[n*95/100], sorted[n-1])
}

// spent is the tab's work since it began, in milliseconds.
type spent struct{ script, task float64 }

func (p *page) spent() spent {
	p.t.Helper()
	s, err := within(p, func(ctx context.Context, tab *chromedp.Target) (spent, error) {
		if _, err := cdp.Call(ctx, tab, performance.Enable, performance.EnableParams{}); err != nil {
			return spent{}, err
		}
		r, err := cdp.Call(ctx, tab, performance.GetMetrics, cdp.Empty{})
		var s spent
		for _, m := range r.Metrics {
			switch m.Name {
			case "ScriptDuration":
				s.script = m.Value * 1000
			case "TaskDuration":
				s.task = m.Value * 1000
			}
		}
		return s, err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// heap returns how many bytes of JavaScript objects are in use.
func (p *page) heap() float64 {
	p.t.Helper()
	used, err := within(p, func(ctx context.Context, tab *chromedp.Target) (float64, error) {
		if _, err := cdp.Call(ctx, tab, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
			return 0, err
		}
		r, err := cdp.Call(ctx, tab, runtime.GetHeapUsage, cdp.Empty{})
		return r.UsedSize, err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return used
}
