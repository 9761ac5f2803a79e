package kvstore

import (
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// The number of a common content type is in every record that has it: it may never
// mean another one, in no version of this program.
func TestContentTypes_KeepTheirNumbers(t *testing.T) {
	t.Parallel()
	frozen := strings.Split(`application/octet-stream
application/json
application/json; charset=utf-8
text/plain
text/plain; charset=utf-8
text/html
text/html; charset=utf-8
text/css
text/css; charset=utf-8
text/javascript
text/javascript; charset=utf-8
text/csv
text/markdown
text/xml
application/xml
application/yaml
application/x-ndjson
application/x-www-form-urlencoded
application/cbor
application/protobuf
application/x-protobuf
application/pdf
application/zip
application/gzip
application/zstd
application/x-tar
application/wasm
image/png
image/jpeg
image/webp
image/svg+xml
video/mp4`, "\n")
	if len(frozen) != commonContentTypes {
		t.Fatalf("%d content types, want %d", len(frozen), commonContentTypes)
	}
	for code, ct := range frozen {
		if b := appendContentType(nil, ct); len(b) != 1 || int(b[0]) != code {
			t.Errorf("%s is written as %x, want %x", ct, b, code)
		}
		if err := validateContentType(ct); err != nil {
			t.Error(err)
		}
		c := cursor{b: []byte{byte(code)}}
		var d body
		if d.typeCode, d.contentType = c.contentType(); c.end() != nil || d.contentTypeString() != ct {
			t.Errorf("%d is read as %s (%v), want %s", code, d.contentTypeString(), c.err, ct)
		}
	}
}

// Other content types take their characters and one byte, the longest two.
func TestContentTypes_OfEveryLength(t *testing.T) {
	t.Parallel()
	for n := 1; n <= api.ContentTypeBytesMax; n++ {
		ct := strings.Repeat("a", n)
		b := appendContentType(nil, ct)
		want := n + 1
		if n >= 224 {
			want = n + 2
		}
		c := cursor{b: b}
		var d body
		d.typeCode, d.contentType = c.contentType()
		if err := c.end(); err != nil || d.contentTypeString() != ct || len(b) != want || d.checkContentType() != nil {
			t.Fatalf("%d characters: %d bytes, read as %d characters (%v)", n, len(b), len(d.contentTypeString()), err)
		}
		c = cursor{b: b[:len(b)-1]}
		if c.contentType(); c.end() == nil {
			t.Fatalf("%d characters: accepted without the last", n)
		}
	}
}
