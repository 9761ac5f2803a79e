package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// The kinds of failure, the same on both sides of the wire: errors.Is works
// with them on every error of this package.
var (
	// ErrInvalid: the request is malformed (400, 411, 415) or not allowed (403, 405, 421).
	ErrInvalid = errors.New("request refused as invalid")
	// ErrDigestMismatch: bytes are not what their digest says. Nothing was set; what was read must not be used.
	ErrDigestMismatch = errors.New("bytes do not match their digest")
	// ErrNotFound: the key (or the member) does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the key is set to other bytes for ever. See ConflictError.
	ErrConflict = errors.New("key is set to other bytes")
	// ErrExists: the key is set; every ConflictError is also this.
	ErrExists = errors.New("key is set already")
	// ErrGone: the key is set, and its value was retired. It will never be read again.
	ErrGone = errors.New("value retired and gone")
	// ErrHistoryChanged: what was read before may not be what is there now. See HistoryChangedError.
	ErrHistoryChanged = errors.New("history changed")
	// ErrRefused: the cluster does not make this change now; the detail says why.
	ErrRefused = errors.New("change refused")
	// ErrTooLarge: the value is over the server's limit.
	ErrTooLarge = errors.New("value too large")
	// ErrOverloaded: too much in flight. Definitely not done.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnavailable: no endpoint could serve, or none has a leader. Definitely not done.
	ErrUnavailable = errors.New("unavailable")
	// ErrNobodyListens is the Cause of a RequestError that Config.FailRefused ended.
	ErrNobodyListens = errors.New("nothing listens there")
	// ErrOutcomeUnknown: the request may or may not have been carried out. Repeating the same put (same key, bytes and put id) is safe.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrDiskReserve: a voter's disk is below its reserve. Definitely not done.
	ErrDiskReserve = errors.New("disk reserve reached")
	// ErrServer: an answer this API does not have (500, a proxy's page).
	ErrServer = errors.New("unexpected answer")
)

// StatusError is an error answer of a server. It is one of the kinds above.
type StatusError struct {
	Problem Problem // Status is always set; Detail is empty when the answer had no document
	Kind    error   // one of the Err variables
}

func (e *StatusError) Error() string {
	if e.Problem.Detail != "" {
		return e.Problem.Detail
	}
	return fmt.Sprintf("%v (HTTP status %d)", e.Kind, e.Problem.Status)
}

// Unwrap makes errors.Is find the kind.
func (e *StatusError) Unwrap() error { return e.Kind }

// ConflictError says who won a key that was to be put. A 409 is ErrConflict
// and ErrExists, the 412 of a strict put only ErrExists: its bytes may be the
// same.
type ConflictError struct {
	Revision uint64
	SHA256   string // lower-case hex
	Size     int64
	Status   int
	Detail   string
}

func (e *ConflictError) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return fmt.Sprintf("key is set since revision %d (sha256 %s, %d bytes)", e.Revision, e.SHA256, e.Size)
}

// Is reports whether the error is ErrExists (always) or ErrConflict (409).
func (e *ConflictError) Is(target error) bool {
	return target == ErrExists || target == ErrConflict && e.Status == http.StatusConflict
}

// EndpointError is what one endpoint did to a request.
type EndpointError struct {
	Endpoint string
	Sent     bool // the request, or part of it, may have arrived
	Err      error
}

func (e *EndpointError) Error() string {
	var status *StatusError
	if errors.As(e.Err, &status) {
		return fmt.Sprintf("%s refused: %v", e.Endpoint, e.Err)
	}
	if e.Sent {
		return fmt.Sprintf("%s gave no answer: %v", e.Endpoint, e.Err)
	}
	return fmt.Sprintf("%s unreachable: %v", e.Endpoint, e.Err)
}

// Unwrap returns the cause.
func (e *EndpointError) Unwrap() error { return e.Err }

// RequestError is a request that failed everywhere within its time. Kind is
// ErrOutcomeUnknown as soon as one try may have been carried out.
type RequestError struct {
	Op        string // such as `put "foo"`
	Kind      error
	Endpoints []*EndpointError // the last failure of each endpoint that was tried, in that order
	Cause     error            // what ended the tries: the context's error, or nil when there was no time for another
}

func (e *RequestError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v", e.Op, e.Kind)
	if e.Kind == ErrOutcomeUnknown {
		b.WriteString(", repeat the same request")
	}
	for i, ep := range e.Endpoints {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep)
		b.WriteString(ep.Error())
	}
	if e.Cause != nil && !(e.Cause == ErrNobodyListens && slices.ContainsFunc(e.Endpoints, func(ep *EndpointError) bool { return noSuchHost(ep.Err) })) {
		fmt.Fprintf(&b, " (%v)", e.Cause)
	}
	return b.String()
}

// Unwrap returns the kind and what ended the tries. The single endpoints'
// errors are not part of the chain: one endpoint's "overloaded" does not make
// the whole request that.
func (e *RequestError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}
