package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// endpoint starts a server that counts its requests.
func endpoint(t *testing.T, h http.HandlerFunc) (url string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

// deadEndpoint is a URL that nobody listens on any more.
func deadEndpoint(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	return s.URL
}

// newClient makes a client whose pauses take no time; pauses counts them.
func newClient(t *testing.T, endpoints ...string) (c *Client, pauses *atomic.Int64) {
	t.Helper()
	c, err := New(Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	pauses = new(atomic.Int64)
	c.wait = func(ctx context.Context, d time.Duration) error {
		pauses.Add(1)
		return ctx.Err()
	}
	return c, pauses
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func problem(w http.ResponseWriter, p Problem) {
	w.Header().Set("Content-Type", api.ContentTypeProblem)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// acceptPut answers a put with 201 and remembers what it carried.
func acceptPut(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(PutAnswer{Key: "k", Revision: 1, SHA256: digestOf(body), Size: int64(len(body)), Created: true})
}

func serveValue(w http.ResponseWriter, digest string, body []byte) {
	w.Header().Set("ETag", `"`+digest+`"`)
	w.Header().Set(api.HeaderRevision, "7")
	w.Header().Set(api.HeaderTime, "2024-05-06T07:08:09.123456789Z")
	w.Header().Set("Content-Type", "text/x-test")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body)
}

func TestNew_RefusesBadEndpoints(t *testing.T) {
	t.Parallel()
	for _, endpoints := range [][]string{nil, {""}, {"/path"}, {"h?x=1"}, {"ftp://h"}, {"http://h?x=1"}, {"http://"}} {
		if _, err := New(Config{Endpoints: endpoints}); !errors.Is(err, ErrInvalid) {
			t.Errorf("New(%q) = %v, want ErrInvalid", endpoints, err)
		}
	}
}

func TestKeyTarget_SurvivesDecodingAndCleaning(t *testing.T) {
	t.Parallel()
	all := make([]byte, 0, 255)
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
	}
	keys := []string{"a", "a b", "a+b", "a/b", "a%2Fb", "a%", "a?b#c", "a&b=c;d", "..", ".", "a/../b", "./a", "a//b", "/a", "a/", "\xff\xfe",
		"ünï/日本", string(all), strings.Repeat("k", 1024), strings.Repeat("\xff", 1024), "goproxy/!sirupsen/@v/v1.2.3.zip"}
	for _, key := range keys {
		for _, query := range []url.Values{nil, {"consistency": {"local"}}} {
			u, err := url.Parse("http://h" + api.KeyTarget(key, query))
			if err != nil {
				t.Fatalf("key %q: %v", key, err)
			}
			got := u.Query().Get("key")
			if u.Path != "/key" {
				got = strings.TrimPrefix(u.Path, "/key/")
				if cleaned := u.JoinPath("."); strings.TrimPrefix(cleaned.Path, "/key/") != key {
					t.Errorf("key %q: a cleaned path names %q", key, cleaned.Path)
				}
			}
			if got != key {
				t.Errorf("key %q arrives as %q", key, got)
			}
			if query != nil && u.Query().Get("consistency") != "local" {
				t.Errorf("key %q: query lost in %s", key, u)
			}
		}
	}
}

func TestClient_Put_KeyArrivesExactly(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.URL.Path, "/key/")
		if r.URL.Path == "/key" {
			key = r.URL.Query().Get("key")
		}
		mu.Lock()
		got = append(got, key)
		mu.Unlock()
		acceptPut(w, r)
	})
	c, _ := newClient(t, u)
	keys := []string{"a b", "a+b", "a%2Fb", "..", "a//b", "x/..", "\xff", strings.Repeat("\xfe/", 512)}
	for _, key := range keys {
		if _, err := c.PutBytes(t.Context(), key, []byte("v"), PutOptions{}); err != nil {
			t.Fatalf("put %q: %v", key, err)
		}
	}
	for i, key := range keys {
		if got[i] != key {
			t.Errorf("key %q arrived as %q", key, got[i])
		}
	}
}

