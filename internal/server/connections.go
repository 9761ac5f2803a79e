package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/metrics"
)

// connectionsMax is the default limit of a listener's connections, where the
// process may have as many files open.
const connectionsMax = 16384

// defaultConnections leaves half of the files the process may have open to
// everything else.
func defaultConnections() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return connectionsMax / 16
	}
	return int(min(connectionsMax, max(64, files.Cur/2)))
}

// connections is a listener that keeps the number of its open connections
// below a limit. golang.org/x/net/netutil's does that by not accepting: past
// the limit everybody hangs in the kernel's queue, probes included, and
// connections on which nothing happens keep out those that have something to
// ask. Here, the connection that has been without a request for longest makes
// room (its client finds it closed, as after IdleTimeout, and opens another;
// one that never finishes a header is without a request too). Only when every
// connection is at work is a new one refused, with a 503 that says so.
type connections struct {
	net.Listener
	limit   int
	refusal []byte

	refused, closed atomic.Uint64
	slots           chan struct{} // one for each refusal that is being sent
	refusals        sync.WaitGroup

	mu   sync.Mutex
	open map[*connection]struct{}
}

// refusalsMax is how many refusals are sent at the same time; those beyond are
// closed without a word. refusalTime is how long one may take.
const (
	refusalsMax = 64
	refusalTime = time.Second
)

func limitConnections(ln net.Listener, limit int) *connections {
	if limit <= 0 {
		limit = defaultConnections()
	}
	return &connections{Listener: ln, limit: limit, refusal: refusalBytes(limit), slots: make(chan struct{}, refusalsMax), open: make(map[*connection]struct{})}
}

// refusalBytes is the answer to whatever a refused connection asks.
func refusalBytes(limit int) []byte {
	body, err := json.Marshal(client.Problem{
		Type: client.ProblemOverloaded, Title: "Overloaded", Status: http.StatusServiceUnavailable,
		Detail: fmt.Sprintf("all %d connections of this node are at work; nothing was done. Try again after the time in Retry-After, or another node", limit),
	})
	if err != nil {
		panic(fmt.Sprintf("server: a problem document does not marshal: %v", err))
	}
	return fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
		client.ContentTypeProblem, len(body), body)
}

// connection is an accepted one.
type connection struct {
	*net.TCPConn
	of    *connections
	since atomic.Int64 // unix nanoseconds since when there is no request on it; 0: there is one
	told  atomic.Bool  // net/http has answered something that is no request

	deadlines deadlines
}

// Accept returns the next connection for which there is room.
func (c *connections) Accept() (net.Conn, error) {
	for {
		accepted, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp := accepted.(*net.TCPConn) // Listener is one of net.Listen("tcp", …)
		if conn := c.admit(tcp); conn != nil {
			return conn, nil
		}
		c.refuse(tcp)
	}
}

// admit counts a connection in, nil if there is no room for it.
func (c *connections) admit(tcp *net.TCPConn) *connection {
	conn := &connection{TCPConn: tcp, of: c}
	conn.since.Store(time.Now().UnixNano())
	c.mu.Lock()
	var idle *connection
	if len(c.open) >= c.limit {
		if idle = c.longestIdleLocked(); idle == nil {
			c.mu.Unlock()
			return nil
		}
		delete(c.open, idle)
	}
	c.open[conn] = struct{}{}
	c.mu.Unlock()
	if idle != nil {
		c.closed.Add(1)
		_ = idle.TCPConn.Close()
	}
	return conn
}

// longestIdleLocked looks at all connections, which takes a few hundred
// microseconds and happens only at the limit.
func (c *connections) longestIdleLocked() (longest *connection) {
	var since int64
	for conn := range c.open {
		if at := conn.since.Load(); at != 0 && (longest == nil || at < since) {
			longest, since = conn, at
		}
	}
	return longest
}

// refuse answers a connection there is no room for.
func (c *connections) refuse(tcp *net.TCPConn) {
	c.refused.Add(1)
	select {
	case c.slots <- struct{}{}:
	default:
		_ = tcp.Close()
		return
	}
	c.refusals.Go(func() {
		defer func() { <-c.slots }()
		defer tcp.Close()
		_ = tcp.SetDeadline(time.Now().Add(refusalTime))
		if _, err := tcp.Write(c.refusal); err != nil {
			return
		}
		hearOut(tcp)
	})
}

// hearOut reads what the client still sends until it has seen the answer, or
// the connection's deadline: one that is closed with something unread is reset,
// and then the client may never see it.
func hearOut(tcp *net.TCPConn) {
	_ = tcp.CloseWrite()
	_, _ = io.Copy(io.Discard, io.LimitReader(tcp, 1<<20))
}

// lastWord is what net/http's own answers to something that is no request have
// in them. Unlike those of a handler, it does not hear the client out.
var lastWord = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

const lastWordMax = 512 // bytes of such an answer

// Write implements net.Conn.
func (c *connection) Write(p []byte) (int, error) {
	const status = len("HTTP/1.1 ")
	if len(p) <= lastWordMax && len(p) > status && p[status] >= '4' && bytes.Contains(p, lastWord) {
		c.told.Store(true)
	}
	return c.TCPConn.Write(p)
}

// Close counts the connection out.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	if c.told.Load() {
		_ = c.TCPConn.SetDeadline(time.Now().Add(refusalTime)) // which hearOut reads from
		hearOut(c.TCPConn)
	}
	return c.TCPConn.Close()
}

// changed is http.Server's ConnState.
func (c *connections) changed(nc net.Conn, state http.ConnState) {
	conn, ok := nc.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateActive, http.StateHijacked:
		conn.since.Store(0)
	case http.StateIdle:
		conn.since.Store(time.Now().UnixNano())
	}
}

// figures are what metrics show.
func (c *connections) figures() metrics.Connections {
	c.mu.Lock()
	open := len(c.open)
	c.mu.Unlock()
	return metrics.Connections{Open: open, Limit: c.limit, Refused: c.refused.Load(), ClosedForRoom: c.closed.Load()}
}
