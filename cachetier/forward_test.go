package cachetier

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// newForwarding starts a server that forwards everything, to dbs in this order.
func newForwarding(t *testing.T, dbs ...*fakeDB) string {
	t.Helper()
	n := newTestNode(t, frozen, dbs...)
	var urls []string
	for _, db := range dbs {
		urls = append(urls, db.URL)
	}
	n.databases.begin(urls)
	s := httptest.NewServer(n.Forward())
	t.Cleanup(s.Close)
	return s.URL
}

// putRaw sends a put with the target exactly as given.
func putRaw(t *testing.T, base, target string, body io.Reader, header ...string) (*http.Response, api.Problem) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+target, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{ExpectContinueTimeout: 1 << 40}
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p api.Problem
	if resp.Header.Get("Content-Type") == api.ContentTypeProblem {
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Status != resp.StatusCode || p.Detail == "" {
			t.Errorf("problem document %+v, %v", p, err)
		}
		if resp.Header.Get("Cache-Control") != "no-store" {
			t.Error("an error may be stored")
		}
	}
	return resp, p
}

func (db *fakeDB) putRequests() []*http.Request {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.puts
}

// TestForward_RequestArrivesUntouched: but for Host, which is the database node's
// own name, and Origin, which this node has judged.
func TestForward_RequestArrivesUntouched(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	u := newForwarding(t, db)
	targets := []string{"/key/a%2Fb/../c//d%20e+f%FF", "/key?key=..%2F+x&on-conflict=keep", "/key/x?bad=;a;%zz&&", "/keep/%41"}
	for _, target := range targets {
		conn, err := net.Dial("tcp", strings.TrimPrefix(u, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: the.cache:1\r\nContent-Length: 1\r\nContent-Type: text/x\r\nOrigin: http://the.cache:1\r\n\r\nv", target)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %+v, %v", target, resp, err)
		}
		conn.Close()
	}
	for i, r := range db.putRequests() {
		if r.RequestURI != targets[i] || "http://"+r.Host != db.URL || r.Header.Get("Content-Type") != "text/x" || r.Header.Get("Origin") != "" || r.ContentLength != 1 {
			t.Errorf("%s arrived as %s, host %s, %v", targets[i], r.RequestURI, r.Host, r.Header)
		}
	}
}

func TestForward_StrictPutsGetAnID(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	u := newForwarding(t, db)
	putRaw(t, u, "/key/a", strings.NewReader("v"))
	putRaw(t, u, "/key/b", strings.NewReader("v"), "If-None-Match", "*")
	putRaw(t, u, "/key/c", strings.NewReader("v"), "If-None-Match", "*")
	putRaw(t, u, "/key/d", strings.NewReader("v"), "If-None-Match", "*", api.HeaderPutID, "mine")
	var ids []string
	for _, r := range db.putRequests() {
		ids = append(ids, r.Header.Get(api.HeaderPutID))
	}
	if ids[0] != "" || len(ids[1]) != 32 || len(ids[2]) != 32 || ids[1] == ids[2] || ids[3] != "mine" {
		t.Errorf("ids %q", ids)
	}
}

func TestForward_DeadDatabaseIsPassedOver(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dead, good := newFakeDB(t, keys), newFakeDB(t, keys)
	dead.Close()
	u := newForwarding(t, dead, good)
	for i, body := range []string{"", "v", strings.Repeat("x", 3<<20)} {
		if resp, _ := putRaw(t, u, fmt.Sprint("/key/", i), strings.NewReader(body)); resp.StatusCode != http.StatusCreated {
			t.Errorf("put of %d bytes: %d", len(body), resp.StatusCode)
		}
		if v, ok := keys.get(fmt.Sprint(i)); !ok || string(v.body) != body {
			t.Errorf("%d bytes arrived, of %d", len(v.body), len(body))
		}
	}
}

func TestForward_NothingSentIs503(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	db.Close()
	u := newForwarding(t, db)
	resp, p := putRaw(t, u, "/key/k", strings.NewReader("v"))
	if resp.StatusCode != 503 || p.Type != api.ProblemUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(p.Detail, db.URL) {
		t.Errorf("%d %v %+v", resp.StatusCode, resp.Header, p)
	}
}

func TestForward_NoAnswerIs504AndNotRepeated(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dying, other := newFakeDB(t, keys), newFakeDB(t, keys)
	dying.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	})
	for _, body := range []string{"v", ""} {
		resp, p := putRaw(t, newForwarding(t, dying, other), "/key/k", strings.NewReader(body))
		if resp.StatusCode != 504 || p.Type != api.ProblemOutcomeUnknown || !strings.Contains(p.Detail, "repeat the same put") {
			t.Errorf("body %q: %d %+v", body, resp.StatusCode, p)
		}
		if len(other.putRequests()) != 0 {
			t.Error("a put that may have been carried out was sent to another database")
		}
	}
	u := newForwarding(t, dying, other)
	putRaw(t, u, "/key/k", strings.NewReader("v"))
	if resp, _ := putRaw(t, u, "/key/k", strings.NewReader("v")); resp.StatusCode != http.StatusCreated {
		t.Errorf("the next put was sent to the failed database again: %d", resp.StatusCode)
	}
}

