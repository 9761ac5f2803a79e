package httpapi

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// foreignErrorBytes is as much as is kept of what another handler says of an error.
const foreignErrorBytes = 1 << 10

// withProblems lets a handler of another package answer, and turns the errors that
// it answers in plain text, as http.Error and http.ServeContent do, into problem
// documents.
func withProblems(w http.ResponseWriter, r *http.Request, next http.Handler) {
	f := &foreignWriter{ResponseWriter: w}
	next.ServeHTTP(f, r)
	if f.status != 0 {
		f.problem().write(w)
	}
}

// foreignWriter holds errors back.
type foreignWriter struct {
	http.ResponseWriter
	status int // that was held back
	text   bytes.Buffer
}

// WriteHeader passes on everything but errors in plain text.
func (f *foreignWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest && strings.HasPrefix(f.Header().Get("Content-Type"), "text/plain") {
		f.status = status
		return
	}
	f.ResponseWriter.WriteHeader(status)
}

// Write keeps what is said of an error.
func (f *foreignWriter) Write(p []byte) (int, error) {
	if f.status == 0 {
		return f.ResponseWriter.Write(p)
	}
	f.text.Write(p[:min(len(p), max(0, foreignErrorBytes-f.text.Len()))])
	return len(p), nil
}

// Unwrap lets http.ResponseController through.
func (f *foreignWriter) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f *foreignWriter) problem() *problem {
	text := strings.ToValidUTF8(strings.TrimSpace(f.text.String()), "?")
	if text == "" {
		text = http.StatusText(f.status)
	}
	kind := api.ProblemInvalid
	switch {
	case f.status == http.StatusNotFound:
		kind = api.ProblemNoRoute
	case f.status == http.StatusMethodNotAllowed:
		kind = api.ProblemMethod
	case f.status == http.StatusRequestedRangeNotSatisfiable:
		kind = api.ProblemRange
	case f.status == http.StatusServiceUnavailable:
		kind = api.ProblemUnavailable
	case f.status >= http.StatusInternalServerError:
		kind = api.ProblemInternal
	}
	p := newProblem(f.status, kind, "%s", text)
	if size := f.Header().Get("Content-Range"); size != "" {
		p.with("Content-Range", size)
	}
	return p
}
