package api

import "net/http"

// The values of Problem.Type. They say more than the status alone, so that an
// error keeps its meaning over the wire; a client that does not know a type goes by
// the status.
const (
	ProblemInvalid          = "urn:oncekv:problem:invalid"            // 400: malformed request, key, parameter or body
	ProblemDigestMismatch   = "urn:oncekv:problem:digest-mismatch"    // 400: the body is not what Repr-Digest says
	ProblemForbidden        = "urn:oncekv:problem:forbidden"          // 403: refused cross-origin request
	ProblemNotFound         = "urn:oncekv:problem:not-found"          // 404: the key is not set
	ProblemNoRoute          = "urn:oncekv:problem:no-route"           // 404: no such resource in this API
	ProblemUnknownMember    = "urn:oncekv:problem:unknown-member"     // 404: no member of that name
	ProblemMethod           = "urn:oncekv:problem:method-not-allowed" // 405
	ProblemConflict         = "urn:oncekv:problem:conflict"           // 409: the key is set to other bytes
	ProblemRefused          = "urn:oncekv:problem:refused"            // 409: a cluster change that must not happen now
	ProblemHistoryChanged   = "urn:oncekv:problem:history-changed"    // 409: a position of another history, or beyond the newest revision of this one
	ProblemGone             = "urn:oncekv:problem:gone"               // 410: the key is set, and its value was retired
	ProblemLengthRequired   = "urn:oncekv:problem:length-required"    // 411
	ProblemPrecondition     = "urn:oncekv:problem:precondition"       // 412: If-None-Match or If-Match is false
	ProblemTooLarge         = "urn:oncekv:problem:too-large"          // 413: over limit_bytes
	ProblemUnsupportedMedia = "urn:oncekv:problem:unsupported-media"  // 415: Content-Encoding
	ProblemRange            = "urn:oncekv:problem:range"              // 416
	ProblemMisdirected      = "urn:oncekv:problem:misdirected"        // 421: Host is not a name of this node
	ProblemOverloaded       = "urn:oncekv:problem:overloaded"         // 429 or 503: definitely not proposed
	ProblemInternal         = "urn:oncekv:problem:internal"           // 500
	ProblemTimeout          = "urn:oncekv:problem:timeout"            // 408: the body stopped coming; nothing was set
	ProblemUnavailable      = "urn:oncekv:problem:unavailable"        // 503: no leader, not ready: definitely not proposed
	ProblemOutcomeUnknown   = "urn:oncekv:problem:outcome-unknown"    // 504: repeat the same put
	ProblemDiskReserve      = "urn:oncekv:problem:disk-reserve"       // 507: a voter's disk is below its reserve
)

// Problem is the document of every error answer (RFC 9457). The winner's
// fields are set on 409 and 412 of a put, LimitBytes on 413, and those of the
// history with ProblemHistoryChanged.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	Revision   uint64 `json:"revision,omitempty"`
	SHA256     string `json:"sha256,omitempty"`
	Size       *int64 `json:"size,omitempty"` // a pointer: an empty value's size is shown
	LimitBytes int64  `json:"limit_bytes,omitempty"`

	History string  `json:"history,omitempty"` // the one that there is now
	Parent  *Origin `json:"parent,omitempty"`  // of History, if it went on from another one
	Newest  uint64  `json:"newest,omitempty"`  // revision of History
}

// kindOfType is the table of problem types; kindOfStatus answers for types
// this version does not know and for answers without a document (HEAD).
var kindOfType = map[string]error{
	ProblemInvalid:          ErrInvalid,
	ProblemDigestMismatch:   ErrDigestMismatch,
	ProblemForbidden:        ErrInvalid,
	ProblemNotFound:         ErrNotFound,
	ProblemNoRoute:          ErrServer,
	ProblemUnknownMember:    ErrNotFound,
	ProblemMethod:           ErrInvalid,
	ProblemConflict:         ErrConflict,
	ProblemRefused:          ErrRefused,
	ProblemHistoryChanged:   ErrHistoryChanged,
	ProblemGone:             ErrGone,
	ProblemLengthRequired:   ErrInvalid,
	ProblemPrecondition:     ErrExists,
	ProblemTooLarge:         ErrTooLarge,
	ProblemUnsupportedMedia: ErrInvalid,
	ProblemRange:            ErrInvalid,
	ProblemMisdirected:      ErrInvalid,
	ProblemOverloaded:       ErrOverloaded,
	ProblemInternal:         ErrServer,
	ProblemUnavailable:      ErrUnavailable,
	ProblemOutcomeUnknown:   ErrOutcomeUnknown,
	ProblemDiskReserve:      ErrDiskReserve,
}

// Kind returns what kind of failure the document is about: one of the Err variables.
func (p Problem) Kind() error {
	if kind, ok := kindOfType[p.Type]; ok {
		return kind
	}
	return kindOfStatus(p.Status, p.Revision != 0)
}

func kindOfStatus(status int, hasWinner bool) error {
	switch status {
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusConflict:
		if hasWinner {
			return ErrConflict
		}
		return ErrRefused
	case http.StatusGone:
		return ErrGone
	case http.StatusPreconditionFailed:
		return ErrExists
	case http.StatusRequestEntityTooLarge:
		return ErrTooLarge
	case http.StatusTooManyRequests:
		return ErrOverloaded
	case http.StatusServiceUnavailable:
		return ErrUnavailable
	case http.StatusGatewayTimeout:
		return ErrOutcomeUnknown
	case http.StatusInsufficientStorage:
		return ErrDiskReserve
	}
	if status >= 400 && status < 500 {
		return ErrInvalid
	}
	return ErrServer
}
