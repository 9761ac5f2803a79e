package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Most clients send all of a body before they look for an answer. One that is refused
// early must still find the answer: a connection that is closed while its bytes come in
// is reset, and what the client has not read yet is lost.
func TestFront_RefusalReachesWhoStillSends(t *testing.T) {
	n := newNode(t)
	const size = 8 << 20
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"a connection for one request": {"POST /members HTTP/1.1\r\nConnection: close\r\n", http.StatusRequestEntityTooLarge},
		"a connection for many":        {"POST /members HTTP/1.1\r\n", http.StatusRequestEntityTooLarge},
		"a go-ahead that did not come": {"POST /members HTTP/1.1\r\nExpect: 100-continue\r\n", http.StatusRequestEntityTooLarge},
		"no such path":                 {"PUT /nowhere HTTP/1.1\r\nConnection: close\r\n", http.StatusNotFound},
		"a bad header":                 {"PUT /key/a HTTP/1.1\r\nConnection: close\r\nContent-Range: bytes 0-1/2\r\n", http.StatusBadRequest},
		"a foreign page":               {"PUT /key/a HTTP/1.1\r\nConnection: close\r\nOrigin: http://elsewhere\r\nSec-Fetch-Site: cross-site\r\n", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := n.dial()
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			head, rest, _ := strings.Cut(c.head, "\r\n")
			fmt.Fprintf(conn, "%s\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n", head, rest, size)
			piece := make([]byte, 64<<10)
			for sent := 0; sent < size; sent += len(piece) {
				if _, err := conn.Write(piece); err != nil {
					t.Errorf("%d bytes were sent, then %v", sent, err)
					break
				}
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("the answer: %v", err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "problem") {
				t.Errorf("the answer's body %.200q, %v", body, err)
			}
		})
	}
}

// A refused client that sends nothing more does not keep its connection for long.
func TestFront_RefusedAndSilent(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	conn := n.dial()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST /members HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", 8<<20)
	began := time.Now()
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > lingerMax {
		t.Errorf("the connection of a client that sends nothing stayed open for %v", took)
	}
}

// drippingConn is a connection whose client sends a byte of its body every 900 ms.
type drippingConn struct {
	http.ResponseWriter
	deadline time.Time
	read     int
}

func (c *drippingConn) FlushError() error                 { return nil }
func (c *drippingConn) SetReadDeadline(t time.Time) error { c.deadline = t; return nil }

func (c *drippingConn) Read(p []byte) (int, error) {
	next := time.Now().Add(900 * time.Millisecond)
	if next.After(c.deadline) {
		<-time.After(time.Until(c.deadline))
		return 0, os.ErrDeadlineExceeded
	}
	<-time.After(time.Until(next))
	c.read++
	return 1, nil
}

// A refused client that sends a byte now and then does not keep its connection either.
func TestLinger_EndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, conn := time.Now(), &drippingConn{}
		linger(conn, conn)
		if took := time.Since(began); took != lingerMax || conn.read != int(lingerMax/(900*time.Millisecond)) {
			t.Errorf("it took %v, and %d bytes were read", took, conn.read)
		}
	})
}
