package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

// batchStore decides puts by the rules of the database, for any number of endpoints.
type batchStore struct {
	mu   sync.Mutex
	sets map[string]batchSet
}

type batchSet struct {
	putID string
	frame.Winner
}

func newBatchStore() *batchStore { return &batchStore{sets: map[string]batchSet{}} }

func (s *batchStore) decide(key, putID string, value []byte) (won batchSet, created, conflict bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	won, set := s.sets[key]
	digest := sha256.Sum256(value)
	if !set {
		won = batchSet{putID, frame.Winner{Revision: uint64(len(s.sets) + 1), Size: uint64(len(value)), Digest: digest}}
		s.sets[key] = won
	}
	return won, won.putID == putID, won.Digest != digest
}

// frame answers a put in a frame.
func (s *batchStore) frame(out []byte, f frame.Frame, put *frame.Put, _ *frame.Get) []byte {
	won, created, conflict := s.decide(put.Key, put.PutID, put.Value)
	if conflict {
		return frame.AppendProblem(out, &frame.Problem{ID: f.ID, Status: 409, Type: api.ProblemConflict, Detail: "set", HasWinner: true, Winner: won.Winner})
	}
	return frame.AppendSet(out, &frame.Set{ID: f.ID, Created: created, Winner: won.Winner})
}

