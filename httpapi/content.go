package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
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

// errInstead ends http.ServeContent's copying when another answer is sent.
var errInstead = errors.New("another answer is sent")

// contentWriter stands between http.ServeContent and the connection. It holds
// back every error answer, which ServeContent would send as plain text, and
// the headers of a value that turns out unreadable at its first byte.
type contentWriter struct {
	*pacedWriter
	content *content   // nil: the bytes are at hand, nothing to find out
	hasBody bool       // not HEAD
	buffers *sync.Pool // of *[copyBytes]byte
	refused int        // the status that was held back
	err     error      // why the value cannot be read
}

// WriteHeader passes on a success and holds back the rest.
func (w *contentWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		w.refused = status
		return
	}
	if w.readsFirst(status) {
		if w.err = w.content.prime(); w.err != nil {
			return
		}
	}
	w.pacedWriter.WriteHeader(status)
}

// readsFirst reports whether the first byte is known to be the one at the
// content's position. Of a multipart answer it is not: another goroutine moves
// the position.
func (w *contentWriter) readsFirst(status int) bool {
	if w.content == nil || !w.hasBody || status == http.StatusNotModified {
		return false
	}
	return status == http.StatusOK || w.Header().Get("Content-Range") != ""
}

// Write writes, unless another answer is going to be sent.
func (w *contentWriter) Write(p []byte) (int, error) {
	if w.refused != 0 || w.err != nil {
		return 0, errInstead
	}
	return w.pacedWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom for http.ServeContent, which would copy in pieces of
// 32 KiB.
func (w *contentWriter) ReadFrom(r io.Reader) (written int64, err error) {
	buf, release := w.copyBuffer(r)
	defer release()
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, err := w.Write(buf[:n])
			written += int64(m)
			if err != nil {
				return written, err
			}
		}
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
	}
}

// copyBuffer returns what to copy r with. What is short gets no more than it needs.
func (w *contentWriter) copyBuffer(r io.Reader) (buf []byte, release func()) {
	if limited, ok := r.(*io.LimitedReader); ok && limited.N < copyBytes {
		return make([]byte, max(1, min(limited.N, 32<<10))), func() {}
	}
	pooled, _ := w.buffers.Get().(*[copyBytes]byte)
	if pooled == nil {
		pooled = new([copyBytes]byte)
	}
	return pooled[:], func() { w.buffers.Put(pooled) }
}
