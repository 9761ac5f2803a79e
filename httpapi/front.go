package httpapi

import (
	"cmp"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// # How it works
//
// The handler chain is front, router, handler. front gives the request an answer (which
// notes its status and names its history), checks Host and Origin, limits requests for
// keys, and turns a panic into a 500. Routes of one key are found by prefix, all others
// by chi, on the decoded path. A handler returns an error before it has begun to
// answer; one table (errors.go) turns it into a problem document (RFC 9457).
//
// What is left of a body is never another request. net/http reads on to the body's end,
// or closes the connection. For an answer that may begin before the body's end (full
// duplex) it does neither, so such an answer is the last of its connection. So is one to
// HTTP/1.0, where net/http ignores Transfer-Encoding, and one to a chunked body, where it
// ignores Content-Length: a proxy may have gone by either.
//
// A page of GET /keys ends by its limit, at about 1 MiB, or earlier; only a page without
// "next" is the last. "next" is base64url of a version byte, the id of the history and
// the page's last key, so that pages stay right whatever is put between them, at any
// node. A token of version 1 has no history.
//
// Answers that have revisions name their history in Oncekv-History: the one that the node
// holds when the answer begins. Answers about the value of a key name it only to requests
// that have the header, as those of cache nodes do. A request that names a history that
// the node does not hold, or a revision beyond the newest, gets 409
// (kvstore.HistoryChangedError), after ReadIndex has shown that the node is not merely
// behind; without that confirmation another history gets 503, and a follower waits.
//
// A proxy that cleans paths (http.ServeMux, most proxies by default) changes keys;
// clients behind one use /key?key=. net/http itself answers a path that it cannot parse
// (/key/a%zz), in plain text.
//
// A client that stops reading a small answer is not timed out: the answer is in the
// socket's buffer and the handler is done. Limits on connections belong to the server.

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
	traffic     Traffic               // nil: none
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
		// If the request is refused, net/http reads some of its body before it sends
		// the answer. The deadline bounds that.
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

// ambiguous reports whether a proxy may have seen the body end elsewhere than net/http
// does, so that one of them takes bytes for a request that the other does not (RFC 9112,
// 6.1). In HTTP/1.0 net/http ignores Transfer-Encoding. In HTTP/1.1 it ignores a
// Content-Length beside it, and does not tell whether there was one, so no connection
// outlives a chunked body.
func ambiguous(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0)
}

// limited reports whether requests for a path are limited. The other
// paths report the state of the node or change the cluster, which matters most when it is
// busy.
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

func newLimit(n int64) *limit {
	l := new(limit)
	l.left.Store(n)
	return l
}

// limit bounds how many of something there are at a time. It does not tell clients
// apart, so it costs a request next to nothing; package budget is for what clients hold
// for long. Safe for concurrent use.
type limit struct {
	left atomic.Int64
}

// take counts n in, or reports that there is no room for them.
func (l *limit) take(n int64) bool {
	if l.left.Add(-n) >= 0 {
		return true
	}
	l.left.Add(n)
	return false
}

// give counts n out.
func (l *limit) give(n int64) { l.left.Add(n) }

// How much is read of the rest of a body whose request was refused.
const (
	lingerIdle  = time.Second     // without a byte of it
	lingerMax   = 5 * time.Second // in all
	lingerBytes = 256 << 20
)

// linger sends a refusal and reads what the client still sends, for a while. Most
// clients send all of a body before they look for an answer. If the connection were
// closed while bytes come in, the kernel would reset it, and the client would see a
// broken connection instead of the reason (RFC 9112, 9.6). net/http waits for half a
// second then, reads nothing, and does not even wait when the client asked for one
// answer only or for a go-ahead.
//
// net/http reuses the connection as ever: only if the body was read to its end.
func linger(w http.ResponseWriter, body io.Reader) {
	rest := &lingerReader{conn: http.NewResponseController(w), body: body, end: time.Now().Add(lingerMax)}
	if rest.conn.Flush() != nil {
		return
	}
	if n, _ := rest.Read(make([]byte, 1)); n > 0 { // most bodies have been read to their end
		_, _ = io.CopyN(io.Discard, rest, lingerBytes)
	}
}

// lingerReader reads under the deadlines of linger.
type lingerReader struct {
	conn *http.ResponseController
	body io.Reader
	end  time.Time
}

// Read implements io.Reader.
func (l *lingerReader) Read(p []byte) (int, error) {
	until := time.Now().Add(lingerIdle)
	if until.After(l.end) {
		until = l.end
	}
	if err := l.conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return l.body.Read(p)
}

// behind puts the router behind a front.
func (rt *router) behind(idle time.Duration, requests int) http.Handler {
	return &front{next: rt.mux, direct: rt.direct, hosts: rt.hosts, crossOrigin: http.NewCrossOriginProtection(), counters: rt.counters, logger: rt.logger, idle: idle,
		traffic: rt.traffic, elsewhere: rt.elsewhere(), requests: newLimit(int64(requests))}
}