// single answers a PUT.
func (s *batchStore) single(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut { // a ping
		return
	}
	value, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	won, created, _ := s.decide(strings.TrimPrefix(r.URL.Path, "/key/"), r.Header.Get(api.HeaderPutID), value)
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"revision":%d,"sha256":"%x","size":%d,"created":%v}`, won.Revision, won.Digest, won.Size, created)
}

func newBatchNode(t *testing.T, s *batchStore) *framesNode {
	n := newFramesNode(t)
	n.answer, n.alone = s.frame, s.single
	return n
}

// answers is a node that answers every frame with a problem.
func answers(t *testing.T, p frame.Problem) *framesNode {
	n := newFramesNode(t)
	n.answer = func(out []byte, f frame.Frame, _ *frame.Put, _ *frame.Get) []byte {
		answer := p
		if p.ID != 0 {
			answer.ID = f.ID
		}
		return frame.AppendProblem(out, &answer)
	}
	n.alone = func(w http.ResponseWriter, _ *http.Request) {
		problem(w, Problem{Type: p.Type, Status: int(p.Status), Detail: p.Detail})
	}
	return n
}

func items(n int) iter.Seq[PutItem] {
	return func(yield func(PutItem) bool) {
		for i := range n {
			if !yield(PutItem{Key: fmt.Sprintf("k%d", i), Value: fmt.Appendf(nil, "v%d", i)}) {
				return
			}
		}
	}
}

func batchClient(t *testing.T, endpoints ...string) *Client {
	t.Helper()
	c, _ := newClient(t, endpoints...)
	t.Cleanup(c.Close)
	return c
}

func putAll(t *testing.T, c *Client, items iter.Seq[PutItem]) (results []PutResult) {
	t.Helper()
	for r, err := range c.PutAll(t.Context(), items) {
		if err != nil {
			t.Fatalf("after %d results: %v", len(results), err)
		}
		if r.Index != len(results) {
			t.Fatalf("result %d has index %d", len(results), r.Index)
		}
		results = append(results, r)
	}
	return results
}

func TestClient_PutAll_ResultsInOrder(t *testing.T) {
	t.Parallel()
	n := newBatchNode(t, newBatchStore())
	c := batchClient(t, n.url)
	const count = 10_000 // more than fit ahead of the results
	for _, want := range []string{"created", "unchanged"} {
		results := putAll(t, c, items(count))
		for i, r := range results {
			if r.Status != want || r.Key != fmt.Sprintf("k%d", i) || r.Err != nil || r.Resent || r.Revision == 0 || r.Size == 0 || r.SHA256 != digestOf(fmt.Appendf(nil, "v%d", i)) {
				t.Fatalf("result %d is %+v, want %s", i, r, want)
			}
		}
		if len(results) != count {
			t.Fatalf("%d results", len(results))
		}
	}
	if results := putAll(t, c, items(0)); len(results) != 0 {
		t.Errorf("no items: %d results", len(results))
	}
	if n.streams.Load() != 1 || n.singles.Load() != 0 {
		t.Errorf("%d streams, %d requests", n.streams.Load(), n.singles.Load())
	}
}

func TestClient_PutAll_TypedErrors(t *testing.T) {
	t.Parallel()
	s := newBatchStore()
	n := newBatchNode(t, s)
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if put.Key == "refused" {
			return frame.AppendProblem(out, &frame.Problem{ID: f.ID, Status: 400, Type: api.ProblemInvalid, Detail: "no"})
		}
		return s.frame(out, f, put, get)
	}
	results := putAll(t, batchClient(t, n.url), func(yield func(PutItem) bool) {
		_ = yield(PutItem{Key: "k", Value: []byte("first"), ContentType: "text/x"}) &&
			yield(PutItem{Key: "k", Value: []byte("second")}) &&
			yield(PutItem{Key: "", Value: []byte("x")}) &&
			yield(PutItem{Key: "k\xff", Value: []byte{0xff, 0}}) &&
			yield(PutItem{Key: "empty"}) &&
			yield(PutItem{Key: "meta", Meta: map[string]string{"Not": "x"}}) &&
			yield(PutItem{Key: "refused"})
	})
	var lost *ConflictError
	if err := results[1].Err; results[1].Status != "conflict" || !errors.Is(err, ErrConflict) || !errors.As(err, &lost) || lost.Revision != results[0].Revision || lost.SHA256 != digestOf([]byte("first")) || results[1].Size != 5 {
		t.Errorf("conflict: %+v", results[1])
	}
	for _, i := range []int{2, 5, 6} {
		if err := results[i].Err; results[i].Status != "invalid" || !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), "put ") {
			t.Errorf("invalid: %+v", results[i])
		}
	}
	for _, i := range []int{0, 3, 4} {
		if results[i].Status != "created" || results[i].Err != nil {
			t.Errorf("item %d: %+v", i, results[i])
		}
	}
}

// TestClient_PutAll_SameKey: items with one key are decided in their order, whatever the
// order in which a node decides puts that are under way together.
func TestClient_PutAll_SameKey(t *testing.T) {
	t.Parallel()
	s := newBatchStore()
	n := newBatchNode(t, s)
	var slow atomic.Int64
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if slow.Add(1)%2 == 1 {
			<-time.After(time.Millisecond)
		}
		return s.frame(out, f, put, get)
	}
	results := putAll(t, batchClient(t, n.url), func(yield func(PutItem) bool) {
		for i := range 300 {
			if !yield(PutItem{Key: fmt.Sprint(i / 3), Value: fmt.Append(nil, i%3)}) {
				return
			}
		}
	})
	for i, r := range results {
		if want := []string{"created", "conflict", "conflict"}[i%3]; r.Status != want {
			t.Errorf("item %d: %+v", i, r)
		}
	}
}

// TestClient_PutAll_ResendsElsewhere: whatever nodes do with streams and items,
// everything is decided in the end, in order, and each item that set its key is told
// so, however often it was sent.
func TestClient_PutAll_ResendsElsewhere(t *testing.T) {
	t.Parallel()
	s := newBatchStore()
	breaking := newBatchNode(t, s)
	breaking.breaks = func(frames int64) bool { return frames%40 == 0 }
	failing := answers(t, frame.Problem{ID: 1, Status: 503, Type: api.ProblemUnavailable, Detail: "not now"})
	unknown := answers(t, frame.Problem{ID: 1, Status: 504, Type: api.ProblemOutcomeUnknown, Detail: "not now"})
	ending := answers(t, frame.Problem{Status: 503, Type: api.ProblemUnavailable, Detail: "not now"})
	c := batchClient(t, breaking.url, deadEndpoint(t), failing.url, unknown.url, ending.url)
	results := putAll(t, c, items(200))
	if len(results) != 200 || len(s.sets) != 200 || breaking.streams.Load() < 2 {
		t.Fatalf("%d results, %d keys, %d streams", len(results), len(s.sets), breaking.streams.Load())
	}
	resent := 0
	for i, r := range results {
		if r.Key != fmt.Sprintf("k%d", i) || r.Err != nil || r.Status != "created" {
			t.Fatalf("result %d is %+v", i, r)
		}
		if r.Resent {
			resent++
		}
	}
	if resent == 0 {
		t.Error("nothing was sent again")
	}
}

// TestClient_PutAll_FullDuplex: results come while the next item is not there yet, and a
// slow source keeps the stream.
func TestClient_PutAll_FullDuplex(t *testing.T) {
	t.Parallel() // most of it waits
	n := newBatchNode(t, newBatchStore())
	c, err := New(Config{Endpoints: []string{n.url}, IdleTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := make(chan struct{}, 1)
	next <- struct{}{}
	count := 0
	for r, err := range c.PutAll(within(t, time.Minute), func(yield func(PutItem) bool) {
		for i := range 20 {
			<-next // only after the result of the one before
			if i == 6 {
				<-time.After(2 * time.Second) // longer than the idle timeout
			}
			if !yield(PutItem{Key: fmt.Sprint("k", i)}) {
				return
			}
		}
	}) {
		if err != nil || r.Status != "created" {
			t.Fatalf("%+v, %v", r, err)
		}
		count++
		next <- struct{}{}
	}
	if count != 20 || n.streams.Load() != 1 {
		t.Errorf("%d results in %d streams", count, n.streams.Load())
	}
}

func TestClient_PutAll_HungEndpoint(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	defer close(gate)
	hung := newFramesNode(t)
	hung.answer = func([]byte, frame.Frame, *frame.Put, *frame.Get) []byte { <-gate; return nil }
	hung.alone = func(http.ResponseWriter, *http.Request) { <-gate }
	good := newBatchNode(t, newBatchStore())
	c := impatientClient(t, 500*time.Millisecond, hung.url, good.url)
	if results := putAll(t, c, items(10)); len(results) != 10 || !results[0].Resent || results[0].Status != "created" {
		t.Errorf("%+v", results)
	}
}

func TestClient_PutAll_GivesUp(t *testing.T) {
	t.Parallel()
	lost := newFramesNode(t)
	lost.broken.Store(true)
	lost.alone = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	s := newBatchStore()
	first := newBatchNode(t, s)
	first.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if put.Key == "k0" {
			return frame.AppendProblem(out, &frame.Problem{ID: f.ID, Status: 507, Type: api.ProblemDiskReserve, Detail: "full"})
		}
		return s.frame(out, f, put, get)
	}
	for name, test := range map[string]struct {
		n    *framesNode
		want error
	}{
		"refused":     {answers(t, frame.Problem{ID: 1, Status: 503, Type: api.ProblemUnavailable, Detail: "no leader"}), ErrUnavailable},
		"ended":       {answers(t, frame.Problem{Status: 503, Type: api.ProblemUnavailable, Detail: "stopping"}), ErrUnavailable},
		"full":        {answers(t, frame.Problem{ID: 1, Status: 507, Type: api.ProblemDiskReserve, Detail: "full"}), ErrDiskReserve},
		"unknown":     {answers(t, frame.Problem{ID: 1, Status: 504, Type: api.ProblemOutcomeUnknown, Detail: "no answer"}), ErrOutcomeUnknown},
		"lost":        {lost, ErrOutcomeUnknown},
		"others done": {first, ErrOutcomeUnknown},
		"not allowed": {answers(t, frame.Problem{ID: 1, Status: 403, Type: api.ProblemForbidden, Detail: "no"}), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := batchClient(t, test.n.url)
			c.retryTimeout = 100 * time.Millisecond
			count := 1
			if name == "others done" {
				count = 3
			}
			var last error
			for r, err := range c.PutAll(t.Context(), items(count)) {
				if last = err; r.Index != 0 {
					t.Errorf("result %+v", r)
				}
			}
			if !errors.Is(last, test.want) || !strings.HasPrefix(last.Error(), "put many: ") {
				t.Errorf("%v, want %v", last, test.want)
			}
		})
	}
}

func TestClient_PutAll_EndsWithLoopAndContext(t *testing.T) {
	before := runtime.NumGoroutine()
	n := newBatchNode(t, newBatchStore())
	c := batchClient(t, n.url)
	var taken atomic.Int64
	endless := func(yield func(PutItem) bool) {
		for yield(PutItem{Key: fmt.Sprint(taken.Add(1))}) {
		}
	}
	for range c.PutAll(t.Context(), endless) {
		break
	}
	if n := taken.Load(); n > 2*batchItemsMax {
		t.Errorf("%d items were taken for one result", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range c.PutAll(ctx, endless) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("%v, want the context's error", last)
	}
	c.Close()
	n.server.Close()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// TestClient_PutAll_CancelledBetweenItems: an item that was sent when the context ended is
// told of: its outcome is unknown.
func TestClient_PutAll_CancelledBetweenItems(t *testing.T) {
	store := newBatchStore()
	c := batchClient(t, newBatchNode(t, store).url)
	putAll(t, c, items(1))
	eventually(t, "a stream is up", func() bool { return c.streams.puts[0].Stream() != nil })
	told := map[string]error{}
	for i := range 50 {
		key := fmt.Sprint("cancelled", i)
		ctx, cancel := context.WithCancel(t.Context())
		for _, err := range c.PutAll(ctx, func(yield func(PutItem) bool) {
			cancel()
			yield(PutItem{Key: key})
		}) {
			told[key] = err
		}
	}
	putAll(t, c, items(2)) // whatever was sent before is decided
	c.Close()
	for key, err := range told {
		if _, set := store.sets[key]; set && !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%s is set, and PutAll ended with %v", key, err)
		}
	}
}

// TestClient_PutAll_Memory: values that wait for results are bounded.
func TestClient_PutAll_Memory(t *testing.T) {
	t.Parallel()
	n := newBatchNode(t, newBatchStore())
	gate := make(chan struct{})
	n.answer = func([]byte, frame.Frame, *frame.Put, *frame.Get) []byte { <-gate; return nil }
	defer close(gate)
	c := batchClient(t, n.url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const size = 60_000
	var taken atomic.Int64
	go func() {
		eventually(t, "the window is full", func() bool { return taken.Load() >= batchBytesMax/size })
		cancel()
	}()
	for range c.PutAll(ctx, func(yield func(PutItem) bool) {
		for yield(PutItem{Key: fmt.Sprint(taken.Add(1)), Value: make([]byte, size)}) {
		}
	}) {
	}
	if got := taken.Load(); got > batchBytesMax/size+1 {
		t.Errorf("%d values of %d bytes were taken", got, size)
	}
}

func TestClient_PutAll_DigestMismatch(t *testing.T) {
	t.Parallel()
	n := newFramesNode(t)
	n.answer = func(out []byte, f frame.Frame, _ *frame.Put, _ *frame.Get) []byte {
		return frame.AppendSet(out, &frame.Set{ID: f.ID, Created: true, Winner: frame.Winner{Revision: 1, Digest: sha256.Sum256(nil)}})
	}
	if results := putAll(t, batchClient(t, n.url), items(1)); !errors.Is(results[0].Err, ErrDigestMismatch) || results[0].Status != "created" {
		t.Errorf("%+v", results[0])
	}
}

// TestClient_PutAll_Large: values that do not fit a frame go as requests of their own.
func TestClient_PutAll_Large(t *testing.T) {
	t.Parallel()
	s := newBatchStore()
	n := newBatchNode(t, s)
	sizes := []int{0, frame.ValueBytesMax, frame.ValueBytesMax + 1, 9 << 20, 5}
	results := putAll(t, batchClient(t, n.url), func(yield func(PutItem) bool) {
		for i, size := range sizes {
			if !yield(PutItem{Key: fmt.Sprint(i), Value: make([]byte, size)}) {
				return
			}
		}
	})
	for i, r := range results {
		if r.Status != "created" || r.Size != int64(sizes[i]) || r.Err != nil {
			t.Errorf("%+v", r)
		}
	}
	if n.frames.Load() != 3 || n.singles.Load() != 2 {
		t.Errorf("%d frames, %d requests", n.frames.Load(), n.singles.Load())
	}
}

// TestClient_PutAll_NoFrames: an endpoint that does not know frames gets requests, a few
// at a time.
func TestClient_PutAll_NoFrames(t *testing.T) {
	t.Parallel()
	s := newBatchStore()
	n := newBatchNode(t, s)
	n.open = func(w http.ResponseWriter, r *http.Request) bool {
		problem(w, Problem{Type: api.ProblemUnsupportedMedia, Status: 415})
		return false
	}
	var now, most atomic.Int64
	n.alone = func(w http.ResponseWriter, r *http.Request) {
		at := now.Add(1)
		for seen := most.Load(); at > seen && !most.CompareAndSwap(seen, at); seen = most.Load() {
		}
		s.single(w, r)
		now.Add(-1)
	}
	c, err := New(Config{Endpoints: []string{n.url}, SingleRequests: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, r := range putAll(t, c, items(1000)) {
		if r.Status != "created" || r.Key != fmt.Sprint("k", i) {
			t.Fatalf("%+v", r)
		}
	}
	if n.singles.Load() != 1000 || most.Load() > batchAlone {
		t.Errorf("%d requests, %d at a time", n.singles.Load(), most.Load())
	}
}

// TestClient_PutAll_SilenceIsToldOnce: that nobody answers is told for all items, as one
// request.
func TestClient_PutAll_SilenceIsToldOnce(t *testing.T) {
	t.Parallel()
	var told []Silence
	c, err := New(Config{Endpoints: []string{deadEndpoint(t)}, RetryTimeout: 3 * time.Second, OnSilence: func(s Silence) { told = append(told, s) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, err := range c.PutAll(t.Context(), items(50)) {
		if !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	}
	if len(told) != 1 || told[0].Op != "put many" {
		t.Errorf("told %+v", told)
	}
}
