package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRun measures every case once and shortly: of oncekv and the ceiling, and
// without -short of the peers too, which takes minutes to build.
func TestRun(t *testing.T) {
	s := settings{Rounds: 1, Workers: 4, Clients: 1, Keys: 50, Duration: time.Second, Systems: []string{"ceiling", "oncekv"}, Dir: t.TempDir(), JSON: "-",
		Timeout: 10 * time.Minute}
	if !testing.Short() {
		s.Systems = append(s.Systems, "etcd", "nats")
	}
	var out bytes.Buffer
	if err := run(t.Context(), s, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	measured, answered := map[string]row{}, 0
	for _, m := range r.Medians {
		measured[m.Name] = m
	}
	for _, st := range sequence {
		name := st.system + "/" + st.name
		if !slices.Contains(s.Systems, st.system) || st.rate != nil && testing.Short() { // which takes a peer's rate
			continue
		}
		m, ok := measured[name]
		if !ok || m.Errors > 0 || (m.PerSecond > 0) != (m.P99 > 0) {
			t.Errorf("%s: %+v", name, m)
		}
		if m.PerSecond > 0 { // a machine that stands still for a second is no failure
			answered++
		}
	}
	if answered == 0 {
		t.Error("nothing was answered")
	}
	if len(r.Ratios) < 8 {
		t.Errorf("%d ratios", len(r.Ratios))
	}
	if err := r.table(&out); err != nil || !strings.Contains(out.String(), "| PUT at the leader ÷ ceiling") {
		t.Errorf("%v, %s", err, out.String())
	}
	if left, err := filesIn(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCeiling_SameAnswers: the ceiling sends what a database node sends, else it
// would be none.
func TestCeiling_SameAnswers(t *testing.T) {
	systems, err := startAll(t.Context(), t.TempDir(), 1, []string{"ceiling", "oncekv"})
	t.Cleanup(func() {
		for _, s := range systems {
			s.stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	key := session{tag: 1}.key(1, 1)
	for _, method := range []string{http.MethodPut, http.MethodGet} {
		var seen []string
		for _, s := range systems {
			seen = append(seen, exchange(t, method, s.url+"/key/"+key))
		}
		if seen[0] != seen[1] {
			t.Errorf("%s: the ceiling answers\n%s\nand oncekv\n%s", method, seen[0], seen[1])
		}
	}
}

// exchange describes an answer: its status, the names of its headers, and what
// does not depend on the value and the time.
func exchange(t *testing.T, method, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(value()))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodGet {
		req.Body, req.ContentLength = nil, 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	text := []string{resp.Status}
	if method == http.MethodGet && len(body) != valueBytes {
		t.Errorf("%s: %d bytes", url, len(body))
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		switch name {
		case "Etag", "Repr-Digest", "Last-Modified", "Date", "Oncekv-Revision", "Oncekv-Time":
			text = append(text, name)
		case "Content-Length":
			if method == http.MethodPut { // it depends on the revision
				text = append(text, name)
				continue
			}
			fallthrough
		default:
			text = append(text, name+": "+resp.Header.Get(name))
		}
	}
	return strings.Join(text, "\n")
}

// What a request waited for a worker is part of its latency: with one worker that
// takes 5 ms, and 1000 requests a second, it grows and grows.
func TestLoad_PacedCountsWaiting(t *testing.T) {
	l := load{workers: 1, duration: 300 * time.Millisecond, rate: 1000}
	m, err := l.run(t.Context(), func(context.Context, int) (operation, func(), error) {
		return func(ctx context.Context) (int, error) {
			waitUntil(ctx, time.Now().Add(5*time.Millisecond))
			return 1, nil
		}, func() {}, nil
	})
	if err != nil || m.Errors > 0 || m.Requests < 295 || m.P50 < 500 {
		t.Errorf("%+v, %v; of 300 requests half should have waited for 0.6 s and more", m, err)
	}
}

func TestRatio_RoundByRound(t *testing.T) {
	of := []measurement{{PerSecond: 10}, {PerSecond: 40}, {PerSecond: 9}, {PerSecond: 1}}
	to := []measurement{{PerSecond: 10}, {PerSecond: 10}, {PerSecond: 3}, {}}
	if r := (ratio{}).row(of, to); r.Median != 3 || !slices.Equal(r.Rounds, []float64{1, 4, 3}) {
		t.Errorf("%+v", r)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}

// No two sessions, workers or counts give the same key, and all are as long.
func TestSession_KeysDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, tag := range []uint16{0, 1, 1 << 15} {
		for _, worker := range []int{0, 1, 255} {
			for n := range uint32(100) {
				key := session{tag: tag}.key(worker, n)
				if len(key) != keyBytes || seen[key] {
					t.Fatalf("key %q", key)
				}
				seen[key] = true
			}
		}
	}
}

func TestSettings_Check(t *testing.T) {
	good := settings{Rounds: 5, Workers: 256, Clients: 1, Keys: 1, Duration: time.Second, Systems: []string{"etcd"}, Cases: []string{"put"}}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for _, spoil := range []func(s *settings){
		func(s *settings) { s.Rounds = 0 }, func(s *settings) { s.Rounds = 1 << 14 }, func(s *settings) { s.Systems = []string{"redis"} },
		func(s *settings) { s.Cases = []string{"delete"} }, func(s *settings) { s.Duration = 0 },
	} {
		s := good
		spoil(&s)
		if s.check() == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}

func filesIn(dir string) ([]string, error) { return filepath.Glob(filepath.Join(dir, "*")) }
