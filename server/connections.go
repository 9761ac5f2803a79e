package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/shortage"
	"github.com/Focinfi/oncekv/server/metrics"
)

// connections is a listener that limits the number of its open connections. The listener of
// golang.org/x/net/netutil stops accepting at the limit: then everybody, probes included,
// hangs in the kernel's queue behind connections that do nothing. This one closes an idle
// connection to make room. Idle are:
//
//   - a connection without a request, or whose header never ends. Its client finds it closed,
//     as after IdleTimeout, and opens another;
//   - a hijacked connection that has been silent for silentAfter;
//   - one whose handler has waited for the client, to send or to receive, for silentAfter.
//
// If every connection is busy, it refuses a new one with a 503 that says so.
//
// The address with the most connections gives way first; among its connections, those
// without a request, then those that never sent one, then the one idle for longest. One
// address never gets all places, however busy its connections are, and at most half of the
// few on a peer port.
type connections struct {
	net.Listener
	limit  int
	share  int           // the part of limit that one address may have
	idle   time.Duration // deadline of reads and writes for which no handler sets one
	logger *slog.Logger

	refused, closed atomic.Uint64
	slots           chan struct{} // one for each refusal being sent
	refusals        sync.WaitGroup
	done            chan struct{} // closed by Close
	closing         sync.Once
	complained      time.Time // owned by Accept: when it last logged a shortage

	mu      sync.Mutex
	open    map[*connection]struct{}
	holders map[netip.Prefix]*holder // of the open connections
}

// holder counts the open connections of an address, or of an IPv6 network from which one
// machine may choose its addresses. Guarded by connections.mu.
type holder struct {
	from netip.Prefix
	open int
}

// refusalsMax bounds the refusals sent at the same time; an eighth of the limit, but at
// least 4, bounds them too. Connections beyond that are closed without an answer.
// refusalTime bounds one refusal.
const (
	refusalsMax = 64
	refusalTime = time.Second
)

// complainEvery is how often Accept logs that the system is short of something.
const complainEvery = 10 * time.Second

// silentAfter is how long a busy connection may be silent before it counts as idle. It is
// closed only when others need the room, and its client retries here or elsewhere.
const silentAfter = 2 * time.Second

// places is how many connections a listener may have in all, and from one address.
type places struct{ limit, share int }

func placesForAll(limit int) places   { return places{limit, limit - limit/8} }
func placesForPeers(limit int) places { return places{limit, limit - limit/2} }

func limitConnections(ln net.Listener, p places, logger *slog.Logger) *connections {
	return &connections{
		Listener: ln, limit: p.limit, share: p.share, idle: ioIdle, logger: logger,
		slots: make(chan struct{}, min(refusalsMax, max(4, p.limit/8))), done: make(chan struct{}),
		open: make(map[*connection]struct{}), holders: make(map[netip.Prefix]*holder),
	}
}

// refusalBytes returns the answer to any request on a refused connection.
func refusalBytes(detail string) []byte {
	body, err := json.Marshal(api.Problem{
		Type: api.ProblemOverloaded, Title: "Overloaded", Status: http.StatusServiceUnavailable,
		Detail: detail + "; nothing was done. Try again after the time in Retry-After, or another node",
	})
	if err != nil {
		panic(fmt.Sprintf("server: a problem document does not marshal: %v", err))
	}
	return fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
		api.ContentTypeProblem, len(body), body)
}

// connection is an accepted connection.
type connection struct {
	*net.TCPConn
	of                *connections
	holder            *holder
	since             atomic.Int64 // unix nanoseconds: without a request, or silent, since then; 0: it has a request
	asked             atomic.Bool  // it has had a request
	hijacked          atomic.Bool  // net/http no longer handles it
	reads             atomic.Int64 // unix nanoseconds: a handler has waited for the client to send since then; 0: none waits
	writes            atomic.Int64 // the same for the client to receive
	answeredMalformed atomic.Bool  // net/http has answered a malformed request
	counted           bool         // it is in connections.open; guarded by connections.mu

	deadlines deadlines
}