func TestClient_RefusesBadKeysUnsent(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, acceptPut)
	c, _ := newClient(t, u)
	for _, key := range []string{"", "a\x00b", strings.Repeat("k", 1025)} {
		if _, err := c.PutBytes(t.Context(), key, nil, PutOptions{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("put %.5q: %v, want ErrInvalid", key, err)
		}
		if _, err := c.Get(t.Context(), key, GetOptions{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("get %.5q: %v, want ErrInvalid", key, err)
		}
	}
	if requests.Load() != 0 {
		t.Errorf("%d requests were sent", requests.Load())
	}
}

func TestClient_Put_RetriesWithOneIDAndWholeBody(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ids := map[string]int{}
	var bodies []string
	tries := 0
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		ids[r.Header.Get(api.HeaderPutID)]++
		bodies = append(bodies, string(body))
		tries++
		n := tries
		mu.Unlock()
		switch n {
		case 1:
			problem(w, Problem{Type: api.ProblemOutcomeUnknown, Status: 504, Detail: "who knows"})
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks
		default:
			w.WriteHeader(http.StatusCreated)
			json.NewEncoder(w).Encode(PutAnswer{Revision: 3, SHA256: digestOf(body), Created: true})
		}
	})
	c, pauses := newClient(t, u)
	body := strings.NewReader("skipped-the value")
	body.Seek(8, io.SeekStart)
	answer, err := c.Put(t.Context(), "k", body, PutOptions{IfAbsent: true})
	if err != nil || !answer.Created || answer.Revision != 3 {
		t.Fatalf("put: %+v, %v", answer, err)
	}
	if len(ids) != 1 || ids[""] != 0 {
		t.Errorf("put ids of the tries: %v, want one", ids)
	}
	for _, b := range bodies {
		if b != "the value" {
			t.Errorf("a try sent %q", b)
		}
	}
	if pauses.Load() != 2 {
		t.Errorf("%d pauses, want one after each failed round", pauses.Load())
	}
}

func TestClient_Put_SendsHeaders(t *testing.T) {
	t.Parallel()
	var got *http.Request
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		acceptPut(w, r)
	})
	c, _ := newClient(t, u)
	_, err := c.PutBytes(t.Context(), "k", nil, PutOptions{ContentType: "text/x", PutID: "mine", IfAbsent: true, KeepExisting: true})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"Content-Type": "text/x", api.HeaderPutID: "mine", "If-None-Match": "*",
		"Repr-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}
	for name, value := range want {
		if got.Header.Get(name) != value {
			t.Errorf("header %s = %q, want %q", name, got.Header.Get(name), value)
		}
	}
	if got.ContentLength != 0 || len(got.TransferEncoding) != 0 {
		t.Errorf("empty body went with length %d, %v", got.ContentLength, got.TransferEncoding)
	}
	if got.URL.Query().Get("on-conflict") != "keep" {
		t.Errorf("query is %q", got.URL.RawQuery)
	}
}

func TestClient_Put_LargeBodyAsksFirst(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemTooLarge, Status: 413, Detail: "limit is 9 bytes", LimitBytes: 9})
	})
	c, _ := newClient(t, u)
	body := &countingSeeker{ReadSeeker: bytes.NewReader(make([]byte, 8<<20))}
	_, err := c.Put(t.Context(), "k", body, PutOptions{})
	if !errors.Is(err, ErrTooLarge) || requests.Load() != 1 {
		t.Fatalf("put: %v after %d requests, want ErrTooLarge after one", err, requests.Load())
	}
	if n := body.read.Load(); n != 0 {
		t.Errorf("%d bytes were read for a put that was refused by its length", n)
	}
}

type countingSeeker struct {
	io.ReadSeeker
	read atomic.Int64
}

