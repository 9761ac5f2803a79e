//go:build unix

package kvstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	bigKeys = flag.Int("big.keys", 0, "load a store with so many keys and print what it costs (TestBigStore)")
	bigDir  = flag.String("big.dir", "", "where TestBigStore keeps its files; default: a temporary directory")
)

const (
	bigBatch   = 1000
	bigValue   = 256
	bigKeySize = 32
)

// bigKey is the key of put i: in random order.
func bigKey(i int) Key {
	return Key(sumOf(binary.BigEndian.AppendUint64(nil, uint64(i))).String()[:bigKeySize])
}

// bigCommands makes puts of 32-byte keys and values that nothing can compress.
func bigCommands(random *rand.ChaCha8, from, n int) [][]byte {
	cmds := make([][]byte, n)
	value := make([]byte, bigValue)
	for i := range cmds {
		_, _ = random.Read(value)
		cmds[i] = testPut(bigKey(from+i), fmt.Sprintf("%016x%016x", random.Uint64(), from+i), "", value, time.Unix(1_700_000_000, int64(from+i)*1000))
	}
	return cmds
}

// TestBigStore is a measurement, not a test: it loads a store on files, with Run
// beside, and prints speed, memory, bytes, and what restart, reads and the
// catching up of a fresh replica take.
//
//	go test ./kvstore -run TestBigStore -big.keys 10000000 -timeout 30m -v
func TestBigStore(t *testing.T) {
	if *bigKeys == 0 {
		t.Skip("set -big.keys to run it")
	}
	dir := *bigDir
	if dir == "" {
		dir = t.TempDir()
	}
	var b big
	b.t = t
	s := openDir(t, filepath.Join(dir, "a"), StoreConfig{})
	stop := startRun(t, s)
	b.load(s, *bigKeys)
	st := s.Stats()
	stop()
	t.Logf("memtable at the end: %d keys, %d bytes", st.OverlayKeys, st.OverlayBytes)
	b.disk(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s = openDir(t, filepath.Join(dir, "a"), StoreConfig{})
	t.Logf("reopened in %v, with %d keys to bring into the memtable", time.Since(began), s.Stats().OverlayKeys)
	b.gets(s, *bigKeys)
	b.catchUp(s, filepath.Join(dir, "b"), filepath.Join(dir, "copy"))
}

type big struct {
	t *testing.T
}

// load puts n keys, in entries of 1,000.
func (b *big) load(s *Store, n int) {
	watch := b.watchMemory()
	random := rand.NewChaCha8([32]byte{1})
	written, cpu := procNumber(b.t, "/proc/self/io", "write_bytes:"), cpuTime(b.t)
	var gen, slowest time.Duration
	var tenths []time.Duration
	began, last := time.Now(), time.Duration(0)
	for from := 0; from < n; from += bigBatch {
		at := time.Now()
		cmds := bigCommands(random, from, min(bigBatch, n-from))
		gen += time.Since(at)
		at = time.Now()
		if _, err := applyTo(s, uint64(from+1), 1, cmds, nil); err != nil {
			b.t.Fatal(err)
		}
		slowest = max(slowest, time.Since(at))
		if done := from + len(cmds); done*10/n > len(tenths) {
			now := time.Since(began)
			tenths = append(tenths, now-last)
			last = now
		}
	}
	if err := s.Commit(); err != nil {
		b.t.Fatal(err)
	}
	cpu, written = cpuTime(b.t)-cpu, procNumber(b.t, "/proc/self/io", "write_bytes:")-written
	for i, d := range tenths {
		b.t.Logf("tenth %2d: %7.0f keys/s", i+1, float64(n)/10/d.Seconds())
	}
	b.t.Logf("last tenth ÷ first: %.2f; slowest entry %v", tenths[0].Seconds()/tenths[len(tenths)-1].Seconds(), slowest)
	b.t.Logf("CPU: %.2f µs a key, of which making the commands is about %.2f", cpu.Seconds()*1e6/float64(n), gen.Seconds()*1e6/float64(n))
	b.t.Logf("written: %.2f × (keys + values), without a log", float64(written)/float64(n*(bigValue+bigKeySize)))
	b.t.Logf("private memory at most %d MB", watch()>>20)
}

func (b *big) disk(s *Store) {
	st := s.Stats()
	payload := float64(st.Keys * (bigValue + bigKeySize))
	b.t.Logf("on disk: history %.3f + index %.3f = %.3f × (keys + values)",
		float64(st.HistoryBytes)/payload, float64(st.IndexBytes)/payload, float64(st.HistoryBytes+st.IndexBytes)/payload)
}

// gets reads random keys and one hot key, each for some seconds, in turns.
func (b *big) gets(s *Store, n int) {
	const round = 50_000
	read := func(pick func() int) time.Duration {
		began := time.Now()
		for range round {
			if _, err := s.Get(bigKey(pick())); err != nil {
				b.t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	var random, hot time.Duration
	const rounds = 8
	for range rounds {
		random += read(func() int { return rand.IntN(n) })
		hot += read(func() int { return n / 3 })
	}
	began := time.Now()
	for i := range round {
		if _, err := s.Get(bigKey(n + i)); !errors.Is(err, ErrNotFound) {
			b.t.Fatal(err)
		}
	}
	b.t.Logf("GET: random %v, hot %v, absent %v; hot ÷ random time %.2f", random/(rounds*round), hot/(rounds*round), time.Since(began)/round, hot.Seconds()/random.Seconds())
}

// catchUp lets a fresh store pull everything, over HTTP, and compares that with a
// copy of the files.
func (b *big) catchUp(sender *Store, dir, copyDir string) {
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		b.t.Fatal(err)
	}
	fetch := b.serve(sender)
	s := openDir(b.t, dir, StoreConfig{})
	stop := startRun(b.t, s)
	defer stop()
	cpu, written := cpuTime(b.t), procNumber(b.t, "/proc/self/io", "write_bytes:")
	watch := b.watchMemory()
	began := time.Now()
	if err := s.Stage(b.t.Context(), snapshot, fetch, testFetch); err != nil {
		b.t.Fatal(err)
	}
	staged := time.Since(began)
	if err := s.Install(index, 7, meta, snapshot); err != nil {
		b.t.Fatal(err)
	}
	if err := s.FlushIndex(); err != nil {
		b.t.Fatal(err)
	}
	took := time.Since(began)
	cpu = cpuTime(b.t) - cpu
	written = procNumber(b.t, "/proc/self/io", "write_bytes:") - written
	b.t.Logf("caught up in %v, staged after %v; CPU of both sides %v; private memory at most %d MB", took, staged, cpu, watch()>>20)
	copied := b.copyFiles(sender, copyDir)
	b.t.Logf("a copy took %v; copy ÷ catching up: %.2f; written: %.2f × (keys + values)", copied, copied.Seconds()/took.Seconds(), float64(written)/float64(s.Stats().Keys*(bigValue+bigKeySize)))
	b.disk(s)
}

func (b *big) serve(sender *Store) func(ctx ctxT, query string) (io.ReadCloser, error) {
	socket := filepath.Join(b.t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		b.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sender.Serve(r.Context(), r.URL.RawQuery, w); err != nil {
			panic(http.ErrAbortHandler)
		}
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	b.t.Cleanup(func() { _ = srv.Close(); client.CloseIdleConnections(); wg.Wait() })
	return func(ctx ctxT, query string) (io.ReadCloser, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sender/?"+query, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		return resp.Body, nil
	}
}

// copyFiles copies what a store has and syncs it, as cp would.
func (b *big) copyFiles(s *Store, dir string) time.Duration {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	began := time.Now()
	history := filepath.Join(s.dir, historyFile)
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(history), indexDir, "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, path := range append(paths, history) {
		from, err := os.Open(path)
		if err != nil {
			b.t.Fatal(err)
		}
		to, err := os.Create(filepath.Join(dir, filepath.Base(path)))
		if err != nil {
			b.t.Fatal(err)
		}
		// Not copy_file_range, which may share blocks.
		_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 1<<20))
		if err := errors.Join(err, to.Sync(), to.Close(), from.Close()); err != nil {
			b.t.Fatal(err)
		}
	}
	return time.Since(began)
}

// watchMemory notes the largest private memory until its result is called.
func (b *big) watchMemory() func() int64 {
	runtime.GC()
	done := make(chan struct{})
	var most int64
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, procNumber(b.t, "/proc/self/status", "RssAnon:")<<10)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return func() int64 {
		close(done)
		wg.Wait()
		return most
	}
}

// procNumber reads a number of this process; 0 where there is no such file.
func procNumber(t *testing.T, file, name string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == name {
			n, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err != nil {
				t.Error(err)
			}
			return n
		}
	}
	return 0
}

// cpuTime is what this process has used of the processors.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
