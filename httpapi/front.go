package httpapi

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/Focinfi/oncekv/client"
)

// front is the outermost handler: it sees every request first and every panic
// last.
type front struct {
	next        http.Handler
	crossOrigin *http.CrossOriginProtection
	counters    *Counters
	logger      *slog.Logger
	idle        time.Duration
}

// ServeHTTP guards one request.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w}
	defer f.recovered(a, r)
	if r.ContentLength != 0 {
		// Whoever refuses the request leaves its body to net/http, which reads
		// some of it before it sends the answer. That must not wait for ever.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(f.idle))
	}
	if f.crossOrigin.Check(r) != nil {
		newProblem(http.StatusForbidden, client.ProblemForbidden,
			"a web page of another origin may not change anything here: a key that is set stays set").write(a)
		return
	}
	f.next.ServeHTTP(a, r)
}

// recovered answers a panic, unless an answer has begun: then the connection
// is broken off, because more bytes could pass for the rest of a value.
func (f *front) recovered(a *answer, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler {
		panic(cause)
	}
	f.counters.Errors.Add(1)
	f.logger.Error("panic while answering a request", "method", r.Method, "path", r.URL.Path, "panic", cause, "stack", string(debug.Stack()))
	if a.begun {
		panic(http.ErrAbortHandler)
	}
	op := reading
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		op = putting
	}
	newProblem(http.StatusInternalServerError, client.ProblemInternal, "%s", detailInternal(op)).write(a)
}

// answer notes whether an answer has begun.
type answer struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader begins the answer.
func (a *answer) WriteHeader(status int) {
	if status >= http.StatusOK { // 1xx come before it
		a.begun = true
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write begins the answer too.
func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController through.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
