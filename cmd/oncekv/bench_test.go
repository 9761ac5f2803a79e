package main

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBench(t *testing.T) {
	f := newFakeAPI(t)
	for _, mode := range []string{benchPut, benchGet} {
		var r benchResult
		out := f.command(t, nil, "bench", mode, "--duration", "500ms", "--connections", "3", "--keys", "20", "--key-size", "40", "--value-size", "100", "--json").want(t, exitDone)
		must(t, json.Unmarshal([]byte(out.stdout), &r))
		l := r.Milliseconds
		if r.Mode != mode || r.Requests == 0 || r.Errors != 0 || r.PerSecond <= 0 || r.Seconds < 0.5 || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.Max {
			t.Errorf("%+v", r)
		}
		if mode == benchPut && int(r.Requests) != len(f.values) {
			t.Errorf("%d puts, %d keys", r.Requests, len(f.values))
		}
	}
	for key, v := range f.values {
		if len(key) != 40 || !strings.HasPrefix(key, "bench/") || len(v.body) != 100 {
			t.Fatalf("key %q of %d bytes", key, len(v.body))
		}
	}
	f.command(t, nil, "bench", "--duration", "500ms").want(t, exitDone).wantStdout(t, "PER SECOND", "P99.9", "put")
	f.locked(func() { f.refuse = http.StatusBadRequest })
	f.command(t, nil, "bench", "--duration", "500ms").want(t, exitFailed).wantStderr(t, "requests failed; the first: ", "refused by the test")
	f.command(t, nil, "bench", "get", "--duration", "500ms").want(t, exitFailed).wantStderr(t, "refused by the test")
}

func TestHistogram_Percentiles(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var all histogram
	var parts [3]histogram
	var exact []time.Duration
	for i := range 30_000 {
		d := time.Duration(random.ExpFloat64() * float64(time.Millisecond))
		exact = append(exact, d)
		parts[i%3].add(d)
	}
	for i := range parts {
		all.merge(&parts[i])
	}
	slices.Sort(exact)
	for _, p := range []float64{0, 1, 50, 90, 99, 99.9, 100} {
		want := exact[min(max(int(p/100*30_000+0.5), 1), 30_000)-1]
		if got := all.percentile(p); got < want || float64(got) > float64(want)*1.02+1 {
			t.Errorf("percentile %v is %v, want %v", p, got, want)
		}
	}
	if all.max != exact[len(exact)-1] || all.count != 30_000 || all.mean() < 900*time.Microsecond || all.mean() > 1100*time.Microsecond {
		t.Errorf("max %v, count %d, mean %v", all.max, all.count, all.mean())
	}
	var empty histogram
	if empty.percentile(50) != 0 || empty.mean() != 0 {
		t.Error("an empty histogram has figures")
	}
}

func TestHistogram_BucketsAreDense(t *testing.T) {
	for v := uint64(0); v < 1<<20; v++ {
		i := bucketOf(v)
		if end := bucketEnd(i); v > end || i > 0 && v <= bucketEnd(i-1) {
			t.Fatalf("%d is in bucket %d, which ends at %d", v, i, end)
		}
	}
	var h histogram
	h.add(1<<63 - 1)
	h.add(-1)
	if h.max != 1<<63-1 {
		t.Error(h.max)
	}
}
