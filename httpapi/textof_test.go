package httpapi

import (
	"bytes"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/client"
)

// TestTextOf: a value is text in JSON as long as that takes no more than twice its
// bytes, which is what memory is taken for.
func TestTextOf(t *testing.T) {
	for name, c := range map[string]struct {
		raw    []byte
		base64 bool
	}{
		"text":            {raw: []byte("a page of <b>text</b>\n")},
		"nothing":         {raw: nil},
		"quotes alone":    {raw: []byte(strings.Repeat(`"\`, 50))},
		"lines alone":     {raw: bytes.Repeat([]byte("\n"), 100)},
		"line separators": {raw: []byte(strings.Repeat("\u2028", 100))},
		"some control":    {raw: []byte("text with \x1b[1m colours \x1b[0m in it")},
		"control bytes":   {raw: bytes.Repeat([]byte{1}, 100), base64: true},
		"mostly control":  {raw: bytes.Repeat([]byte("\x00\x01\x02a"), 100), base64: true},
		"not UTF-8":       {raw: []byte{0xff, 'a'}, base64: true},
	} {
		text, encoding := textOf(c.raw)
		if got := encoding == client.EncodingBase64; got != c.base64 {
			t.Errorf("%s: encoding %q", name, encoding)
		}
		document, err := marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if most := 2*len(c.raw) + 4; len(document) > most {
			t.Errorf("%s: %d bytes as JSON, of %d", name, len(document), len(c.raw))
		}
	}
}
