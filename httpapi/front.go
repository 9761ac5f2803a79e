package httpapi

import (
	"bufio"
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// front is the outermost handler: it sees every request first and every panic
// last.
type front struct {
	next        http.Handler
	direct      []directRoute // tried before next
	hosts       Hosts
	crossOrigin *http.CrossOriginProtection
	counters    *Counters
	logger      *slog.Logger
	idle        time.Duration
	requests    *limit                // of keys, in flight
	traffic     Traffic               // nil: nobody listens
	elsewhere   func(string) reported // hears of requests without a route, by method
}

// ServeHTTP guards one request.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w, id: requestIDOf(r.Header), last: ambiguous(r)}
	f.serve(a, r)
	if r.ContentLength != 0 && a.status >= http.StatusBadRequest && a.status != http.StatusRequestTimeout {
		linger(w, r.Body) // when nothing counts for this request any more
	}
}

func (f *front) serve(a *answer, r *http.Request) {
	if f.traffic != nil {
		f.traffic.InFlight(1)
	}
	if logged := f.logger.Enabled(r.Context(), slog.LevelDebug); logged || f.traffic != nil {
		a.since = time.Now()
		defer f.ended(a, r, logged) // after recovered, whose answer counts too
	}
	defer f.recovered(a, r)
	if r.ContentLength != 0 {
		// Whoever refuses the request leaves its body to net/http, which reads
		// some of it before it sends the answer. That must not wait for ever.
		_ = http.NewResponseController(a).SetReadDeadline(time.Now().Add(f.idle))
	}
	if p := unwelcome(f.hosts, f.crossOrigin, r); p != nil {
		p.write(a)
		return
	}
	if limited(strings.TrimPrefix(r.URL.Path, pathAPI)) {
		if !f.requests.take(1) {
			problemFor(reading, kvstore.ErrOverloaded).write(a)
			return
		}
		defer f.requests.give(1)
	}
	if h := directly(f.direct, r); h != nil {
		h(a, r)
	} else {
		f.next.ServeHTTP(a, r)
	}
	if a.last && !a.begun() {
		a.WriteHeader(http.StatusOK) // or net/http says so, without the end of the connection
	}
}

// ambiguous reports whether somebody in between may have seen the end of the body
// elsewhere than net/http does, and so takes for a request what is none here, or the
// other way round (RFC 9112, 6.1). In HTTP/1.0 net/http takes no notice of
// Transfer-Encoding. In HTTP/1.1 it takes none of a Content-Length beside it, and does
// not tell whether there was one: so no connection outlives a chunked body.
func ambiguous(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0)
}

// limited reports whether a path counts as work. The others tell how a busy
// node is and change the cluster, and must be answered above all then.
func limited(path string) bool {
	return carriesKey(path) || path == pathKeys || path == pathManyGets || path == pathChanges
}

// recovered answers a panic, unless an answer has begun: then the connection
// is broken off, because more bytes could pass for the rest of a value.
func (f *front) recovered(a *answer, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler {
		a.brokenOff = true
		panic(cause)
	}
	f.counters.Errors.Add(1)
	f.logger.Error("panic while answering a request", "method", r.Method, "path", r.URL.Path, "request", requestID(a), "panic", cause, "stack", string(debug.Stack()))
	if a.begun() {
		a.brokenOff = true
		panic(http.ErrAbortHandler)
	}
	op := reading
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		op = putting
	}
	newProblem(http.StatusInternalServerError, api.ProblemInternal, "%s", detailInternal(op)).write(a)
}

// ended reports a request that was answered, or whose answer was broken off.
func (f *front) ended(a *answer, r *http.Request, logged bool) {
	took := time.Since(a.since)
	status := cmp.Or(a.status, http.StatusOK) // what net/http says for a handler that says nothing
	if a.brokenOff {
		status = 0
	}
	if logged {
		f.logger.Debug("request", "method", r.Method, "path", r.URL.Path, "status", status, "took", took, "from", r.RemoteAddr, "request", requestID(a))
	}
	if f.traffic == nil {
		return
	}
	f.traffic.InFlight(-1)
	report := a.report
	if report == nil {
		report = f.elsewhere(r.Method)
	}
	report(status, took)
}

// answer notes what becomes of a request.
type answer struct {
	http.ResponseWriter
	status    int // 0 until the answer has begun
	brokenOff bool
	last      bool // of its connection: a body may follow
	since     time.Time
	report    reported      // of the route; nil: no route was found yet
	id        string        // see requestID
	names     *identity     // of the history that the answer is of; nil: it is of none
	of        *namedHistory // that very one, if it need not be what there is when the answer begins
}

// begun reports whether an answer has begun.
func (a *answer) begun() bool { return a.status != 0 }

// begin notes the status, and names the request to a client that named it, or
// that may want to ask about an error.
func (a *answer) begin(status int) {
	a.status = status
	if a.last {
		a.Header()["Connection"] = []string{"close"}
	}
	if status >= http.StatusBadRequest {
		requestID(a)
	}
	if a.of == nil && a.names != nil {
		a.of = a.names.now()
	}
	if a.of != nil && a.of.header != nil {
		a.Header()[api.HeaderHistory] = a.of.header
	}
	if a.id != "" {
		a.Header()[headerRequestID] = []string{a.id} // instead of what a forwarded answer brought
	}
}

// WriteHeader begins the answer.
func (a *answer) WriteHeader(status int) {
	if status >= http.StatusOK && !a.begun() { // 1xx come before it
		a.begin(status)
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write begins the answer too.
func (a *answer) Write(p []byte) (int, error) {
	if !a.begun() {
		a.begin(http.StatusOK)
	}
	return a.ResponseWriter.Write(p)
}

// EnableFullDuplex lets the answer begin while the body is still being read. What
// is left of the body when the answer ends would be the next request to net/http,
// which does not look for its end then: so such an answer is the connection's
// last. This is the one place that says so, when the answer begins, because a
// handler may have replaced every header by then.
func (a *answer) EnableFullDuplex() error {
	a.last = true
	return http.NewResponseController(a.ResponseWriter).EnableFullDuplex()
}

// FlushError begins the answer too, and sends what there is of it.
func (a *answer) FlushError() error {
	if !a.begun() {
		a.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Hijack takes the connection over, for something that begins with a 101.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap lets http.ResponseController through.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
