package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// small returns the arguments of a short benchmark.
func small(mode string, more ...string) []string {
	return append([]string{"bench", mode, "--requests", "60", "--connections", "3", "--keys", "200", "--batch-keys", "7", "--key-size", "33-40", "--value-size", "10-100", "--json"}, more...)
}

func (f *fakeAPI) bench(t *testing.T, args ...string) benchDocument {
	t.Helper()
	var d benchDocument
	must(t, json.Unmarshal([]byte(f.command(t, nil, args...).want(t, exitDone).stdout), &d))
	return d
}

func (f *fakeAPI) keyCount(prefix string) (n int) {
	f.locked(func() {
		for key := range f.values {
			if strings.HasPrefix(key, prefix) {
				n++
			}
		}
	})
	return n
}

// Every mode, through both kinds of client, in both loops.
func TestBench_Modes(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() {
		f.members = api.Members{Members: []api.Member{{Name: "n1", Role: api.RoleLeader, ClientURL: f.URL}, {Name: "n2", Role: api.RoleFollower, ClientURL: "http://127.0.0.1:1"}}}
	})
	for _, way := range [][]string{nil, {"--go-client"}, {"--rate", "20000"}, {"--target", "leader"}} {
		for mode, outcome := range map[string]string{"put": "created", "get": "found", "absent": "not_found", "batch": "created", "mixed": "found"} {
			d := f.bench(t, small(mode, way...)...)
			l := d.Latency
			if d.Mode != mode || d.Requests != 60 || d.Errors != 0 || d.PerSecond <= 0 || d.Keys[outcome] == 0 || l.Max <= 0 || l.P50 > l.P99 || l.P99 > l.Max || len(d.Nodes) != 1 || d.Nodes[0] != f.URL {
				t.Errorf("%s %v: %+v %+v", mode, way, d, d.Result)
			}
			if wide := len(way) == 2 && way[0] == "--rate"; wide != (d.Loop == "open") || wide != d.Corrected {
				t.Errorf("%s %v: loop %s, corrected %v", mode, way, d.Loop, d.Corrected)
			}
			if set := f.keyCount(d.PutPrefix); d.PutPrefix != "" && set != int(d.Keys["created"]) {
				t.Errorf("%s %v: %d keys of %s are set, %v", mode, way, set, d.PutPrefix, d.Keys)
			}
		}
	}
	f.locked(func() {
		for key, v := range f.values {
			if strings.Contains(key, "/loaded/") {
				continue
			}
			if len(key) < 33 || len(key) > 40 || len(v.body) < 10 || len(v.body) > 100 {
				t.Fatalf("key %q of %d bytes", key, len(v.body))
			}
		}
	})
	f.command(t, nil, small("get", "--target", "caches")...).want(t, exitFailed).wantStderr(t, "no node matches --target caches now")
}

// The keys to read are set once: a second run finds them, and a run with more keys sets only
// the missing ones. Puts use new keys each time, unless the run has a name.
func TestBench_SetsWhatIsMissing(t *testing.T) {
	f := newFakeAPI(t)
	reads := f.bench(t, small("get")...).ReadPrefix
	if n := f.keyCount(reads); n != 201 {
		t.Errorf("%d keys of %s, want 200 and the mark", n, reads)
	}
	puts := f.putCount()
	if again := f.bench(t, small("get")...).ReadPrefix; again != reads || f.putCount() != puts {
		t.Errorf("%d puts for %s, which were set as %s", f.putCount()-puts, again, reads)
	}
	f.bench(t, small("get", "--keys", "250")...)
	if more := f.putCount() - puts; more != 51 {
		t.Errorf("%d puts for 50 more keys and the mark", more)
	}
	if other := f.bench(t, small("get", "--seed", "2")...).ReadPrefix; other == reads {
		t.Error("another seed has the same keys")
	}
	one, two := f.bench(t, small("put")...), f.bench(t, small("put")...)
	if one.PutPrefix == two.PutPrefix || two.Keys["created"] != 60 {
		t.Errorf("the second run put %v below %s, the first below %s", two.Keys, two.PutPrefix, one.PutPrefix)
	}
	f.bench(t, small("put", "--run", "x")...)
	if again := f.bench(t, small("put", "--run", "x")...); again.PutPrefix != "bench/px/" || again.Keys["unchanged"] != 60 {
		t.Errorf("the same run again: %v", again.Keys)
	}
}

