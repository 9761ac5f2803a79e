package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// idleForTest is long enough for a machine that stands still for a moment.
const idleForTest = time.Second

func shortIdle(c *DatabaseConfig) { c.BodyIdleTimeout = idleForTest }

// TestBody_Truncated: a body that broke off is never a silent success.
func TestBody_Truncated(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"put":           "PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
		"put, chunked":  "PUT /key/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"within chunk":  "PUT /key/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf",
		"bad chunk":     "PUT /key/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf\r\n0\r\n\r\n",
		"put, HTTP/1.0": "PUT /key/a HTTP/1.0\r\nContent-Length: 10\r\n\r\nhalf",
		"keep":          "PUT /keep/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"post":          "POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + `{"key":"a","value":"half"}`,
		"post, chunked": "POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n" + `{"key":"a","value":"half"}` + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			conn := n.dial()
			defer conn.Close()
			io.WriteString(conn, request)
			conn.CloseWrite()
			p := want(t, n.receive(conn, "PUT"), 400).problem(t)
			if !strings.Contains(p.Detail, "broke off") || !strings.Contains(p.Detail, "nothing was set") {
				t.Errorf("detail %q", p.Detail)
			}
			n.db.nothingSet(t)
		})
	}
}

// TestBody_NoLength: HTTP/1.0 ends a body by closing, which a crash does too.
func TestBody_NoLength(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	conn := n.dial()
	defer conn.Close()
	io.WriteString(conn, "PUT /key/a HTTP/1.0\r\n\r\nbody")
	conn.CloseWrite()
	want(t, n.receive(conn, "PUT"), 411).problem(t)
	n.db.nothingSet(t)
}

// TestBody_Stalled: no byte for the idle time ends a body.
func TestBody_Stalled(t *testing.T) {
	t.Parallel()
	for _, request := range []string{
		"PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
		"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		n := newNode(t, shortIdle)
		conn := n.dial()
		defer conn.Close()
		io.WriteString(conn, request)
		got := want(t, n.receive(conn, "PUT"), 408)
		if p := got.problem(t); !strings.Contains(p.Detail, "nothing was set") {
			t.Errorf("detail %q", p.Detail)
		}
		n.db.nothingSet(t)
	}
}

// TestBody_Slow: a body may take many times the idle time, and the time for an
// answer, as long as it moves.
func TestBody_Slow(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout, c.AnswerTimeout = idleForTest, 2*idleForTest })
	conn := n.dial()
	defer conn.Close()
	const pieces = 12
	fmt.Fprintf(conn, "PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", pieces)
	tick := time.NewTicker(idleForTest / 4)
	defer tick.Stop()
	for range pieces {
		<-tick.C
		io.WriteString(conn, "x")
	}
	want(t, n.receive(conn, "PUT"), 201)
}

// TestBody_RefusedAndStalled: the answer to a refused request does not wait
// for its body for ever.
func TestBody_RefusedAndStalled(t *testing.T) {
	t.Parallel()
	n := newNode(t, shortIdle)
	for _, line := range []string{"Content-Encoding: gzip", "Sec-Fetch-Site: cross-site"} {
		conn := n.dial()
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n%s\r\n\r\nhalf", line)
		if got := n.receive(conn, "PUT"); got.status != 415 && got.status != 403 {
			t.Errorf("%s: status %d", line, got.status)
		}
	}
}

// TestBody_WaitBeyondIdle: once the body is read, its deadline is gone, and an
// answer that takes longer still arrives.
func TestBody_WaitBeyondIdle(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) {
		c.BodyIdleTimeout, c.AnswerTimeout = 500*time.Millisecond, 2*time.Second
	})
	n.db.block = true
	start := time.Now()
	p := want(t, n.put("/key/a", "x"), 504).problem(t)
	if p.Type != api.ProblemOutcomeUnknown {
		t.Errorf("type %q", p.Type)
	}
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("the request ended after %v: the body's deadline took it", took)
	}
	n.db.block = false
	want(t, n.put("/key/a", "x"), 201)
}

