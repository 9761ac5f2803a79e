package httpapi

import (
	"errors"
	"net/http"
	"time"
)

// pacedWriter writes a long answer in pieces, each under a fresh deadline: an
// answer may take as long as the client keeps reading. The last deadline also
// covers what net/http still has to flush; it takes the deadline away itself
// before the connection's next request.
type pacedWriter struct {
	http.ResponseWriter
	conn *http.ResponseController
	idle time.Duration
}

// pieceBytes is what is written under one deadline.
const pieceBytes = 64 << 10

func newPacedWriter(w http.ResponseWriter, idle time.Duration) *pacedWriter {
	return &pacedWriter{ResponseWriter: w, conn: http.NewResponseController(w), idle: idle}
}

// Unwrap lets http.ResponseController through. A flush falls under the deadline
// of the write before it.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write writes p piece by piece.
func (w *pacedWriter) Write(p []byte) (written int, err error) {
	for {
		piece := p[:min(len(p), pieceBytes)]
		_ = w.conn.SetWriteDeadline(time.Now().Add(w.idle))
		n, err := w.ResponseWriter.Write(piece)
		written += n
		if err != nil || n == len(p) {
			return written, err
		}
		p = p[n:]
	}
}

// errInstead ends http.ServeContent's copying when another answer is sent.
var errInstead = errors.New("another answer is sent")

// servedWriter stands between http.ServeContent and the connection. It holds
// back every error answer, which ServeContent would send as plain text, and
// the headers of a value that turns out unreadable at its first byte.
type servedWriter struct {
	*pacedWriter
	content *content // nil: the bytes are at hand, nothing to find out
	hasBody bool     // not HEAD
	refused int      // the status that was held back
	err     error    // why the value cannot be read
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
