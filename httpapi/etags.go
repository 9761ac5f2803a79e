package httpapi

import (
	"net/http"
	"slices"
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
	opaque, quoted := strings.CutPrefix(strings.TrimPrefix(text, "W/"), `"`)
	end := strings.IndexByte(opaque, '"')
	if !quoted || end < 0 || strings.ContainsFunc(opaque[:end], func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return ""
	}
	return text[:len(text)-len(opaque)+end+1]
}

// strong reports whether the list holds the tag, compared strongly: a weak
// one never matches.
func (l tagList) strong(etag string) bool {
	return l.any || slices.Contains(l.tags, etag)
}

// weak reports whether the list holds the tag or its weak form.
func (l tagList) weak(etag string) bool {
	return l.any || slices.Contains(l.tags, etag) || slices.Contains(l.tags, "W/"+etag)
}