// Accept returns the next connection for which there is room.
func (c *connections) Accept() (net.Conn, error) {
	var pause acceptPause
	for {
		accepted, err := c.Listener.Accept()
		if err != nil {
			if !c.outlasts(err, &pause) {
				return nil, err
			}
			continue
		}
		pause = 0
		tcp := accepted.(*net.TCPConn) // Listener comes from net.Listen("tcp", …)
		conn, why := c.admit(tcp)
		if conn != nil {
			return conn, nil
		}
		c.refuse(tcp, why)
	}
}

// acceptPause is how long Accept waits after a failure, growing with each.
type acceptPause time.Duration

func (p *acceptPause) next() time.Duration {
	*p = min(max(2**p, acceptPause(5*time.Millisecond)), acceptPause(time.Second))
	return time.Duration(*p)
}

// outlasts waits a little after an error of Accept and reports whether to try again. It
// gives up only when the listener was closed. Other errors mean that the connection has
// already gone, or that the system is short of files or memory: then it closes an idle
// connection.
func (c *connections) outlasts(err error, pause *acceptPause) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	wait := time.NewTimer(pause.next())
	defer wait.Stop()
	if shortage.Is(err) {
		if now := time.Now(); now.Sub(c.complained) >= complainEvery {
			c.complained = now
			c.logger.Warn("could not accept a connection; trying again", "err", shortage.Explain(err))
		}
		c.mu.Lock()
		idle := c.leastNeededLocked(nil)
		c.forgetLocked(idle)
		c.mu.Unlock()
		c.makeRoom(idle)
	}
	select {
	case <-wait.C:
		return true
	case <-c.done:
		return false
	}
}

// Close implements net.Listener.
func (c *connections) Close() error {
	c.closing.Do(func() { close(c.done) })
	return c.Listener.Close()
}

// admit counts a connection in, or returns why there is no room for it.
func (c *connections) admit(tcp *net.TCPConn) (conn *connection, refusal string) {
	conn = &connection{TCPConn: tcp, of: c}
	conn.since.Store(time.Now().UnixNano())
	from := originOf(tcp)
	c.mu.Lock()
	h := c.holders[from]
	var idle *connection
	switch {
	case h != nil && c.share < c.limit && h.open >= c.share:
		if idle = c.leastNeededLocked(h); idle == nil {
			refusal = fmt.Sprintf("all %d connections that one address may have to this node are busy", c.share)
		}
	case len(c.open) >= c.limit:
		if idle = c.leastNeededLocked(nil); idle == nil {
			refusal = fmt.Sprintf("all %d connections of this node are busy", c.limit)
		}
	}
	if refusal == "" {
		c.forgetLocked(idle)
		if h = c.holders[from]; h == nil { // its last connection may just have made room
			h = &holder{from: from}
			c.holders[from] = h
		}
		h.open++
		conn.holder, conn.counted = h, true
		c.open[conn] = struct{}{}
	}
	c.mu.Unlock()
	c.makeRoom(idle)
	if refusal != "" {
		return nil, refusal
	}
	return conn, ""
}

// originOf returns what counts as one remote address.
func originOf(tcp *net.TCPConn) netip.Prefix {
	addr := tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64 // the smallest network that a machine gets
	}
	from, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return from
}

// makeRoom closes a connection unless it is nil.
func (c *connections) makeRoom(idle *connection) {
	if idle != nil {
		c.closed.Add(1)
		_ = idle.TCPConn.Close()
	}
}

// leastNeededLocked returns the idle connection that gives way first, of one holder or, if
// of is nil, of all; nil if none is idle. It visits every connection, which takes some
// hundred microseconds and happens only at the limit.
func (c *connections) leastNeededLocked(of *holder) (least *connection) {
	now := time.Now().UnixNano()
	var need needed
	for conn := range c.open {
		if of != nil && conn.holder != of {
			continue
		}
		if n := conn.need(now); n.idle && (least == nil || n.lessThan(need)) {
			least, need = conn, n
		}
	}
	return least
}

// needed ranks a connection by how much it is needed.
type needed struct {
	idle   bool
	fellow int   // connections of its address
	inside bool  // a handler waits for the client
	asked  bool  // it has had a request
	since  int64 // when it was last of use
}

