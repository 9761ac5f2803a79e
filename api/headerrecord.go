package api

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RecordFromHeader reads what the headers of a GET or HEAD say about a value
// of size bytes. It fails when the ETag, the revision or the time is missing
// or malformed: such an answer is not one of an oncekv node.
func RecordFromHeader(key string, h http.Header, size int64) (Record, error) {
	r := Record{Size: size, ContentType: h.Get("Content-Type"), By: h.Get(HeaderBy), Meta: metaFromHeader(h)}
	r.Key, r.KeyBase64 = JSONKey(key)
	var err error
	if r.SHA256, err = etagDigest(h.Get("ETag")); err != nil {
		return Record{}, err
	}
	if r.Revision, err = strconv.ParseUint(h.Get(HeaderRevision), 10, 64); err != nil || r.Revision == 0 {
		return Record{}, fmt.Errorf("header %s is %q, not a revision", HeaderRevision, h.Get(HeaderRevision))
	}
	t, err := recordTime(h)
	if err != nil {
		return Record{}, err
	}
	r.Time = &t
	return r, nil
}

func etagDigest(tag string) (string, error) {
	digest, ok := strings.CutPrefix(tag, `"`)
	if ok {
		digest, ok = strings.CutSuffix(digest, `"`)
	}
	if raw, err := hex.DecodeString(digest); !ok || err != nil || len(raw) != 32 || strings.ToLower(digest) != digest {
		return "", fmt.Errorf("header ETag is %q, not a quoted SHA-256 in lower-case hex", tag)
	}
	return digest, nil
}

// recordTime prefers the exact time over Last-Modified's whole seconds.
func recordTime(h http.Header) (time.Time, error) {
	if exact := h.Get(HeaderTime); exact != "" {
		t, err := time.Parse(time.RFC3339Nano, exact)
		if err != nil {
			return time.Time{}, fmt.Errorf("header %s is %q, not RFC 3339", HeaderTime, exact)
		}
		return t.UTC(), nil
	}
	t, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return time.Time{}, fmt.Errorf("header Last-Modified is %q, not an HTTP date", h.Get("Last-Modified"))
	}
	return t.UTC(), nil
}

// metaFromHeader returns the names and values that a GET or HEAD tells, nil for none.
func metaFromHeader(h http.Header) map[string]string {
	var meta map[string]string
	for header, values := range h {
		name, found := strings.CutPrefix(header, HeaderMetaPrefix)
		if !found || name == "" || len(values) == 0 {
			continue
		}
		if meta == nil {
			meta = make(map[string]string)
		}
		meta[strings.ToLower(name)] = values[0]
	}
	return meta
}