// TestBody_AnswerTimeout: an answer that does not come is a 504 that says what
// to do, for every way to put.
func TestBody_AnswerTimeout(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.AnswerTimeout = 50 * time.Millisecond })
	n.db.block = true
	for _, got := range []reply{n.put("/key/a", "x"), n.put("/keep/a", "x"), n.post("/key", `{"key":"a","value":"x"}`)} {
		p := want(t, got, 504).problem(t)
		if !strings.Contains(p.Detail, "unknown") || !strings.Contains(p.Detail, "Repeating the same put") {
			t.Errorf("detail %q", p.Detail)
		}
	}
}

// TestBody_Continue: a put that is refused by its headers is refused before
// the client is told to send the body; one that is not is told to.
func TestBody_Continue(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	head := "PUT /key/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
	for _, tt := range []struct{ lines, first string }{
		{"Content-Length: 1073741825\r\n", "HTTP/1.1 413 "},
		{"Content-Length: 1\r\nContent-Encoding: gzip\r\n", "HTTP/1.1 415 "},
		{"Content-Length: 1\r\nIf-Match: \"x\"\r\n", "HTTP/1.1 412 "},
		{"Content-Length: 1\r\nSec-Fetch-Site: cross-site\r\n", "HTTP/1.1 403 "},
		{"Content-Length: 1\r\n", "HTTP/1.1 100 "},
	} {
		conn := n.dial()
		defer conn.Close()
		io.WriteString(conn, head+tt.lines+"\r\n")
		got := make([]byte, len(tt.first))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != tt.first {
			t.Errorf("%q: the answer begins with %q (%v), want %q", tt.lines, got, err, tt.first)
		}
	}
}

// TestBody_ConnectionGoesOn: deadlines of one request do not reach the next on
// the same connection.
func TestBody_ConnectionGoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t, shortIdle)
	conn := n.dial()
	defer conn.Close()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for i := range 3 {
		<-wait.C
		fmt.Fprintf(conn, "PUT /key/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", i)
		want(t, n.receive(conn, "PUT"), 201)
		fmt.Fprintf(conn, "GET /key/%d HTTP/1.1\r\nHost: x\r\nRange: bytes=0-0\r\n\r\n", i)
		want(t, n.receive(conn, "GET"), 206)
		wait.Reset(idleForTest * 3 / 2)
	}
}

// TestBody_StalledReader: a client that stops reading a long answer does not
// keep its handler.
func TestBody_StalledReader(t *testing.T) {
	t.Parallel()
	for _, inlineMax := range []int64{1 << 30, -1} {
		db := newFakeDB()
		db.inlineMax = inlineMax
		db.set("a", "", strings.Repeat("x", 32<<20)) // more than the sockets hold
		cfg := DatabaseConfig{DB: db, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, BodyIdleTimeout: idleForTest}
		api, done := NewDatabase(cfg), make(chan struct{})
		n := &node{t: t}
		n.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			api.ServeHTTP(w, r)
		}))
		conn := n.dial()
		defer conn.Close()
		io.WriteString(conn, "GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
		select {
		case <-done:
		case <-time.After(patience):
			t.Errorf("inlineMax %d: the handler still waits for the client", inlineMax)
		}
	}
}

// deadlinesSet is a connection that counts how often its read deadline is set.
type deadlinesSet struct {
	*httptest.ResponseRecorder
	reads int
}

func (d *deadlinesSet) SetReadDeadline(time.Time) error { d.reads++; return nil }

// TestPacedBody_CutOffTooLate: who is to give way just when the body is done with
// leaves the connection alone. It is net/http's by then, which would take a deadline
// that is over for the client's going away.
func TestPacedBody_CutOffTooLate(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(*pacedBody) error{
		"read to its end": func(b *pacedBody) error { _, err := io.ReadAll(b); return err },
		"closed":          func(b *pacedBody) error { return b.Close() },
	} {
		w := &deadlinesSet{ResponseRecorder: httptest.NewRecorder()}
		body := newPacedBody(w, httptest.NewRequest("PUT", "/key/a", strings.NewReader("v")), time.Minute, 10)
		if err := finish(body); err != nil {
			t.Fatal(err)
		}
		before := w.reads
		if body.cutOff(); w.reads != before || body.wasCutOff() {
			t.Errorf("%s: a late call sets a deadline", name)
		}
	}
}
