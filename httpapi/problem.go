package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// handler answers a request, or returns an error before it has begun to.
type handler func(w http.ResponseWriter, r *http.Request) error

// problem is an error answer on its way out. As an error it lets any handler
// return the answer it wants; everything else goes through the error table.
type problem struct {
	document api.Problem
	header   map[string]string // further headers, such as Allow
}

// newProblem makes a problem with a sentence that says what is wrong and how
// to fix it.
func newProblem(status int, kind, format string, args ...any) *problem {
	return &problem{document: api.Problem{
		Type:   kind,
		Title:  cmp.Or(titles[kind], http.StatusText(status)),
		Status: status,
		Detail: fmt.Sprintf(format, args...),
	}}
}

// invalid is the 400 of a malformed request.
func invalid(format string, args ...any) *problem {
	return newProblem(http.StatusBadRequest, api.ProblemInvalid, format, args...)
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
	size := m.Size // and not a pointer into all of m
	p.document.Size = &size
	return p.
		with("Etag", etagOf(m.SHA256)).
		with(api.HeaderRevision, strconv.FormatUint(uint64(m.Revision), 10))
}

// titles name kinds of problem, always the same way (RFC 9457, 3.1.3). The title of any
// other kind is that of its status. It is never written to.
var titles = map[string]string{
	api.ProblemInvalid:        "Malformed request",
	api.ProblemDigestMismatch: "Digest mismatch",
	api.ProblemMisdirected:    "Not a name of this node",
	api.ProblemForbidden:      "Cross-origin write refused",
	api.ProblemNotFound:       "Key not set",
	api.ProblemNoRoute:        "No such resource",
	api.ProblemUnknownMember:  "No such member",
	api.ProblemConflict:       "Key is set to other bytes",
	api.ProblemHistoryChanged: "Another history",
	api.ProblemGone:           "Value retired",
	api.ProblemRefused:        "Cluster change refused",
	api.ProblemOverloaded:     "Overloaded",
	api.ProblemUnavailable:    "Not available now",
	api.ProblemOutcomeUnknown: "Outcome unknown",
	api.ProblemDiskReserve:    "Disk reserve reached",
}

// write sends the problem. It first takes away what may already have been
// set for the value that is not sent after all.
func (p *problem) write(w http.ResponseWriter) {
	body := p.json()
	h := w.Header()
	clearRepresentation(h)
	for name, value := range p.header {
		h.Set(name, value)
	}
	lines := [...]string{api.ContentTypeProblem, strconv.Itoa(len(body)), "no-store", "nosniff"}
	h["Content-Type"] = lines[0:1:1] // the names are in the canonical form of net/http
	h["Content-Length"] = lines[1:2:2]
	h["Cache-Control"] = lines[2:3:3]
	h["X-Content-Type-Options"] = lines[3:4:4]
	w.WriteHeader(p.document.Status)
	w.Write(body) // an error here is the client's going away
}

// json renders the document. That a key is not set is answered as often as what
// it is set to, so a document that is plain is written without encoding/json.
func (p *problem) json() []byte {
	if body, plain := p.plainJSON(); plain {
		return body
	}
	body, err := json.Marshal(&p.document)
	if err != nil {
		panic(fmt.Sprintf("httpapi: a problem document does not marshal: %v", err))
	}
	return body
}

// plainJSON renders a document that has nothing but a type, a title, a status and
// a detail, in which nothing is escaped but quotes and backslashes; it reports
// whether this is one. The bytes are those of encoding/json.
func (p *problem) plainJSON() ([]byte, bool) {
	d := &p.document
	if d.Detail == "" || *d != (api.Problem{Type: d.Type, Title: d.Title, Status: d.Status, Detail: d.Detail}) {
		return nil, false
	}
	b := make([]byte, 0, 64+len(d.Type)+len(d.Title)+len(d.Detail))
	b, typed := appendText(append(b, `{"type":`...), d.Type)
	b, titled := appendText(append(b, `,"title":`...), d.Title)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(d.Status), 10)
	b, detailed := appendText(append(b, `,"detail":`...), d.Detail)
	return append(b, '}'), typed && titled && detailed
}

// appendText appends a JSON string and reports whether it could: text must be
// printable ASCII without what encoding/json escapes for HTML.
func appendText(b []byte, text string) ([]byte, bool) {
	b = append(b, '"')
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ' || c > '~' || c == '<' || c == '>' || c == '&':
			return b, false
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"'), true
}

// representation are the headers that describe a value, in the canonical form of
// net/http.
var representation = [...]string{
	"Accept-Ranges", "Content-Length", "Content-Range", "Content-Security-Policy", "Content-Type",
	"Etag", "Last-Modified", "Location", "Repr-Digest", api.HeaderRevision, api.HeaderTime, api.HeaderBy,
}

// clearRepresentation drops every header that describes a value.
func clearRepresentation(h http.Header) {
	if len(h) == 0 {
		return
	}
	for _, name := range representation {
		delete(h, name)
	}
	for name := range h {
		if strings.HasPrefix(name, api.HeaderMetaPrefix) {
			delete(h, name)
		}
	}
}

// etagOf is a value's entity tag: its SHA-256, quoted.
func etagOf(d kvstore.Digest) string { return `"` + d.String() + `"` }

// ofHistory adds which history there is.
func (p *problem) ofHistory(e *kvstore.HistoryChangedError) *problem {
	p.document.Detail = e.Error()
	p.document.Newest = uint64(e.Newest)
	if !e.History.IsZero() {
		p.document.History = e.History.String()
	}
	if e.Parent != nil {
		parent := originOf(e.Parent)
		p.document.Parent = &parent
	}
	return p
}
