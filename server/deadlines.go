package server

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// deadlines keep what deadlines a connection is to have, and tell the kernel's
// poller of those that make a difference.
//
// The easy version is net.TCPConn's: every call starts, moves or stops a timer of
// the runtime. net/http makes seven a request and a put's body two more, nearly
// all of them about reads that never wait, or taken back before one does: in a
// profile of puts they were 4 % of the leader. Here a read deadline is noted, and
// looked at when a read begins. What the poller has may then be
// earlier than what is wanted, such as the time-out of an idle connection while a
// request is at work on it: the read that it ends finds that out and goes on.
// What it has is never later than what is wanted while a read waits. So a request
// that is answered at once costs no call at all, and another one two: to end
// net/http's reading in the background, and before the wait for the next request.
type deadlines struct {
	mu      sync.Mutex
	wanted  time.Time // of reads; zero: none
	bound   time.Time // of the read that waits, where none is wanted; zero: none
	told    time.Time // what the poller has
	over    bool      // told has passed: a read has ended by it
	stalled bool      // so has a bound: nothing more is waited for where no deadline is wanted
	reading int       // reads that have begun and not ended
	writing bool      // somebody has set a deadline of writes
	written time.Time // what the poller has for writes where nobody has
}

// late reports whether the poller would let a read wait for longer than is
// wanted, or not wait at all.
func (d *deadlines) late() bool {
	until := d.until()
	return d.over || !until.IsZero() && (d.told.IsZero() || d.told.After(until))
}

// until is when a read is to end, zero for never.
func (d *deadlines) until() time.Time {
	if d.wanted.IsZero() {
		return d.bound
	}
	return d.wanted
}

// applyLocked tells the poller what is wanted.
func (c *connection) applyLocked() error {
	d := &c.deadlines
	d.told, d.over = d.until(), false
	return c.TCPConn.SetReadDeadline(d.told)
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

// SetWriteDeadline implements net.Conn. net/http takes the deadline away after
// every request, whether there was one or not.
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

// Reads of bodies that nobody sets a deadline for end after ioIdle without a byte,
// such writes when the client takes no piece for up to twice that.
const (
	ioIdle     = 30 * time.Second
	pieceBytes = 256 << 10
)

// beginWrite makes sure that a write ends. Handlers set deadlines for what they
// write; this is for what net/http writes itself, and for whoever forgets. To move a
// timer with every write would cost too much: it is moved when half of it is over.
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

// beginRead tells the poller when a read is to end. Who reads a body sets a deadline.
// bounded is for those who do not, such as net/http, which reads what a handler left
// of one: only its wait for the end of the connection, while a handler is at work,
// may last for ever, and that is a read of one byte.
func (c *connection) beginRead(bounded bool) error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if bounded && d.wanted.IsZero() && !c.hijacked.Load() {
		if d.stalled { // net/http reads what is left of a body twice
			return os.ErrDeadlineExceeded
		}
		d.bound = time.Now().Add(c.of.idle)
	}
	if d.late() {
		// net/http ends many a read in the background before it has begun.
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

// endRead reports whether a read is over. It is not if it was ended by a
// deadline that is not the one wanted: then it has to be tried again.
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

// WriteTo implements io.WriterTo in place of net.TCPConn's, which would read
// past Read and so without a deadline.
func (c *connection) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}
