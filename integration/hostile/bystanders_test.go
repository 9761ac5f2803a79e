package hostile

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/frame"
)

// bystanders use every node while it is attacked: they put, read, list, send batches, and look
// at who is healthy, in turn over kept and over new connections.
type bystanders struct {
	t     *testing.T
	cuts  bool // a connection that breaks may be tried again
	began time.Time
	from  time.Duration // began by the run's clock

	cancel context.CancelFunc
	wg     sync.WaitGroup
	all    []*bystander
}

// bystander does one thing at one node, again and again. Owned by its goroutine until stop has
// waited for it, except done, which anybody may read.
type bystander struct {
	name string
	do   func(ctx context.Context, hc *http.Client, n int) error

	kept   *http.Client
	done   atomic.Int64
	failed int
	first  string        // how it failed first
	worst  time.Duration // on the run's clock
}

// pause is how long a bystander waits after each thing it does.
const pause = 250 * time.Millisecond

// watch starts the bystanders.
func (w *world) watch(cuts bool) *bystanders {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bystanders{t: w.t, cuts: cuts, began: time.Now(), from: run.clock.now(), cancel: cancel}
	for _, g := range w.servers(true) {
		b.addKeys(g)
	}
	for _, d := range w.DBs {
		b.addDatabase(d, len(w.Caches))
	}
	for _, c := range w.Caches {
		b.add(c.Name+": the ring", func(ctx context.Context, hc *http.Client, _ int) error {
			return ringHas(ctx, hc, c.URL(), len(w.Caches)-1)
		})
	}
	b.add("admin: nodes", func(ctx context.Context, hc *http.Client, _ int) error {
		return errors.Join(allHealthy(ctx, hc, w.admin.URL()+"/caches", len(w.Caches)), allHealthy(ctx, hc, w.admin.URL()+"/dbs", len(w.DBs)))
	})
	for _, one := range b.all {
		b.wg.Go(func() { b.loop(ctx, one) })
	}
	w.t.Cleanup(b.end)
	return b
}

func (b *bystanders) add(name string, do func(ctx context.Context, hc *http.Client, n int) error) {
	kept := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	b.all = append(b.all, &bystander{name: name, do: do, kept: kept})
}

// longest returns the bystander that waited longest.
func (b *bystanders) longest() *bystander {
	return slices.MaxFunc(b.all, func(x, y *bystander) int { return cmp.Compare(x.worst, y.worst) })
}

// addKeys adds bystanders that use keys through a node.
func (b *bystanders) addKeys(g target) {
	url, id := "http://"+g.addr+g.api(), g.node.Name
	b.add(id+": puts and reads", func(ctx context.Context, hc *http.Client, n int) error {
		key, value := fmt.Sprintf("bystander/%s/%d", id, n), fmt.Sprintf("value %d of %s", n, id)
		if err := ask(ctx, hc, http.MethodPut, url+"/key/"+key, value, "", http.StatusCreated, http.StatusOK); err != nil {
			return fmt.Errorf("put: %w", err)
		}
		if err := ask(ctx, hc, http.MethodGet, url+"/key/"+key, "", value, http.StatusOK); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		return nil
	})
	b.add(id+": reads", func(ctx context.Context, hc *http.Client, n int) error {
		i := n % seedKeys
		if err := ask(ctx, hc, http.MethodGet, url+"/key/"+seedKey(i), "", string(seedBytes(i)), http.StatusOK); err != nil {
			return err
		}
		if err := ask(ctx, hc, http.MethodGet, url+"/key/never/set", "", "", http.StatusNotFound); err != nil {
			return fmt.Errorf("read of a key that is not set: %w", err)
		}
		return nil
	})
	b.add(id+": lists", func(ctx context.Context, hc *http.Client, n int) error {
		return ask(ctx, hc, http.MethodGet, url+"/keys?limit=100&prefix=seed/", "", seedKey(99), http.StatusOK)
	})
	b.add(id+": batches", func(ctx context.Context, hc *http.Client, n int) error {
		key := fmt.Sprintf("bystander/%s/line/%d", id, n)
		line := fmt.Sprintf(`{"key":%q,"value":"1"}`, key)
		if err := ask(ctx, hc, http.MethodPost, url+"/keys", line, `"revision":`, http.StatusOK); err != nil { // this line or an earlier try set it
			return fmt.Errorf("put of a line: %w", err)
		}
		if err := ask(ctx, hc, http.MethodPost, url+"/keys/get", fmt.Sprintf(`{"key":%q}`, key), `"status":"found"`, http.StatusOK); err != nil {
			return fmt.Errorf("read of a line: %w", err)
		}
		return nil
	})
	b.add(id+": frames", func(ctx context.Context, hc *http.Client, n int) error {
		key := fmt.Sprintf("bystander/%s/frame/%d", id, n)
		put := frame.AppendPut(nil, &frame.Put{ID: 1, Key: key, Value: []byte("1")})
		if err := askFramed(ctx, hc, url+"/keys", put, frame.KindSet); err != nil {
			return fmt.Errorf("put of a frame: %w", err)
		}
		get := frame.AppendGet(nil, &frame.Get{ID: 1, Key: key})
		if err := askFramed(ctx, hc, url+"/keys/get", get, frame.KindValue); err != nil {
			return fmt.Errorf("read of a frame: %w", err)
		}
		return nil
	})
}

