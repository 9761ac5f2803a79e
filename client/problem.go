package client

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/Focinfi/oncekv/api"
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
	kind := p.Kind()
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
		p.Revision, p.SHA256, p.Size = f.Winner.Revision, digestText(&f.Winner.Digest), &size
	}
	if f.HasLimit {
		p.LimitBytes = int64(f.Limit)
	}
	return p
}

func readProblem(resp *http.Response) Problem {
	var p Problem
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || mediaType != api.ContentTypeProblem || resp.Body == nil {
		return p
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, problemBytesMax)).Decode(&p); err != nil {
		return Problem{}
	}
	return p
}

// unexpected is an answer that breaks the API: a page of some other server,
// a header that is missing.
func unexpected(resp *http.Response, what string) error {
	return &StatusError{
		Kind:    ErrServer,
		Problem: Problem{Status: resp.StatusCode, Detail: fmt.Sprintf("answered %d with %s: is this an oncekv node?", resp.StatusCode, what)},
	}
}
