package httpapi

import (
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

// pieceBytes is written under one deadline. A client that reads budget.SlowBytesPerSecond
// takes it within its grace. Each piece wakes the client up, so a client that has taken
// more than the kernel's buffers hold, quickAfter, and the last piece within quickPiece,
// gets copyBytes at a time.
const (
	pieceBytes = 64 << 10
	quickAfter = 16 << 20
	quickPiece = 5 * time.Millisecond
)

func newPacedWriter(w http.ResponseWriter, idle time.Duration) *pacedWriter {
	return &pacedWriter{ResponseWriter: w, conn: http.NewResponseController(w), idle: idle}
}

// hold takes n bytes of b for the answer. release gives back what is left of them; the
// caller calls it, whatever err is. A reader that is too slow while others wait for memory
// is cut off.
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

// copyBytes is what is read and written at a time of a value that is not at hand: several
// blocks of it, and little enough that they are still in the processor's cache when
// they are written.
const copyBytes = 256 << 10