func (s *countingSeeker) Read(p []byte) (int, error) {
	n, err := s.ReadSeeker.Read(p)
	s.read.Add(int64(n))
	return n, err
}

func TestClient_Put_FailingSourceIsNotRetried(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, acceptPut)
	c, _ := newClient(t, u)
	broken := errors.New("disk gone")
	_, err := c.Put(t.Context(), "k", failingSeeker{size: 2 << 20, err: broken}, PutOptions{})
	if !errors.Is(err, broken) || requests.Load() > 1 {
		t.Fatalf("put: %v after %d requests, want the source's error at once", err, requests.Load())
	}
}

type failingSeeker struct {
	size int64
	err  error
}

func (s failingSeeker) Read([]byte) (int, error) { return 0, s.err }

func (s failingSeeker) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		return s.size + offset, nil
	}
	return offset, nil
}

func TestClient_Put_ChangedBytesAreReported(t *testing.T) {
	t.Parallel()
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(PutAnswer{Revision: 1, SHA256: digestOf([]byte("else")), Created: true})
	})
	c, _ := newClient(t, u)
	if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); !errors.Is(err, ErrDigestMismatch) {
		t.Fatalf("put: %v, want ErrDigestMismatch", err)
	}
}

func TestClient_FailsOverAndSticks(t *testing.T) {
	t.Parallel()
	busy, busyRequests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemUnavailable, Status: 503, Detail: "no leader"})
	})
	good, _ := endpoint(t, acceptPut)
	c, pauses := newClient(t, deadEndpoint(t), busy, good)
	for range 3 {
		if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if busyRequests.Load() != 1 || pauses.Load() != 0 {
		t.Errorf("%d requests to the busy endpoint and %d pauses; want 1 and 0: the client sticks to what works", busyRequests.Load(), pauses.Load())
	}
}

func TestClient_Error_SaysWhatEachEndpointDid(t *testing.T) {
	t.Parallel()
	noLeader, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemUnavailable, Status: 503, Detail: "no leader"})
	})
	dead := deadEndpoint(t)
	c, _ := newClient(t, noLeader, dead)
	c.retryTimeout = time.Nanosecond
	_, err := c.PutBytes(t.Context(), "foo", []byte("v"), PutOptions{})
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("put: %v, want ErrUnavailable: nothing was proposed", err)
	}
	for _, part := range []string{`put "foo": unavailable: `, noLeader + " refused: no leader; ", dead + " unreachable: "} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

func TestClient_Put_UnknownOutcomeStaysUnknown(t *testing.T) {
	t.Parallel()
	first := true
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}
		problem(w, Problem{Type: api.ProblemUnavailable, Status: 503, Detail: "no leader"})
	})
	c, _ := newClient(t, u)
	ctx, cancel := context.WithCancel(t.Context())
	rounds := 0
	c.wait = func(context.Context, time.Duration) error {
		if rounds++; rounds == 3 {
			cancel()
		}
		return ctx.Err()
	}
	_, err := c.PutBytes(ctx, "k", []byte("v"), PutOptions{})
	if !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("put: %v, want ErrOutcomeUnknown with the context's error: the first try may have won", err)
	}
}

func TestClient_Get_LostAnswerIsNoUnknownOutcome(t *testing.T) {
	t.Parallel()
	u, _ := endpoint(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c, _ := newClient(t, u)
	c.retryTimeout = time.Nanosecond
	if _, err := c.Get(t.Context(), "k", GetOptions{}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("get: %v, want ErrUnavailable", err)
	}
}

func TestClient_KeepsToTheDeadline(t *testing.T) {
	t.Parallel()
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		problem(w, Problem{Type: api.ProblemOverloaded, Status: 429, Detail: "busy"})
	})
	c, pauses := newClient(t, u)
	_, err := c.Get(within(t, retryAfterMax-time.Second), "k", GetOptions{})
	if !errors.Is(err, ErrOverloaded) || pauses.Load() != 0 {
		t.Fatalf("get: %v after %d pauses; want ErrOverloaded at once, as the pause would outlast the deadline", err, pauses.Load())
	}
}

