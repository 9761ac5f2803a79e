package httpapi

import (
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/kvstore"
)

// etagOf is a value's entity tag: its SHA-256, quoted.
func etagOf(d kvstore.Digest) string { return `"` + d.String() + `"` }

// tagList is an If-Match or If-None-Match header.
type tagList struct {
	given bool
	any   bool // "*"
	tags  []string
}

// parseTags reads a list of entity tags. A put's condition that is not
// understood is refused: passing over it would set a key that its sender
// meant to protect.
func parseTags(h http.Header, name string) (tagList, error) {
	lines := h[name]
	if len(lines) == 0 {
		return tagList{}, nil
	}
	list := tagList{given: true}
	rest := strings.Join(lines, ",")
	if strings.Trim(rest, " \t") == "*" {
		list.any = true
		return list, nil
	}
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			break
		}
		tag := leadingTag(rest)
		if tag == "" {
			return list, invalid(`%s is malformed at %q; it takes * or quoted entity tags`, name, rest)
		}
		list.tags = append(list.tags, tag)
		rest = strings.TrimLeft(rest[len(tag):], " \t")
		if rest != "" && rest[0] != ',' {
			return list, invalid(`%s is malformed at %q; separate entity tags by commas`, name, rest)
		}
	}
	if len(list.tags) == 0 {
		return list, invalid(`%s is empty; it takes * or quoted entity tags`, name)
	}
	return list, nil
}

// leadingTag returns the entity tag that text begins with, or "".
func leadingTag(text string) string {
	start := 0
	if strings.HasPrefix(text, "W/") {
		start = 2
	}
	if len(text) <= start || text[start] != '"' {
		return ""
	}
	for i := start + 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return text[:i+1]
		case c < 0x21 || c == 0x7f:
			return ""
		}
	}
	return ""
}

// strong reports whether the list holds the tag, compared strongly: a weak
// one never matches.
func (l tagList) strong(etag string) bool {
	if l.any {
		return true
	}
	for _, tag := range l.tags {
		if tag == etag {
			return true
		}
	}
	return false
}

// weak reports whether the list holds the tag or its weak form.
func (l tagList) weak(etag string) bool {
	if l.any {
		return true
	}
	for _, tag := range l.tags {
		if strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}
