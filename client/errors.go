package client

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/internal/mux"
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

// errIdle ends a try in which nothing moved.
var errIdle = mux.ErrIdle

// retryAfterError carries a server's Retry-After beside its refusal.
type retryAfterError struct {
	error
	after time.Duration
}

func (e *retryAfterError) Unwrap() error { return e.error }

// violationError is something that no node may say: another one is asked, but
// not for ever. It is ErrServer.
type violationError struct{ err error }

func violation(format string, args ...any) error {
	return &violationError{fmt.Errorf(format, args...)}
}

func (e *violationError) Error() string { return "the stream is wrong: " + e.err.Error() }

// Unwrap returns the kind and the cause.
func (e *violationError) Unwrap() []error { return []error{ErrServer, e.err} }

// refused: nothing listens there, or there is no such host.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || noSuchHost(err)
}

func noSuchHost(err error) bool {
	var name *net.DNSError
	return errors.As(err, &name) && name.IsNotFound
}