func TestForward_RefusalBeforeTheBodyGoesElsewhere(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	refuse := func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		w.Header().Set("Retry-After", "7")
		writeProblem(w, api.Problem{Type: api.ProblemUnavailable, Title: "t", Status: 503, Detail: "no leader here"})
		return true
	}
	a, b, good := newFakeDB(t, keys), newFakeDB(t, keys), newFakeDB(t, keys)
	a.onRequest(refuse)
	b.onRequest(refuse)
	body := strings.Repeat("x", 2<<20)
	if resp, _ := putRaw(t, newForwarding(t, a, b, good), "/key/k", strings.NewReader(body)); resp.StatusCode != http.StatusCreated {
		t.Errorf("put: %d", resp.StatusCode)
	}
	if v, _ := keys.get("k"); string(v.body) != body {
		t.Errorf("%d bytes arrived", len(v.body))
	}
	resp, p := putRaw(t, newForwarding(t, a, b), "/key/k", strings.NewReader(body))
	if resp.StatusCode != 503 || p.Detail != "no leader here" || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("all refuse: %d, %+v", resp.StatusCode, p)
	}
}

func TestForward_RefusalComesBeforeTheClientsBody(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	db.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		writeProblem(w, api.Problem{Type: api.ProblemTooLarge, Title: "t", Status: 413, Detail: "too large", LimitBytes: 5})
		return true
	})
	body := &countingReader{left: 4 << 20}
	resp, p := putRaw(t, newForwarding(t, db), "/key/k", body, "Expect", "100-continue")
	if resp.StatusCode != 413 || p.LimitBytes != 5 || body.read.Load() != 0 {
		t.Errorf("%d %+v after %d bytes", resp.StatusCode, p, body.read.Load())
	}
}

type countingReader struct {
	left int
	read atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), r.left)
	r.left -= n
	r.read.Add(int64(n))
	return n, nil
}

func TestForward_ContinueIsForThoseWhoAsk(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	u := newForwarding(t, newFakeDB(t, keys))
	body := strings.Repeat("x", 2<<20)
	for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(u, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /key/k HTTP/1.1\r\nHost: c\r\n%sContent-Length: %d\r\n\r\n", expect, len(body))
		in := bufio.NewReader(conn)
		if expect != "" {
			if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 100 {
				t.Fatalf("no 100 for a client that asked: %+v, %v", resp, err)
			}
		}
		io.WriteString(conn, body)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusCreated {
			t.Errorf("expect %q: %+v, %v", expect, resp, err)
		}
	}
}

func TestForward_ClientsBodyBreaksOff(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	u := newForwarding(t, db)
	conn, err := net.Dial("tcp", strings.TrimPrefix(u, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PUT /key/k HTTP/1.1\r\nHost: c\r\nContent-Length: 1000\r\n\r\nonly this")
	conn.(*net.TCPConn).CloseWrite()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("answer %d", resp.StatusCode)
	}
	if _, ok := keys.get("k"); ok {
		t.Error("a put cut short was set")
	}
}

func TestForward_StreamsBothWays(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	started := make(chan struct{})
	db.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		io.WriteString(w, "first line\n")
		http.NewResponseController(w).Flush()
		close(started)
		<-r.Context().Done()
		return true
	})
	u := newForwarding(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, u+"/changes?follow=true", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	receive(t, "the stream's start", started)
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "first line\n" || err != nil {
		t.Errorf("read %q, %v while the stream goes on", line, err)
	}
}

// TestForward_StreamBreaksOff: a stream whose database dies ends broken, and is
// not gone on with at another, which would send lines twice.
func TestForward_StreamBreaksOff(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dying, other := newFakeDB(t, keys), newFakeDB(t, keys)
	dying.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		io.WriteString(w, "first line\n")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	other.onRequest(func(http.ResponseWriter, *http.Request, string) bool {
		t.Error("another database was asked")
		return false
	})
	resp, err := http.Get(newForwarding(t, dying, other) + "/changes?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "first line\n" || err == nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestForward_NoAnswerToARead(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	db.Close()
	resp, err := http.Get(newForwarding(t, db) + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p api.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != 503 || strings.Contains(p.Detail, "propos") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %+v, %v", resp.StatusCode, p, err)
	}
}

func TestForward_ReadsAreRepeated(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dying, good := newFakeDB(t, keys), newFakeDB(t, keys)
	dying.onRequest(func(http.ResponseWriter, *http.Request, string) bool { panic(http.ErrAbortHandler) })
	want := keys.put("k", []byte("v"))
	resp, err := http.Get(newForwarding(t, dying, good) + "/key/k")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); !bytes.Equal(got, want.body) {
		t.Errorf("%d %q", resp.StatusCode, got)
	}
}

func TestForward_ManyAtOnce(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	u := newForwarding(t, newFakeDB(t, keys))
	var puts sync.WaitGroup
	for i := range 50 {
		puts.Go(func() {
			req, _ := http.NewRequest(http.MethodPut, fmt.Sprint(u, "/key/", i), strings.NewReader(fmt.Sprint(i)))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	puts.Wait()
	for i := range 50 {
		if v, _ := keys.get(fmt.Sprint(i)); string(v.body) != fmt.Sprint(i) {
			t.Errorf("key %d is %q", i, v.body)
		}
	}
}
