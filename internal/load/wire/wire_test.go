package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/load"
)

const patience = 30 * time.Second

func newCaller(t *testing.T, url string, timeout time.Duration) *Caller {
	t.Helper()
	c, err := New(url, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func kindOf(err error) string {
	var f *load.Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return fmt.Sprint(err)
}

// net/http reads what a caller sends, and the caller counts the answers correctly, all over
// one connection.
func TestCaller_OneKey(t *testing.T) {
	var got, addresses []string
	status := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %d %s", r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.ContentLength, body))
		addresses = append(addresses, r.RemoteAddr)
		w.WriteHeader(status)
		io.WriteString(w, "value")
	})
	c := newCaller(t, url+"/prefix/", patience)
	item := load.Item{Key: "a/b.c", Value: []byte("value")}
	for _, x := range []struct {
		kind    load.Kind
		item    load.Item
		status  int
		request string
		outcome load.Outcome
		failure string
	}{
		{load.Put, item, 201, "PUT /prefix/key/a/b.c application/octet-stream 5 value", load.Created, ""},
		{load.Put, item, 200, "PUT /prefix/key/a/b.c application/octet-stream 5 value", load.Unchanged, ""},
		{load.Put, item, 409, "PUT /prefix/key/a/b.c application/octet-stream 5 value", load.Conflict, ""},
		{load.Put, item, 503, "PUT /prefix/key/a/b.c application/octet-stream 5 value", 0, "HTTP 503"},
		{load.Put, load.Item{Key: "ä/../b c"}, 201, "PUT /prefix/key?key=%C3%A4%2F..%2Fb+c application/octet-stream 0 ", load.Created, ""},
		{load.Get, item, 200, "GET /prefix/key/a/b.c  0 ", load.Found, ""},
		{load.Get, item, 404, "GET /prefix/key/a/b.c  0 ", 0, "HTTP 404"},
		{load.Get, load.Item{Key: "k", Value: []byte("other")}, 200, "GET /prefix/key/k  0 ", load.Found, "wrong value"},
		{load.Absent, item, 404, "GET /prefix/key/a/b.c  0 ", load.NotFound, ""},
		{load.Absent, item, 429, "GET /prefix/key/a/b.c  0 ", 0, "HTTP 429"},
	} {
		status = x.status
		var tally, want load.Tally
		err := c.Call(t.Context(), &load.Request{Kind: x.kind, Item: x.item}, &tally)
		if last := got[len(got)-1]; last != x.request {
			t.Errorf("sent %q, want %q", last, x.request)
		}
		if x.failure == "" && err != nil || x.failure != "" && kindOf(err) != x.failure {
			t.Errorf("%v answered by %d: %v", x.kind, x.status, err)
		}
		if x.failure == "" || x.failure == "wrong value" {
			want[x.outcome] = 1
		}
		if tally != want {
			t.Errorf("%v answered by %d counts as %v", x.kind, x.status, tally)
		}
	}
	for _, a := range addresses {
		if a != addresses[0] {
			t.Errorf("there were several connections: %v", addresses)
		}
	}
}

