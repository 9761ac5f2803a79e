package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// history serves GET /changes of a history that can grow. Followed streams end
// with the test or with hangUp.
type history struct {
	mu     sync.Mutex
	last   uint64
	grown  chan struct{}
	every  int           // a stream breaks off after so many changes; 0: never
	hangUp chan struct{} // closed: streams break off
}

func newHistory(last uint64) *history {
	return &history{last: last, grown: make(chan struct{}), hangUp: make(chan struct{})}
}

func (h *history) grow(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last += n
	close(h.grown)
	h.grown = make(chan struct{})
}

func (h *history) state() (last uint64, grown chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.grown
}

// keyOf: every third revision is of a key below odd/.
func keyOf(revision uint64) string {
	if revision%3 == 0 {
		return fmt.Sprintf("odd/%d", revision)
	}
	return fmt.Sprintf("k%d", revision)
}

func valueOf(revision uint64) []byte {
	if revision%2 == 0 {
		return []byte{0xff, byte(revision)}
	}
	return fmt.Appendf(nil, "v%d", revision)
}

func lineOf(revision uint64, values bool) string {
	value := valueOf(revision)
	doc := map[string]any{"revision": revision, "key": keyOf(revision), "size": len(value), "sha256": digestOf(value), "content_type": "text/plain"}
	if values {
		doc["value"] = string(value)
		if revision%2 == 0 {
			doc["value"], doc["encoding"] = base64.StdEncoding.EncodeToString(value), api.EncodingBase64
		}
	}
	data, _ := json.Marshal(doc)
	return string(data) + "\n"
}

func (h *history) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	at, _ := strconv.ParseUint(q.Get("since"), 10, 64)
	http.NewResponseController(w).Flush()
	for sent := 0; ; {
		last, grown := h.state()
		for at < last {
			at++
			if strings.HasPrefix(keyOf(at), q.Get("prefix")) {
				io.WriteString(w, lineOf(at, q.Get("values") == "true"))
				sent++
			}
			if sent == h.every && h.every > 0 {
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		}
		if q.Get("follow") != "true" {
			return
		}
		fmt.Fprintf(w, `{"event":"heartbeat","revision":%d}`+"\n\n", at) // heartbeat
		http.NewResponseController(w).Flush()
		select {
		case <-grown:
		case <-h.hangUp:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			return
		}
	}
}

func bytesOf(t *testing.T, c Change) []byte {
	t.Helper()
	value, carried, err := c.Bytes()
	if !carried || err != nil {
		t.Fatalf("revision %d carries no value: %v", c.Revision, err)
	}
	return value
}

func TestClient_Changes_All(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, newHistory(100).ServeHTTP)
	c, _ := newClient(t, u)
	want := uint64(10)
	for ch, err := range c.Changes(t.Context(), ChangesOptions{Since: 10, Values: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if want++; ch.Revision != want || ch.Key != keyOf(want) || !bytes.Equal(bytesOf(t, ch), valueOf(want)) {
			t.Fatalf("change %d is %+v", want, ch)
		}
	}
	if want != 100 || requests.Load() != 1 {
		t.Errorf("ended at %d after %d requests", want, requests.Load())
	}
}

func TestClient_Changes_ResumesEverywhere(t *testing.T) {
	t.Parallel()
	h := newHistory(1000)
	h.every = 7
	a, requestsA := endpoint(t, h.ServeHTTP)
	b, requestsB := endpoint(t, h.ServeHTTP)
	c, pauses := newClient(t, deadEndpoint(t), a, b)
	for _, prefix := range []string{"", "odd/"} {
		seen, breaks := uint64(0), 0
		count := 0
		for ch, err := range c.Changes(t.Context(), ChangesOptions{Prefix: prefix, OnBreak: func(error) { breaks++ }}) {
			if err != nil {
				t.Fatal(err)
			}
			if ch.Revision <= seen || !strings.HasPrefix(ch.Key, prefix) {
				t.Fatalf("%+v after %d", ch, seen)
			}
			seen = ch.Revision
			count++
		}
		if want := map[string]int{"": 1000, "odd/": 333}[prefix]; count != want || breaks < want/7 {
			t.Errorf("prefix %q: %d changes in %d streams, want %d", prefix, count, breaks, want)
		}
	}
	if requestsA.Load() == 0 || requestsB.Load() == 0 || pauses.Load() > 2 {
		t.Errorf("%d and %d requests, %d pauses", requestsA.Load(), requestsB.Load(), pauses.Load())
	}
}

