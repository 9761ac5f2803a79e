package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// # What the client does about failures
//
// Each request begins at the endpoint that worked last, or at one that has
// become clearly nearer: at most every 5 s a request takes along a GET /ping to
// every endpoint, and the preference moves when another one's smoothed round
// trip is shorter by a quarter and by 200 µs. An endpoint that failed is not
// moved back to for 10 s. A client that lives shorter, or has one endpoint,
// sends no pings, nor does an idle one.
//
// Puts begin at the leader, if one of the endpoints says that it leads
// (api.HeaderRole on its answer to a ping, or to a stream of puts): another node would
// forward them. A client whose stream of puts is at another endpoint pings all of
// them with its next put, however young it is.
//
// A try that fails to
// connect, breaks off, stands still (Config.IdleTimeout), or is refused with
// 429, 500, 502, 503 or 504 is followed by one at the next endpoint, and after
// all of them by a pause: jittered, doubling from 50 ms to 2 s, and no shorter
// than a Retry-After (of 5 s at most). It goes on until the caller's context
// ends, or would end within the next pause; without a deadline,
// Config.RetryTimeout. Every other answer is final. With Config.FailRefused a
// request ends at once if nothing listens at any endpoint.

// call is one request of the API, sent as often as it takes.
type call struct {
	op      string // for messages, such as `put "foo"`; empty: op's verb and key
	verb    string
	key     string
	method  string
	target  string // path and query
	header  http.Header
	body    *replayBody // nil for none
	mutates bool        // a try without an answer may have been carried out

	// framed, if not nil, goes by a stream where there is one; and where not, single
	// first fills in what the request needs.
	framed *framedCall
	single preparer

	// alone, if not nil, is a place that each request of its own takes. Such a call
	// waits for a stream that is being opened.
	alone chan struct{}

	// idle replaces Config.IdleTimeout for the body of the answer, if not 0.
	idle time.Duration

	// answer reads the body of a good answer as part of the try, so that an
	// answer that breaks off is tried again. Nil: do's caller reads the body.
	answer func(*http.Response) error

	// unsure is set by do when a try got no definite answer, whatever the next
	// ones got.
	unsure bool

	// tell replaces Config.OnSilence, where that is given, if not nil.
	tell func(Silence)

	// silence is set by do.
	silence *silence

	// patience is set by do: how long the next try may stand still.
	patience time.Duration

	// endpoint is set by do: the index of the one that answered.
	endpoint int
}

// preparer fills in a request of its own.
type preparer interface {
	prepare(*call) error
}

func (call *call) name() string {
	if call.op == "" {
		call.op = fmt.Sprintf("%s %q", call.verb, call.key)
	}
	return call.op
}

// answerBytesMax bounds a JSON answer.
const answerBytesMax = 64 << 20

// do sends the call to one endpoint after the other, beginning with the one
// that the ranking prefers, until one gives a definite answer. The answer is a 2xx
// or 304; its body is open, and closing it ends the try. There is no answer when
// one to call.framed came in a frame. Between rounds it
// waits, jittered. It gives up when the caller's context ends or (without a
// deadline) the retry timeout is over.
func (c *Client) do(ctx context.Context, call *call) (*http.Response, error) {
	t := tries{call: call, deadline: c.deadline(ctx)}
	if err := ctx.Err(); err != nil {
		return nil, t.giveUp(err) // an answer on a stream might be faster than to notice this
	}
	call.silence = c.watchSilence(call, t.deadline)
	defer call.silence.stop()
	defer c.probe(ctx, call.mutates)()
	for round := 0; ; round++ {
		first := c.ranking.first(call.mutates)
		for i := range c.endpoints {
			n := (first + i) % len(c.endpoints)
			call.patience = c.patience(ctx, t.deadline, len(c.endpoints)-i)
			resp, err := c.try(ctx, n, call)
			if err == nil {
				c.ranking.answered(n, first)
				call.endpoint = n
				return resp, nil
			}
			if final := t.failed(err); final != nil {
				c.ranking.answered(n, first)
				return nil, final
			}
			if ctx.Err() != nil {
				return nil, t.giveUp(ctx.Err())
			}
			call.silence.failed(err)
			c.ranking.failed(n, time.Now())
		}
		if c.nobodyListens(&t) {
			return nil, t.giveUp(ErrNobodyListens)
		}
		pause := backoff(round, t.retryAfter)
		if time.Now().Add(pause).After(t.deadline) {
			return nil, t.giveUp(nil)
		}
		if err := c.wait(ctx, pause); err != nil {
			return nil, t.giveUp(err)
		}
	}
}

