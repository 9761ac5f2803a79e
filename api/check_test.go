package api

import (
	"strings"
	"testing"
)

func TestChecks(t *testing.T) {
	t.Parallel()
	checks := map[string]func(string) error{
		"key": CheckKey, "put id": CheckPutID, "content type": CheckContentType, "header value": CheckHeaderValue,
		"media type": func(text string) error { _, err := MediaType(text); return err },
		"meta name":  func(text string) error { return CheckMeta(text, "") },
		"meta value": func(text string) error { return CheckMeta("name", text) },
	}
	for _, c := range []struct {
		check, text, says string // "": it is accepted
	}{
		{"key", "a", ""}, {"key", "\xff \x01/", ""}, {"key", strings.Repeat("k", 1024), ""},
		{"key", "", "it is empty; a key has 1 to 1024 bytes"}, {"key", strings.Repeat("k", 1025), "it has 1025 bytes"}, {"key", "ab\x00", "byte 2 is NUL"},
		{"put id", "!~", ""}, {"put id", strings.Repeat("i", 64), ""},
		{"put id", "", "has 0 bytes"}, {"put id", strings.Repeat("i", 65), "has 65 bytes"}, {"put id", "a b", "0x20"}, {"put id", "\x7f", "0x7f"},
		{"content type", "", ""}, {"content type", "anything", ""}, {"content type", strings.Repeat("t", 255), ""},
		{"content type", strings.Repeat("t", 256), "has 256 bytes; the limit is 255"}, {"content type", "a\tb", "0x09"}, {"content type", "é", "0xc3"},
		{"media type", "Text/Plain; charset=utf-8", ""}, {"media type", "inline", "no subtype"}, {"media type", "a/b; c", "does not parse"}, {"media type", "a/é", "0xc3"},
		{"header value", "", ""}, {"header value", "a b~", ""}, {"header value", " a", "begins or ends"}, {"header value", "a ", "begins or ends"}, {"header value", "a\n", "byte 1"},
		{"meta name", "az-09", ""}, {"meta name", strings.Repeat("n", 64), ""},
		{"meta name", "", "has 0 characters"}, {"meta name", strings.Repeat("n", 65), "has 65 characters"}, {"meta name", "A", "lower-case"}, {"meta name", "a_b", "lower-case"},
		{"meta value", "", ""}, {"meta value", "é", "the value of name: byte 0"},
	} {
		err := checks[c.check](c.text)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %.80q: %v, want %q", c.check, c.text, err, c.says)
		}
	}
	if media, err := MediaType("Text/Plain; charset=utf-8"); media != "text/plain" || err != nil {
		t.Errorf("%q, %v", media, err)
	}
}
