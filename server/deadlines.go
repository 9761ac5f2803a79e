package server

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// deadlines holds the deadlines that a connection should have, and tells the kernel's
// poller only those that make a difference.
//
// With net.TCPConn's deadlines, every call starts, moves or stops a timer of the runtime.
// net/http makes seven calls a request and the body of a put two more, nearly all for reads
// that never wait, or taken back before one does: in a profile of puts they were 4 % of the
// leader's time. Here a read deadline is only noted, and checked when a read begins.
//
// The poller's deadline may be earlier than the wanted one, such as the timeout of an idle
// connection while it has a request: the read that it ends notices and goes on. While a
// read waits, the poller's deadline is never later than the wanted one. So a request that
// is answered at once costs no call at all, and any other two: one to end net/http's
// background read, and one before the wait for the next request.
type deadlines struct {
	mu      sync.Mutex
	wanted  time.Time // deadline of reads; zero: none
	bound   time.Time // deadline of the waiting read if wanted is zero; zero: none
	polled  time.Time // the poller's deadline
	over    bool      // polled has passed and ended a read
	stalled bool      // bound has passed: later reads without a wanted deadline end at once
	reading int       // reads under way
	writing bool      // a handler has set a deadline of writes
	written time.Time // the poller's deadline of writes if no handler has set one
}

// late reports whether the poller would let a read wait for too long, or not at all.
func (d *deadlines) late() bool {
	until := d.until()
	return d.over || !until.IsZero() && (d.polled.IsZero() || d.polled.After(until))
}

// until returns when a read must end; zero means never.
func (d *deadlines) until() time.Time {
	if d.wanted.IsZero() {
		return d.bound
	}
	return d.wanted
}

// applyLocked tells the poller the wanted deadline.
func (c *connection) applyLocked() error {
	d := &c.deadlines
	d.polled, d.over = d.until(), false
	return c.TCPConn.SetReadDeadline(d.polled)
}

// SetReadDeadline implements net.Conn.
func (c *connection) SetReadDeadline(t time.Time) error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted, d.bound = t, time.Time{}
	if d.reading > 0 && d.late() {
		return c.applyLocked()
	}
	return nil
}

// SetWriteDeadline implements net.Conn. net/http clears the deadline after every request,
// whether there was one or not.
func (c *connection) SetWriteDeadline(t time.Time) error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.IsZero() && !d.writing {
		return nil
	}
	d.writing, d.written = !t.IsZero(), time.Time{}
	return c.TCPConn.SetWriteDeadline(t)
}

// If no handler sets a deadline, reads of bodies end after ioIdle without a byte, and
// writes when the client takes no piece for up to twice that.
const (
	ioIdle     = 30 * time.Second
	pieceBytes = 256 << 10
)

// beginWrite makes sure that a write ends. Handlers set deadlines for their own writes;
// this one is for writes by net/http, and for handlers that set none. Moving a timer with
// every write would cost too much, so it moves when half of it has passed.
func (c *connection) beginWrite(now time.Time) error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writing {
		return nil
	}
	if d.written.Sub(now) < c.of.idle {
		d.written = now.Add(2 * c.of.idle)
		return c.TCPConn.SetWriteDeadline(d.written)
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *connection) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	body := len(p) > 1 && c.since.Load() == 0 // see beginRead
	if err := c.beginRead(len(p) > 1); err != nil {
		return 0, err
	}
	if body {
		c.reads.Store(time.Now().UnixNano())
		defer c.reads.Store(0)
	}
	for {
		n, err := c.TCPConn.Read(p)
		if c.endRead(err) {
			if n > 0 && c.hijacked.Load() {
				c.asked.Store(true)
				c.since.Store(time.Now().UnixNano())
			}
			return n, err
		}
	}
}

// beginRead tells the poller when a read must end. Handlers that read a body set a
// deadline. bounded is for reads without one, such as net/http's of the rest of a body.
// Only one read may last forever: net/http's wait, one byte long, for the end of the
// connection while a handler works.
func (c *connection) beginRead(bounded bool) error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if bounded && d.wanted.IsZero() && !c.hijacked.Load() {
		if d.stalled { // net/http reads the rest of a body twice
			return os.ErrDeadlineExceeded
		}
		d.bound = time.Now().Add(c.of.idle)
	}
	if d.late() {
		// net/http often ends its background read before the read has begun.
		if until := d.until(); !until.IsZero() && !until.After(time.Now()) {
			return os.ErrDeadlineExceeded
		}
		if err := c.applyLocked(); err != nil {
			return err
		}
	}
	d.reading++
	return nil
}

// endRead reports whether a read is over. A read ended by an outdated deadline is not: it
// must be repeated.
func (c *connection) endRead(err error) bool {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		d.over = true
		if until := d.until(); until.IsZero() || until.After(time.Now()) {
			if c.applyLocked() == nil {
				return false
			}
		}
		d.stalled = d.stalled || d.wanted.IsZero()
	}
	if d.reading--; d.reading == 0 {
		d.bound = time.Time{}
	}
	return true
}

// WriteTo implements io.WriterTo. net.TCPConn's would bypass Read and its deadline.
func (c *connection) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}
