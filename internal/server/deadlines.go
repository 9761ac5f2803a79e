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
	told    time.Time // what the poller has
	over    bool      // told has passed: a read has ended by it
	reading int       // reads that have begun and not ended
	writing bool      // the poller has a deadline of writes
}

// late reports whether the poller would let a read wait for longer than is
// wanted, or not wait at all.
func (d *deadlines) late() bool {
	return d.over || !d.wanted.IsZero() && (d.told.IsZero() || d.told.After(d.wanted))
}

// applyLocked tells the poller what is wanted.
func (c *connection) applyLocked() error {
	d := &c.deadlines
	d.told, d.over = d.wanted, false
	return c.TCPConn.SetReadDeadline(d.wanted)
}

// SetReadDeadline implements net.Conn.
func (c *connection) SetReadDeadline(t time.Time) error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
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
	d.writing = !t.IsZero()
	return c.TCPConn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *connection) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	if err := c.beginRead(); err != nil {
		return 0, err
	}
	for {
		n, err := c.TCPConn.Read(p)
		if c.endRead(err) {
			return n, err
		}
	}
}

func (c *connection) beginRead() error {
	d := &c.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.late() {
		// net/http ends many a read in the background before it has begun.
		if !d.wanted.IsZero() && !d.wanted.After(time.Now()) {
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
		if d.wanted.IsZero() || d.wanted.After(time.Now()) {
			if c.applyLocked() == nil {
				return false
			}
		}
	}
	d.reading--
	return true
}

// WriteTo implements io.WriterTo in place of net.TCPConn's, which would read
// past Read and so without a deadline.
func (c *connection) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}
