package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// batchStore decides the lines of POST /keys one by one, as they come, for any
// number of endpoints.
type batchStore struct {
	mu     sync.Mutex
	values map[string]string
	revs   map[string]uint64
}

func newBatchStore() *batchStore {
	return &batchStore{values: map[string]string{}, revs: map[string]uint64{}}
}

func (s *batchStore) decide(line []byte) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	var doc api.PutDocument
	if err := json.Unmarshal(line, &doc); err != nil {
		return map[string]any{"status": "invalid", "detail": err.Error()}
	}
	answer := map[string]any{"status": "created"}
	var key string
	if doc.Key != nil {
		key = *doc.Key
		answer["key"] = key
	} else {
		key = *doc.KeyBase64
		answer["key_base64"] = key
	}
	if key == "" {
		return map[string]any{"status": "invalid", "detail": "empty key", "type": api.ProblemInvalid}
	}
	value, set := s.values[key]
	if !set {
		value = *doc.Value
		s.values[key], s.revs[key] = value, uint64(len(s.revs)+1)
	} else if answer["status"] = "unchanged"; value != *doc.Value {
		answer["status"] = "conflict"
	}
	raw, _ := api.RawValue(value, doc.Encoding)
	answer["revision"], answer["size"], answer["sha256"] = s.revs[key], len(raw), digestOf(raw)
	return answer
}

// serve answers each line at once. after is called behind every result with
// their number, and may break the stream off.
func (s *batchStore) serve(after func(n int, w http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for n := 1; lines.Scan(); n++ {
			json.NewEncoder(w).Encode(s.decide(lines.Bytes()))
			rc.Flush()
			if after != nil {
				after(n, w)
			}
		}
	}
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
	s := newBatchStore()
	u, requests := endpoint(t, s.serve(nil))
	c, _ := newClient(t, u)
	const n = 10_000 // more than fit ahead of the results
	for _, want := range []string{"created", "unchanged"} {
		results := putAll(t, c, items(n))
		for i, r := range results {
			if r.Status != want || r.Key != fmt.Sprintf("k%d", i) || r.Err != nil || r.Resent || r.Revision != uint64(i+1) || r.Size == 0 {
				t.Fatalf("result %d is %+v, want %s", i, r, want)
			}
		}
		if len(results) != n {
			t.Fatalf("%d results", len(results))
		}
	}
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
	if results := putAll(t, c, items(0)); len(results) != 0 || requests.Load() != 2 {
		t.Errorf("no items: %d results, %d requests", len(results), requests.Load())
	}
}

func TestClient_PutAll_TypedErrors(t *testing.T) {
	s := newBatchStore()
	u, _ := endpoint(t, s.serve(nil))
	c, _ := newClient(t, u)
	results := putAll(t, c, func(yield func(PutItem) bool) {
		_ = yield(PutItem{Key: "k", Value: []byte("first"), ContentType: "text/x"}) &&
			yield(PutItem{Key: "k", Value: []byte("second")}) &&
			yield(PutItem{Key: "", Value: []byte("x")}) &&
			yield(PutItem{Key: "k\xff", Value: []byte{0xff, 0}}) &&
			yield(PutItem{Key: "empty"})
	})
	var lost *ConflictError
	if err := results[1].Err; !errors.Is(err, ErrConflict) || !errors.As(err, &lost) || lost.Revision != 1 || lost.SHA256 != digestOf([]byte("first")) || lost.Size != 5 {
		t.Errorf("conflict: %+v", results[1])
	}
	if err := results[2].Err; results[2].Status != "invalid" || !errors.Is(err, ErrInvalid) {
		t.Errorf("invalid: %+v", results[2])
	}
	for _, i := range []int{0, 3, 4} {
		if results[i].Status != "created" || results[i].Err != nil {
			t.Errorf("item %d: %+v", i, results[i])
		}
	}
}

