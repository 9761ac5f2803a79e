package main

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRun_Huge loads as many keys as several flushes of the index take, with -short as many as
// one takes; then it loads some at a steady rate.
func TestRun_Huge(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory and room of processes are Linux's")
	}
	t.Parallel()
	s := tiny(t)
	s.Parts, s.Streams, s.HugeKeys, s.HugePacedKeys, s.HugeRate = []string{"huge"}, 1, 2_000_000, 200_000, 20_000
	if testing.Short() {
		s.HugeKeys, s.HugePacedKeys = 600_000, 60_000
	}
	keys := count(s.HugeKeys) + " keys: "
	r := runs(t, s)
	for _, name := range []string{
		keys + "last tenth of the load ÷ first tenth", keys + "restart to ready after kill -9, s",
		keys + "GET of random keys ÷ of one key", keys + "GET of keys that are not set ÷ of one that is",
		keys + "memory of the node at most, RSS without page cache, MB", keys + "room of the node at most, the log included, GB",
		keys + "bytes on disk, all but the log, ÷ keys and values", count(s.HugePacedKeys) + " keys: … worst put, ms",
	} {
		i := slices.IndexFunc(r.Findings, func(f finding) bool { return f.Name == name })
		if i < 0 || r.Findings[i].Median <= 0 {
			t.Errorf("nothing was found about %s", name)
		}
	}
	for _, m := range r.Medians {
		if m.Errors > 0 || m.Name == "oncekv/huge-paced" && (m.PerSecond > 20_500 || m.PerSecond < 1000) {
			t.Errorf("%+v", m)
		}
	}
}

// A node that takes more room than allowed is stopped, and leaves nothing behind. With less
// room than that on the disk, none is started.
func TestRun_HugeBounded(t *testing.T) {
	for _, c := range []struct {
		room byteCount
		want string
	}{{1 << 10, "-huge-room"}, {1 << 60, "make room"}} {
		s := tiny(t)
		s.Parts, s.HugeRoom = []string{"huge"}, c.room
		err := run(t.Context(), s, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with room for %d bytes: %v; want an error about %q", c.room, err, c.want)
		}
		left(t, s)
	}
}

// Every put counts from when it was due: puts that a pause delays are late together, each as
// long as it really waited.
func TestPauses(t *testing.T) {
	start := time.Now()
	p := newPauses(&pace{start: start, second: 1000})
	for n := range 1000 {
		due := start.Add(time.Duration(n) * time.Millisecond)
		at := due.Add(2 * time.Millisecond)
		if n >= 100 && n < 400 { // nothing is answered for 300 ms
			at = start.Add(400 * time.Millisecond)
		}
		if n == 700 {
			at = due.Add(101 * time.Millisecond)
		}
		p.answered(at)
	}
	m := p.measurement(start.Add(time.Second))
	if p.pauses != 2 || p.late != 201 || m.Max < 299 || m.Max > 301 || m.P50 < 1.9 || m.P50 > 2.1 || m.PerSecond != 1000 {
		t.Errorf("%d pauses with %d late puts, %+v; want 2 with 201, up to 300 ms", p.pauses, p.late, m)
	}
}

// A silence lasts from one answer to the next.
func TestSilence(t *testing.T) {
	start := time.Now()
	s := &silence{last: start}
	for _, at := range []time.Duration{3, 5, 12, 13} {
		s.ends(start.Add(at * time.Second))
	}
	if s.longest != 7*time.Second {
		t.Errorf("%v, want 7 s", s.longest)
	}
}