// addDatabase adds bystanders that look at what database nodes know of others.
func (b *bystanders) addDatabase(d *clustertest.Process, caches int) {
	b.add(d.Name+": heartbeats", func(ctx context.Context, hc *http.Client, _ int) error {
		return allHealthy(ctx, hc, d.URL()+"/caches", caches)
	})
	b.add(d.Name+": members", func(ctx context.Context, hc *http.Client, _ int) error {
		return hasLeader(ctx, hc, d.URL())
	})
	b.add(d.Name+": its peer port", func(ctx context.Context, hc *http.Client, _ int) error {
		return ask(ctx, hc, http.MethodGet, "http://"+d.Peer+"/oncekv/identity", "", `"cluster_id"`, http.StatusOK)
	})
}

func (b *bystanders) loop(ctx context.Context, one *bystander) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		hc := one.kept
		if n%2 == 1 {
			hc = lonely
		}
		began, from := time.Now(), run.clock.now()
		err := b.attempt(ctx, one, hc, n)
		if ctx.Err() != nil {
			return // the end of the test is not a failure
		}
		took := run.clock.now() - from
		one.worst = max(one.worst, took)
		if err != nil {
			if one.failed++; one.first == "" {
				one.first = fmt.Sprintf("%.1f s after the beginning it waited %.1f s of %.1f s by the clock on the wall: %v", began.Sub(b.began).Seconds(), took.Seconds(), time.Since(began).Seconds(), err)
			}
		}
		one.done.Add(1)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// attempt does one thing until it succeeds or the bound is reached, as long as the node asks
// for another try.
func (b *bystanders) attempt(ctx context.Context, one *bystander, hc *http.Client, n int) error {
	bounded, cancel := run.clock.within(ctx, run.bound)
	defer cancel()
	var last error
	for {
		tried := time.Now()
		err := one.do(bounded, hc, n)
		if err == nil {
			return nil
		}
		if bounded.Err() != nil && last != nil {
			return fmt.Errorf("%w (after many tries)", last)
		}
		if last = err; !b.again(err, time.Since(tried)) {
			return err
		}
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-bounded.Done():
			wait.Stop()
			return last
		case <-wait.C:
		}
	}
}

// again reports whether a request may be tried again after an error: after a refusal that
// explains itself, during a state that is about to change, or, if the attack takes all
// connections, after a broken connection. A connection that breaks after the bound, by the
// wall clock, broke because the machine is slow: the nodes' own timeouts use that clock.
func (b *bystanders) again(err error, took time.Duration) bool {
	if errors.As(err, new(*busyError)) {
		return true
	}
	return (b.cuts || took > run.bound) && !errors.As(err, new(*wrongError))
}

// busyError asks for another try.
type busyError struct{ what string }

func (e *busyError) Error() string { return e.what }

// wrongError is an answer that no attack excuses.
type wrongError struct{ what string }

func (e *wrongError) Error() string { return e.what }

// rounds waits until every bystander has done its thing so many more times, or has exceeded
// the bound.
func (b *bystanders) rounds(n int64) {
	b.t.Helper()
	from := make([]int64, len(b.all))
	for i, one := range b.all {
		from[i] = one.done.Load()
	}
	clustertest.Eventually(b.t, fmt.Sprintf("%d more rounds of the bystanders", n), func() error {
		for i, one := range b.all {
			// One more: the round under way may have begun before.
			if got := one.done.Load() - from[i]; got < n+1 {
				return fmt.Errorf("%s did %d", one.name, got)
			}
		}
		return nil
	})
}

// end stops all of them.
func (b *bystanders) end() {
	b.cancel()
	b.wg.Wait()
	for _, one := range b.all {
		one.kept.CloseIdleConnections()
	}
}

// stop stops all bystanders and reports what they found: for the first few how it began, and
// the names of the others.
func (b *bystanders) stop() {
	b.t.Helper()
	const told = 5
	b.end()
	var others []string
	failed := 0
	for _, one := range b.all {
		if one.failed == 0 {
			continue
		}
		if failed++; failed > told {
			others = append(others, one.name)
			continue
		}
		b.t.Errorf("bystander %s: failed %d of %d times; first, %s", one.name, one.failed, one.done.Load(), one.first)
	}
	if len(others) > 0 {
		b.t.Errorf("%d other bystanders failed: %s", len(others), strings.Join(others, "; "))
	}
	worst := b.longest()
	b.t.Logf("the longest that a bystander waited was %.1f s (%s); %.0f %% of the processors' time were left by others", worst.worst.Seconds(), worst.name, 100*(run.clock.now()-b.from).Seconds()/time.Since(b.began).Seconds())
}

