package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/load"
)

// shared is the directory in which all tests build and find their programs.
var shared string

func TestMain(m *testing.M) { os.Exit(testAll(m)) }

func testAll(m *testing.M) int {
	flag.Parse()
	var err error
	if shared, err = os.MkdirTemp("", "oncekv-peers-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(shared)
	return m.Run()
}

// programs builds the programs that every test needs, so that tests which run in parallel find
// them.
var programs = sync.OnceValue(func() error {
	for _, build := range []func(place, context.Context) (string, error){place.product, place.ceiling} {
		if _, err := build(place{bin: shared}, context.Background()); err != nil {
			return err
		}
	}
	return nil
})

// tiny returns settings with which everything is measured once and briefly, with programs that
// are already built.
func tiny(t *testing.T) settings {
	t.Helper()
	if err := programs(); err != nil {
		t.Fatal(err)
	}
	return unbuilt(t)
}

// unbuilt returns the same settings for tests that start no program.
func unbuilt(t *testing.T) settings {
	t.Helper()
	duration := 300 * time.Millisecond
	if testing.Short() {
		duration = 200 * time.Millisecond
	}
	return settings{Rounds: 1, Workers: 4, Clients: 1, Streams: 2, Keys: 50, BulkKeys: 130, BulkStore: 1000, Duration: duration, Systems: []string{"ceiling", "oncekv"}, Bin: shared, Dir: t.TempDir(), JSON: "-",
		BigKeys: 3000, CompareKeys: 3000, CompareRounds: 1, HugeKeys: 3000, HugePacedKeys: 1000, Soak: 1800 * time.Millisecond, SoakMinute: 600 * time.Millisecond, SVG: filepath.Join(t.TempDir(), "pictures"), SettleQuiet: 600 * time.Millisecond, Timeout: 10 * time.Minute,
		Values: valueSettings{Rounds: 1, Gets: 1, Keys: 2, PutsMax: 64, Total: 1 << 20, Large: 1 << 20, GetBytes: 1 << 20, DeadBytes: 1 << 20, Away: 1 << 20, Beside: time.Second}}
}

// TestRun measures every case once and briefly: of oncekv and the ceiling, and without -short
// of the peers too, which takes minutes to build.
func TestRun(t *testing.T) {
	t.Parallel()
	s := tiny(t)
	s.Parts = []string{"short"}
	if !testing.Short() {
		s.Systems = append(s.Systems, "etcd", "nats")
	}
	r := runs(t, s)
	measured, answered := map[string]row{}, 0
	for _, m := range r.Medians {
		measured[m.Name] = m
	}
	for _, st := range sequence {
		name := st.system + "/" + st.name
		if !slices.Contains(s.Systems, st.system) || st.rate != nil && testing.Short() { // needs a peer's rate
			continue
		}
		m, ok := measured[name]
		bulk := groupOf(name) == "keys"
		if !ok || m.Errors > 0 || !bulk && (m.PerSecond > 0) != (m.P99 > 0) || bulk && m.PerSecond == 0 {
			t.Errorf("%s: %+v", name, m)
		}
		if m.PerSecond > 0 { // the machine may stand still for a second
			answered++
		}
	}
	if answered == 0 {
		t.Error("nothing was answered")
	}
	if len(r.Findings) < 8 {
		t.Errorf("%d findings", len(r.Findings))
	}
	var out strings.Builder
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "| PUT at the leader ÷ ceiling") {
		t.Errorf("%v, %s", err, out.String())
	}
}

