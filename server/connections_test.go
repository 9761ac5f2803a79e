package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
)

// startLimited runs a database node with a limit of connections.
func startLimited(t *testing.T, limit int) *server.Database {
	t.Helper()
	d, err := server.StartDatabase(context.Background(), server.DatabaseConfig{
		Name: "n1", DataDir: filepath.Join(t.TempDir(), "n1"), Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0",
		MaxConnections: limit, Logger: clustertest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = d.Close(ctx)
	})
	clustertest.Eventually(t, "a node", func() error { return d.Ready(context.Background()) })
	return d
}

// open connects and writes; the connection is closed when the test ends.
func open(t *testing.T, d *server.Database, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(clustertest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask sends a whole request on a connection of its own.
func ask(t *testing.T, d *server.Database, path string) *http.Response {
	t.Helper()
	conn := open(t, d, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// metric returns one series of a node's metrics, asked on a new connection.
func metric(t *testing.T, d *server.Database, name string) float64 {
	t.Helper()
	return scrape(t, d.URL())[name]
}

// A node at its limit closes idle connections to make room: between requests, before the
// first, and in a header that never ends.
func TestConnections_IdleMakeRoom(t *testing.T) {
	const limit = 10
	d := startLimited(t, limit)
	var idle []net.Conn
	for i := range 3 * limit {
		switch i % 3 {
		case 0:
			idle = append(idle, open(t, d, ""))
		case 1:
			idle = append(idle, open(t, d, "GET /ping HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")) // loris
		case 2:
			conn := open(t, d, "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			idle = append(idle, conn)
		}
	}
	for range limit {
		if resp := ask(t, d, "/ping"); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	m := scrape(t, d.URL())
	if m["oncekv_http_connections"] > limit || m["oncekv_http_connections_limit"] != limit || m["oncekv_http_connections_closed_for_room_total"] < 2*limit || m["oncekv_http_connections_refused_total"] != 0 {
		t.Errorf("%v connections of %v, %v closed, %v refused", m["oncekv_http_connections"], m["oncekv_http_connections_limit"],
			m["oncekv_http_connections_closed_for_room_total"], m["oncekv_http_connections_refused_total"])
	}
	if _, err := io.Copy(io.Discard, idle[0]); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the oldest connection ends with %v", err)
	}
}

// When every connection is busy, a new one is refused at once.
func TestConnections_AllAtWork(t *testing.T) {
	const limit = 5
	d := startLimited(t, limit)
	var busy []net.Conn
	for i := range limit {
		conn := open(t, d, fmt.Sprintf("PUT /key/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", i))
		goAhead := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n")) // its handler reads: it is busy
		if _, err := io.ReadFull(conn, goAhead); err != nil {
			t.Fatal(err)
		}
		busy = append(busy, conn)
	}
	resp := ask(t, d, "/ping")
	if resp.StatusCode != 503 {
		t.Fatalf("status %d, want a refusal", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("Retry-After") != "1" || resp.Header.Get("Content-Type") != api.ContentTypeProblem || !strings.Contains(string(body), api.ProblemOverloaded) {
		t.Errorf("%v %v %q", err, resp.Header, body)
	}
	// Busy connections are not disturbed, and make room when they are done.
	for i, conn := range busy {
		if _, err := io.WriteString(conn, "hi"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("put %d: %v %v", i, resp, err)
		}
	}
	if resp := ask(t, d, "/key/0"); resp.StatusCode != 200 {
		t.Errorf("status %d afterwards", resp.StatusCode)
	}
	if metric(t, d, "oncekv_http_connections_refused_total") < 1 {
		t.Error("no refusal is counted")
	}
}

// Thousands of connections that do nothing, a third of them in a header that never ends, do
// not slow others down.
func TestConnections_ThousandsIdle(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	// Both ends of each connection are in this process.
	room := int(min(files.Cur, 1<<20)-400) / 2
	count := 2000
	if os.Getenv("ONCEKV_TEST_FULL") != "" && !clustertest.Race {
		count = min(10000, room)
	}
	if count > room || count < 2000 {
		t.Skipf("this process may have only %d files open", files.Cur)
	}
	d := startLimited(t, count+100)
	const ping, loris = "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /key/a HTTP/1.1\r\nHost: localhost\r\nX-Slow:"
	stay := count / 3 // between requests; the test gives up the others if they take long
	for i := range count {
		switch {
		case i < stay:
			open(t, d, ping)
		case i%2 == 0:
			open(t, d, loris)
		default:
			open(t, d, "")
		}
	}
	clustertest.Eventually(t, "all connections are accepted", func() error {
		n := metric(t, d, "oncekv_http_connections")
		if n < float64(stay) {
			return fmt.Errorf("%v are open", n)
		}
		t.Logf("%v connections are open", n)
		return nil
	})
	cl := clustertest.Client(t, d.URL())
	ctx := clustertest.WithTimeout(t)
	var slowest time.Duration
	for i := range 200 {
		began := time.Now()
		key := fmt.Sprint("k", i)
		if _, err := cl.PutBytes(ctx, key, []byte("v"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if resp := ask(t, d, "/key/"+key); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("with %d idle connections the slowest of 200 puts and gets on new connections took %v", count, slowest)
	if slowest > 30*time.Second {
		t.Errorf("the slowest put and get took %v", slowest)
	}
	if n := metric(t, d, "oncekv_http_connections_refused_total"); n != 0 {
		t.Errorf("%v connections were refused", n)
	}
}

// net/http itself answers malformed requests. The answer arrives even when the client has
// sent more than the server read.
func TestConnections_AnswerToNoRequestArrives(t *testing.T) {
	d := startLimited(t, 0)
	for range 50 {
		conn := open(t, d, "PUT /key/a%zz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n"+strings.Repeat("x", 65536))
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Fatalf("read %q, %v", answer, err)
		}
	}
}
