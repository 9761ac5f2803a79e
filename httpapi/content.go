package httpapi

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/Focinfi/oncekv/kvstore"
)

// content is a value's bytes as http.ServeContent wants them. It opens the
// value at the first read, so that a HEAD or a 304 costs no bytes. It never
// delivers fewer bytes than the value has without an error, and keeps that
// error: ServeContent drops it.
//
// ServeContent reads the parts of a multipart answer in a goroutine that may
// still be reading when ServeContent returns; hence the lock.
type content struct {
	ctx   context.Context
	value *kvstore.Value

	mu     sync.Mutex
	src    io.ReadSeekCloser // nil until the first read
	at     int64             // where the next Read is
	srcAt  int64             // where src is
	ahead  []byte            // read by prime from at, not yet delivered
	err    error
	closed bool
}

func newContent(ctx context.Context, v *kvstore.Value) *content {
	return &content{ctx: ctx, value: v}
}

// Seek moves without touching the value.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.value.Size
	}
	if offset < 0 {
		return 0, os.ErrInvalid
	}
	if offset != c.at {
		c.ahead = nil
	}
	c.at = offset
	return offset, nil
}

// Read reads on. At the value's size it returns io.EOF, before that never.
func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		c.at += int64(n)
		return n, nil
	}
	n, err := c.read(p)
	c.at += int64(n)
	return n, err
}

// read reads at c.at and leaves c.at alone.
func (c *content) read(p []byte) (int, error) {
	left := c.value.Size - c.at
	switch {
	case c.closed:
		return 0, os.ErrClosed
	case c.err != nil:
		return 0, c.err
	case left <= 0:
		return 0, io.EOF
	}
	if err := c.position(); err != nil {
		c.err = err
		return 0, err
	}
	n, err := c.src.Read(p[:min(int64(len(p)), left)])
	c.srcAt += int64(n)
	if err == io.EOF {
		err = nil
		if int64(n) < left {
			err = io.ErrUnexpectedEOF
		}
	}
	c.err = err
	return n, err
}

// position opens the value and moves its reader to c.at.
func (c *content) position() error {
	if c.src == nil {
		c.src = c.value.Open(c.ctx)
	}
	if c.srcAt == c.at {
		return nil
	}
	at, err := c.src.Seek(c.at, io.SeekStart)
	c.srcAt = at
	return err
}

// prime reads the first bytes ahead, so that a value that cannot be read at
// all is found out while an error can still be answered.
func (c *content) prime() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at >= c.value.Size || len(c.ahead) > 0 {
		return nil
	}
	buf := make([]byte, 4<<10)
	n, err := c.read(buf)
	if n > 0 {
		c.ahead = buf[:n]
		return nil // a later error is met again by the read that follows
	}
	return err
}

// failure returns what made a read fail, nil if none did.
func (c *content) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends reading.
func (c *content) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.src == nil {
		return nil
	}
	return c.src.Close()
}
