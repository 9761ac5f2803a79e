package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// clientCommands calls do with every command line that talks to a cluster.
func clientCommands(t *testing.T, do func(line []string)) {
	t.Helper()
	args := map[string][]string{
		"put": {"k", "v"}, "get": {"k"}, "stat": {"k"}, "import": {files(t, map[string]string{"a": "x"})},
		"add": {"n4", "--peer-url", "http://h:1", "--client-url", "http://h:2"}, "remove": {"n3", "--yes"}, "promote": {"n3"},
	}
	everyCommand(func(cmd *cobra.Command, words []string) {
		if cmd.Flags().Lookup("endpoints") != nil || cmd.InheritedFlags().Lookup("endpoints") != nil {
			do(append(slices.Clone(words), args[cmd.Name()]...))
		}
	})
}

// If nothing listens, every command says so at once, and how to wait.
func TestNobodyListens(t *testing.T) {
	addr := clustertest.FreeAddr(t)
	n := 0
	clientCommands(t, func(line []string) {
		n++
		start := time.Now()
		r := runCommand(t, strings.NewReader("{\"key\":\"k\",\"value\":\"v\"}\n"), map[string]string{"ONCEKV_ENDPOINTS": "http://" + addr}, line...)
		if r.code != exitFailed || time.Since(start) > 5*time.Second || !strings.Contains(r.stderr, "refused") || !strings.Contains(r.stderr, "--wait") {
			t.Errorf("%q: exit code %d after %s\n%s", line, r.code, time.Since(start), r.stderr)
		}
	})
	if n < 13 {
		t.Errorf("%d command lines were tried", n)
	}
}

// safeBuffer signals every write to it.
type safeBuffer struct {
	mu      sync.Mutex
	text    strings.Builder
	written chan struct{}
}

func newSafeBuffer() *safeBuffer { return &safeBuffer{written: make(chan struct{}, 1)} }

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.written <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A command that waits says within about a second for what, and until when.
func TestSilenceIsTold(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	must(t, err)
	defer hung.Close()
	closed := clustertest.FreeAddr(t)
	for _, line := range [][]string{
		{"get", "k", "--endpoints", hung.Addr().String()},
		{"put", "k", "v", "--endpoints", closed, "--wait"},
		{"members", "--endpoints", closed, "--wait"},
		{"ls", "--endpoints", closed + "," + hung.Addr().String()},
		{"watch", "--endpoints", closed, "--wait", "--since", "0"},
		{"stats", "--endpoints", closed, "--wait"},
		{"import", files(t, map[string]string{"a": "x", "b": "x"}), "--endpoints", closed, "--wait"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		stderr, ended := newSafeBuffer(), make(chan int, 1)
		start := time.Now()
		go func() {
			ended <- run(ctx, line, nil, io.Discard, stderr, func(string) string { return "" })
		}()
		select {
		case <-stderr.written:
		case <-ended:
		case <-time.After(20 * time.Second):
		}
		got := stderr.String()
		if took := time.Since(start); took < 500*time.Millisecond || took > 5*time.Second || !strings.HasPrefix(got, "oncekv: no node answers at http://"+line[slices.Index(line, "--endpoints")+1][:9]) || !strings.Contains(got, "trying until") {
			t.Errorf("%q: after %s:\n%s", line, took, got)
		}
		cancel()
		<-ended
		if all := stderr.String(); strings.Count(all, "trying until") != 1 {
			t.Errorf("%q: said more than once:\n%s", line, all)
		}
	}
}

// --wait waits for a node that starts later.
func TestWait_NodeComesLater(t *testing.T) {
	addr := clustertest.FreeAddr(t)
	stderr, ended := newSafeBuffer(), make(chan int, 1)
	go func() {
		ended <- run(t.Context(), []string{"put", "k", "v", "--endpoints", addr}, nil, io.Discard, stderr, func(name string) string {
			return map[string]string{"ONCEKV_WAIT": "true"}[name]
		})
	}()
	<-stderr.written
	f := newFakeAPI(t)
	l, err := net.Listen("tcp", addr)
	must(t, err)
	server := &http.Server{Handler: f.Config.Handler}
	defer server.Close()
	go server.Serve(l)
	if code := <-ended; code != exitDone || f.body("k") != "v" {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
}

// A slow put whose bytes move is not silent.
func TestSilence_SlowButMoving(t *testing.T) {
	f := newFakeAPI(t)
	f.receive = func(body io.Reader) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 30 {
			<-tick.C
			io.CopyN(io.Discard, body, 256<<10)
		}
	}
	r := f.command(t, nil, "put", "k", "@"+largeFile(t)) // the fake takes what is left for the value
	if strings.Contains(r.stderr, "no node answers") {
		t.Errorf("said %s", r.stderr)
	}
}

// --timeout also ends a command whose connection is accepted but never answered.
func TestTimeout_SilentEndpoint(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer hung.Close()
	var running sync.WaitGroup
	clientCommands(t, func(line []string) {
		running.Go(func() {
			start := time.Now()
			env := map[string]string{"ONCEKV_ENDPOINTS": hung.Addr().String(), "ONCEKV_TIMEOUT": "1s"}
			r := runCommand(t, strings.NewReader("{\"key\":\"k\",\"value\":\"v\"}\n"), env, line...)
			if took := time.Since(start); r.code == exitDone || took > 5*time.Second {
				t.Errorf("%q: exit code %d after %s\n%s", line, r.code, took, r.stderr)
			}
		})
	})
	running.Wait()
}

// A command that waits for the other end of a named pipe says so within a second.
func TestPipeWithoutOtherEnd(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("v"))
	for _, c := range []struct{ line, other string }{{"get k -o ", "reader"}, {"put new @", "writer"}, {"batch ", "writer"}} {
		pipe := filepath.Join(t.TempDir(), "pi\npe") // a pipe of its own: an abandoned open may still be under way
		must(t, syscall.Mkfifo(pipe, 0o600))
		line := strings.Split(c.line+pipe, " ")
		ctx, cancel := context.WithCancel(t.Context())
		stderr, ended := newSafeBuffer(), make(chan int, 1)
		go func() {
			ended <- run(ctx, append(line, "--endpoints", f.URL), nil, io.Discard, stderr, func(string) string { return "" })
		}()
		select {
		case <-stderr.written:
		case <-ended:
		case <-time.After(20 * time.Second):
		}
		if got := stderr.String(); !strings.Contains(got, "waiting for a "+c.other+` of "`) || strings.Count(got, "\n") != 1 {
			t.Errorf("%q: %s", line, got)
		}
		cancel()
		<-ended
	}
}