func TestClient_Changes_Limit(t *testing.T) {
	t.Parallel()
	h := newHistory(50)
	h.every = 4
	u, _ := endpoint(t, h.ServeHTTP)
	c, _ := newClient(t, u)
	n := 0
	for _, err := range c.Changes(t.Context(), ChangesOptions{Limit: 10, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 10 {
		t.Errorf("%d changes, want 10", n)
	}
}

func TestClient_Changes_FollowsThroughDeaths(t *testing.T) {
	t.Parallel()
	first, second := newHistory(20), newHistory(20)
	a, _ := endpoint(t, first.ServeHTTP)
	b, _ := endpoint(t, second.ServeHTTP)
	c, _ := newClient(t, a, b)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	at := uint64(0)
	for ch, err := range c.Changes(ctx, ChangesOptions{Follow: true}) {
		if err != nil {
			if at != 60 || !errors.Is(err, context.Canceled) {
				t.Errorf("at %d: %v", at, err)
			}
			return
		}
		if at++; ch.Revision != at {
			t.Fatalf("revision %d, want %d", ch.Revision, at)
		}
		switch at {
		case 20:
			first.grow(20)
			second.grow(40)
		case 40:
			close(first.hangUp)
		case 60:
			stop()
		}
	}
	t.Error("the loop ended without an error")
}

// A follower outlives a time without any node, longer than the retry timeout.
func TestClient_Changes_FollowOutlivesOutage(t *testing.T) {
	t.Parallel()
	h := newHistory(3)
	outage := 50
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if outage > 0 {
			outage--
			problem(w, Problem{Type: api.ProblemUnavailable, Status: 503, Detail: "no leader"})
			return
		}
		h.ServeHTTP(w, r)
	})
	c, _ := newClient(t, u)
	c.retryTimeout = time.Nanosecond
	told := 0
	for _, err := range c.Changes(t.Context(), ChangesOptions{Follow: true, Limit: 3, OnBreak: func(err error) {
		if told++; !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	}}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if told != 50 {
		t.Errorf("told %d times", told)
	}
	for _, err := range c.Changes(t.Context(), ChangesOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestClient_Changes_GivesUpWithoutFollow(t *testing.T) {
	t.Parallel()
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	c, _ := newClient(t, u, deadEndpoint(t))
	c.retryTimeout = time.Nanosecond
	for _, err := range c.Changes(t.Context(), ChangesOptions{}) {
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
	}
}

// What one node gets wrong is read from another one; when all of them do, it
// is an error.
func TestClient_Changes_ChecksTheHistory(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string]string{
		"gap":            lineOf(1, false) + lineOf(3, false),
		"repeat":         lineOf(1, false) + lineOf(1, false),
		"back":           lineOf(1, false) + lineOf(2, false) + lineOf(1, false),
		"zero":           lineOf(0, false),
		"heartbeat":      lineOf(1, false) + `{"revision":9}` + "\n",
		"not JSON":       "<html>\n",
		"wrong value":    `{"revision":1,"key":"k1","value":"x","sha256":"` + digestOf([]byte("y")) + `"}` + "\n",
		"wrong encoding": `{"revision":1,"key":"k1","value":"x","encoding":"rot13"}` + "\n",
		"wrong key":      `{"revision":1,"key_base64":"?"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			bad, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("since") == "0" {
					io.WriteString(w, lines)
					return
				}
				io.WriteString(w, "<html>\n")
			})
			c, _ := newClient(t, bad)
			var last error
			for _, err := range c.Changes(t.Context(), ChangesOptions{Follow: true}) {
				last = err
			}
			if !errors.Is(last, ErrServer) {
				t.Errorf("%v, want ErrServer", last)
			}
			good, _ := endpoint(t, newHistory(5).ServeHTTP)
			c, _ = newClient(t, bad, good)
			at := uint64(0)
			for ch, err := range c.Changes(t.Context(), ChangesOptions{Limit: 5}) {
				if at++; err != nil || ch.Revision != at {
					t.Fatalf("change %d is %+v, %v", at, ch, err)
				}
			}
		})
	}
}

func TestClient_Changes_PrefixHeartbeatIsRemembered(t *testing.T) {
	t.Parallel()
	var since []string
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		since = append(since, r.URL.Query().Get("since"))
		if len(since) == 1 {
			io.WriteString(w, `{"revision":500}`+"\n")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, lineOf(501, false))
	})
	c, _ := newClient(t, u)
	for range c.Changes(t.Context(), ChangesOptions{Prefix: "odd/", Follow: true, Limit: 1}) {
	}
	if strings.Join(since, " ") != "0 500" {
		t.Errorf("since %v", since)
	}
}

func TestClient_Changes_Refusals(t *testing.T) {
	t.Parallel()
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemInvalid, Status: 400, Detail: "bad"})
	})
	c, _ := newClient(t, u)
	for _, err := range c.Changes(t.Context(), ChangesOptions{Follow: true}) {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%v", err)
		}
	}
	requests := 0
	u, _ = endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			io.WriteString(w, lineOf(1, false)+`{"event":"end","revision":1,"reason":"slow","detail":"too slow"}`+"\n")
			return
		}
		io.WriteString(w, lineOf(2, false))
	})
	c, _ = newClient(t, u)
	at := 0
	for _, err := range c.Changes(t.Context(), ChangesOptions{OnBreak: func(err error) {
		if !strings.Contains(err.Error(), "the node ended the stream (slow): too slow") {
			t.Error(err)
		}
	}}) {
		if at++; err != nil {
			t.Errorf("change %d: %v", at, err)
		}
	}
	if at != 2 || requests != 2 {
		t.Errorf("%d changes in %d requests", at, requests)
	}
}

func TestLineReader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200_000)
	r := newLineReader(iotest.OneByteReader(strings.NewReader("a\n\r\n  \nb\r\n" + long + "\nc\nunfinished")))
	for _, want := range []string{"a", "b", long, "c"} {
		if line, err := r.next(); err != nil || string(line) != want {
			t.Fatalf("%.20q, %v, want %.20q", line, err, want)
		}
	}
	if _, err := r.next(); err != io.ErrUnexpectedEOF {
		t.Errorf("%v for a line that broke off", err)
	}
}
