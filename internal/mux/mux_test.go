package mux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

// node takes streams, and answers each frame with answer on a goroutine of its own;
// nil says nothing.
type node struct {
	*httptest.Server
	streams, frames atomic.Int64
	answer          func(out []byte, get frame.Get) []byte
}

func newNode(t *testing.T, answer func(out []byte, get frame.Get) []byte) *node {
	n := &node{answer: answer}
	n.Server = httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(n.Close)
	return n
}

func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	n.streams.Add(1)
	conn := http.NewResponseController(w)
	_ = conn.EnableFullDuplex()
	w.WriteHeader(http.StatusContinue)
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", api.ContentTypeFrames)
	w.WriteHeader(http.StatusOK)
	_ = conn.Flush()
	var mu sync.Mutex
	var answering sync.WaitGroup
	defer answering.Wait()
	frames := frame.NewReader(r.Body)
	for {
		f, err := frames.Next()
		if err != nil {
			return
		}
		n.frames.Add(1)
		get, _ := f.Get()
		answering.Go(func() {
			out := n.answer(nil, get)
			mu.Lock()
			defer mu.Unlock()
			w.Write(out)
			_ = conn.Flush()
		})
	}
}

func echo(out []byte, get frame.Get) []byte {
	return frame.AppendValue(out, &frame.Value{ID: get.ID, Revision: 1, Value: []byte(get.Key)})
}

// asked is a get of a key.
type asked struct {
	key, value string
}

func (a *asked) AppendFrame(out []byte, id uint32) []byte {
	return frame.AppendGet(out, &frame.Get{ID: id, Key: a.key})
}

func (a *asked) Answered(f *frame.Frame) error {
	v, err := f.Value()
	a.value = string(v.Value)
	return err
}

func newLanes(t *testing.T, patience time.Duration) *Lanes {
	l := NewLanes(&http.Client{Transport: &http.Transport{}}, patience)
	t.Cleanup(l.Close)
	return l
}

func stream(t *testing.T, l *Lane) *Stream {
	t.Helper()
	s := l.Await(t.Context())
	if s == nil {
		t.Fatal("no stream")
	}
	return s
}

// TestLane_ManyCalls: each of many calls on one stream gets its own answer.
func TestLane_ManyCalls(t *testing.T) {
	t.Parallel()
	n := newNode(t, echo)
	s := stream(t, newLanes(t, time.Minute).Lane(n.URL, nil))
	var calls sync.WaitGroup
	for i := range 300 {
		calls.Go(func() {
			a := asked{key: fmt.Sprint(i)}
			if sent, err := s.Do(t.Context(), new(Call), &a, time.Minute); !sent || err != nil || a.value != a.key {
				t.Errorf("%q: %q, %v, %v", a.key, a.value, sent, err)
			}
		})
	}
	calls.Wait()
	if n.streams.Load() != 1 || n.frames.Load() != 300 {
		t.Errorf("%d streams, %d frames", n.streams.Load(), n.frames.Load())
	}
}

// TestLane_Await: it waits for the answer to a stream that is being opened, and gives
// none where the node does not take it. Such a node is left alone for a while.
func TestLane_Await(t *testing.T) {
	t.Parallel()
	for status, pause := range map[int]time.Duration{http.StatusOK: unsupportedPause, http.StatusUnsupportedMediaType: unsupportedPause, http.StatusTooManyRequests: retryPause, http.StatusServiceUnavailable: retryPause} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			gate := make(chan struct{})
			old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				<-gate
				w.WriteHeader(status)
			}))
			t.Cleanup(old.Close)
			l := newLanes(t, time.Minute).Lane(old.URL, nil)
			if l.Stream() != nil {
				t.Error("a stream before the answer")
			}
			got := make(chan *Stream)
			go func() { got <- l.Await(t.Context()) }()
			close(gate)
			if s := <-got; s != nil {
				t.Error("a stream of a node that refused it")
			}
			if l.Await(t.Context()) != nil || requests.Load() != 1 {
				t.Errorf("%d requests", requests.Load())
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if again := time.Until(l.after); again <= pause/2 || again > pause {
				t.Errorf("it is asked again in %v", again)
			}
		})
	}
}

// TestLane_Silent: a stream that says nothing takes no more calls, and after the
// lanes' patience ends those that it has.
func TestLane_Silent(t *testing.T) {
	t.Parallel()
	for name, patience := range map[string]time.Duration{"retired": time.Hour, "over": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := make(chan struct{})
			n := newNode(t, func([]byte, frame.Get) []byte { <-gate; return nil })
			defer close(gate)
			lanes := newLanes(t, time.Hour)
			l := lanes.Lane(n.URL, nil)
			s := stream(t, l)
			lanes.patience = patience
			other := make(chan error, 1)
			go func() {
				_, err := s.Do(t.Context(), new(Call), &asked{key: "other"}, time.Hour)
				other <- err
			}()
			for s.Open() == 0 {
				runtime.Gosched()
			}
			if sent, err := s.Do(t.Context(), new(Call), &asked{key: "k"}, 50*time.Millisecond); !sent || err != ErrIdle {
				t.Errorf("%v, %v", sent, err)
			}
			if l.current.Load() != nil {
				t.Error("it takes calls")
			}
			if name == "retired" {
				if s.Open() != 1 {
					t.Errorf("%d calls are open", s.Open())
				}
				lanes.Close()
			}
			if err := <-other; name == "over" && err != ErrIdle || name == "retired" && err != ErrClosed {
				t.Error(err)
			}
		})
	}
}

