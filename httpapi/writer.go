package httpapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
)

// pacedWriter writes a long answer in pieces, each under a fresh deadline: an
// answer may take as long as the client keeps reading. The last deadline also
// covers what net/http still has to flush; it takes the deadline away itself
// before the connection's next request.
type pacedWriter struct {
	http.ResponseWriter
	conn *http.ResponseController
	idle time.Duration
	held *budget.Holder // of the memory of what is written; nil: it holds none

	taken int64 // bytes
	quick bool  // the last piece was taken at once

	mu    sync.Mutex
	until time.Time // no deadline is later, if set
}

// pieceBytes is what is written under one deadline. Who takes budget.SlowBytesPerSecond
// takes it within his grace. Each piece wakes the client up, so one who has taken more than
// the kernel's buffers hold, quickAfter, and the last piece within quickPiece, gets
// copyBytes at a time.
const (
	pieceBytes = 64 << 10
	quickAfter = 16 << 20
	quickPiece = 5 * time.Millisecond
)

func newPacedWriter(w http.ResponseWriter, idle time.Duration) *pacedWriter {
	return &pacedWriter{ResponseWriter: w, conn: http.NewResponseController(w), idle: idle}
}

// hold takes n bytes of b for what is going to be written. release gives back what
// is left of them; it must be called, whatever err is. A reader that is too slow
// while others wait for memory is cut off.
func (w *pacedWriter) hold(r *http.Request, b *budget.Budget, n int64) (release func(), err error) {
	w.held = b.Hold(hostOf(r), graceOf(w.idle), w.cutOff)
	if err := room(r.Context(), w.held, n); err != nil {
		w.held.Close()
		return func() {}, err
	}
	return w.held.Close, nil
}

// cutOff makes the write that is under way fail, and all that follow.
func (w *pacedWriter) cutOff() { w.within(0) }

// within lets nothing be written after a time.
func (w *pacedWriter) within(total time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = time.Now().Add(total)
	_ = w.conn.SetWriteDeadline(w.until)
}

// renew gives the next write its time, if there is any left.
func (w *pacedWriter) renew() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	deadline := now.Add(w.idle)
	if !w.until.IsZero() {
		if !now.Before(w.until) {
			return os.ErrDeadlineExceeded
		}
		deadline = w.until
	}
	_ = w.conn.SetWriteDeadline(deadline)
	return nil
}

// Unwrap lets http.ResponseController through. A flush falls under the deadline
// of the write before it.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write writes p piece by piece.
func (w *pacedWriter) Write(p []byte) (written int, err error) {
	for {
		size := pieceBytes
		if w.quick && w.taken >= quickAfter {
			size = copyBytes
		}
		began := time.Now()
		n, err := w.write(p[:min(len(p), size)])
		w.quick = time.Since(began) < quickPiece
		w.taken += int64(n)
		written += n
		if err != nil || n == len(p) {
			return written, err
		}
		p = p[n:]
	}
}

// write writes one piece.
func (w *pacedWriter) write(piece []byte) (int, error) {
	if err := w.renew(); err != nil {
		return 0, err
	}
	if w.held == nil {
		return w.ResponseWriter.Write(piece)
	}
	w.held.Waiting()
	n, err := w.ResponseWriter.Write(piece)
	w.held.Moved(n)
	return n, err
}

// errInstead ends http.ServeContent's copying when another answer is sent.
var errInstead = errors.New("another answer is sent")

// servedWriter stands between http.ServeContent and the connection. It holds
// back every error answer, which ServeContent would send as plain text, and
// the headers of a value that turns out unreadable at its first byte.
type servedWriter struct {
	*pacedWriter
	content *content   // nil: the bytes are at hand, nothing to find out
	hasBody bool       // not HEAD
	buffers *sync.Pool // of *[copyBytes]byte
	refused int        // the status that was held back
	err     error      // why the value cannot be read
}

func (g *reads) serving(w *pacedWriter, r *http.Request) *servedWriter {
	return &servedWriter{pacedWriter: w, hasBody: r.Method != http.MethodHead, buffers: &g.buffers}
}

// WriteHeader passes on a success and holds back the rest.
func (w *servedWriter) WriteHeader(status int) {
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
func (w *servedWriter) readsFirst(status int) bool {
	if w.content == nil || !w.hasBody || status == http.StatusNotModified {
		return false
	}
	return status == http.StatusOK || w.Header().Get("Content-Range") != ""
}

// Write writes, unless another answer is going to be sent.
func (w *servedWriter) Write(p []byte) (int, error) {
	if w.refused != 0 || w.err != nil {
		return 0, errInstead
	}
	return w.pacedWriter.Write(p)
}

// copyBytes is what is read and written at a time of a value that is not at hand: several
// blocks of it, and little enough that they are still in the processor's cache when
// they are written.
const copyBytes = 256 << 10

// ReadFrom implements io.ReaderFrom for http.ServeContent, which would copy in pieces of
// 32 KiB.
func (w *servedWriter) ReadFrom(r io.Reader) (written int64, err error) {
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
func (w *servedWriter) copyBuffer(r io.Reader) (buf []byte, release func()) {
	if limited, ok := r.(*io.LimitedReader); ok && limited.N < copyBytes {
		return make([]byte, max(1, min(limited.N, 32<<10))), func() {}
	}
	pooled, _ := w.buffers.Get().(*[copyBytes]byte)
	if pooled == nil {
		pooled = new([copyBytes]byte)
	}
	return pooled[:], func() { w.buffers.Put(pooled) }
}