func (c *Client) deadline(ctx context.Context) time.Time {
	if d, ok := ctx.Deadline(); ok {
		return d
	}
	return time.Now().Add(c.retryTimeout)
}

// tries remembers how the tries of one call ended.
type tries struct {
	call       *call
	deadline   time.Time
	failures   []*EndpointError // the last of each endpoint
	overloaded bool             // the last failure was "overloaded"
	retryAfter time.Duration
}

// failed records a failure. It returns the error to give to the caller when
// no other try can change it.
func (t *tries) failed(err *EndpointError) error {
	if !retriable(err) {
		if t.call.unsure && errors.Is(err.Err, errBodySource) {
			return t.giveUp(err.Err) // it cannot be sent again; an earlier try may have been carried out
		}
		return fmt.Errorf("%s: %w", t.call.name(), err.Err)
	}
	t.failures = slices.DeleteFunc(t.failures, func(e *EndpointError) bool { return e.Endpoint == err.Endpoint })
	t.failures = append(t.failures, err)
	t.overloaded = errors.Is(err.Err, ErrOverloaded)
	if t.call.mutates && !definite(err) {
		t.call.unsure = true
	}
	var after *retryAfterError
	t.retryAfter = 0
	if errors.As(err.Err, &after) {
		t.retryAfter = after.after
	}
	return nil
}

func (t *tries) giveUp(cause error) error {
	kind := ErrUnavailable
	switch {
	case t.call.unsure:
		kind = ErrOutcomeUnknown
	case t.overloaded:
		kind = ErrOverloaded
	}
	return &RequestError{Op: t.call.name(), Kind: kind, Endpoints: t.failures, Cause: cause}
}

// retriable tells failures that another node, or the same one later, may not
// have. A transport error always is one.
func retriable(err *EndpointError) bool {
	var status *StatusError
	var conflict *ConflictError
	switch {
	case errors.As(err.Err, &conflict), errors.Is(err.Err, ErrHistoryChanged), errors.Is(err.Err, errBodySource):
		return false
	case !errors.As(err.Err, &status):
		return true
	}
	switch status.Kind {
	case ErrOverloaded, ErrUnavailable, ErrOutcomeUnknown:
		return true
	}
	return status.Problem.Status >= 500 && status.Kind == ErrServer
}

// definite: the try certainly was not carried out.
func definite(err *EndpointError) bool {
	return !err.Sent || errors.Is(err.Err, ErrOverloaded) || errors.Is(err.Err, ErrUnavailable)
}

// try sends the call once. The try lives until the body of its answer is
// closed, and as long as bytes move.
func (c *Client) try(ctx context.Context, n int, call *call) (*http.Response, *EndpointError) {
	endpoint := c.endpoints[n]
	if call.framed != nil {
		s := call.framed.lanes[n].Stream()
		if s == nil && call.alone != nil {
			waiting, cancel := context.WithTimeout(ctx, call.patience)
			s = call.framed.lanes[n].Await(waiting)
			err := waiting.Err()
			cancel()
			if s == nil && err != nil {
				return nil, &EndpointError{Endpoint: endpoint, Err: errIdle}
			}
		}
		if s != nil {
			switch done, sent, err := call.framed.try(ctx, s, call.patience); {
			case err != nil:
				return nil, &EndpointError{Endpoint: endpoint, Sent: sent, Err: err}
			case done:
				c.heard()
				return nil, nil
			}
		}
		if call.single != nil {
			if err := call.single.prepare(call); err != nil {
				return nil, &EndpointError{Endpoint: endpoint, Err: err}
			}
			call.single = nil
		}
		call.framed.alone = true
	}
	if call.alone != nil {
		select {
		case call.alone <- struct{}{}:
			defer func() { <-call.alone }() // call.answer reads the body
		case <-ctx.Done():
			return nil, &EndpointError{Endpoint: endpoint, Err: ctx.Err()}
		}
	}
	tryCtx, cancel := context.WithCancelCause(ctx)
	idle := call.patience
	dog := time.AfterFunc(idle, func() { cancel(errIdle) })
	end := func() {
		dog.Stop()
		cancel(nil)
	}
	var sent atomic.Bool
	resp, err := c.send(tryCtx, endpoint, call, &sent, func() {
		dog.Reset(idle)
		call.silence.moved()
	})
	if err == nil {
		c.heard()
		c.histories.heard(resp.Header.Get(api.HeaderHistory))
	}
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		err = refusal(resp)
		resp.Body.Close()
	} else if err == nil && call.answer != nil {
		err = call.answer(resp)
		resp.Body.Close()
	}
	if err != nil {
		if cause := context.Cause(tryCtx); cause != nil && ctx.Err() == nil {
			err = cause
		}
		end()
		return nil, &EndpointError{Endpoint: endpoint, Sent: sent.Load(), Err: err}
	}
	dog.Stop()
	resp.Body = &watchedBody{ctx: tryCtx, body: resp.Body, dog: dog, idle: cmp.Or(call.idle, c.idleTimeout), end: end}
	return resp, nil
}

