package httpapi

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// valueHeaders writes the headers of a value. Those that are the same for all
// values are shared by all answers; those of one value are made once and kept
// for as long as its slot is not taken by another one's, so that reading what is
// read often formats nothing. Keys are in the canonical form of net/http, which
// lets them be set without Header.Set. Safe for concurrent use.
type valueHeaders struct {
	immutable, acceptRanges, nosniff, sandbox []string
	source                                    map[string][]string // Oncekv-Cache

	slots [16384]atomic.Pointer[preparedHeaders] // by revision; 8 MiB at most
}

// preparedHeaders are the headers of one value. They do not refer to it: its
// bytes may be gone while these are kept.
type preparedHeaders struct {
	of preparedFor

	lines [7]string // what the slices of every answer with this value are parts of
}

// preparedFor is all that the headers say.
type preparedFor struct {
	revision    kvstore.Revision
	digest      kvstore.Digest
	size        int64
	at          time.Time
	contentType string
}

func newValueHeaders() *valueHeaders {
	return &valueHeaders{
		immutable:    []string{"public, max-age=31536000, immutable"},
		acceptRanges: []string{"bytes"},
		nosniff:      []string{"nosniff"},
		sandbox:      []string{"sandbox"},
		source:       map[string][]string{"hit": {"hit"}, "peer": {"peer"}, "load": {"load"}},
	}
}

// cacheControl says how long HTTP caches may keep the value of a key. It is the only place
// that does, and goes by the key's prefix: all values stay today, and those that will not
// have a prefix of their own.
func (v *valueHeaders) cacheControl(kvstore.Key) []string { return v.immutable }

// setShared sets what every answer with the value of a key carries.
func (v *valueHeaders) setShared(h http.Header, key kvstore.Key) {
	h["Accept-Ranges"] = v.acceptRanges
	h["Cache-Control"] = v.cacheControl(key)
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
	h[api.HeaderCache] = shared
}

// setRaw sets the headers of the value's own bytes. Of them, Content-Length is
// for an answer with all of the value: http.ServeContent sets another one.
func (v *valueHeaders) setRaw(h http.Header, m *kvstore.Meta) {
	v.setShared(h, m.Key)
	setUserMeta(h, m)
	slot := &v.slots[uint64(m.Revision)%uint64(len(v.slots))]
	of := preparedFor{m.Revision, m.SHA256, m.Size, m.Time, m.ContentType}
	p := slot.Load()
	if p == nil || p.of != of {
		p = &preparedHeaders{of: of, lines: headerLines(m)}
		slot.Store(p)
	}
	h["Etag"] = p.lines[0:1:1]
	h["Repr-Digest"] = p.lines[1:2:2]
	h[api.HeaderRevision] = p.lines[2:3:3]
	h["Last-Modified"] = p.lines[3:4:4]
	h[api.HeaderTime] = p.lines[4:5:5]
	h["Content-Length"] = p.lines[5:6:6]
	h["Content-Type"] = p.lines[6:7:7]
}

func headerLines(m *kvstore.Meta) (lines [7]string) {
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
	text.buf = strconv.AppendInt(text.buf, m.Size, 10)
	text.end()

	text.split(lines[:])
	lines[6] = mediaTypeOf(m)
	return lines
}

// headerText gathers several header values in one buffer.
type headerText struct {
	buf  []byte
	ends [6]int
	n    int
}

func (t *headerText) end() {
	t.ends[t.n] = len(t.buf)
	t.n++
}

// split cuts one string out of the buffer into lines.
func (t *headerText) split(lines []string) {
	all := string(t.buf)
	start := 0
	for i, end := range t.ends[:t.n] {
		lines[i] = all[start:end]
		start = end
	}
}

// setUserMeta sets what the put of a value said besides its content type, and who put
// it. Most values have neither.
func setUserMeta(h http.Header, m *kvstore.Meta) {
	if m.By != "" {
		h[api.HeaderBy] = []string{m.By}
	}
	if m.UserMeta.IsZero() {
		return
	}
	for name, value := range m.UserMeta.All() {
		h[http.CanonicalHeaderKey(api.HeaderMetaPrefix+name)] = []string{value}
	}
}