func (c *connection) need(now int64) needed {
	n := needed{fellow: c.holder.open, since: c.since.Load(), asked: c.asked.Load()}
	if n.since == 0 {
		n.inside, n.since = true, max(c.reads.Load(), c.writes.Load())
	}
	n.idle = n.since != 0 && (!n.inside && !c.hijacked.Load() || now-n.since > int64(silentAfter))
	return n
}

func (n needed) lessThan(other needed) bool {
	switch {
	case n.fellow != other.fellow:
		return n.fellow > other.fellow
	case n.inside != other.inside:
		return other.inside
	case n.asked != other.asked:
		return other.asked
	}
	return n.since < other.since
}

// forgetLocked counts a connection out once; conn may be nil.
func (c *connections) forgetLocked(conn *connection) {
	if conn == nil || !conn.counted {
		return
	}
	conn.counted = false
	delete(c.open, conn)
	if conn.holder.open--; conn.holder.open == 0 {
		delete(c.holders, conn.holder.from)
	}
}

// refuse answers a connection for which there is no room.
func (c *connections) refuse(tcp *net.TCPConn, why string) {
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
		if _, err := tcp.Write(refusalBytes(why)); err != nil {
			return
		}
		hearOut(tcp)
	})
}

// hearOut reads what the client still sends until it closes the connection or the deadline
// passes. Closing with unread bytes would reset the connection, and the client might never
// see the answer.
func hearOut(tcp *net.TCPConn) {
	_ = tcp.CloseWrite()
	_, _ = io.Copy(io.Discard, io.LimitReader(tcp, 1<<20))
}

// lastWord marks the answers that net/http itself gives to malformed requests. It closes
// the connection after them without reading what the client still sends.
var lastWord = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

const lastWordMax = 512 // longer answers are not net/http's

// Write implements net.Conn. It writes large answers in pieces, so that the deadline is one
// of progress.
func (c *connection) Write(p []byte) (n int, err error) {
	const status = len("HTTP/1.1 ")
	if len(p) <= lastWordMax && len(p) > status && p[status] >= '4' && bytes.Contains(p, lastWord) {
		c.answeredMalformed.Store(true)
	}
	for {
		piece := p[n:min(len(p), n+pieceBytes)]
		now := time.Now()
		if err := c.beginWrite(now); err != nil {
			return n, err
		}
		m, err := c.writePiece(piece, now)
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// writePiece marks the connection as waiting for the client while it writes.
func (c *connection) writePiece(p []byte, now time.Time) (int, error) {
	c.writes.Store(now.UnixNano())
	defer c.writes.Store(0)
	return c.TCPConn.Write(p)
}

// ReadFrom implements io.ReaderFrom. net.TCPConn's would bypass Write and its deadline.
func (c *connection) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// Close counts the connection out and closes it.
func (c *connection) Close() error {
	if c.answeredMalformed.Load() {
		c.since.Store(time.Now().UnixNano())                   // it may make room from now on
		_ = c.TCPConn.SetDeadline(time.Now().Add(refusalTime)) // bounds hearOut
		hearOut(c.TCPConn)
	}
	c.of.mu.Lock()
	c.of.forgetLocked(c)
	c.of.mu.Unlock()
	return c.TCPConn.Close()
}

// changed is the http.Server's ConnState.
func (c *connections) changed(nc net.Conn, state http.ConnState) {
	conn, ok := nc.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		conn.since.Store(0)
	case http.StateHijacked:
		conn.hijacked.Store(true)
		conn.asked.Store(false) // requests before the takeover do not count
		conn.since.Store(time.Now().UnixNano())
	case http.StateIdle:
		conn.asked.Store(true)
		conn.since.Store(time.Now().UnixNano())
	}
}

// counts returns the numbers for the metrics.
func (c *connections) counts() metrics.Connections {
	c.mu.Lock()
	open := len(c.open)
	c.mu.Unlock()
	return metrics.Connections{Open: open, Limit: c.limit, Refused: c.refused.Load(), ClosedForRoom: c.closed.Load()}
}