// patience is how long a try may stand still. A hung endpoint must leave time
// for another one before the caller's deadline. Without that, what is left until
// the retry timeout is for those that have not been tried in this round.
func (c *Client) patience(ctx context.Context, retryUntil time.Time, untried int) time.Duration {
	d, ok := ctx.Deadline()
	switch {
	case !ok:
		return min(c.idleTimeout, max(patienceMin, time.Until(retryUntil)/time.Duration(untried)))
	case len(c.endpoints) == 1:
		return c.idleTimeout
	}
	return min(c.idleTimeout, time.Until(d)/2)
}

func (c *Client) send(ctx context.Context, endpoint string, call *call, sent *atomic.Bool, moved func()) (*http.Response, error) {
	// A request that got a connection may have left in part, whatever the
	// transport reports afterwards.
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		sent.Store(true)
		call.silence.connected()
	}}
	if c.onSilence != nil {
		trace.Got100Continue = c.heard
	}
	var body io.ReadCloser
	if call.body != nil {
		var err error
		if body, err = call.body.open(moved); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), call.method, endpoint+call.target, body)
	if err != nil {
		return nil, &StatusError{Kind: ErrInvalid, Problem: Problem{Detail: err.Error()}}
	}
	for name, values := range call.header {
		req.Header[name] = values
	}
	req.Header.Set("Accept-Encoding", "identity")
	if call.body != nil {
		setBody(req, call.body)
	}
	resp, err := c.http.Do(req)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // method and URL are told already
	}
	return resp, err
}

// setBody states the length. Large bodies wait for the server's go-ahead, so
// that a refusal costs no upload.
func setBody(req *http.Request, body *replayBody) {
	req.ContentLength = body.size
	if body.size == 0 {
		req.Body.Close()
		req.Body = http.NoBody
	}
	if body.size > expectBytesMin {
		req.Header.Set("Expect", "100-continue")
	}
}

func refusal(resp *http.Response) error {
	err := ResponseError(resp)
	if s, convErr := strconv.Atoi(resp.Header.Get("Retry-After")); convErr == nil && s > 0 {
		return &retryAfterError{error: err, after: time.Duration(s) * time.Second}
	}
	return err
}

// doJSON is do for calls whose answer is one JSON document. It returns the
// status.
func (c *Client) doJSON(ctx context.Context, call *call, into any) (int, error) {
	call.answer = func(resp *http.Response) error { return readJSON(resp, into) }
	resp, err := c.do(ctx, call)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func readJSON(resp *http.Response, into any) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return fmt.Errorf("answer broke off: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return unexpected(resp, "a body that is not the expected JSON ("+err.Error()+")")
	}
	return nil
}

func (c *Client) watchSilence(call *call, until time.Time) *silence {
	if c.onSilence == nil {
		return nil
	}
	tell := c.onSilence
	if call.tell != nil {
		tell = call.tell
	}
	return newSilence(tell, &c.answered, Silence{Op: call.name(), Endpoints: c.endpoints, Until: until})
}

// nobodyListens reports that there is nothing at any endpoint, nor ever was since
// the client was made: it does not look like a node that is starting again.
func (c *Client) nobodyListens(t *tries) bool {
	if !c.failRefused || t.call.unsure || c.answered.Load() {
		return false
	}
	for _, endpoint := range c.endpoints { // one may be given twice
		if !slices.ContainsFunc(t.failures, func(e *EndpointError) bool { return e.Endpoint == endpoint && refused(e.Err) }) {
			return false
		}
	}
	return true
}

// heard notes that an endpoint has answered.
func (c *Client) heard() {
	if (c.failRefused || c.onSilence != nil) && !c.answered.Load() {
		c.answered.Store(true)
	}
}
