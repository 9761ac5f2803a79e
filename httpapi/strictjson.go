package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonDepthMax is how deep objects and arrays may nest in a request.
const jsonDepthMax = 8

// decodeStrict decodes one JSON object into a struct and refuses everything
// that two readers could take in two ways: duplicate names, unknown names and
// names in another case (encoding/json takes all three), bytes that are not
// UTF-8 and lone surrogates (it replaces both), null, and trailing data. Where
// the shape is open, unknown names are let through, with null below them. Every
// error is a *problem whose sentence goes to the client.
func decodeStrict(data []byte, s *shape, into any) error {
	scan := jsonScan{data: data}
	if err := scan.document(s); err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return typeProblem(err)
	}
	return nil
}

// typeProblem says which field has the wrong type.
func typeProblem(err error) error {
	mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return invalid("the JSON document does not decode: %v", err)
	}
	field := mismatch.Field[strings.LastIndexByte(mismatch.Field, '.')+1:] // embedded Go types stand before it
	return invalid("field %q of the JSON document does not take %s: it takes %s", field, valueInWords(mismatch.Value), typeInWords(mismatch.Type))
}

// numberShownBytes is what an answer repeats of a number that does not fit.
const numberShownBytes = 40

// valueInWords is what encoding/json calls a value of the wrong type.
func valueInWords(value string) string {
	if digits, ok := strings.CutPrefix(value, "number "); ok {
		return digits[:min(len(digits), numberShownBytes)]
	}
	switch value {
	case "bool":
		return "true or false"
	case "array", "object":
		return "an " + value
	}
	return "a " + value
}

// typeInWords says what a field takes to those who do not know Go.
func typeInWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		most := int64(math.MaxInt64) >> (64 - t.Bits())
		return fmt.Sprintf("a whole number from %d to %d", -most-1, most)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array"
	}
	return "an object"
}

// jsonScan walks a document once. It checks; encoding/json decodes.
type jsonScan struct {
	data  []byte
	at    int // offset of the next byte
	depth int
}

func (s *jsonScan) document(sh *shape) error {
	if !utf8.Valid(s.data) {
		return invalid("the JSON document is not UTF-8 (byte %d); send other bytes as base64", invalidAt(s.data))
	}
	s.space()
	if s.peek() != '{' {
		return s.malformed("a JSON object is expected here")
	}
	if err := s.value(sh); err != nil {
		return err
	}
	s.space()
	if s.at < len(s.data) {
		return invalid("the JSON document goes on after its end, at byte %d; send one object and nothing else", s.at)
	}
	return nil
}

// invalidAt is the offset of the first byte that is not UTF-8.
func invalidAt(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(data)
}

func (s *jsonScan) value(sh *shape) error {
	s.space()
	switch c := s.peek(); {
	case c == '{':
		return s.nested(sh, s.object)
	case c == '[':
		return s.nested(sh, s.array)
	case c == '"':
		_, err := s.text(false)
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		if err := s.literal("null"); err != nil || sh.open {
			return err
		}
		return invalid("the JSON document has a null before byte %d; leave the field out instead", s.at)
	}
	return s.malformed("a value is expected here")
}

func (s *jsonScan) nested(sh *shape, walk func(*shape) error) error {
	if s.depth++; s.depth > jsonDepthMax {
		return invalid("the JSON document nests deeper than %d levels at byte %d", jsonDepthMax, s.at)
	}
	s.at++ // the bracket
	err := walk(sh)
	s.depth--
	return err
}

func (s *jsonScan) object(sh *shape) error {
	if s.space(); s.take('}') {
		return nil
	}
	seen := make(map[string]struct{})
	for {
		s.space()
		if s.peek() != '"' {
			return s.malformed("a field name in double quotes is expected here")
		}
		name, err := s.text(true)
		if err != nil {
			return err
		}
		inner, err := sh.member(name, seen)
		if err != nil {
			return err
		}
		if s.space(); !s.take(':') {
			return s.malformed("a colon is expected here")
		}
		if err := s.value(inner); err != nil {
			return err
		}
		if done, err := s.next('}'); done || err != nil {
			return err
		}
	}
}

// member returns the shape of a field and notes that it was there.
func (sh *shape) member(name string, seen map[string]struct{}) (*shape, error) {
	if _, twice := seen[name]; twice {
		return nil, invalid("field %q is in the JSON document twice; give it once", name)
	}
	seen[name] = struct{}{}
	if sh.fields == nil {
		return sh.inner(), nil
	}
	inner, known := sh.fields[name]
	if !known && sh.open && sh.folded(name) == "" {
		return &shape{open: true}, nil
	}
	if !known {
		return nil, invalid("the JSON document has the unknown field %q; the fields are %s, in exactly this case", name, sh.names)
	}
	return inner, nil
}