// raw answers each request on every connection with the next of the answers, and closes the
// connection when none is left.
func raw(t *testing.T, answers ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			for {
				if _, err := http.ReadRequest(in); err != nil || len(answers) == 0 {
					break
				}
				io.WriteString(conn, answers[0])
				if answers = answers[1:]; len(answers) == 0 {
					break
				}
			}
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestCaller_WaysToSayHowLong(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	answers := []string{
		ok + "content-length: 5\r\n\r\nvalue",
		ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nva\r\n3;x=y\r\nlue\r\n0\r\nTrailer: x\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok + "Content-Length: 5\r\n\r\nvalue",
		ok + "Content-Length: 5\r\nConnection: close\r\n\r\nvalue",
		ok + "\r\nvalue", // to the end of the connection
	}
	c := newCaller(t, raw(t, answers...), patience)
	for i := range answers {
		var tally load.Tally
		if err := c.Call(t.Context(), &load.Request{Kind: load.Get, Item: load.Item{Key: "k", Value: []byte("value")}}, &tally); err != nil || tally[load.Found] != 1 {
			t.Errorf("answer %d: %v, %v", i, tally, err)
		}
		if open := c.conn != nil; open != (i < 3) {
			t.Errorf("after answer %d the connection is open: %v", i, open)
		}
	}
}

func TestCaller_BrokenAnswers(t *testing.T) {
	for name, x := range map[string]struct{ answer, kind string }{
		"nothing":       {"", "connection lost"},
		"half a head":   {"HTTP/1.1 200 OK\r\nContent-Le", "connection lost"},
		"half a body":   {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nvalue", "connection lost"},
		"half a chunk":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nval", "connection lost"},
		"no HTTP":       {"SSH-2.0-OpenSSH_9.9\r\n\r\n", "connection lost"},
		"no number":     {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "connection lost"},
		"other address": {"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "HTTP 302"},
	} {
		c := newCaller(t, raw(t, x.answer), patience)
		err := c.Call(t.Context(), &load.Request{Kind: load.Get, Item: load.Item{Key: "k", Value: []byte("value")}}, &load.Tally{})
		if kindOf(err) != x.kind {
			t.Errorf("%s: %v", name, err)
		}
		if x.kind != "HTTP 302" && c.conn != nil {
			t.Errorf("%s: the connection is kept", name)
		}
	}
}

// A node that does not answer costs the timeout, and the next request opens a new connection.
func TestCaller_TimeoutAndInterrupt(t *testing.T) {
	hang := make(chan struct{})
	asked := make(chan struct{}, 2)
	url := serve(t, func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-hang
	})
	defer close(hang)
	get := &load.Request{Kind: load.Absent, Item: load.Item{Key: "k"}}
	c := newCaller(t, url, 20*time.Millisecond)
	if err := c.Call(t.Context(), get, &load.Tally{}); kindOf(err) != "timeout" {
		t.Errorf("a node that hangs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for len(asked) > 0 {
		<-asked
	}
	go func() {
		<-asked
		cancel()
	}()
	c = newCaller(t, url, patience)
	if err := c.Call(ctx, get, &load.Tally{}); err == nil || kindOf(err) == "timeout" {
		t.Errorf("an interrupted request: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c = newCaller(t, "http://"+l.Addr().String(), patience)
	if err := c.Call(t.Context(), get, &load.Tally{}); kindOf(err) != "no connection" {
		t.Errorf("nobody listens: %v", err)
	}
}

func batchOf(n int) *load.Request {
	r := &load.Request{Kind: load.Batch}
	for i := range n {
		r.Items = append(r.Items, load.Item{Key: fmt.Sprintf("k\"%d", i), Value: []byte(strings.Repeat("v", 100))})
	}
	return r
}

// A node that answers while it reads must not block on a caller that only writes: the batch is
// larger than what two sockets hold.
func TestCaller_Batch(t *testing.T) {
	const items = 60_000
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		lines := bufio.NewScanner(r.Body)
		for n := 0; lines.Scan(); n++ {
			want := fmt.Sprintf(`{"key":"k\"%d","value":"%s"}`, n, strings.Repeat("v", 100))
			if lines.Text() != want {
				t.Errorf("line %d is %s", n, lines.Text())
			}
			fmt.Fprintf(w, `{"key":"k\"%d","status":%q,"revision":1,"sha256":"%064d"}`+"\n", n, []string{"created", "unchanged", "conflict"}[n%3], n)
		}
	})
	c := newCaller(t, url, patience)
	var tally load.Tally
	if err := c.Call(t.Context(), batchOf(items), &tally); err != nil || tally != (load.Tally{items / 3, items / 3, items / 3}) {
		t.Errorf("%v, %v", tally, err)
	}
	if c.conn == nil {
		t.Error("the connection was given up")
	}
}

func TestCaller_BatchThatFails(t *testing.T) {
	for name, x := range map[string]struct {
		answer string
		want   string
	}{
		"refused":   {"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n", "HTTP 429"},
		"a line":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"status\":\"failed\"}\n\r\n0\r\n\r\n", "batch failed"},
		"no result": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "connection lost"},
		"no JSON":   {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat", "connection lost"},
	} {
		c := newCaller(t, raw(t, x.answer), patience)
		if err := c.Call(t.Context(), batchOf(1), &load.Tally{}); kindOf(err) != x.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNew_RefusesWhatIsNoNode(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:1", "ftp://h", "http://"} {
		if _, err := New(url, time.Second); err == nil {
			t.Errorf("%q is a node", url)
		}
	}
}

func BenchmarkCaller_Get(b *testing.B) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nEtag: \"x\"\r\nContent-Length: 256\r\n\r\n"
	here, there := net.Pipe()
	defer here.Close()
	value := strings.Repeat("v", 256)
	go func() {
		all := []byte(answer + value)
		buf := make([]byte, 4096)
		for {
			if _, err := there.Read(buf); err != nil {
				return
			}
			there.Write(all)
		}
	}()
	c, err := New("http://h", time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	c.conn, c.cancel = here, func() bool { return true }
	c.in.Reset(here)
	r := &load.Request{Kind: load.Get, Item: load.Item{Key: "bench/dabcdef/k0123456789abcdef", Value: []byte(value)}}
	b.ReportAllocs()
	for b.Loop() {
		var t load.Tally
		if err := c.Call(b.Context(), r, &t); err != nil {
			b.Fatal(err)
		}
	}
}
