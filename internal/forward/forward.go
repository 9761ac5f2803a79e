package forward

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/nodehttp"
)

const (
	dialTimeout   = time.Second
	answerTimeout = 30 * time.Second // between the end of the request and the answer
	expectMin     = 1 << 20          // larger bodies wait for the database's go-ahead
	retryAfter    = "1"              // seconds
	idlePerNode   = 256              // connections
)

// Config says where requests go.
type Config struct {
	// Databases returns the URLs of database nodes in the order in which to try them. It is
	// called once a request, concurrently, and must be quick.
	Databases func() []string
	// Leader returns the URL of the database node that leads, "" if it is not known: Put
	// goes there first, if it is one of Databases. It may be nil.
	Leader func() string
	// Failed, if not nil, is called for a database node that did not answer or was too busy.
	Failed func(url string)

	Logger *slog.Logger // nil: none
}

// Handler passes requests on. It is safe for concurrent use.
type Handler struct {
	cfg       Config
	proxy     *httputil.ReverseProxy
	transport *http.Transport
	puts      *puts
}

// New returns a handler for cfg.
func New(cfg Config) *Handler {
	if cfg.Failed == nil {
		cfg.Failed = func(string) {}
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Leader == nil {
		cfg.Leader = func() string { return "" }
	}
	transport := nodehttp.NewTransport(nodehttp.Options{
		DialTimeout: dialTimeout, AnswerTimeout: answerTimeout, ContinueTimeout: time.Second, IdlePerHost: idlePerNode,
	})
	return &Handler{cfg: cfg, puts: newPuts(), transport: transport, proxy: &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     &forwarder{Config: cfg, transport: transport},
		FlushInterval: -1,
		ErrorHandler:  failed,
		ErrorLog:      slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}}
}

// ServeHTTP passes a request on and returns the answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.proxy.ServeHTTP(&passedAnswer{ResponseWriter: w, header: make(http.Header)}, r)
}

// Close ends streams and closes idle connections. Call it when no request is being served.
func (h *Handler) Close() {
	h.puts.close()
	h.transport.CloseIdleConnections()
}

// passedAnswer is where httputil.ReverseProxy writes the answer. Its headers become w's only
// when the answer begins: ReverseProxy clears its map at every 1xx of the database node, but
// headers that the handlers around this one have set about the client's connection, such as
// that it ends here, must survive.
//
// A database node's 1xx answers this node's request and goes no further. A client that asked
// for 100 Continue gets one from net/http when its body is first read: by then the database
// node has sent its own.
type passedAnswer struct {
	http.ResponseWriter
	header http.Header // until the answer has begun
	begun  bool
}