// Streams that break off anywhere, and nodes that say "failed", "unknown" or
// "error": everything is decided in the end, in order.
func TestClient_PutAll_ResendsElsewhere(t *testing.T) {
	s := newBatchStore()
	breaking, broken := endpoint(t, s.serve(func(n int, w http.ResponseWriter) {
		if n == 5 {
			panic(http.ErrAbortHandler)
		}
	}))
	line := func(status string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"key":"?","status":%q,"type":%q,"detail":"not now","line":1}`+"\n", status, api.ProblemUnavailable)
		}
	}
	failing, _ := endpoint(t, line("failed"))
	unknown, _ := endpoint(t, line("unknown"))
	ending, _ := endpoint(t, line("error"))
	silent, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {})
	lying, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		bufio.NewReader(r.Body).ReadString('\n')
		io.WriteString(w, `{"key":"another","status":"created","revision":1}`+"\n")
	})
	c, _ := newClient(t, breaking, deadEndpoint(t), failing, unknown, ending, silent, lying)
	results := putAll(t, c, items(100))
	if len(results) != 100 || broken.Load() < 10 {
		t.Fatalf("%d results, %d streams", len(results), broken.Load())
	}
	resent := 0
	for i, r := range results {
		if r.Key != fmt.Sprintf("k%d", i) || r.Err != nil || r.Status != "created" && !r.Resent {
			t.Fatalf("result %d is %+v", i, r)
		}
		if r.Resent {
			resent++
		}
	}
	if resent == 0 || len(s.values) != 100 {
		t.Errorf("%d were sent again, %d keys are set", resent, len(s.values))
	}
}

// Results come while the next item is not there yet, and a slow source keeps
// the stream.
func TestClient_PutAll_FullDuplex(t *testing.T) {
	t.Parallel() // most of it waits
	s := newBatchStore()
	u, requests := endpoint(t, s.serve(nil))
	c, _ := newClient(t, u)
	c.idleTimeout = 2 * time.Second // of which a loaded machine may take a part for each result
	next := make(chan struct{}, 1)
	next <- struct{}{}
	n := 0
	for r, err := range c.PutAll(within(t, time.Minute), func(yield func(PutItem) bool) {
		for i := range 20 {
			<-next // only after the result of the one before
			if i == 6 {
				<-time.After(5 * time.Second) // longer than the idle timeout
			}
			if !yield(PutItem{Key: fmt.Sprint("k", i)}) {
				return
			}
		}
	}) {
		if err != nil || r.Status != "created" {
			t.Fatalf("%+v, %v", r, err)
		}
		n++
		next <- struct{}{}
	}
	if n != 20 || requests.Load() != 1 {
		t.Errorf("%d results in %d requests", n, requests.Load())
	}
}

func TestClient_PutAll_HungEndpoint(t *testing.T) {
	s := newBatchStore()
	hung, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		io.Copy(io.Discard, r.Body) // until the client has hung up
	})
	good, _ := endpoint(t, s.serve(nil))
	c, _ := newClient(t, hung, good)
	c.idleTimeout = 500 * time.Millisecond
	if results := putAll(t, c, items(10)); len(results) != 10 || !results[0].Resent {
		t.Errorf("%+v", results)
	}
}

func TestClient_PutAll_GivesUp(t *testing.T) {
	for name, test := range map[string]struct {
		serve http.HandlerFunc
		want  error
	}{
		"refused": {func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemUnavailable, Status: 503, Detail: "no leader"})
		}, ErrUnavailable},
		"error line": {func(w http.ResponseWriter, r *http.Request) {
			bufio.NewReader(r.Body).ReadString('\n')
			io.WriteString(w, `{"status":"error","detail":"stopping"}`+"\n")
		}, ErrUnavailable},
		"unknown": {func(w http.ResponseWriter, r *http.Request) {
			bufio.NewReader(r.Body).ReadString('\n')
			io.WriteString(w, `{"key":"k0","status":"unknown","detail":"no answer"}`+"\n")
		}, ErrOutcomeUnknown},
		"lost": {func(w http.ResponseWriter, r *http.Request) {
			bufio.NewReader(r.Body).ReadString('\n')
			panic(http.ErrAbortHandler)
		}, ErrOutcomeUnknown},
		"not allowed": {func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemForbidden, Status: 403, Detail: "no"})
		}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			u, _ := endpoint(t, test.serve)
			c, _ := newClient(t, u)
			c.retryTimeout = time.Nanosecond
			var last error
			for r, err := range c.PutAll(t.Context(), items(3)) {
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
	s := newBatchStore()
	u, _ := endpoint(t, s.serve(nil))
	c, _ := newClient(t, u)
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
}

func TestClient_PutAll_DigestMismatch(t *testing.T) {
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, `{"key":"k0","status":"created","revision":1,"sha256":%q}`+"\n", digestOf(nil))
	})
	c, _ := newClient(t, u)
	if results := putAll(t, c, items(1)); !errors.Is(results[0].Err, ErrDigestMismatch) {
		t.Errorf("%+v", results[0])
	}
}

// A line that is too long for a node, as JSON, costs that item only; what is no
// longer in JSON than in itself is no such line.
func TestClient_PutAll_LongLine(t *testing.T) {
	const limit = 1000
	store := newBatchStore()
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for n := 1; lines.Scan(); n++ {
			if len(lines.Bytes()) > limit {
				json.NewEncoder(w).Encode(api.BatchResult{Status: api.BatchError, Type: api.ProblemTooLarge, Line: uint64(n), Detail: "the line is too long"})
				return
			}
			json.NewEncoder(w).Encode(store.decide(lines.Bytes()))
			rc.Flush()
		}
	})
	c, _ := newClient(t, u)
	values := []string{"a", strings.Repeat("\x01", limit/2), strings.Repeat("<", limit/2), strings.Repeat("\x02", limit/2), "e"}
	all := putAll(t, c, func(yield func(PutItem) bool) {
		for i, value := range values {
			if !yield(PutItem{Key: fmt.Sprint("k", i), Value: []byte(value)}) {
				return
			}
		}
	})
	for i, r := range all {
		if tooLong := i%2 == 1; errors.Is(r.Err, ErrTooLarge) != tooLong || (r.Status == BatchInvalid) != tooLong || r.Index != i {
			t.Errorf("result %d: %+v", i, r)
		}
	}
	if len(all) != len(values) {
		t.Fatalf("%d results", len(all))
	}
}
