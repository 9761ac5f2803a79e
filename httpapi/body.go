package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// errAnswerLate ends the context of a request that was not answered in time.
var errAnswerLate = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// pacedBody reads a request's body under a deadline that every read renews:
// a body may take as long as it keeps moving. It also counts the bytes and
// remembers why it ended, because what reads it wraps errors in its own way.
//
// Another goroutine than the handler's may read it; close waits for that read
// and lets no later one touch the connection, which by then belongs to the
// next request.
type pacedBody struct {
	conn  *http.ResponseController
	idle  time.Duration // a read may take this long
	limit int64         // bytes; more are a *kvstore.TooLargeError

	mu      sync.Mutex // held while reading
	src     io.ReadCloser
	read    int64
	ended   bool  // io.EOF was seen
	failure error // what ended it before that
	closed  bool
	late    *time.Timer // set by watch; runs while nothing is being read
	answer  time.Duration
}

func newPacedBody(w http.ResponseWriter, r *http.Request, idle time.Duration, limit int64) *pacedBody {
	return &pacedBody{conn: http.NewResponseController(w), idle: idle, limit: limit, src: r.Body}
}

// watch returns a context that ends when the handler has done nothing with
// the body for the given time, be it that everything is read and the answer
// is awaited, be it that no further part is asked for. stop must be called.
func (b *pacedBody) watch(parent context.Context, answer time.Duration) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	b.answer = answer
	b.late = time.AfterFunc(answer, func() { cancel(errAnswerLate) })
	return ctx, func() {
		b.Close() // first: a read that is still running starts the timer again
		b.late.Stop()
		cancel(nil)
	}
}

// Read reads on under a fresh deadline.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.failure != nil:
		return 0, b.failure
	case b.ended:
		return 0, io.EOF
	}
	if b.late != nil {
		b.late.Stop()
		defer b.late.Reset(b.answer)
	}
	// A writer without deadlines (a recorder in a test) reads without one.
	_ = b.conn.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.src.Read(p)
	b.read += int64(n)
	switch {
	case b.read > b.limit:
		b.failure = &kvstore.TooLargeError{LimitBytes: b.limit}
		return 0, b.failure
	case err == io.EOF:
		b.ended = true // and net/http takes the deadline away, to listen for the client's going away
	case err != nil:
		b.failure = err
	}
	return n, err
}

// Close makes later reads fail. What the client still sends is net/http's to
// drain, under the deadline set here.
func (b *pacedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && !b.ended {
		_ = b.conn.SetReadDeadline(time.Now().Add(b.idle))
	}
	b.closed = true
	return nil
}

// explain returns the better error of a handler that failed with err: the
// body's own failure, if it had one.
func (b *pacedBody) explain(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failure == nil:
		return err
	case errors.Is(b.failure, kvstore.ErrTooLarge):
		return b.failure
	case errors.Is(b.failure, os.ErrDeadlineExceeded):
		return newProblem(http.StatusRequestTimeout, problemTimeout,
			"no byte of the body arrived for %v; nothing was set. Send the same request again", b.idle).with("Connection", "close")
	default:
		return invalid("the body broke off after %d bytes (%v); nothing was set. Send the same request again", b.read, b.failure).with("Connection", "close")
	}
}

// refuseUnframed refuses a body whose end HTTP/1 does not tell: it cannot be
// told from a body that broke off.
func refuseUnframed(r *http.Request) error {
	if r.ProtoMajor > 1 || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || len(r.Header["Content-Length"]) > 0 {
		return nil
	}
	return newProblem(http.StatusLengthRequired, client.ProblemLengthRequired,
		"the request has neither Content-Length nor Transfer-Encoding, so a complete body cannot be told from a broken one; send Content-Length (0 for an empty value)")
}

// refuseLarge refuses by the announced length, before the body is read: a
// client that sent Expect: 100-continue never sends it.
func refuseLarge(r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return &kvstore.TooLargeError{LimitBytes: limit}
	}
	return nil
}