// ask sends a request, and expects one of some statuses and a text in the answer.
func ask(ctx context.Context, hc *http.Client, method, url, body, want string, statuses ...int) error {
	status, header, got, err := send(ctx, hc, method, url, body)
	if err != nil {
		return err
	}
	for _, s := range statuses {
		if status != s {
			continue
		}
		if !strings.Contains(string(got), want) {
			if bytes.Contains(got, []byte(`"type":"`+api.ProblemUnavailable)) || bytes.Contains(got, []byte(`"type":"`+api.ProblemOverloaded)) {
				return &busyError{fmt.Sprintf("%s %s answered %.300q", method, url, got)} // in a line
			}
			if bytes.Contains(got, []byte(`"status":"`+api.BatchUnknown+`"`)) {
				return fmt.Errorf("%s %s answered %.300q", method, url, got)
			}
			return &wrongError{fmt.Sprintf("%s %s answered %d without %.80q: %.200q", method, url, status, want, got)}
		}
		return nil
	}
	return refusal(method+" "+url, status, header, got)
}

// refusal returns the error for an unexpected answer: a busyError if it explains itself and
// says when to try again.
func refusal(what string, status int, header http.Header, got []byte) error {
	said := fmt.Sprintf("%s answered %d: %.300s", what, status, bytes.TrimSpace(got))
	var p api.Problem
	busy := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
	if busy && header.Get("Retry-After") != "" && json.Unmarshal(got, &p) == nil && p.Detail != "" {
		return &busyError{said}
	}
	if status == http.StatusGatewayTimeout && json.Unmarshal(got, &p) == nil && p.Type == api.ProblemOutcomeUnknown {
		return errors.New(said) // the node that was asked has been cut off from the next, or waits for it in vain
	}
	return &wrongError{said}
}

// askFramed sends a frame, and expects an answer of one kind.
func askFramed(ctx context.Context, hc *http.Client, url string, body []byte, want frame.Kind) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", framesType)
	status, header, got, err := do(hc, req)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal("POST "+url, status, header, got)
	}
	f, err := frame.NewReader(bytes.NewReader(got)).Next()
	if err != nil {
		return &wrongError{fmt.Sprintf("POST %s answered %q, which is no frame: %v", url, got, err)}
	}
	if f.Kind == want {
		return nil
	}
	p, err := f.Problem()
	said := fmt.Sprintf("POST %s answered a frame of kind %v with problem %d %s: %s", url, f.Kind, p.Status, p.Type, p.Detail)
	if err == nil && p.RetryAfter > 0 && p.Detail != "" {
		return &busyError{said}
	}
	if err == nil && p.Type == api.ProblemOutcomeUnknown {
		return errors.New(said)
	}
	return &wrongError{said}
}

func send(ctx context.Context, hc *http.Client, method, url, body string) (int, http.Header, []byte, error) {
	var reader io.Reader
	if method != http.MethodGet {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return 0, nil, nil, err
	}
	return do(hc, req)
}

func do(hc *http.Client, req *http.Request) (int, http.Header, []byte, error) {
	req.Header["Idempotency-Key"] = nil // a kept connection that has just been closed may be replaced; it is not sent
	resp, err := hc.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, got, errors.Join(err, resp.Body.Close())
}

// allHealthy expects a list of nodes to contain so many healthy ones, besides those that an
// attacker added. It may take the bound until it does.
func allHealthy(ctx context.Context, hc *http.Client, url string, want int) error {
	status, header, body, err := send(ctx, hc, http.MethodGet, url, "")
	if err != nil {
		return err
	}
	var nodes []struct {
		Name    string
		Healthy bool
	}
	if status != http.StatusOK || json.Unmarshal(body, &nodes) != nil {
		return refusal("GET "+url, status, header, body)
	}
	healthy := map[string]bool{}
	for _, n := range nodes {
		if n.Healthy && len(n.Name) == 2 { // n1, c2: ours
			healthy[n.Name] = true
		}
	}
	if len(healthy) < want {
		return &busyError{fmt.Sprintf("%s has %d healthy nodes; want %d", url, len(healthy), want)}
	}
	return nil
}

// hasLeader expects a database node to know a leader. A slow machine may lose one, and has
// another within the bound.
func hasLeader(ctx context.Context, hc *http.Client, url string) error {
	err := ask(ctx, hc, http.MethodGet, url+"/members", "", `"leader":"n`, http.StatusOK)
	if wrong := new(wrongError); errors.As(err, &wrong) {
		return &busyError{wrong.what}
	}
	return err
}

// ringHas expects a cache node to know at least so many others.
func ringHas(ctx context.Context, hc *http.Client, url string, want int) error {
	status, header, body, err := send(ctx, hc, http.MethodGet, url+"/stats", "")
	if err != nil {
		return err
	}
	var stats struct{ Peers int }
	if status != http.StatusOK || json.Unmarshal(body, &stats) != nil {
		return refusal("GET "+url+"/stats", status, header, body)
	}
	if stats.Peers < want {
		return &busyError{fmt.Sprintf("%s knows %d other cache nodes; want %d", url, stats.Peers, want)}
	}
	return nil
}
