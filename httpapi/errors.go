package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// Errors a Cluster returns, each wrapped in a sentence for the client. It may also return kvstore.ErrUnavailable,
// kvstore.ErrOverloaded and kvstore.ErrOutcomeUnknown, with the meaning they
// have for a put.
var (
	// ErrUnknownMember: no member has the name that was given (404).
	ErrUnknownMember = errors.New("no member has that name")
	// ErrBadMember: a member's name, id or URL is not valid (400).
	ErrBadMember = errors.New("the member's description is not valid")
	// ErrRefused: the change must not be made now (409). It would lose the quorum,
	// another change is pending, the learner is behind.
	ErrRefused = errors.New("the change was refused")
)

// operation is what a route does, for errors whose meaning depends on it.
type operation int

const (
	reading  operation = iota // changes nothing
	putting                   // sets a key
	changing                  // changes the cluster
)

// errorRow is one row of the table from errors to answers.
type errorRow struct {
	matches func(error) bool
	status  int
	kind    string
	detail  func(operation, error) string // nil: the error's own words
	retry   bool                          // adds Retry-After
}

// errorTable maps every error of the packages below to its answer. The first
// row that matches counts: an error that wraps several is what happened last.
// It is never written to.
var errorTable = []errorRow{
	{matches: is(kvstore.ErrOutcomeUnknown), status: http.StatusGatewayTimeout, kind: api.ProblemOutcomeUnknown, detail: detailUnknown},
	{matches: is(kvstore.ErrTooLarge), status: http.StatusRequestEntityTooLarge, kind: api.ProblemTooLarge},
	{matches: is(kvstore.ErrDigestMismatch), status: http.StatusBadRequest, kind: api.ProblemDigestMismatch},
	{matches: is(kvstore.ErrInvalidKey), status: http.StatusBadRequest, kind: api.ProblemInvalid},
	{matches: is(kvstore.ErrInvalidContentType), status: http.StatusBadRequest, kind: api.ProblemInvalid},
	{matches: is(kvstore.ErrInvalidMeta), status: http.StatusBadRequest, kind: api.ProblemInvalid},
	{matches: is(kvstore.ErrInvalidPutID), status: http.StatusBadRequest, kind: api.ProblemInvalid},
	{matches: is(kvstore.ErrBodyRead), status: http.StatusBadRequest, kind: api.ProblemInvalid, detail: says(
		"the body broke off before its end; nothing was set. Send the same put again")},
	{matches: is(kvstore.ErrNotFound), status: http.StatusNotFound, kind: api.ProblemNotFound},
	{matches: is(kvstore.ErrHistoryChanged), status: http.StatusConflict, kind: api.ProblemHistoryChanged},
	{matches: is(kvstore.ErrGone), status: http.StatusGone, kind: api.ProblemGone},
	{matches: is(kvstore.ErrDiskReserve), status: http.StatusInsufficientStorage, kind: api.ProblemDiskReserve},
	{matches: is(kvstore.ErrOverloaded), status: http.StatusTooManyRequests, kind: api.ProblemOverloaded, retry: true, detail: says(
		"too much is in flight on this node; nothing was done. Try again after the time in Retry-After, or another node")},
	{matches: is(kvstore.ErrTooManyUploads), status: http.StatusTooManyRequests, kind: api.ProblemOverloaded, retry: true, detail: says(
		"too many large values are being put at once; nothing was set. Try again after the time in Retry-After")},
	{matches: is(kvstore.ErrUploadIncomplete), status: http.StatusServiceUnavailable, kind: api.ProblemUnavailable, retry: true, detail: says(
		"the cluster gave up this put while its body arrived; nothing was set. Send the same put again")},
	{matches: is(kvstore.ErrValueDamaged), status: http.StatusServiceUnavailable, kind: api.ProblemUnavailable, retry: true, detail: says(
		"the value was damaged in the memory of a node on its way into the log; nothing was set. Send the same put again")},
	{matches: is(kvstore.ErrLevel), status: http.StatusServiceUnavailable, kind: api.ProblemUnavailable, retry: true},
	{matches: is(kvstore.ErrUnavailable), status: http.StatusServiceUnavailable, kind: api.ProblemUnavailable, retry: true, detail: detailUnavailable},
	{matches: is(kvstore.ErrClosed), status: http.StatusServiceUnavailable, kind: api.ProblemUnavailable, retry: true, detail: says(
		"this node is stopping; nothing was done. Ask another node")},
	{matches: untrusted, status: http.StatusInternalServerError, kind: api.ProblemInternal, detail: says(
		"this node cannot trust its data and stops rather than guess; its log says what is wrong. Ask another node")},
	{matches: is(ErrUnknownMember), status: http.StatusNotFound, kind: api.ProblemUnknownMember},
	{matches: is(ErrBadMember), status: http.StatusBadRequest, kind: api.ProblemInvalid},
	{matches: is(ErrRefused), status: http.StatusConflict, kind: api.ProblemRefused},
	// The two of context come last: an error of ours that wraps them says more.
	{matches: isContext, status: http.StatusGatewayTimeout, kind: api.ProblemOutcomeUnknown, detail: detailUnknown},
}

