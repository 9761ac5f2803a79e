package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var measured = flag.String("program", "", "oncekv to judge; empty: build this one")

// smallValues returns settings with which large values are measured within a minute, or with
// -short within seconds.
func smallValues(t *testing.T, cases ...string) settings {
	s := tiny(t)
	s.Parts, s.Systems, s.Program = []string{"values"}, []string{"oncekv"}, *measured
	s.Values = valueSettings{Cases: cases, Rounds: 1, Gets: 1, Sizes: byteCounts{64 << 10}, Total: 1 << 20, PutsMax: 64,
		Large: 128 << 20, GetBytes: 1 << 20, Keys: 10, DeadBytes: 64 << 20, Away: 128 << 20, Kills: 4, Beside: 3 * time.Second}
	if testing.Short() {
		s.Values.Large, s.Values.Keys, s.Values.DeadBytes, s.Values.Away, s.Values.Kills, s.Values.Beside = 64<<20, 5, 32<<20, 64<<20, 2, 2*time.Second
	}
	return s
}

// onLinux skips tests that need the kernel's counters of processes, or holes in files.
func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("figures of processes and of holes in files are Linux's")
	}
}

// TestValues_Beside checks how much a large put slows small ones, with bounds that a busy
// machine keeps too. It runs alone, because it measures latencies.
func TestValues_Beside(t *testing.T) {
	onLinux(t)
	s := smallValues(t, "beside")
	f, large := judged(t, s), sized(int64(s.Values.Large))
	f.most(t, "200 small puts a second beside a PUT of "+large+": worst, ms", 3000)
	if p99 := f.of(t, "200 small puts a second beside a PUT of "+large+": p99, ms"); p99 > 1000 {
		f.most(t, "200 small puts a second: p99 beside a PUT of "+large+" ÷ without", 20)
	}
	f.least(t, fmt.Sprintf("PUT of %s beside small puts ÷ dd conv=fsync of %s, rates", large, sized(nodes*int64(s.Values.Large))), 0.02)
}

// TestValues checks what else large values cost. The case dead mostly waits for a node to
// reclaim room; other cases run meanwhile.
func TestValues(t *testing.T) {
	onLinux(t)
	t.Parallel()
	t.Run("dead", func(t *testing.T) {
		t.Parallel()
		s := smallValues(t, "dead")
		f := judged(t, s)
		f.most(t, sized(int64(s.Values.DeadBytes))+" of uploads that come to nothing: room is back after, s", 60)
		f.most(t, "live and dead bytes of /stats are off from the room of the files by", 0.1)
		if p99 := f.of(t, "small puts while room comes back: p99, ms"); p99 > 500 {
			f.most(t, "small puts: p99 while room comes back ÷ before", 10)
		}
	})
	t.Run("same", func(t *testing.T) {
		t.Parallel()
		s := smallValues(t, "same")
		s.Values.Large /= 2
		judged(t, s).most(t, fmt.Sprintf("the same %s under %d keys: room of a node ÷ of the value", sized(int64(s.Values.Large)), s.Values.Keys), 1.3)
	})
	t.Run("away", func(t *testing.T) {
		t.Parallel()
		s := smallValues(t, "away")
		f, away := judged(t, s), sized(int64(s.Values.Away))
		for _, who := range []string{"the leader", "the follower", "the one that catches up"} {
			f.most(t, away+" while a node is away: log of "+who+", MB at most", 260)
			f.most(t, away+" while a node is away: memory of "+who+", RSS without page cache, MB at most", 400)
		}
	})
	t.Run("figures", func(t *testing.T) { // what the others do not judge
		t.Parallel()
		testFigures(t)
	})
}

func testFigures(t *testing.T) {
	s := smallValues(t, "writes", "trace", "put", "get")
	s.Values.Large = 2 << 20
	f := judged(t, s)
	for _, name := range []string{
		"16 values of 64 KiB, 16 in flight: bytes written ÷ of values", "2 values of 64 KiB, 1 in flight: bytes written ÷ of values",
		"16 values of 64 KiB, 64 in flight, traced: bytes written ÷ of values, by system calls",
		"PUT of 2 MiB ÷ dd conv=fsync of 6 MiB, rates", "GET of 1 MiB from a database node ÷ from nginx, rates", "GET of 1 MiB from a cache node ÷ from nginx, rates",
	} {
		figure, there := f[name]
		for word, tool := range map[string]string{"traced": "strace", "nginx": "nginx"} {
			if _, err := exec.LookPath(tool); err != nil && !there && strings.Contains(name, word) && os.Getenv("ONCEKV_TEST_FULL") == "" {
				t.Logf("%s is not installed", tool)
				figure = 1
			}
		}
		if figure <= 0 && runtime.GOOS == "linux" {
			t.Errorf("%s: %v", name, figure)
		}
	}
}