// inner is the shape of what an array or a map holds; of whatever else it is
// one that knows nothing.
func (sh *shape) inner() *shape {
	if sh.elem != nil {
		return sh.elem
	}
	return sh
}

func (s *jsonScan) array(sh *shape) error {
	if s.space(); s.take(']') {
		return nil
	}
	inner := sh.inner()
	if sh.fields != nil { // an array where an object belongs: encoding/json says so
		inner = &shape{}
	}
	for {
		if err := s.value(inner); err != nil {
			return err
		}
		if done, err := s.next(']'); done || err != nil {
			return err
		}
	}
}

// next takes what follows an element: a comma, or the closing bracket.
func (s *jsonScan) next(closing byte) (done bool, err error) {
	s.space()
	switch {
	case s.take(','):
		return false, nil
	case s.take(closing):
		return true, nil
	}
	return false, s.malformed("a comma or a closing bracket is expected here")
}

// text takes a string and, if asked to, returns it decoded.
func (s *jsonScan) text(decode bool) (string, error) {
	start := s.at
	s.at++ // the quote
	for {
		switch c := s.peek(); {
		case s.at >= len(s.data):
			return "", s.malformed("a string has no closing quote")
		case c == '"':
			s.at++
			if !decode {
				return "", nil
			}
			return s.decoded(start)
		case c < ' ':
			return "", s.malformed("a string has a control character; escape it")
		case c == '\\':
			if err := s.escape(); err != nil {
				return "", err
			}
		default:
			s.at++
		}
	}
}

// decoded returns the string literal that ends here. Its syntax is known good.
func (s *jsonScan) decoded(start int) (string, error) {
	literal := s.data[start:s.at]
	if !strings.Contains(string(literal), `\`) {
		return string(literal[1 : len(literal)-1]), nil
	}
	var text string
	if err := json.Unmarshal(literal, &text); err != nil {
		return "", s.malformed("a string does not decode")
	}
	return text, nil
}

func (s *jsonScan) escape() error {
	s.at++ // the backslash
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at++
		return nil
	case 'u':
		s.at--
		return s.unicodeEscape()
	}
	return s.malformed("a string has an unknown escape")
}

// unicodeEscape takes \uXXXX, or a pair of them that is one character. Half a
// pair stands for no character: encoding/json would store U+FFFD for it.
func (s *jsonScan) unicodeEscape() error {
	unit, err := s.unit()
	if err != nil {
		return err
	}
	switch {
	case unit < 0xd800 || unit > 0xdfff:
		return nil
	case unit >= 0xdc00:
		return s.lone()
	case s.peek() != '\\':
		return s.lone()
	}
	low, err := s.unit()
	if err != nil {
		return err
	}
	if low < 0xdc00 || low > 0xdfff {
		return s.lone()
	}
	return nil
}

func (s *jsonScan) lone() error {
	return invalid("the JSON document has half of a surrogate pair before byte %d, which is no character; send such bytes as base64", s.at)
}

// unit takes one \uXXXX.
func (s *jsonScan) unit() (uint64, error) {
	const length = len(`\u0000`)
	if len(s.data)-s.at < length || s.data[s.at] != '\\' || s.data[s.at+1] != 'u' {
		return 0, s.malformed("the second half of a surrogate pair, or four hex digits, are expected here")
	}
	unit, err := strconv.ParseUint(string(s.data[s.at+2:s.at+length]), 16, 16)
	if err != nil {
		return 0, s.malformed(`\u takes four hex digits`)
	}
	s.at += length
	return unit, nil
}

// number takes a number by the grammar of RFC 8259.
func (s *jsonScan) number() error {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return s.malformed("a digit is expected here")
	}
	if s.take('.') && !s.digits() {
		return s.malformed("a digit is expected here")
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return s.malformed("a digit is expected here")
		}
	}
	return nil
}

func (s *jsonScan) digits() bool {
	start := s.at
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.at++
	}
	return s.at > start
}

func (s *jsonScan) literal(word string) error {
	if !strings.HasPrefix(string(s.data[s.at:min(len(s.data), s.at+len(word))]), word) {
		return s.malformed("a value is expected here")
	}
	s.at += len(word)
	return nil
}

// peek returns the next byte, 0 at the end.
func (s *jsonScan) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *jsonScan) take(c byte) bool {
	if s.at < len(s.data) && s.data[s.at] == c {
		s.at++
		return true
	}
	return false
}

func (s *jsonScan) space() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

func (s *jsonScan) malformed(what string) error {
	return invalid("the JSON document is malformed at byte %d: %s", s.at, what)
}
