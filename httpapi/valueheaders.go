package httpapi

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// valueHeaders writes the headers of a value. Those that never change are
// shared by all answers; the others of one answer share one string and one
// slice, so that a read costs two allocations for all of them. Keys are in the
// canonical form of net/http, which lets them be set without Header.Set.
type valueHeaders struct {
	cacheControl, acceptRanges, nosniff, sandbox []string
	source                                       map[string][]string // Oncekv-Cache
}

func newValueHeaders() *valueHeaders {
	return &valueHeaders{
		cacheControl: []string{"public, max-age=31536000, immutable"},
		acceptRanges: []string{"bytes"},
		nosniff:      []string{"nosniff"},
		sandbox:      []string{"sandbox"},
		source:       map[string][]string{"hit": {"hit"}, "peer": {"peer"}, "load": {"load"}},
	}
}

// setShared sets what every answer with a value carries.
func (v *valueHeaders) setShared(h http.Header) {
	h["Accept-Ranges"] = v.acceptRanges
	h["Cache-Control"] = v.cacheControl
	h["Content-Security-Policy"] = v.sandbox
	h["X-Content-Type-Options"] = v.nosniff
}

// setSource names where a cache node had the value from.
func (v *valueHeaders) setSource(h http.Header, source string) {
	if source == "" {
		return
	}
	shared, ok := v.source[source]
	if !ok {
		shared = []string{source}
	}
	h[client.HeaderCache] = shared
}

// setRaw sets the headers of the value's own bytes, all but Content-Length.
func (v *valueHeaders) setRaw(h http.Header, m *kvstore.Meta) {
	v.setShared(h)
	var room [320]byte
	text := headerText{buf: room[:0]}

	text.buf = append(text.buf, '"')
	text.buf = hex.AppendEncode(text.buf, m.SHA256[:])
	text.buf = append(text.buf, '"')
	text.end()
	text.buf = append(text.buf, "sha-256=:"...)
	text.buf = base64.StdEncoding.AppendEncode(text.buf, m.SHA256[:])
	text.buf = append(text.buf, ':')
	text.end()
	text.buf = strconv.AppendUint(text.buf, uint64(m.Revision), 10)
	text.end()
	text.buf = m.Time.UTC().AppendFormat(text.buf, http.TimeFormat)
	text.end()
	text.buf = m.Time.UTC().AppendFormat(text.buf, time.RFC3339Nano)
	text.end()

	values := text.split(mediaTypeOf(m))
	h["Etag"] = values[0:1:1]
	h["Repr-Digest"] = values[1:2:2]
	h[client.HeaderRevision] = values[2:3:3]
	h["Last-Modified"] = values[3:4:4]
	h[client.HeaderTime] = values[4:5:5]
	h["Content-Type"] = values[5:6:6]
}

// mediaTypeOf is a value's content type, never empty: net/http would guess.
func mediaTypeOf(m *kvstore.Meta) string {
	if m.ContentType == "" {
		return kvstore.DefaultContentType
	}
	return m.ContentType
}

// headerText gathers several header values in one buffer.
type headerText struct {
	buf  []byte
	ends [5]int
	n    int
}

func (t *headerText) end() {
	t.ends[t.n] = len(t.buf)
	t.n++
}

// split cuts one string out of the buffer, and adds last.
func (t *headerText) split(last string) []string {
	all := string(t.buf)
	values := make([]string, 0, len(t.ends)+1)
	start := 0
	for _, end := range t.ends[:t.n] {
		values = append(values, all[start:end])
		start = end
	}
	return append(values, last)
}
