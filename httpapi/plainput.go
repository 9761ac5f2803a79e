package httpapi

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// plainNames are the members of a plain line. They never change.
var plainNames = [...]string{"key", "value", "encoding", "content_type"}

// plainPut reads a line of POST /keys in the form that nearly all lines have: strings
// without escapes, and no white space but blanks. It does the work of decodeStrict and
// partsOf in less than half their time. ok is false for every other line, good or bad:
// they decide about it and find the words.
func plainPut(line []byte) (put kvstore.SmallPut, ok bool) {
	line = bytes.TrimSpace(line)
	for _, c := range line {
		if c < ' ' || c == '\\' {
			return put, false
		}
	}
	if !utf8.Valid(line) {
		return put, false
	}
	var members [len(plainNames)][]byte
	rest, more := afterByte(line, '{')
	for more {
		name, after, named := plainText(rest)
		after, colon := afterByte(after, ':')
		text, after, valued := plainText(after)
		i := slices.Index(plainNames[:], string(name))
		if !named || !colon || !valued || i < 0 || members[i] != nil {
			return put, false
		}
		members[i] = text
		rest, more = afterByte(after, ',')
	}
	if rest, ok = afterByte(rest, '}'); !ok || len(rest) > 0 {
		return put, false
	}
	key, value, encoding, contentType := members[0], members[1], members[2], members[3]
	switch string(encoding) {
	case "":
		put.Value = bytes.Clone(value)
	case api.EncodingBase64:
		var err error
		if put.Value, err = strictBase64.AppendDecode(nil, value); err != nil {
			return put, false
		}
	default:
		return put, false
	}
	put.ContentType = contentTypeText
	if len(contentType) > 0 {
		put.ContentType = string(bytes.TrimSpace(contentType))
		if _, err := checkContentType(put.ContentType); err != nil {
			return put, false
		}
	}
	put.Key = kvstore.Key(key)
	return put, value != nil && put.Key.Validate() == nil
}

// afterByte returns what follows a byte and the blanks before it.
func afterByte(text []byte, c byte) (after []byte, ok bool) {
	if trimmed := bytes.TrimLeft(text, " "); len(trimmed) > 0 && trimmed[0] == c {
		return trimmed[1:], true
	}
	return text, false
}

// plainText returns the string that comes next, never nil, and what follows it.
func plainText(rest []byte) (text, after []byte, ok bool) {
	if rest, ok = afterByte(rest, '"'); !ok {
		return nil, nil, false
	}
	return bytes.Cut(rest, []byte{'"'})
}