// medians holds the medians of all findings by name.
type medians map[string]float64

func judged(t *testing.T, s settings) medians {
	t.Helper()
	all := medians{}
	for _, f := range runs(t, s).Findings {
		t.Logf("%s: %s", f.Name, short(f.Median))
		all[f.Name] = f.Median
	}
	return all
}

func (m medians) of(t *testing.T, name string) float64 {
	t.Helper()
	f, ok := m[name]
	if !ok {
		t.Errorf("nothing was found about %q", name)
	}
	return f
}

func (m medians) most(t *testing.T, name string, bound float64) {
	t.Helper()
	if f := m.of(t, name); f > bound {
		t.Errorf("%s: %v; want at most %v", name, f, bound)
	}
}

func (m medians) least(t *testing.T, name string, bound float64) {
	t.Helper()
	if f := m.of(t, name); f < bound {
		t.Errorf("%s: %v; want at least %v", name, f, bound)
	}
}

// No block of a value is in another value, or twice in the same; and a wrong byte is noticed.
func TestContent(t *testing.T) {
	noise, seen := newNoise(), map[string]bool{}
	for seed := range uint64(3) {
		c := &content{seed: seed, size: 1<<20 + 1000, noise: noise}
		b, err := io.ReadAll(c)
		if err != nil || int64(len(b)) != c.size {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		for at := 0; at < len(b); at += contentBlock {
			block := string(b[at:min(at+contentBlock, len(b))])
			if seen[block] {
				t.Fatalf("the block at %d of value %d was there before", at, seed)
			}
			seen[block] = true
		}
		if err := c.equals(bytes.NewReader(b)); err != nil {
			t.Error(err)
		}
		for _, wrong := range [][]byte{b[:len(b)-1], append(bytes.Clone(b), 0), flipped(b, len(b)-1), flipped(b, 5)} {
			if c.equals(bytes.NewReader(wrong)) == nil {
				t.Error("other bytes are taken for the same")
			}
		}
	}
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func TestByteCount(t *testing.T) {
	for text, want := range map[string]string{"64KiB": "64 KiB", "1GiB": "1 GiB", "1025": "1025", "20 MiB": "20 MiB"} {
		var n byteCount
		if err := n.Set(text); err != nil || n.String() != want {
			t.Errorf("%s: %v, %v", text, n.String(), err)
		}
		if err := n.Set(n.String()); err != nil || n.String() != want {
			t.Errorf("%s again: %v, %v", text, n.String(), err)
		}
	}
	var n byteCount
	if n.Set("1-2") == nil || n.Set("many") == nil {
		t.Error("what is no number of bytes is taken for one")
	}
}

// A call that another thread interrupts is counted once; writes outside the directory, and
// failed ones, are not counted.
func TestTracer_Written(t *testing.T) {
	dir := t.TempDir()
	lines := strings.ReplaceAll(`10 pwrite64(7<DIR/history.db>, ""..., 4096, 8192) = 4096
10 write(8<DIR/wal/0.wal>, ""..., 100 <unfinished ...>
11 pwrite64(9</elsewhere/file>, ""..., 50, 0) = 50
11 pwrite64(9<DIR/values/1.values>, ""..., 70, 0) = 70
11 write(8<DIR/wal/0.wal>, ""..., 100) = -1 ENOSPC (No space left on device)
10 <... write resumed>) = 100
12 pwritev(9<DIR/values/2.values>, [{iov_base=""..., iov_len=5}], 1, 0) = 5
`, "DIR", dir)
	tr := &tracer{file: filepath.Join(dir, "trace")}
	if err := os.WriteFile(tr.file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := tr.written(dir)
	if want := map[string]int64{"history.db": 4096, "wal/": 100, "values/": 75}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