func (a *passedAnswer) Header() http.Header {
	if a.begun {
		return a.ResponseWriter.Header() // for trailers
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *passedAnswer) WriteHeader(status int) {
	if status < http.StatusOK || a.begun {
		return
	}
	a.begun = true
	maps.Copy(a.ResponseWriter.Header(), a.header)
	a.ResponseWriter.WriteHeader(status)
}

func (a *passedAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush.
func (a *passedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// rewrite makes the request this node's own; try then sets Host to that of the node it goes
// to. A browser's headers about its page concern this node, which has checked them, and so
// stay here. No protocol is switched.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery // ReverseProxy drops what it cannot parse; the database refuses it
	h := r.Out.Header
	for name := range h {
		if name == "Origin" || name == "Connection" || name == "Upgrade" || strings.HasPrefix(name, "Sec-Fetch-") {
			delete(h, name)
		}
	}
	if r.In.Header.Get("If-None-Match") != "" && r.In.Header.Get(api.HeaderPutID) == "" {
		h.Set(api.HeaderPutID, client.NewPutID())
	}
	if r.In.ContentLength > expectMin || r.In.ContentLength < 0 {
		h.Set("Expect", "100-continue")
	}
}

// forwarder is the RoundTripper that chooses the database node.
type forwarder struct {
	Config
	transport *http.Transport
}

// unanswered is a request that no database node answered.
type unanswered struct {
	sent bool  // it may have arrived
	body error // the client's body broke off
	said []string
}

func (e *unanswered) Error() string { return strings.Join(e.said, "; ") }

// BrokenBody answers a request whose body ended with err before its end, of which
// nothing was sent.
func BrokenBody(err error) http.Handler { return &unanswered{body: err} }

// ServeHTTP answers the request.
func (e *unanswered) ServeHTTP(w http.ResponseWriter, r *http.Request) { failed(w, r, e) }

// RoundTrip implements http.RoundTripper. It moves on to another database node only while the
// body is untouched.
func (f *forwarder) RoundTrip(req *http.Request) (*http.Response, error) {
	body := &sourceBody{ReadCloser: req.Body}
	failure := &unanswered{}
	var refusal *http.Response // from a node that did nothing; the last one is passed on
	for _, database := range f.Databases() {
		resp, again, err := f.try(req, database, body)
		if resp != nil || !again {
			closeResponse(refusal)
			refusal = resp
		}
		if err != nil {
			failure.said = append(failure.said, fmt.Sprintf("%s: %s", database, nodehttp.Reason(err)))
		}
		if !again {
			if err == nil {
				return resp, nil
			}
			failure.sent, failure.body = true, body.failure()
			if failure.body == nil && req.Context().Err() == nil {
				f.Failed(database)
			}
			return nil, failure
		}
		if req.Context().Err() != nil {
			break
		}
		f.Failed(database)
	}
	if refusal != nil {
		return refusal, nil
	}
	return nil, failure
}

func busy(resp *http.Response) bool {
	return resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests
}

func closeResponse(resp *http.Response) {
	if resp != nil {
		resp.Body.Close()
	}
}

// try sends the request to a database node. again means that another may be asked: this one
// refused or failed, and certainly carried nothing out. That is certain if there was no
// connection, if the body, without which there is no put, was not begun, or if the request
// only reads.
func (f *forwarder) try(req *http.Request, database string, body *sourceBody) (resp *http.Response, again bool, err error) {
	target, err := url.Parse(database)
	if err != nil {
		return nil, true, err
	}
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	out := req.Clone(httptrace.WithClientTrace(req.Context(), trace))
	out.URL.Scheme, out.URL.Host, out.Host = target.Scheme, target.Host, target.Host
	reads := req.Method == http.MethodGet || req.Method == http.MethodHead
	hasBody := req.Body != nil && req.Body != http.NoBody && req.ContentLength != 0
	reader := &tryBody{source: body}
	if hasBody {
		out.Body = reader
	}
	resp, err = f.transport.RoundTrip(out)
	switch {
	case err == nil && !busy(resp):
		return resp, false, nil
	case err == nil && !hasBody, err != nil && !connected.Load():
		return resp, reader.retire(), err
	}
	return resp, (hasBody || reads) && reader.retire(), err
}

// sourceBody is the client's body. The tries of a request share it, one at a time.
type sourceBody struct {
	io.ReadCloser

	mu      sync.Mutex
	touched bool
	err     error // error with which the client's side ended, other than io.EOF
}

func (b *sourceBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// tryBody is the body during one try. The transport may read it even after RoundTrip has
// returned; retire prevents that unless a read has begun.
type tryBody struct {
	source  *sourceBody
	retired bool // guarded by source.mu
}

var errRetired = errors.New("this try is over")

func (b *tryBody) Read(p []byte) (int, error) {
	b.source.mu.Lock()
	if b.retired {
		b.source.mu.Unlock()
		return 0, errRetired
	}
	b.source.touched = true
	b.source.mu.Unlock()
	n, err := b.source.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.source.mu.Lock()
		b.source.err = err
		b.source.mu.Unlock()
	}
	return n, err
}

// Close does nothing: the server closes the client's body.
func (b *tryBody) Close() error { return nil }

// retire ends the try and reports whether the body is untouched.
func (b *tryBody) retire() bool {
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	b.retired = true
	return !b.source.touched
}

// failed answers a request that got no answer.
func failed(w http.ResponseWriter, r *http.Request, err error) {
	var failure *unanswered
	if !errors.As(err, &failure) {
		failure = &unanswered{sent: true, said: []string{err.Error()}}
	}
	switch {
	case errors.Is(failure.body, os.ErrDeadlineExceeded): // so the database node has refused it
		w.Header().Set("Connection", "close")
		writeProblem(w, api.Problem{
			Type: api.ProblemTimeout, Title: http.StatusText(http.StatusRequestTimeout), Status: http.StatusRequestTimeout,
			Detail: "no byte of the body arrived in time; nothing was set. Send the same request again",
		})
	case failure.body != nil: // as above
		w.Header().Set("Connection", "close")
		writeProblem(w, api.Problem{
			Type: api.ProblemInvalid, Title: "Malformed request", Status: http.StatusBadRequest,
			Detail: "the body broke off (" + failure.body.Error() + "); nothing was set. Send the same request again",
		})
	case failure.sent:
		writeProblem(w, api.Problem{
			Type: api.ProblemOutcomeUnknown, Title: "Outcome unknown", Status: http.StatusGatewayTimeout,
			Detail: "the request was sent to a database node and no answer came; " + wayOut(r.URL.Path) + ": " + err.Error(),
		})
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		w.Header().Set("Retry-After", retryAfter)
		writeProblem(w, api.Problem{
			Type: api.ProblemUnavailable, Title: "No database node", Status: http.StatusServiceUnavailable,
			Detail: "no database node answered; repeat the request: " + err.Error(),
		})
	default:
		w.Header().Set("Retry-After", retryAfter)
		writeProblem(w, api.Problem{
			Type: api.ProblemUnavailable, Title: "No database node", Status: http.StatusServiceUnavailable,
			Detail: "no database node took the request, and nothing was proposed; repeat it: " + err.Error(),
		})
	}
}

// wayOut says what to do if the outcome of a request is unknown.
func wayOut(path string) string {
	if strings.HasPrefix(path, "/members") || path == "/leader" {
		return "it may have taken effect, so look at GET /members before you repeat it"
	}
	return "repeat the same put"
}

func writeProblem(w http.ResponseWriter, p api.Problem) {
	w.Header().Set("Content-Type", api.ContentTypeProblem)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}
