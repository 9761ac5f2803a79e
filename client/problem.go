package client

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/Focinfi/oncekv/internal/frame"
)

// problemBytesMax bounds how much of an error document is read.
const problemBytesMax = 64 << 10

// ResponseError turns an error answer into the error it stands for: a
// *ConflictError for a put that lost, a *HistoryChangedError for a position that is
// not there any more, else a *StatusError. It reads the body
// (64 KiB at most) and leaves closing it to the caller. A body that is no
// problem document costs only the detail: the status alone has a meaning.
func ResponseError(resp *http.Response) error {
	p := readProblem(resp)
	p.Status = resp.StatusCode
	return problemError(p)
}

func problemError(p Problem) error {
	kind := problemKind(p)
	if kind == ErrHistoryChanged {
		return &HistoryChangedError{History: p.History, Parent: p.Parent, Newest: p.Newest, Detail: p.Detail}
	}
	lostPut := p.Revision != 0 && (kind == ErrConflict || kind == ErrExists)
	if !lostPut {
		return &StatusError{Problem: p, Kind: kind}
	}
	e := &ConflictError{Revision: p.Revision, SHA256: p.SHA256, Status: p.Status, Detail: p.Detail}
	if p.Size != nil {
		e.Size = *p.Size
	}
	return e
}

// problemOf is a problem that came in a frame.
func problemOf(f *frame.Problem) Problem {
	p := Problem{Type: f.Type, Title: f.Title, Status: int(f.Status), Detail: f.Detail}
	if f.HasWinner {
		size := int64(f.Winner.Size)
		p.Revision, p.SHA256, p.Size = f.Winner.Revision, hex.EncodeToString(f.Winner.Digest[:]), &size
	}
	if f.HasLimit {
		p.LimitBytes = int64(f.Limit)
	}
	return p
}

func readProblem(resp *http.Response) Problem {
	var p Problem
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || mediaType != ContentTypeProblem || resp.Body == nil {
		return p
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, problemBytesMax)).Decode(&p); err != nil {
		return Problem{}
	}
	return p
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

func problemKind(p Problem) error {
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

// unexpected is an answer that breaks the API: a page of some other server,
// a header that is missing.
func unexpected(resp *http.Response, what string) error {
	return &StatusError{
		Kind:    ErrServer,
		Problem: Problem{Status: resp.StatusCode, Detail: fmt.Sprintf("answered %d with %s: is this an oncekv node?", resp.StatusCode, what)},
	}
}
