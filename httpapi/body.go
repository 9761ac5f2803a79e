package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// errAnswerLate ends the context of a request that was not answered in time.
var errAnswerLate = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// pacedBody reads a request's body under a deadline that every read renews: a body may
// take any time as long as it moves. It counts the bytes and remembers why it ended,
// because its readers wrap errors in their own ways.
//
// Another goroutine than the handler's may read it. Close waits for that read and keeps
// later ones off the connection, which by then belongs to the next request.
type pacedBody struct {
	conn  http.ResponseController
	idle  time.Duration // a read may take this long
	limit int64         // bytes; more are a *kvstore.TooLargeError

	mu      sync.Mutex // held while reading
	src     io.ReadCloser
	read    int64
	ended   bool  // io.EOF was seen
	failure error // what ended it before that
	closed  bool

	overdue overdue // begun by watch

	held atomic.Pointer[budget.Holder] // of the memory of what is read; nil: there is none

	cutting sync.Mutex // guards the two below, and setting deadlines
	cut     bool       // nothing is read any more: others need the memory
	left    bool       // to net/http: what is read on the connection now is no longer the body
}

// overdue ends a context after a time without progress. Its timer is not stopped and
// started for every read, which costs more: when it fires, it checks whether to wait
// again. The zero value has not been started.
type overdue struct {
	mu     sync.Mutex
	after  time.Duration
	end    context.CancelCauseFunc
	timer  *time.Timer
	since  time.Time // when something was done last
	paused bool      // while something is being done
	over   bool
}

// start begins to wait.
func (o *overdue) start(after time.Duration, end context.CancelCauseFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.after, o.end = after, end
	o.since = time.Now()
	o.timer = time.AfterFunc(o.after, o.look)
}

// look ends the context, or waits for what is left of the time.
func (o *overdue) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := o.after
	if !o.paused {
		left -= time.Since(o.since)
	}
	switch {
	case o.over:
	case left > 0:
		o.timer.Reset(left)
	default:
		o.over = true
		o.end(errAnswerLate)
	}
}

// pause stops the clock until resume.
func (o *overdue) pause() {
	o.mu.Lock()
	o.paused = true
	o.mu.Unlock()
}

func (o *overdue) resume() {
	o.mu.Lock()
	o.paused, o.since = false, time.Now()
	o.mu.Unlock()
}

// stop ends the waiting, and the context.
func (o *overdue) stop() {
	o.mu.Lock()
	o.over = true
	o.timer.Stop()
	o.mu.Unlock()
	o.end(nil)
}

func newPacedBody(w http.ResponseWriter, r *http.Request, idle time.Duration, limit int64) *pacedBody {
	return &pacedBody{conn: *http.NewResponseController(w), idle: idle, limit: limit, src: r.Body}
}

// watch returns a context that ends when the handler has not read for the given time:
// either the body is at its end and the answer is late, or no more of it is read. The
// caller calls stop.
func (b *pacedBody) watch(parent context.Context, answer time.Duration) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	b.overdue.start(answer, cancel)
	return ctx, func() {
		b.Close()
		b.overdue.stop()
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
	b.overdue.pause()
	defer b.overdue.resume()
	n, err := b.readOn(p)
	b.read += int64(n)
	switch {
	case b.read > b.limit:
		b.failure = &kvstore.TooLargeError{LimitBytes: b.limit}
		return 0, b.failure
	case err == io.EOF:
		b.ended = true // and net/http takes the deadline away, to listen for the client's going away
		b.leave()
	case err != nil:
		b.failure = err
	}
	return n, err
}

// readOn reads once.
func (b *pacedBody) readOn(p []byte) (int, error) {
	if !b.renew() {
		return 0, os.ErrDeadlineExceeded
	}
	held := b.held.Load()
	if held == nil {
		return b.src.Read(p)
	}
	held.Waiting()
	n, err := b.src.Read(p)
	held.Moved(n)
	return n, err
}

// renew gives the next read its time, unless the client is cut off.
func (b *pacedBody) renew() bool {
	b.cutting.Lock()
	defer b.cutting.Unlock()
	if b.cut {
		return false
	}
	// A writer without deadlines (a recorder in a test) reads without one.
	_ = b.conn.SetReadDeadline(time.Now().Add(b.idle))
	return true
}

// hold names the memory that the body takes.
func (b *pacedBody) hold(h *budget.Holder) { b.held.Store(h) }

// cutOff makes the current read fail, and all later ones. It has no effect on a body that
// is at its end or closed.
func (b *pacedBody) cutOff() {
	b.cutting.Lock()
	defer b.cutting.Unlock()
	if b.left {
		return
	}
	b.cut = true
	_ = b.conn.SetReadDeadline(time.Unix(1, 0))
}

// leave leaves the connection's deadline to net/http.
func (b *pacedBody) leave() {
	b.cutting.Lock()
	b.left = true
	b.cutting.Unlock()
}

func (b *pacedBody) wasCutOff() bool {
	b.cutting.Lock()
	defer b.cutting.Unlock()
	return b.cut
}

// Close makes later reads fail. net/http drains what the client still sends, under the
// deadline set here; a client that has stalled gets no new one.
func (b *pacedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && !b.ended && !errors.Is(b.failure, os.ErrDeadlineExceeded) {
		b.renew()
	}
	b.leave()
	b.closed = true
	return nil
}

// explain returns the body's own failure, if it had one, and err otherwise.
func (b *pacedBody) explain(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failure == nil:
		return err
	case errors.Is(b.failure, kvstore.ErrTooLarge):
		return b.failure
	case errors.Is(b.failure, os.ErrDeadlineExceeded) && b.wasCutOff():
		return newProblem(http.StatusRequestTimeout, api.ProblemTimeout,
			"the body arrived at less than %d bytes per second while other requests waited for its memory; nothing was set. Send the same request again", budget.SlowBytesPerSecond).with("Connection", "close")
	case errors.Is(b.failure, os.ErrDeadlineExceeded):
		return newProblem(http.StatusRequestTimeout, api.ProblemTimeout,
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
	return newProblem(http.StatusLengthRequired, api.ProblemLengthRequired,
		"the request has neither Content-Length nor Transfer-Encoding, so a complete body cannot be told from a broken one; send Content-Length (0 for an empty value)").
		with("Connection", "close") // a body may follow, whose length only HTTP/1.0 or a proxy knows
}

// refuseLarge refuses by the announced length, before the body is read: a
// client that sent Expect: 100-continue never sends it.
func refuseLarge(r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return &kvstore.TooLargeError{LimitBytes: limit}
	}
	return nil
}
