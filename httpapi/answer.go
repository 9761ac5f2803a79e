package httpapi

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

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

// headerRequestID names a request in logs and answers. The client's own name is kept if
// it could be a put id. Other requests get a name when it is needed: for an error, a line
// in the log, a node to forward to. The answer with a value gets none, because HTTP
// caches keep it.
const headerRequestID = "X-Request-Id"

// requestIDOf reads the client's name of a request, "" if there is none fit to
// be written into logs.
func requestIDOf(h http.Header) string {
	lines := h[headerRequestID]
	if len(lines) != 1 || api.CheckPutID(lines[0]) != nil {
		return ""
	}
	return lines[0]
}

// requestID returns the name of the request that w answers, after giving it one
// if it has none.
func requestID(w http.ResponseWriter) string {
	a, ok := w.(*answer)
	if !ok {
		return ""
	}
	if a.id == "" {
		var random [8]byte // to tell requests apart, not to be secret
		binary.BigEndian.PutUint64(random[:], rand.Uint64())
		a.id = hex.EncodeToString(random[:])
	}
	return a.id
}

// identity tells which history a DB holds, or a cache node stands in. It changes a few
// times in a cluster's life, and is in every answer that has a revision, so it is
// formatted once.
type identity struct {
	history func() kvstore.History
	last    atomic.Pointer[namedHistory]
}

// now returns the history that there is now.
func (i *identity) now() *namedHistory { return i.named(i.history().ID) }

// named returns what answers say of a history, as a rule that which there is now.
func (i *identity) named(id kvstore.HistoryID) *namedHistory {
	if last := i.last.Load(); last != nil && last.id == id {
		return last
	}
	named := &namedHistory{id: id}
	if !id.IsZero() {
		named.text = id.String()
		named.header = []string{named.text}
	}
	i.last.Store(named)
	return named
}

// in makes the answers of a handler, errors included, name the history that the node
// holds when the answer begins. What was found before that is part of it: a history goes
// on from all that is there. A nil identity is that of a node without a history.
func (i *identity) in(do handler) handler {
	if i == nil {
		return do
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		if a, ok := w.(*answer); ok {
			a.names = i
		}
		return do(w, r)
	}
}

// inWhenAsked is in for answers that HTTP caches may keep: only a request that names its
// history, as those of cache nodes do, is told the history.
func (i *identity) inWhenAsked(do handler) handler {
	if i == nil {
		return do
	}
	named := i.in(do)
	return func(w http.ResponseWriter, r *http.Request) error {
		if len(r.Header[api.HeaderHistory]) > 0 {
			return named(w, r)
		}
		return do(w, r)
	}
}

// namedHistory is a history's id and what answers say of it.
type namedHistory struct {
	id     kvstore.HistoryID
	text   string   // "" for none
	header []string // shared by all answers; nil for none
}

// nameIn makes an answer name the history of its revisions. The node may have another one
// when the answer begins; the client learns that when it goes on from there.
func (h *namedHistory) nameIn(w http.ResponseWriter) {
	if a, ok := w.(*answer); ok {
		a.of = h
	}
}
