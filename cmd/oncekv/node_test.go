package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/level"
)

// fakeNode stops when told to.
type fakeNode struct {
	done     chan struct{}
	err      error
	closeErr error
	closed   bool
	limit    time.Duration // time that Close was given
}

func newFakeNode() *fakeNode { return &fakeNode{done: make(chan struct{})} }

func (n *fakeNode) URL() string           { return "http://127.0.0.1:1" }
func (n *fakeNode) Done() <-chan struct{} { return n.done }
func (n *fakeNode) Err() error            { return n.err }
func (n *fakeNode) Close(ctx context.Context) error {
	n.closed = true
	if d, ok := ctx.Deadline(); ok {
		n.limit = time.Until(d)
	}
	return n.closeErr
}

func TestSupervise_ContextEnds(t *testing.T) {
	a, b := newFakeNode(), newFakeNode()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := quietApp().supervise(ctx, namedNode{"a", a}, namedNode{"b", b}); err != nil {
		t.Fatal(err)
	}
	if !a.closed || !b.closed || a.limit <= time.Second || a.limit > 4*time.Second {
		t.Fatalf("closed %t and %t, within %s", a.closed, b.closed, a.limit)
	}
}

func TestSupervise_NodeStops(t *testing.T) {
	a, b := newFakeNode(), newFakeNode()
	b.err, b.closeErr = errors.New("the disk failed at offset 12"), errors.New("said once")
	close(b.done)
	err := quietApp().supervise(t.Context(), namedNode{"database node n1", a}, namedNode{"database node n2", b})
	if err == nil || exitCode(err) != exitFailed || err.Error() != "database node n2 stopped: the disk failed at offset 12" {
		t.Fatalf("error %v", err)
	}
	if !a.closed {
		t.Fatal("the other node was not closed")
	}
}

// A node that meets data of a newer version must not be restarted as it is.
func TestSupervise_OtherVersion(t *testing.T) {
	if err := startError(t.Context(), "n1", &level.EarlierError{What: "the data"}); exitCode(err) != exitUsage {
		t.Errorf("exit code %d: %v", exitCode(err), err)
	}
	n := newFakeNode()
	n.err = fmt.Errorf("apply: %w", &level.LaterError{What: "log entry 17", Level: 3, Known: 2})
	close(n.done)
	err := quietApp().supervise(t.Context(), namedNode{"database node n1", n})
	if exitCode(err) != exitUsage || exitCode(startError(t.Context(), "n1", n.err)) != exitUsage {
		t.Fatalf("exit code %d: %v", exitCode(err), err)
	}
	var stderr strings.Builder
	report(&stderr, "oncekv serve", err)
	if text := stderr.String(); !strings.Contains(text, "(level 3); this program knows up to 2") || strings.Contains(text, "--help") {
		t.Errorf("%s", text)
	}
}

func TestSupervise_CloseFails(t *testing.T) {
	a := newFakeNode()
	a.closeErr = errors.New("a flush failed")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := quietApp().supervise(ctx, namedNode{"a", a}); err == nil || !strings.Contains(err.Error(), "close a: a flush failed") {
		t.Fatalf("error %v", err)
	}
}

// signalTest drives watchSignals with its own clock.
type signalTest struct {
	signals  chan os.Signal
	done     chan struct{}
	canceled chan struct{}
	exited   chan int
	now      chan time.Time
	ended    chan struct{}
}

func startSignalTest() *signalTest {
	s := &signalTest{make(chan os.Signal), make(chan struct{}), make(chan struct{}, 1), make(chan int, 1), make(chan time.Time), make(chan struct{})}
	go func() {
		defer close(s.ended)
		watchSignals(s.signals, s.done, func() { s.canceled <- struct{}{} }, func() time.Time { return <-s.now }, func(code int) { s.exited <- code })
	}()
	return s
}

func (s *signalTest) signal(at time.Duration) {
	s.signals <- syscall.SIGTERM
	s.now <- time.Unix(1000, 0).Add(at)
}

func TestWatchSignals(t *testing.T) {
	s := startSignalTest()
	s.signal(0)
	<-s.canceled
	s.signal(10 * time.Millisecond)
	s.signal(999 * time.Millisecond)
	s.signal(1500 * time.Millisecond)
	if code := <-s.exited; code == exitDone {
		t.Fatalf("exit code %d", code)
	}
	close(s.done)
	<-s.ended
	if len(s.canceled) != 0 || len(s.exited) != 0 {
		t.Fatal("a signal within the first second counted")
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1": 1, "64MiB": 64 << 20, "64 mib": 64 << 20, "1GB": 1e9, "1GiB": 1 << 30, "1536": 1536, "1.5KiB": 1536} {
		var b byteSize
		must(t, b.Set(in))
		if int64(b) != want {
			t.Errorf("%s is %d, want %d", in, b, want)
		}
		var again byteSize
		must(t, again.Set(b.String()))
		if again != b {
			t.Errorf("%s is written %s, which is %d", in, b.String(), again)
		}
	}
	for _, in := range []string{"", "x", "-1", "1XB", "99999999EB", "8EiB"} {
		if err := new(byteSize).Set(in); err == nil {
			t.Errorf("%q is accepted", in)
		}
	}
}

func TestAsk(t *testing.T) {
	var out bytes.Buffer
	must(t, ask(t.Context(), strings.NewReader("n1\n"), &out, forceQuestion("n1"), "n1"))
	if !strings.Contains(out.String(), `Type "n1"`) {
		t.Fatalf("asked %q", out.String())
	}
	for _, answer := range []string{"", "y\n", "n2\n"} {
		if err := ask(t.Context(), strings.NewReader(answer), io.Discard, "?", "n1"); err == nil {
			t.Errorf("%q was taken for a yes", answer)
		}
	}
}

func TestMeter_CountsOnce(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "put", 10)
	m := p.meter(strings.NewReader("0123456789"))
	buf := make([]byte, 6)
	for range 3 { // sent three times: the first two broke off
		_, err := m.Seek(0, io.SeekStart)
		must(t, err)
		_, err = io.ReadFull(m, buf)
		must(t, err)
	}
	if got := p.bar.State().CurrentNum; got != 6 {
		t.Fatalf("%d bytes counted, want 6", got)
	}
	_, err := io.ReadAll(m)
	must(t, err)
	p.finish()
	p.finish()
	if got := p.bar.State().CurrentNum; got != 10 {
		t.Fatalf("%d bytes counted, want 10", got)
	}
	var none *progress
	none.add(1)
	none.finish()
	if r := strings.NewReader("x"); none.meter(r) != io.ReadSeeker(r) || none.count(r) != io.Reader(r) {
		t.Fatal("without a bar nothing is wrapped")
	}
}

func quietApp() *app { return &app{stderr: io.Discard} }