func TestBench_ForPeople(t *testing.T) {
	f := newFakeAPI(t)
	out := f.command(t, nil, "bench", "--requests", "50")
	out.want(t, exitDone).wantStdout(t, "PER SECOND", "P99.9", "put", "keys: 50 created", "prefix: bench/p", "coordinated omission")
	out.wantStderr(t, "put, closed loop, 64 connections to 1 node")
	svg := filepath.Join(t.TempDir(), "bench.svg")
	f.command(t, nil, "bench", "mixed", "--requests", "50", "--rate", "5000", "--svg", svg).want(t, exitDone).wantStdout(t, "once sent", "from when a request was due").wantStdout(t, "get", "put")
	picture, err := os.ReadFile(svg)
	must(t, err)
	for decoder := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := decoder.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	contains(t, "the picture", string(picture), []string{"open loop of 5000 requests per second", "Latency in milliseconds, by percentile"})
}

// A benchmark reports some errors and succeeds; if all requests fail, so does it.
func TestBench_Failures(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.refuse = http.StatusServiceUnavailable })
	f.command(t, nil, small("put")...).want(t, exitFailed).wantStderr(t, "bench put: all 60 requests failed; the first: ", "refused by the test", "there is no leader")
	f.command(t, nil, small("mixed", "--mix", "put=1,absent=1")...).want(t, exitDone).wantStdout(t, `"kind":"HTTP 503"`)
	out := f.command(t, nil, small("get", "--timeout", "100ms")...)
	out.wantStderr(t, "set the keys to be read: ", "refused by the test")
	if out.code != exitFailed && out.code != exitUnknown {
		t.Errorf("exit code %d", out.code)
	}
	f.locked(func() { f.refuse, f.corrupt = 0, true })
	f.command(t, nil, small("get")...).want(t, exitFailed).wantStderr(t, "is not the one that was set")
	f.command(t, nil, small("get", "--go-client")...).want(t, exitFailed).wantStderr(t, "bytes do not match their digest")
	f.CloseClientConnections()
	f.Close()
	f.command(t, nil, small("put")...).want(t, exitFailed).wantStderr(t, "connection refused", "Is a node running there?")
}

// stopWriter ends a context when it is written to.
type stopWriter struct {
	bytes.Buffer
	when *regexp.Regexp
	stop func()
}

func (w *stopWriter) Write(p []byte) (int, error) {
	if w.when.Match(p) {
		w.stop()
	}
	return w.Buffer.Write(p)
}

// Ctrl-C ends the load and shows the results so far.
func TestBench_Interrupt(t *testing.T) {
	f := newFakeAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := 0
	counted := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.serve(w, r)
		f.locked(func() {
			if served++; served == 500 {
				cancel()
			}
		})
	}))
	defer counted.Close()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"bench", "put", "--duration", "1h", "--endpoints", counted.URL, "--connections", "2"}, nil, &stdout, &stderr, func(string) string { return "" })
	result{code, stdout.String(), stderr.String()}.want(t, exitDone).wantStdout(t, "Interrupted after ", "created")

	ctx, cancel = context.WithCancel(t.Context())
	stop := &stopWriter{when: regexp.MustCompile("setting .* keys"), stop: cancel}
	code = run(ctx, []string{"bench", "get", "--endpoints", f.URL}, nil, &stdout, stop, func(string) string { return "" })
	result{code, "", stop.String()}.want(t, exitFailed).wantStderr(t, "interrupted: ")
}
