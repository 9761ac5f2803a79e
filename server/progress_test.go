package server

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// serving runs a handler behind a listener that ends everything after idle without
// progress.
func serving(t *testing.T, limit int, idle time.Duration, h http.Handler) *listener {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	l, err := bind("127.0.0.1:0", "a test", placesForAll(limit), logger)
	if err != nil {
		t.Fatal(err)
	}
	l.ln.idle = idle
	l.prepare(h, logger)
	var running sync.WaitGroup
	running.Go(func() { _ = l.serve() })
	t.Cleanup(func() {
		_ = l.srv.Close()
		running.Wait()
	})
	return l
}

// from connects from an address of this machine and sends text.
func from(t *testing.T, l *listener, address, text string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := d.Dial("tcp", l.ln.Addr().String())
	if err != nil {
		t.Skipf("this system has no address %s: %v", address, err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// statusOf reads an answer and returns its status; 0 means no answer.
func statusOf(t *testing.T, conn net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Log(err)
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// mustEnd expects the server to end a connection by itself.
func mustEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
		t.Error("it stays open")
	}
}

// Whichever part of a request a client sends, whether the handler reads it or not, the
// connection ends without progress; so does an answer that the client does not take.
func TestProgress_EveryReadAndWriteEnds(t *testing.T) {
	reads := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			t.Error("half a body was read to its end")
		}
	})
	ignores := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	writes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 64<<20))
	})
	copies := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 64<<20))
	})
	const length, chunked = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf"
	for _, tt := range []struct {
		name    string
		handler http.Handler
		text    string
	}{
		{"a body that is read", reads, length},
		{"chunks that are read", reads, chunked},
		{"a body that is ignored", ignores, length},
		{"chunks that are ignored", ignores, chunked},
		{"an answer in one piece", writes, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"an answer that is copied", copies, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := serving(t, 4, soon, tt.handler)
			conn := from(t, l, "127.0.0.1", tt.text)
			if strings.HasPrefix(tt.text, "POST") {
				mustEnd(t, conn)
			}
			closed(t, l) // the client has taken no byte
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// closed waits until a listener has no connection.
func closed(t *testing.T, l *listener) {
	t.Helper()
	late := time.After(10 * time.Second)
	for l.ln.counts().Open > 0 {
		select {
		case <-late:
			t.Fatalf("%d connections stay open", l.ln.counts().Open)
		case <-time.After(time.Millisecond):
		}
	}
}

// A working handler is not disturbed: it may take its time, and its client may send slowly
// as long as some bytes come.
func TestProgress_SlowIsNotSilent(t *testing.T) {
	const parts, idle = 16, 500 * time.Millisecond
	l := serving(t, 4, idle, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Errorf("after %d bytes: %v", n, err)
		}
		select { // longer than the limit of a read or write
		case <-time.After(3 * idle / 2):
		case <-r.Context().Done():
			t.Error("the request was ended")
		}
	}))
	conn := from(t, l, "127.0.0.1", fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", parts))
	pause := time.NewTicker(idle / 8)
	defer pause.Stop()
	for range parts {
		<-pause.C
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if status := statusOf(t, conn); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

// waiting returns a handler that answers /wait only when it is told to.
func waiting(t *testing.T) (http.Handler, <-chan struct{}) {
	release, began := make(chan struct{}), make(chan struct{}, 1000)
	t.Cleanup(func() { close(release) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			began <- struct{}{}
			<-release
		}
	}), began
}

// One address cannot take all places, however busy its connections are.
func TestConnections_OneAddressLeavesRoom(t *testing.T) {
	const limit, share = 16, 14
	h, began := waiting(t)
	l := serving(t, limit, ioIdle, h)
	for range share {
		from(t, l, "127.0.0.2", "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
		<-began
	}
	if status := statusOf(t, from(t, l, "127.0.0.2", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")); status != http.StatusServiceUnavailable {
		t.Errorf("one more of the same address: status %d", status)
	}
	for range 10 {
		if status := statusOf(t, from(t, l, "127.0.0.3", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")); status != http.StatusOK {
			t.Errorf("another address: status %d", status)
		}
	}
}

// The address with the most connections makes room, beginning with connections that never
// sent a request.
func TestConnections_WhoGivesWay(t *testing.T) {
	const limit = 8
	l := serving(t, limit, ioIdle, http.NotFoundHandler())
	const ping = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	few := from(t, l, "127.0.0.3", ping) // idle for longest, but alone
	statusOf(t, few)
	asked := from(t, l, "127.0.0.2", ping)
	statusOf(t, asked)
	var silent []net.Conn
	for range 5 {
		silent = append(silent, from(t, l, "127.0.0.2", ""))
	}
	for range 5 { // each takes the place of a silent one
		statusOf(t, from(t, l, "127.0.0.4", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	}
	for _, conn := range []net.Conn{few, asked} {
		if _, err := io.WriteString(conn, ping); err != nil {
			t.Fatal(err)
		}
		if status := statusOf(t, conn); status != http.StatusNotFound {
			t.Errorf("status %d", status)
		}
	}
	mustEnd(t, silent[0])
}

// If nothing else is idle, requests and answers that have not moved for a while make room,
// although their handlers wait for them.
func TestConnections_StalledMakeRoom(t *testing.T) {
	const limit = 4
	for name, text := range map[string]string{
		"bodies":  "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
		"answers": "GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := serving(t, limit, ioIdle, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/large" {
					_, _ = w.Write(make([]byte, 64<<20))
				}
			}))
			for range 2 * limit {
				from(t, l, "127.0.0.1", text)
			}
			late := time.After(10 * time.Second)
			for statusOf(t, from(t, l, "127.0.0.1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")) != http.StatusOK {
				select {
				case <-late:
					t.Fatal("they stop the node answering")
				case <-time.After(soon):
				}
			}
		})
	}
}

// A silent hijacked connection makes room; a busy one does not.
func TestConnections_SilentStreamsMakeRoom(t *testing.T) {
	const limit = 4
	l := serving(t, limit, ioIdle, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, buffered)
		}()
	}))
	for range 3 * limit {
		statusOf(t, from(t, l, "127.0.0.1", "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")) // some are refused
	}
	late := time.After(10 * time.Second)
	for {
		if statusOf(t, from(t, l, "127.0.0.1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == http.StatusOK {
			return
		}
		select {
		case <-late:
			t.Fatal("silent streams stop the node answering")
		case <-time.After(soon):
		}
	}
}