// problemFor turns any error into its answer.
func problemFor(op operation, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	for i := range errorTable {
		if row := &errorTable[i]; row.matches(err) {
			return row.problem(op, err)
		}
	}
	return newProblem(http.StatusInternalServerError, api.ProblemInternal, "%s", detailInternal(op))
}

func (row *errorRow) problem(op operation, err error) *problem {
	// A read that ran out of time has no outcome to be unsure of.
	if op == reading && row.kind == api.ProblemOutcomeUnknown {
		return newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "%s", detailUnavailable(op, err)).with("Retry-After", retryAfter)
	}
	detail := err.Error()
	if row.detail != nil {
		detail = row.detail(op, err)
	}
	p := newProblem(row.status, row.kind, "%s", detail)
	if large, ok := errors.AsType[*kvstore.TooLargeError](err); ok {
		p.document.LimitBytes = large.LimitBytes
		p.document.Detail = "the value is larger than the limit of " + strconv.FormatInt(large.LimitBytes, 10) +
			" bytes; nothing was set. Split it, or raise --max-value-bytes on every database node"
	}
	if changed, ok := errors.AsType[*kvstore.HistoryChangedError](err); ok {
		p.ofHistory(changed)
	}
	if row.retry {
		p.with("Retry-After", retryAfter)
	}
	return p
}

// retryAfter is the Retry-After of 429 and 503, in seconds: about as long as
// an election takes.
const retryAfter = "1"

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// untrusted is the end of a node: damaged data, or another history than the
// cluster's.
func untrusted(err error) bool {
	_, corrupt := errors.AsType[*kvstore.CorruptError](err)
	return corrupt || errors.Is(err, kvstore.ErrDiverged)
}

func isContext(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func says(sentence string) func(operation, error) string {
	return func(operation, error) string { return sentence }
}

func detailUnknown(op operation, _ error) string {
	if op == changing {
		return "the outcome is unknown: the change may or may not take effect. GET /members shows it; repeating the same request is safe"
	}
	return "the outcome is unknown: the put may or may not take effect. " +
		"Repeating the same put (same key, same bytes, same Oncekv-Put-Id if it had one) is safe and shows the outcome"
}

func detailUnavailable(op operation, _ error) string {
	if op == reading {
		return "this node cannot confirm now that it has seen every acknowledged put (there is no leader, or no quorum can be reached). " +
			"Try again after the time in Retry-After, or another node; ?consistency=local answers with what this node knows"
	}
	return "no leader is known to this node now; nothing was proposed. Try again after the time in Retry-After, or another node"
}

func detailInternal(op operation) string {
	const failed = "this node failed to answer; its log says why"
	switch op {
	case putting:
		return failed + ". The outcome of the put is unknown; repeating the same put is safe"
	case changing:
		return failed + ". GET /members shows whether the change took effect"
	}
	return failed
}
