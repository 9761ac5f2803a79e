package httpapi

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// jsonDepthMax is how deep objects and arrays may nest in a request.
const jsonDepthMax = 8

// decodeStrict decodes one JSON object into a struct and refuses everything that two
// readers could take in two ways: duplicate names, unknown names and names in another
// case, bytes that are not UTF-8, lone surrogates, null, and trailing data. Every error
// is a *problem whose sentence goes to the client.
func decodeStrict(data []byte, into any) error {
	err := json.Unmarshal(data, into, json.RejectUnknownMembers(true))
	if err == nil && !bytes.Contains(data, []byte("null")) {
		return nil // the fields of into bound the depth
	}
	return explained(data, err, nil)
}

// decodeOpen is decodeStrict for documents of other nodes, which may be newer: it
// ignores unknown names and whatever they hold.
func decodeOpen(data []byte, into any) error {
	return explained(data, json.Unmarshal(data, into), jsonNames(reflect.TypeOf(into).Elem()))
}

// explained turns an error of json into a problem, and refuses what json accepts. The
// known names are those of an open document, nil for a closed one.
func explained(data []byte, err error, known []string) error {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		return fieldProblem(semantic)
	}
	if p := checkTokens(data, known); p != nil {
		return p
	}
	if err != nil {
		return invalid("the JSON document does not decode: %v", err)
	}
	return nil
}

// checkTokens refuses malformed JSON, trailing data, deep nesting, null, and in an open
// document a name that differs from a known one only in its case. Below the unknown
// names of an open document, null is allowed.
func checkTokens(data []byte, known []string) error {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	for foreign, first := false, true; first || dec.StackDepth() > 0; first = false {
		token, err := dec.ReadToken()
		depth := dec.StackDepth()
		parent, length := dec.StackIndex(depth) // names and values count
		switch {
		case err != nil && first, err == nil && first && token.Kind() != '{':
			return errNoObject
		case err != nil:
			return syntaxProblem(err, parent == '{' && length%2 == 0)
		case depth > jsonDepthMax:
			return invalid("the JSON document nests deeper than %d levels at byte %d", jsonDepthMax, dec.InputOffset()-1)
		case known != nil && depth == 1 && length%2 == 1:
			name := token.String()
			foreign = !slices.Contains(known, name)
			if foreign && slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
				return unknownField(name, known)
			}
		case token.Kind() == 'n' && !foreign:
			return invalid("the JSON document has a null before byte %d; leave the field out instead", dec.InputOffset())
		}
	}
	if rest := bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return invalid("the JSON document goes on after its end, at byte %d; send one object and nothing else", len(data)-len(rest))
	}
	return nil
}

// errNoObject never changes.
var errNoObject = invalid("the JSON document does not begin with an object; send one object and nothing else")

// syntaxProblem is about bytes that are no JSON, or that give a name twice. After a
// comma or a brace, nameNext tells that a name belongs here.
func syntaxProblem(err error, nameNext bool) error {
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return invalid("the JSON document does not decode: %v", err)
	}
	what := syntax.Err.Error()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the JSON document ends at byte %d, in the middle", syntax.ByteOffset)
	case errors.Is(err, jsontext.ErrDuplicateName):
		return invalid("field %q is in the JSON document twice; give it once", syntax.JSONPointer.LastToken())
	case strings.Contains(what, "UTF-8"):
		return invalid("the JSON document is not UTF-8 (byte %d); send other bytes as base64", syntax.ByteOffset)
	case strings.Contains(what, "surrogate"):
		return invalid("the JSON document has half of a surrogate pair at byte %d, which is no character; send such bytes as base64", syntax.ByteOffset)
	case nameNext && (strings.Contains(what, "start of value") || strings.Contains(what, "in literal")), errors.Is(err, jsontext.ErrNonStringName):
		what = "a field name in double quotes is expected here"
	}
	return invalid("the JSON document is malformed at byte %d: %s", syntax.ByteOffset, what)
}

// fieldProblem is about a field that is unknown, or has a value that it does not take.
func fieldProblem(err *json.SemanticError) error {
	field := strings.TrimPrefix(string(err.JSONPointer), "/")
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return unknownField(err.JSONPointer.LastToken(), jsonNames(err.GoType))
	case field == "":
		return errNoObject
	case err.Err != nil && err.JSONKind == '"':
		return invalid("field %q of the JSON document does not decode: %v", field, err.Err)
	}
	return invalid("field %q of the JSON document does not take %s: it takes %s", field, valueInWords(err), typeInWords(err.GoType))
}

func unknownField(name string, known []string) error {
	return invalid("the JSON document has the unknown field %q; the fields are \"%s\", in exactly this case", name, strings.Join(known, `", "`))
}

// jsonNames returns the names of a struct's fields in JSON, sorted.
func jsonNames(t reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "-" && (!f.Anonymous || name != "") {
			names = append(names, cmp.Or(name, f.Name))
		}
	}
	slices.Sort(names)
	return names
}

// numberWordBytes is how much of a number that does not fit an answer repeats.
const numberWordBytes = 40

func valueInWords(err *json.SemanticError) string {
	switch err.JSONKind {
	case '0':
		if digits := string(err.JSONValue); digits != "" {
			return digits[:min(len(digits), numberWordBytes)]
		}
		return "a number"
	case '"':
		return "a string"
	case '[':
		return "an array"
	case '{':
		return "an object"
	}
	return "true or false"
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
