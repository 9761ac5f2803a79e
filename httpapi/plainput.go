package httpapi

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// strictBase64 never changes.
var strictBase64 = base64.StdEncoding.Strict()

// plainPut reads a line of POST /keys in the form that nearly all have: an object
// whose members are strings, each once, with no \u in them. It is what decodeStrict
// and partsOf do at a sixth of their cost, which was a third of what a put in a
// batch cost the leader. ok is false for every other line, good or bad: they
// decide about it, and find the words.
func plainPut(line []byte) (put kvstore.SmallPut, ok bool) {
	d, ok := readPlain(line)
	if !ok || (d.key == nil) == (d.keyBase64 == nil) || d.value == nil {
		return put, false
	}
	key := d.key
	if key == nil {
		if key, ok = decodePlain(d.keyBase64); !ok {
			return put, false
		}
	}
	switch string(d.encoding) {
	case "":
		put.Value = bytes.Clone(d.value)
	case api.EncodingBase64:
		if put.Value, ok = decodePlain(d.value); !ok {
			return put, false
		}
	default:
		return put, false
	}
	put.ContentType = contentTypeText
	if len(d.contentType) > 0 {
		put.ContentType = string(bytes.TrimSpace(d.contentType))
		if _, err := checkContentType(string(d.contentType)); err != nil {
			return put, false
		}
	}
	put.Key = kvstore.Key(key)
	return put, put.Key.Validate() == nil
}

// plainDocument is the members of a put's document; nil are those that it does not
// have. They may alias the line.
type plainDocument struct {
	key, keyBase64, value, encoding, contentType []byte
}

func (d *plainDocument) member(name []byte) *[]byte {
	switch string(name) {
	case "key":
		return &d.key
	case "key_base64":
		return &d.keyBase64
	case "value":
		return &d.value
	case "encoding":
		return &d.encoding
	case "content_type":
		return &d.contentType
	}
	return nil
}

func readPlain(line []byte) (d plainDocument, ok bool) {
	if !utf8.Valid(line) {
		return d, false
	}
	s := jsonScan{data: line}
	s.space()
	if !s.take('{') {
		return d, false
	}
	for {
		s.space()
		name, ok := s.plainText()
		if !ok {
			return d, false
		}
		member := d.member(name)
		if member == nil || *member != nil {
			return d, false
		}
		if s.space(); !s.take(':') {
			return d, false
		}
		s.space()
		if *member, ok = s.plainText(); !ok {
			return d, false
		}
		s.space()
		if s.take(',') {
			continue
		}
		if !s.take('}') {
			return d, false
		}
		s.space()
		return d, s.at == len(line)
	}
}

// plainText takes a string without \u in it, and returns it decoded, never nil.
func (s *jsonScan) plainText() (text []byte, ok bool) {
	if !s.take('"') {
		return nil, false
	}
	rest := s.data[s.at:]
	for i, c := range rest {
		switch {
		case c == '"':
			s.at += i + 1
			return rest[:i:i], true
		case c == '\\':
			return s.plainEscaped(i)
		case c < ' ':
			return nil, false
		}
	}
	return nil, false
}

// plainEscaped goes on where the first backslash is, n bytes ahead.
func (s *jsonScan) plainEscaped(n int) (text []byte, ok bool) {
	text = append(make([]byte, 0, 2*n+64), s.data[s.at:s.at+n]...)
	for s.at += n; s.at < len(s.data); s.at++ {
		c := s.data[s.at]
		switch {
		case c == '"':
			s.at++
			return text, true
		case c < ' ':
			return nil, false
		case c == '\\':
			s.at++
			if c = plainEscapes[s.peek()]; c == 0 {
				return nil, false
			}
		}
		text = append(text, c)
	}
	return nil, false
}

// plainEscapes has what stands for what behind a backslash. It never changes.
var plainEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// appendPlainResult appends the line of a result that is about a put that is done,
// whose key needs no escape, as encoding/json would. ok is false for all others.
func appendPlainResult(line []byte, r *api.BatchResult) (_ []byte, ok bool) {
	if r.Key == "" || r.Revision == 0 || r.SHA256 == "" || r.Size == nil || r.Detail != "" || r.Type != "" || r.Line != 0 {
		return line, false
	}
	for i := range len(r.Key) {
		if c := r.Key[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return line, false
		}
	}
	line = append(append(line, `{"key":"`...), r.Key...)
	line = append(append(line, `","status":"`...), r.Status...)
	line = strconv.AppendUint(append(line, `","revision":`...), r.Revision, 10)
	line = append(append(line, `,"sha256":"`...), r.SHA256...)
	line = strconv.AppendInt(append(line, `","size":`...), *r.Size, 10)
	return append(line, "}\n"...), true
}

// decodePlain is decodeBase64.
func decodePlain(text []byte) (raw []byte, ok bool) {
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return nil, false // encoding/base64 would pass over them
	}
	raw = make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := strictBase64.Decode(raw, text)
	return raw[:n], err == nil
}
