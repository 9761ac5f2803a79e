package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
)

const (
	probeEvery = 5 * time.Second  // how often round trips are measured, at most
	avoidFor   = 10 * time.Second // no switching back to an endpoint that failed
	switchGain = 200 * time.Microsecond
)

// ranking chooses the endpoint that a request begins at: the one that worked
// last, until another one has become clearly nearer.
//
// How near an endpoint is, is measured with GET /ping, because the time of
// other requests says more about what was asked than about who was asked. Once
// in probeEvery a request takes a ping to every endpoint along; those that have
// not come back when the request is done are cut off, and count as having taken
// at least so long. An idle client sends nothing.
//
// Clearly nearer means by a quarter and by 200 µs, so that equal nodes do not
// take turns: sticking to one keeps its connections warm.
//
// Puts begin at the leader, if one of the endpoints says that it leads: every other
// node would have to forward them. Pings tell, too; those that go along with a put
// have as long as the put takes to get there.
type ranking struct {
	mu        sync.Mutex
	preferred int
	leader    int             // -1: not known
	roundTrip []time.Duration // smoothed; 0 is not known
	avoid     []time.Time     // until when not to switch there
	probeAt   time.Time
	seekAt    time.Time // no ping for the leader's sake before
}

func newRanking(endpoints int, now time.Time) *ranking {
	return &ranking{
		leader:    -1,
		roundTrip: make([]time.Duration, endpoints),
		avoid:     make([]time.Time, endpoints),
		probeAt:   now.Add(probeEvery), // a short-lived client does not measure
		seekAt:    now.Add(probeEvery),
	}
}

// first is the endpoint to begin at.
func (r *ranking) first(put bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if put && r.leader >= 0 {
		return r.leader
	}
	return r.preferred
}

// said takes in whether endpoint n says that it leads.
func (r *ranking) said(n int, leads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case leads:
		r.leader = n
	case r.leader == n:
		r.leader = -1
	}
}

// seekLeader lets the next put ask who leads.
func (r *ranking) seekLeader() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seekAt = time.Time{}
}

// answered sticks to endpoint n if the request had begun at another one. A
// request that needed no second try changes nothing: the preference may have
// moved on meanwhile.
func (r *ranking) answered(n, began int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n != began {
		r.preferred = n
	}
}

// failed moves the preference away from endpoint n.
func (r *ranking) failed(n int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roundTrip[n] = 0
	r.avoid[n] = now.Add(avoidFor)
	if r.leader == n {
		r.leader = -1
	}
	if r.preferred == n {
		r.preferred = (n + 1) % len(r.roundTrip)
	}
}

// probeDue reports whether to measure now. It says so to one caller only.
func (r *ranking) probeDue(now time.Time, put bool) bool {
	if len(r.roundTrip) == 1 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.probeAt) && !(put && !now.Before(r.seekAt)) {
		return false
	}
	r.probeAt = now.Add(probeEvery)
	if put {
		r.seekAt = r.probeAt
	}
	return true
}

// observe takes in one round trip of endpoint n. With atLeast it was cut off,
// so it says nothing when the endpoint is known to be slower anyway.
func (r *ranking) observe(n int, d time.Duration, atLeast bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.roundTrip[n]
	switch {
	case atLeast && d <= old:
	case old == 0:
		r.roundTrip[n] = d
	default:
		r.roundTrip[n] = old + (d-old)/4
	}
}

// choose switches to the nearest endpoint if it is clearly nearer.
func (r *ranking) choose(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	current := r.roundTrip[r.preferred]
	if current == 0 {
		return
	}
	best := r.preferred
	for n, d := range r.roundTrip {
		if d != 0 && d < r.roundTrip[best] && !now.Before(r.avoid[n]) {
			best = n
		}
	}
	if current-r.roundTrip[best] > max(current/4, switchGain) {
		r.preferred = best
	}
}

// probe measures all endpoints if it is time to, until stop is called.
func (c *Client) probe(ctx context.Context, put bool) (stop func()) {
	if !c.ranking.probeDue(time.Now(), put) {
		return func() {}
	}
	probing, cancel := context.WithCancel(ctx)
	var pings sync.WaitGroup
	for n := range c.endpoints {
		pings.Go(func() { c.measure(probing, n) })
	}
	return func() {
		cancel()
		pings.Wait()
		c.ranking.choose(time.Now())
	}
}

// measure takes the time from having a connection to endpoint n until a ping's
// answer. The time to connect does not count: it is spent once.
func (c *Client) measure(ctx context.Context, n int) {
	var connected atomic.Pointer[time.Time]
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		now := time.Now()
		connected.Store(&now)
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, c.endpoints[n]+"/ping", nil)
	if err != nil {
		return
	}
	start := time.Now()
	resp, err := c.http.Do(req)
	if at := connected.Load(); at != nil {
		start = *at
	} else if err != nil {
		return // not even a connection: nothing was measured
	}
	took := time.Since(start)
	switch {
	case err == nil:
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, 64); err == io.EOF && resp.StatusCode == http.StatusOK {
			c.ranking.observe(n, took, false)
			c.ranking.said(n, resp.Header.Get(api.HeaderRole) == RoleLeader)
		}
	case ctx.Err() != nil:
		c.ranking.observe(n, took, true)
	}
}