func TestClient_HungEndpointLeavesTimeForAnother(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	hung, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	good, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) { serveValue(w, digestOf([]byte("v")), []byte("v")) })
	c, _ := newClient(t, hung, good)
	c.idleTimeout = 500 * time.Millisecond
	obj, err := c.Get(within(t, time.Minute), "k", GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	obj.Body.Close()
}

func TestBackoff_DoublesWithinBounds(t *testing.T) {
	for round := range 100 {
		d := backoff(round, 0)
		if d <= 0 || d > backoffMax+backoffMax/4 {
			t.Fatalf("backoff(%d) = %v", round, d)
		}
	}
	if d := backoff(0, time.Second); d != time.Second {
		t.Errorf("backoff with Retry-After 1 = %v", d)
	}
	if d := backoff(0, time.Hour); d != retryAfterMax {
		t.Errorf("backoff with a huge Retry-After = %v", d)
	}
}

func TestClient_ErrorsSurviveTheWire(t *testing.T) {
	t.Parallel()
	size := int64(3)
	for _, test := range []struct {
		p    Problem
		want error
	}{
		{Problem{Status: 400, Type: api.ProblemInvalid}, ErrInvalid},
		{Problem{Status: 400, Type: api.ProblemDigestMismatch}, ErrDigestMismatch},
		{Problem{Status: 403}, ErrInvalid},
		{Problem{Status: 404, Type: api.ProblemNotFound}, ErrNotFound},
		{Problem{Status: 404}, ErrNotFound},
		{Problem{Status: 404, Type: api.ProblemNoRoute}, ErrServer},
		{Problem{Status: 409, Type: api.ProblemConflict, Revision: 5, SHA256: "ab", Size: &size}, ErrConflict},
		{Problem{Status: 409, Revision: 5, SHA256: "ab", Size: &size}, ErrConflict},
		{Problem{Status: 409, Type: api.ProblemRefused}, ErrRefused},
		{Problem{Status: 409}, ErrRefused},
		{Problem{Status: 411}, ErrInvalid},
		{Problem{Status: 412, Type: api.ProblemPrecondition, Revision: 5, SHA256: "ab", Size: &size}, ErrExists},
		{Problem{Status: 413, Type: api.ProblemTooLarge, LimitBytes: 9}, ErrTooLarge},
		{Problem{Status: 415}, ErrInvalid},
		{Problem{Status: 421, Type: api.ProblemMisdirected}, ErrInvalid},
		{Problem{Status: 421}, ErrInvalid},
		{Problem{Status: 429}, ErrOverloaded},
		{Problem{Status: 503, Type: api.ProblemOverloaded}, ErrOverloaded},
		{Problem{Status: 503}, ErrUnavailable},
		{Problem{Status: 504}, ErrOutcomeUnknown},
		{Problem{Status: 507}, ErrDiskReserve},
		{Problem{Status: 501, Type: "urn:new"}, ErrServer},
	} {
		t.Run(fmt.Sprint(test.p.Status, test.p.Type), func(t *testing.T) {
			test.p.Detail = "the detail"
			rec := httptest.NewRecorder()
			problem(rec, test.p)
			err := ResponseError(rec.Result())
			if !errors.Is(err, test.want) || err.Error() != "the detail" {
				t.Fatalf("status %d became %v (%T), want %v", test.p.Status, err, err, test.want)
			}
			var conflict *ConflictError
			if errors.As(err, &conflict) != (test.p.Revision != 0) {
				t.Fatalf("%T for %+v", err, test.p)
			}
			if conflict != nil && (conflict.Revision != 5 || conflict.SHA256 != "ab" || conflict.Size != 3 || !errors.Is(err, ErrExists)) {
				t.Errorf("winner is %+v", conflict)
			}
			if conflict != nil && errors.Is(err, ErrConflict) != (test.p.Status == 409) {
				t.Errorf("status %d is ErrConflict: %v", test.p.Status, errors.Is(err, ErrConflict))
			}
		})
	}
}