// TestLane_EndedByNode: the problem that a node ends a stream with reaches every call.
func TestLane_EndedByNode(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(out []byte, _ frame.Get) []byte {
		return frame.AppendProblem(out, &frame.Problem{Status: 503, Detail: "stopping"})
	})
	s := stream(t, newLanes(t, time.Minute).Lane(n.URL, nil))
	_, err := s.Do(t.Context(), new(Call), &asked{key: "k"}, time.Minute)
	var ended *EndedError
	if !errors.As(err, &ended) || ended.Problem.Detail != "stopping" {
		t.Error(err)
	}
	if sent, err := s.Do(t.Context(), new(Call), &asked{key: "k"}, time.Minute); sent || err != ErrRetired {
		t.Error(sent, err)
	}
}

// TestLane_Rest: a stream that is idle ends, and the next calls get another.
func TestLane_Rest(t *testing.T) {
	t.Parallel()
	n := newNode(t, echo)
	l := newLanes(t, time.Minute).Lane(n.URL, nil)
	s := stream(t, l)
	if _, err := s.Do(t.Context(), new(Call), &asked{key: "k"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	s.rest() // a call has come since the last time
	if l.current.Load() != s {
		t.Fatal("a stream in use ends")
	}
	s.rest()
	<-s.over
	for l.Await(t.Context()) == nil {
		runtime.Gosched()
	}
	if l.current.Load() == s || n.streams.Load() != 2 {
		t.Errorf("%d streams", n.streams.Load())
	}
}

// put is a frame of a known size.
type put []byte

func (p put) AppendFrame(out []byte, id uint32) []byte {
	return frame.AppendPut(out, &frame.Put{ID: id, Key: "k", Value: p})
}

func (p put) Answered(*frame.Frame) error { return nil }

// TestCaller_Room: frames that nobody takes do not pile up. Those that found room may leave
// although their callers have gone; no other does.
func TestCaller_Room(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	c := NewCaller(limit)
	value := make(put, 32<<10)
	var sent, unsent atomic.Int64
	var calls sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 100 {
		calls.Go(func() {
			was, err := c.Do(ctx, new(Call), value, time.Hour)
			if err == nil {
				t.Error("it is answered")
			}
			if was {
				sent.Add(1)
			} else {
				unsent.Add(1)
			}
		})
	}
	buf := make([]byte, len(value)+100) // the first frame, and the second one's head
	for read := 0; read < len(buf); {
		n, err := c.read(t.Context(), buf[read:])
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	for c.Len() < limit {
		runtime.Gosched()
	}
	cancel()
	calls.Wait()
	if held := c.Len(); held > limit+frame.BytesMax {
		t.Errorf("%d bytes are held", held)
	}
	c.End()
	rest, err := io.ReadAll(reading{func(p []byte) (int, error) { return c.read(t.Context(), p) }})
	if err != nil {
		t.Fatal(err)
	}
	var left int64
	for frames := frame.NewReader(io.MultiReader(bytes.NewReader(buf), bytes.NewReader(rest))); ; left++ {
		if _, err := frames.Next(); err != nil {
			break
		}
	}
	if left < 3 || left > 99 || sent.Load() != left || unsent.Load() != 100-left {
		t.Errorf("%d left; %d may have arrived, %d not", left, sent.Load(), unsent.Load())
	}
}

// reading is an io.Reader.
type reading struct{ read func(p []byte) (int, error) }

func (r reading) Read(p []byte) (int, error) { return r.read(p) }

// stuck is a connection that takes nothing until it is closed.
type stuck struct{ closed chan struct{} }

func (s *stuck) Write([]byte) (int, error) { <-s.closed; return 0, io.ErrClosedPipe }

// TestQueue_Send: what was added leaves in order, and a connection that takes nothing
// is given up.
func TestQueue_Send(t *testing.T) {
	t.Parallel()
	q := NewQueue(10)
	r, w := io.Pipe()
	sending := make(chan error, 1)
	go func() { sending <- q.Send(w, time.Minute, func() {}) }()
	go func() {
		for i := range 100 {
			_ = q.Add(context.Background(), nil, func(out []byte) []byte { return fmt.Appendf(out, "%3d", i) })
			q.Flush()
		}
		q.End()
	}()
	for i := range 100 {
		var got [3]byte
		if _, err := io.ReadFull(r, got[:]); err != nil || string(got[:]) != fmt.Sprintf("%3d", i) {
			t.Fatalf("%q, %v: want %d", got, err, i)
		}
	}
	if err := <-sending; err != nil {
		t.Error(err)
	}
	if err := q.Add(t.Context(), nil, func(out []byte) []byte { return out }); err != ErrOver {
		t.Error(err)
	}

	q = NewQueue(10)
	_ = q.Add(t.Context(), nil, func(out []byte) []byte { return append(out, 1) })
	conn := &stuck{closed: make(chan struct{})}
	if err := q.Send(conn, time.Millisecond, func() { close(conn.closed) }); err != io.ErrClosedPipe {
		t.Error(err)
	}
}
