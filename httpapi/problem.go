package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// problemTimeout is the type of a 408: the client stopped sending its body.
const problemTimeout = "urn:oncekv:problem:timeout"

// problem is an error answer on its way out. As an error it lets any handler
// return the answer it wants; everything else goes through the error table.
type problem struct {
	document client.Problem
	header   map[string]string // further headers, such as Allow
}

// newProblem makes a problem with a sentence that says what is wrong and how
// to fix it.
func newProblem(status int, kind, format string, args ...any) *problem {
	return &problem{document: client.Problem{
		Type:   kind,
		Title:  titleOf(kind, status),
		Status: status,
		Detail: fmt.Sprintf(format, args...),
	}}
}

// invalid is the 400 of a malformed request.
func invalid(format string, args ...any) *problem {
	return newProblem(http.StatusBadRequest, client.ProblemInvalid, format, args...)
}

// Error returns the detail.
func (p *problem) Error() string { return p.document.Detail }

// with adds a header.
func (p *problem) with(name, value string) *problem {
	if p.header == nil {
		p.header = make(map[string]string, 2)
	}
	p.header[name] = value
	return p
}

// ofWinner adds what the key is set to.
func (p *problem) ofWinner(m *kvstore.Meta) *problem {
	p.document.Revision = uint64(m.Revision)
	p.document.SHA256 = m.SHA256.String()
	p.document.Size = &m.Size
	return p.
		with("Etag", etagOf(m.SHA256)).
		with(client.HeaderRevision, strconv.FormatUint(uint64(m.Revision), 10))
}

// titleOf names a kind of problem, always the same way (RFC 9457, 3.1.3).
func titleOf(kind string, status int) string {
	switch kind {
	case client.ProblemInvalid:
		return "Malformed request"
	case client.ProblemDigestMismatch:
		return "Digest mismatch"
	case client.ProblemForbidden:
		return "Cross-origin write refused"
	case client.ProblemNotFound:
		return "Key not set"
	case client.ProblemNoRoute:
		return "No such resource"
	case client.ProblemUnknownMember:
		return "No such member"
	case client.ProblemConflict:
		return "Key is set to other bytes"
	case client.ProblemRefused:
		return "Cluster change refused"
	case client.ProblemOverloaded:
		return "Overloaded"
	case client.ProblemUnavailable:
		return "Not available now"
	case client.ProblemOutcomeUnknown:
		return "Outcome unknown"
	case client.ProblemDiskReserve:
		return "Disk reserve reached"
	}
	return http.StatusText(status)
}

// write sends the problem. It first takes away what may already have been
// set for the value that is not sent after all.
func (p *problem) write(w http.ResponseWriter) {
	body, err := json.Marshal(&p.document)
	if err != nil {
		panic(fmt.Sprintf("httpapi: a problem document does not marshal: %v", err))
	}
	h := w.Header()
	clearRepresentation(h)
	for name, value := range p.header {
		h.Set(name, value)
	}
	h.Set("Content-Type", client.ContentTypeProblem)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.document.Status)
	w.Write(body) // an error here is the client's going away
}

// clearRepresentation drops every header that describes a value.
func clearRepresentation(h http.Header) {
	for _, name := range []string{
		"Accept-Ranges", "Content-Length", "Content-Range", "Content-Security-Policy", "Content-Type",
		"Etag", "Last-Modified", "Location", "Repr-Digest", client.HeaderRevision, client.HeaderTime,
	} {
		h.Del(name)
	}
}