func TestClient_Put_ConflictIsFinal(t *testing.T) {
	t.Parallel()
	size := int64(0)
	u, requests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemConflict, Status: 409, Detail: "lost", Revision: 9, SHA256: "cd", Size: &size})
	})
	c, _ := newClient(t, u, u)
	_, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{})
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Revision != 9 || requests.Load() != 1 {
		t.Fatalf("put: %v after %d requests", err, requests.Load())
	}
}

func TestClient_Get_ReadsRecordAndValue(t *testing.T) {
	t.Parallel()
	value := []byte("value")
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "consistency=local" {
			t.Errorf("query is %q", r.URL.RawQuery)
		}
		w.Header().Set(api.HeaderCache, "peer")
		serveValue(w, digestOf(value), value)
	})
	c, _ := newClient(t, u)
	obj, err := c.Get(t.Context(), "k\xff", GetOptions{Local: true})
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Body.Close()
	got, err := io.ReadAll(obj.Body)
	if err != nil || !bytes.Equal(got, value) {
		t.Fatalf("read %q, %v", got, err)
	}
	key, err := obj.RawKey()
	want := time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)
	if err != nil || key != "k\xff" || obj.Revision != 7 || obj.Size != 5 || obj.ContentType != "text/x-test" || !obj.Time.Equal(want) || obj.Cache != "peer" {
		t.Errorf("record is %+v, key %q, %v", obj.Record, key, err)
	}
	stat, err := c.Stat(t.Context(), "k\xff", GetOptions{Local: true})
	if err != nil || stat.Size != 5 || stat.SHA256 != digestOf(value) {
		t.Errorf("stat: %+v, %v", stat, err)
	}
}

func TestClient_Get_NotFoundIsFinal(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemNotFound, Status: 404, Detail: "not set"})
	})
	c, _ := newClient(t, u, u)
	if _, err := c.Get(t.Context(), "k", GetOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err := c.Stat(t.Context(), "k", GetOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("stat: %v", err)
	}
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestClient_Get_DigestMismatchIsAnErrorAndWithholdsTheEnd(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 100_000} {
		u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
			serveValue(w, digestOf([]byte("another value")), make([]byte, size))
		})
		c, _ := newClient(t, u)
		obj, err := c.Get(t.Context(), "k", GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(obj.Body)
		obj.Body.Close()
		if !errors.Is(err, ErrDigestMismatch) || size > 0 && len(got) >= size {
			t.Errorf("read %d of %d bytes with %v, want ErrDigestMismatch before the end", len(got), size, err)
		}
	}
}

func TestClient_Get_BrokenOffBody(t *testing.T) {
	t.Parallel()
	broken, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+digestOf(nil)+`"`)
		w.Header().Set(api.HeaderRevision, "1")
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 50000))
	})
	c, _ := newClient(t, broken)
	obj, err := c.Get(t.Context(), "k", GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Body.Close()
	if _, err := io.ReadAll(obj.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read: %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestClient_Get_StalledBodyIsCutOff(t *testing.T) {
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("ETag", `"`+digestOf(nil)+`"`)
		w.Header().Set(api.HeaderRevision, "1")
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	c, _ := newClient(t, u)
	obj, err := c.Get(t.Context(), "k", GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Body.Close()
	obj.Body.(*verifiedBody).body.(*watchedBody).idle = time.Millisecond
	if got, err := io.ReadAll(obj.Body); !errors.Is(err, errIdle) {
		t.Errorf("read %q, %v, want the idle timeout", got, err)
	}
}

func TestClient_Get_AnswerOfSomethingElse(t *testing.T) {
	t.Parallel()
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>hello") })
	c, _ := newClient(t, u)
	if _, err := c.Get(t.Context(), "k", GetOptions{}); !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "is this an oncekv node?") {
		t.Errorf("get: %v", err)
	}
}

func TestClient_NeverFollowsRedirects(t *testing.T) {
	t.Parallel()
	target, requests := endpoint(t, acceptPut)
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	})
	c, _ := newClient(t, u)
	c.retryTimeout = time.Nanosecond
	if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err == nil || requests.Load() != 0 {
		t.Errorf("put: %v, and %d requests behind the redirect", err, requests.Load())
	}
}

