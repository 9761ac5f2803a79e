package kvstore

import "slices"

// commonContentTypes is how many content types take one byte in a record.
const commonContentTypes = 32

// contentTypes are the common content types, each at its number, in the state machine and
// every record. No number may get another meaning, and none is left.
var contentTypes = [commonContentTypes]string{
	DefaultContentType,
	"application/json",
	"application/json; charset=utf-8",
	"text/plain",
	"text/plain; charset=utf-8",
	"text/html",
	"text/html; charset=utf-8",
	"text/css",
	"text/css; charset=utf-8",
	"text/javascript",
	"text/javascript; charset=utf-8",
	"text/csv",
	"text/markdown",
	"text/xml",
	"application/xml",
	"application/yaml",
	"application/x-ndjson",
	"application/x-www-form-urlencoded",
	"application/cbor",
	"application/protobuf",
	"application/x-protobuf",
	"application/pdf",
	"application/zip",
	"application/gzip",
	"application/zstd",
	"application/x-tar",
	"application/wasm",
	"image/png",
	"image/jpeg",
	"image/webp",
	"image/svg+xml",
	"video/mp4",
}

// longContentType marks a content type of longContentTypeBytes or more: one more
// byte says how many more.
const (
	longContentType      = 255
	longContentTypeBytes = longContentType - commonContentTypes + 1
)

// appendContentType writes the number of a common content type, or the length of
// another one, beginning at 1 behind those numbers, and its characters.
func appendContentType(b []byte, ct string) []byte {
	if ct == "" {
		return append(b, 0)
	}
	if code := slices.Index(contentTypes[:], ct); code >= 0 {
		return append(b, byte(code))
	}
	if len(ct) < longContentTypeBytes {
		b = append(b, byte(commonContentTypes+len(ct)-1))
	} else {
		b = append(b, longContentType, byte(len(ct)-longContentTypeBytes))
	}
	return append(b, ct...)
}

// contentType reads what appendContentType wrote.
func (c *cursor) contentType() (code byte, spelled []byte) {
	code = c.byte()
	switch {
	case code < commonContentTypes:
		return code, nil
	case code < longContentType:
		return commonContentTypes, c.take(int(code) - commonContentTypes + 1)
	}
	return commonContentTypes, c.take(longContentTypeBytes + int(c.byte()))
}
