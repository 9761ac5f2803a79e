package httpapi

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// stalled is a reader that asked for a value and reads only the header of the
// answer.
func stalled(t *testing.T, n *node, target string) net.Conn {
	t.Helper()
	conn := n.dial()
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestLimits_ValueBytes: readers that do not read hold no more memory than is
// set aside for them, and small values need none of it.
func TestLimits_ValueBytes(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 6<<20) // more than the buffers of both sockets
	n := newNode(t, func(c *DatabaseConfig) { c.ValueBytesInFlight = 2 << 20 })
	n.db.set("large", "", large)
	n.db.set("small", "", "v")
	first := stalled(t, n, "/key/large")
	stalled(t, n, "/key/large?consistency=local")
	for _, target := range []string{"/key/large", "/keep/large", "/key?key=large"} {
		got := want(t, n.get(target), 429)
		wantHeader(t, got, "Retry-After", "1")
		if p := got.problem(t); p.Type != api.ProblemOverloaded {
			t.Errorf("%s: %+v", target, p)
		}
	}
	want(t, n.get("/key/small"), 200)
	want(t, n.send("HEAD", "/key/large", ""), 200)
	want(t, n.put("/key/new", "v"), 201)

	first.Close() // its memory comes back
	poll(t, "/key/large is answered 200", func() bool { return n.get("/key/large").status == 200 })
}

// TestLimits_Requests: past the limit a request for a key is refused before
// anything is done, and what tells how the node is is answered.
func TestLimits_Requests(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.RequestsInFlight = 1 })
	n.db.set("a", "", "v")
	n.db.block, n.db.blocking = true, make(chan struct{})
	waits := n.dial()
	io.WriteString(waits, "PUT /key/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
	<-n.db.blocking
	for method, target := range map[string]string{"GET": "/key/a", "HEAD": "/keep/a", "PUT": "/key?key=c", "POST": "/key"} {
		wantHeader(t, want(t, n.send(method, target, "", "Content-Length: 0"), 429), "Retry-After", "1")
	}
	for _, target := range []string{"/livez", "/readyz", "/ping", "/stats", "/members", "/openapi.yaml"} {
		want(t, n.get(target), 200)
	}
	waits.Close()
	poll(t, "/key/a is answered 200", func() bool { return n.get("/key/a").status == 200 })
}