func TestClient_Cluster_Requests(t *testing.T) {
	t.Parallel()
	var seen []string
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, r.Method+" "+r.RequestURI+" "+string(body))
		switch {
		case r.URL.Path == "/ping":
			io.WriteString(w, "pong\n")
		case r.Method == http.MethodPost && r.URL.Path == "/members":
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"id":"ab","name":"n4","role":"learner"}`)
		case r.URL.Path == "/caches" || r.URL.Path == "/dbs":
			io.WriteString(w, `[{"name":"x","url":"http://x","healthy":true}]`)
		default:
			io.WriteString(w, `{"name":"n1","leader":"n1","term":3,"members":[{"id":"1","name":"n1"}]}`)
		}
	})
	c, _ := newClient(t, u)
	ctx := t.Context()
	members, err := c.Members(ctx)
	if err != nil || members.Leader != "n1" || len(members.Members) != 1 {
		t.Errorf("members: %+v, %v", members, err)
	}
	added, created, err := c.AddMember(ctx, AddMember{Name: "n4", PeerURL: "http://p", ClientURL: "http://c"})
	if err != nil || !created || added.ID != "ab" {
		t.Errorf("add: %+v, %v, %v", added, created, err)
	}
	caches, err := c.Caches(ctx)
	if err != nil || len(caches) != 1 || !caches[0].Healthy {
		t.Errorf("caches: %+v, %v", caches, err)
	}
	dbs, err := c.DBs(ctx)
	if err != nil || len(dbs) != 1 {
		t.Errorf("dbs: %+v, %v", dbs, err)
	}
	stats, err := c.Stats(ctx)
	if err != nil || stats.Name != "n1" || stats.Term != 3 {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	cacheStats, err := c.CacheStats(ctx)
	if err != nil || cacheStats.Name != "n1" {
		t.Errorf("cache stats: %+v, %v", cacheStats, err)
	}
	for _, err := range []error{c.RemoveMember(ctx, "a/b c", true), c.PromoteMember(ctx, "n4"), c.TransferLeader(ctx, "n2"), c.Ping(ctx)} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"GET /members ", `POST /members {"name":"n4","peer_url":"http://p","client_url":"http://c"}`, "GET /caches ", "GET /dbs ", "GET /stats ", "GET /stats ",
		"DELETE /members/a%2Fb%20c?force=true ", "POST /members/n4/promote ", `POST /leader {"to":"n2"}`, "GET /ping ",
	}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("requests:\n%s\nwant:\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

func TestClient_RemoveMember_GoneAfterALostAnswer(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		problem(w, Problem{Type: api.ProblemUnknownMember, Status: 404, Detail: "no member n3"})
	})
	c, _ := newClient(t, u)
	if err := c.RemoveMember(t.Context(), "n3", false); err != nil {
		t.Errorf("remove: %v, want nil: the first try removed it", err)
	}
	if err := c.RemoveMember(t.Context(), "n3", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove again: %v, want ErrNotFound", err)
	}
}

func TestClient_Members_BrokenAnswerIsTriedElsewhere(t *testing.T) {
	t.Parallel()
	broken, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"leader":`)
	})
	good, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"leader":"n2"}`) })
	c, _ := newClient(t, broken, good)
	if m, err := c.Members(t.Context()); err != nil || m.Leader != "n2" {
		t.Errorf("members: %+v, %v", m, err)
	}
}

func TestJSONKey_RoundTrips(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"a", "ünï", "\xff", "a\xc3"} {
		text, b64 := api.JSONKey(key)
		got, err := api.RawKey(text, b64)
		if err != nil || got != key || (text == "") == (b64 == "") {
			t.Errorf("key %q → %q, %q → %q, %v", key, text, b64, got, err)
		}
	}
	if _, err := api.RawKey("a", "YQ=="); !errors.Is(err, ErrInvalid) {
		t.Errorf("both fields: %v", err)
	}
	if _, err := api.RawKey("", "*"); !errors.Is(err, ErrInvalid) {
		t.Errorf("bad base64: %v", err)
	}
}

func TestReplayBody_NewTryTakesTheSourceAway(t *testing.T) {
	t.Parallel()
	body, err := newReplayBody(strings.NewReader("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	first, _ := body.open(func() {})
	io.ReadFull(first, make([]byte, 4))
	second, _ := body.open(func() {})
	if n, err := first.Read(make([]byte, 4)); n != 0 || err == nil {
		t.Errorf("the reader of the try before read %d bytes, %v", n, err)
	}
	if got, err := io.ReadAll(second); string(got) != "0123456789" || err != nil {
		t.Errorf("the new try read %q, %v", got, err)
	}
	if sent, all := body.sentDigest(); !all || sent != digestOf([]byte("0123456789")) {
		t.Errorf("sent digest %s, %v", sent, all)
	}
	body.detach()
	if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("after detach: read %d, %v", n, err)
	}
}

// What no header can carry is refused at once, not at one endpoint after the
// other until the time is over.
func TestPut_UnsendableHeader(t *testing.T) {
	t.Parallel()
	c, err := New(Config{Endpoints: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []PutOptions{{ContentType: "text/plain\n"}, {ContentType: "\x1b[2J"}, {PutID: "a\rb"}, {PutID: "\xff"}} {
		if _, err := c.PutBytes(t.Context(), "k", nil, opts); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

// FailRefused is for a cluster that was never there. One that has answered once
// is waited for.
func TestFailRefused_OnlyBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "pong\n") }))
	c, err := New(Config{Endpoints: []string{server.URL}, FailRefused: true, RetryTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNobodyListens) {
		t.Errorf("after an answer: %v", err)
	}
	c, err = New(Config{Endpoints: []string{server.URL, server.URL}, FailRefused: true, RetryTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, ErrNobodyListens) {
		t.Errorf("before an answer: %v", err)
	}
}

func TestNew_EndpointWithoutScheme(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "pong\n") }))
	defer server.Close()
	c, err := New(Config{Endpoints: []string{strings.TrimPrefix(server.URL, "http://")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// An endpoint that takes connections and says nothing does not hold up a request for
// longer than the retry timeout, and leaves time for the others.
func TestRetryTimeout_SilentEndpoints(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	silent := "http://" + hung.Addr().String()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "pong\n") }))
	defer server.Close()
	for _, endpoints := range [][]string{{silent}, {silent, silent, silent}, {silent, silent, server.URL}} {
		c, err := New(Config{Endpoints: endpoints, RetryTimeout: 1500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = c.Ping(t.Context())
		if answers := endpoints[len(endpoints)-1] == server.URL; (err == nil) != answers || time.Since(start) > 4*time.Second {
			t.Errorf("%d endpoints: %v after %s", len(endpoints), err, time.Since(start))
		}
	}
}

// Where there is no such host, nobody says that nothing listens there.
func TestFailRefused_NoSuchHost(t *testing.T) {
	t.Parallel()
	err := &RequestError{Op: "ping", Kind: ErrUnavailable, Cause: ErrNobodyListens, Endpoints: []*EndpointError{{Endpoint: "http://nowhere.invalid", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}}}
	if text := err.Error(); strings.Contains(text, "listens") || !errors.Is(err, ErrNobodyListens) {
		t.Error(text)
	}
}
