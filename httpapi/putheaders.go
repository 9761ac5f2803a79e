package httpapi

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// conditions are the conditions a put comes with.
type conditions struct {
	ifMatch     tagList
	ifNoneMatch tagList
	putID       string
	keep        bool // another value that is there already is no error
}

func conditionsOf(r *http.Request, q parameters) (c conditions, err error) {
	if c.keep, err = q.word("on-conflict", "keep"); err != nil {
		return c, err
	}
	if c.putID, err = putIDOf(r.Header); err != nil {
		return c, err
	}
	if c.ifMatch, err = parseTags(r.Header, "If-Match"); err != nil {
		return c, err
	}
	c.ifNoneMatch, err = parseTags(r.Header, "If-None-Match")
	return c, err
}

// putIDOf reads Oncekv-Put-Id, "" if there is none.
func putIDOf(h http.Header) (string, error) {
	lines := h[api.HeaderPutID]
	switch {
	case len(lines) == 0:
		return "", nil
	case len(lines) > 1:
		return "", invalid("%s is given %d times; give it once", api.HeaderPutID, len(lines))
	}
	if err := api.CheckPutID(lines[0]); err != nil {
		return "", invalid("%v", err)
	}
	return lines[0], nil
}

// tagList is an If-Match or If-None-Match header.
type tagList struct {
	given bool
	any   bool // "*"
	tags  []string
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

// Content types of values.
const (
	contentTypeText = "text/plain; charset=utf-8" // of POST /key
	contentTypeForm = "application/x-www-form-urlencoded"
)

// contentTypeOf reads a PUT's content type; none is the default. The type that curl -d
// adds by itself counts as none.
func contentTypeOf(h http.Header) (string, error) {
	lines := h["Content-Type"]
	if len(lines) > 1 {
		return "", invalid("Content-Type is given %d times; give it once", len(lines))
	}
	return meantContentType(strings.Join(lines, ""))
}

// meantContentType is what a content type given with a value means.
func meantContentType(given string) (string, error) {
	if given == kvstore.DefaultContentType || strings.TrimSpace(given) == "" {
		return kvstore.DefaultContentType, nil
	}
	media, err := checkContentType(given)
	if err != nil {
		return "", err
	}
	if media == contentTypeForm {
		return kvstore.DefaultContentType, nil
	}
	return strings.TrimSpace(given), nil
}

// checkContentType refuses what cannot be sent back as a header, and returns the media
// type without its parameters.
func checkContentType(text string) (media string, err error) {
	if media, err = api.MediaType(text); err != nil {
		return "", invalid("%v", err)
	}
	return media, nil
}

// refuseEncoded refuses a body that is coded on top of its content type: the stored bytes
// would not be what the sender means.
func refuseEncoded(h http.Header) error {
	if coding := h.Values("Content-Encoding"); len(coding) > 0 {
		return newProblem(http.StatusUnsupportedMediaType, api.ProblemUnsupportedMedia,
			"the body has the content coding %q; values are stored as they are sent, so send it without Content-Encoding",
			strings.Join(coding, ", "))
	}
	return nil
}

// expectedDigest reads Repr-Digest (RFC 9530), a dictionary of algorithms:
//
//	Repr-Digest: sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:
//
// nil means that none was sent. Other algorithms beside sha-256 are ignored. A header
// without sha-256 is refused, because the client expects a check.
func expectedDigest(h http.Header) (*kvstore.Digest, error) {
	lines := h["Repr-Digest"]
	if len(lines) == 0 {
		return nil, nil
	}
	var found *kvstore.Digest
	for member := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, value, _ := strings.Cut(strings.Trim(member, " \t"), "=")
		if name != "sha-256" {
			continue
		}
		if found != nil {
			return nil, invalid("Repr-Digest names sha-256 twice; name it once")
		}
		digest, err := parseByteSequence(value)
		if err != nil {
			return nil, err
		}
		found = digest
	}
	if found == nil {
		return nil, invalid("Repr-Digest has no sha-256, the only algorithm that is verified here; send sha-256=:base64: or leave the header out")
	}
	return found, nil
}

// parseByteSequence reads :base64: and passes over parameters after it.
func parseByteSequence(text string) (*kvstore.Digest, error) {
	text, _, _ = strings.Cut(text, ";")
	text = strings.Trim(text, " \t")
	inner, opens := strings.CutPrefix(text, ":")
	inner, closes := strings.CutSuffix(inner, ":")
	raw, err := base64.StdEncoding.Strict().DecodeString(inner)
	var digest kvstore.Digest
	if !opens || !closes || err != nil || len(raw) != len(digest) {
		return nil, invalid("Repr-Digest has a sha-256 that is not 32 bytes as :base64:; it is %q", text)
	}
	copy(digest[:], raw)
	return &digest, nil
}

// userMetaOf reads the headers Oncekv-Meta-NAME of a put. The case of a header's name
// means nothing, so names are in lower case.
func userMetaOf(h http.Header) (kvstore.UserMeta, error) {
	var values map[string]string
	for header, lines := range h {
		name, found := strings.CutPrefix(header, api.HeaderMetaPrefix)
		if !found {
			continue
		}
		if len(lines) > 1 {
			return kvstore.UserMeta{}, invalid("%s is given %d times; give it once", header, len(lines))
		}
		if values == nil {
			values = make(map[string]string)
		}
		values[strings.ToLower(name)] = lines[0]
	}
	if values == nil {
		return kvstore.UserMeta{}, nil
	}
	return kvstore.MakeUserMeta(values)
}

// givenUserMeta returns a header with metadata of a put, "" if there is none.
func givenUserMeta(h http.Header) string {
	for header := range h {
		if strings.HasPrefix(header, api.HeaderMetaPrefix) {
			return header
		}
	}
	return ""
}