// TestRun_BigAndSoak does everything of the big stores with small ones; without -short it runs
// the load with etcd, too.
func TestRun_BigAndSoak(t *testing.T) {
	t.Parallel()
	s := tiny(t)
	s.Parts = []string{"bulk", "big", "soak"}
	if !testing.Short() {
		s.Systems = append(s.Systems, "etcd")
	}
	r := runs(t, s)
	seen := map[string]finding{}
	for _, f := range r.Findings {
		seen[f.Name] = f
		if f.Median <= 0 && runtime.GOOS == "linux" && !strings.Contains(f.Name, "in the index of") { // this few fit into memory
			t.Errorf("%s is %v", f.Name, f.Median)
		}
	}
	for _, name := range []string{
		"3,000 keys: last tenth of the load ÷ first tenth", "3,000 keys: memory of the largest node, RSS without page cache, MB",
		"3,000 keys: restart to ready after SIGTERM, s", "3,000 keys: restart to ready after kill -9, s",
		"3,000 keys: GET of random keys ÷ of one key", "3,000 keys: GET of keys that are not set ÷ of one that is", "3,000 keys: bytes on disk, all but the log, ÷ keys and values",
		"3,000 keys: bytes written, the log included, ÷ keys and values", "3,000 keys: copy and fsync of its files ÷ catching up", "soak of 1.8s: last minute ÷ second",
	} {
		if _, ok := seen[name]; !ok {
			t.Errorf("nothing was found about %s", name)
		}
	}
	for _, c := range r.Curves {
		if want := map[string]int{"tenths": 10, "minutes": 3}[c.Over]; len(c.Points) != want {
			t.Errorf("%s: %v", c.Name, c.Points)
		}
	}
	for _, m := range r.Medians {
		if m.Errors > 0 || m.SystemCPU <= 0 && runtime.GOOS == "linux" && m.Name == "oncekv/soak" {
			t.Errorf("%+v", m)
		}
	}
	for _, name := range []string{"aims.svg", "rates.svg", "load.svg", "soak.svg"} {
		text, err := os.ReadFile(filepath.Join(s.SVG, name))
		if err != nil || !bytes.HasSuffix(text, []byte("</svg>\n")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// runs measures, and checks that nothing is left behind.
func runs(t *testing.T, s settings) *report {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), s, &out); err != nil {
		t.Fatal(err)
	}
	left(t, s)
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// left checks that nothing is left behind.
func left(t *testing.T, s settings) {
	t.Helper()
	if names, err := filepath.Glob(filepath.Join(s.Dir, "*")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// TestCeiling_SameAnswers: the ceiling sends what a database node sends; otherwise it would
// not be a ceiling.
func TestCeiling_SameAnswers(t *testing.T) {
	t.Parallel()
	systems, err := startAll(t.Context(), place{bin: tiny(t).Bin, dir: t.TempDir(), clients: 1, streams: 1}, []string{"ceiling", "oncekv"})
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

// exchange describes an answer: its status, the names of its headers, and everything that does
// not depend on the value and the time.
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
		case "Etag", "Repr-Digest", "Last-Modified", "Date", "Oncekv-History", "Oncekv-Revision", "Oncekv-Time":
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

// A request's wait for a worker is part of its latency: with one worker that takes 5 ms, and
// 1000 requests a second, it keeps growing; and no request is forgotten.
func TestLoop_PacedCountsWaiting(t *testing.T) {
	l := loop{workers: 1, duration: 300 * time.Millisecond, rate: 1000}
	m, err := l.run(t.Context(), &system{}, func(context.Context, int) (operation, func(), error) {
		return func(ctx context.Context) (int, error) {
			<-time.After(5 * time.Millisecond)
			return 1, nil
		}, func() {}, nil
	})
	if err != nil || m.Requests+m.Errors < 295 || m.P50 < 100 {
		t.Errorf("%+v, %v; of 300 requests half should have waited for 0.1 s and more", m, err)
	}
}

func TestRatio_RoundByRound(t *testing.T) {
	of := []measurement{{PerSecond: 10}, {PerSecond: 40}, {PerSecond: 9}, {PerSecond: 1}}
	to := []measurement{{PerSecond: 10}, {PerSecond: 10}, {PerSecond: 3}, {}}
	var r report
	r.found((ratio{}).finding(of, to))
	if f := r.Findings[0]; f.Median != 3 || !slices.Equal(f.Rounds, []float64{1, 4, 3}) {
		t.Errorf("%+v", f)
	}
	of[0].SystemCPU, of[0].LoaderCPU, to[0].SystemCPU, to[0].LoaderCPU = 30, 10, 15, 5
	if f := (ratio{}).finding(of, to); f.ByCPU != 0.5 {
		t.Errorf("by CPU %v", f.ByCPU)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}

func TestFinding_Reached(t *testing.T) {
	for _, c := range []struct {
		f    finding
		want string
	}{
		{finding{Median: 3}, ""}, {finding{Median: 3, AtLeast: 3}, "yes"}, {finding{Median: 2.9, AtLeast: 3}, "no"},
		{finding{Median: 3, AtMost: 3}, "yes"}, {finding{Median: 3.1, AtMost: 3}, "no"},
	} {
		if got := c.f.reached(); got != c.want {
			t.Errorf("%+v: %q", c.f, got)
		}
	}
}

// A soak is judged by its last minute and its second: in the first, everything is cold.
func TestSoak_LastMinuteToSecond(t *testing.T) {
	b := &bench{settings: settings{Soak: 3 * time.Minute}}
	b.soaked(&load.Result{OverTime: []load.Interval{{PerSecond: 5}, {PerSecond: 10}, {PerSecond: 9}}}, cpu{})
	if f := b.report.Findings[0]; f.Name != "soak of 3 minutes: last minute ÷ second" || f.Median != 0.9 {
		t.Errorf("%+v", f)
	}
}

// Tenths are of the keys, not of the time, whatever the steps of the answers.
func TestProgress_Tenths(t *testing.T) {
	p := &progress{start: time.Now(), keys: 25}
	for _, n := range []int{1, 13, 0, 10, 1} {
		p.add(n)
	}
	if rates := p.tenths(); len(rates) != 10 || slices.Min(rates) <= 0 {
		t.Errorf("%v", rates)
	}
}

// A stream that breaks off continues after the last key that is set, and accepts keys that
// were set meanwhile.
func TestOncekv_StreamGoesOn(t *testing.T) {
	t.Parallel()
	systems, err := startAll(t.Context(), place{bin: tiny(t).Bin, dir: t.TempDir(), clients: 1, streams: 1}, []string{"oncekv"})
	t.Cleanup(func() {
		for _, s := range systems {
			s.stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	o := systems[0].oncekv
	leader, err := o.member(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	const keys = 50_000
	var killed sync.Once
	p := &progress{start: time.Now(), keys: keys}
	err = o.postKeys(t.Context(), session{tag: 1, value: value()}, keys, func(n int) {
		if p.add(n); p.done > keys/10 {
			killed.Do(func() {
				if _, err := o.restart(t.Context(), o.process(leader.Name), (*process).kill); err != nil {
					t.Error(err)
				}
			})
		}
	})
	if err != nil || p.done != keys {
		t.Errorf("%d of %d keys are set: %v", p.done, keys, err)
	}
	s, err := stats(t.Context(), o.urls[0])
	if err == nil && s.Revision < keys {
		err = until(t.Context(), 50*time.Millisecond, time.Minute, "n1 has all keys", o.system.nodes, func(ctx context.Context) error {
			s, err = stats(ctx, o.urls[0])
			if err == nil && s.Revision < keys {
				err = errors.New("not yet")
			}
			return err
		})
	}
	if err != nil || s.Revision != keys {
		t.Errorf("%d keys are set, want %d; %v", s.Revision, keys, err)
	}
}

// What a process has used and written still counts after its end, and adds up over its runs.
func TestProcess_CountsAllRuns(t *testing.T) {
	dir := t.TempDir()
	p, err := startProcess(dir, "writer", "/bin/sh", "-c", `n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; dd if=/dev/zero of="$1" bs=64k count=16 conv=fsync 2>/dev/null; echo done >> "$1.done"; sleep 600`, "sh", filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	done := func(times int) {
		t.Helper()
		if err := until(t.Context(), 10*time.Millisecond, time.Minute, "it is done", []*process{p}, func(context.Context) error {
			text, err := os.ReadFile(filepath.Join(dir, "file.done"))
			if err == nil && strings.Count(string(text), "done") < times {
				err = errors.New("not yet")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	done(1)
	p.kill()
	cpu := p.cpu()
	if err := p.ended(); err != nil {
		t.Errorf("it was ended, and is said to have ended by itself: %v", err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	done(2)
	if now := p.cpu(); runtime.GOOS == "linux" && (cpu <= 0 || now <= cpu) {
		t.Errorf("%v of processors after one run, %v after two", cpu, now)
	}
	p.stop()
	if written := p.written(); runtime.GOOS == "linux" && written > 1<<30 {
		t.Errorf("%d bytes written", written)
	}
}

// No two sessions, workers or counts give the same key, and all keys have the same length.
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
	good := unbuilt(t)
	good.Parts, good.Systems, good.Cases = []string{"short", "soak"}, []string{"etcd"}, []string{"put"}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for _, spoil := range []func(s *settings){
		func(s *settings) { s.Rounds = 0 }, func(s *settings) { s.Rounds = 1 << 14 }, func(s *settings) { s.Systems = []string{"redis"} },
		func(s *settings) { s.Cases = []string{"delete"} }, func(s *settings) { s.Duration = 0 },
		func(s *settings) { s.Parts = []string{"long"} }, func(s *settings) { s.Soak = s.SoakMinute }, func(s *settings) { s.BigKeys = 5 },
		func(s *settings) { s.HugeKeys = 5 }, func(s *settings) { s.HugeKeys = 0 }, func(s *settings) { s.HugeRate = -1 }, func(s *settings) { s.BulkStore = 0 },
		func(s *settings) { s.Documents = []string{"benchmarks.md"} }, func(s *settings) { s.Results = []string{"results"} },
		func(s *settings) { s.Values.Large = 5 }, func(s *settings) { s.Values.Cases = []string{"read"} },
	} {
		s := good
		spoil(&s)
		if s.check() == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}
