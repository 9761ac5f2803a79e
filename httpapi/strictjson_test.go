package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// strictTarget has every kind of field the API's documents have.
type strictTarget struct {
	Text    string            `json:"text"`
	Pointer *string           `json:"pointer,omitempty"`
	Number  uint64            `json:"number"`
	Float   float64           `json:"float"`
	Flag    bool              `json:"flag"`
	Time    time.Time         `json:"time"`
	List    []strictElement   `json:"list"`
	Map     map[string]string `json:"map"`
	Plain   string
	Skipped string `json:"-"`
	hidden  string
	strictPromoted
}

type strictElement struct {
	Name string `json:"name"`
}

type strictPromoted struct {
	Promoted int `json:"promoted"`
}

func TestDecodeStrict_Accepts(t *testing.T) {
	t.Parallel()
	text := "x"
	for input, target := range map[string]strictTarget{
		`{}`:                                      {},
		" \t\r\n{ } \n":                           {},
		`{"text":"x"}`:                            {Text: "x"},
		`{"te\u0078t":"\u0078"}`:                  {Text: "x"},
		`{"text":"\ud83d\ude00"}`:                 {Text: "😀"},
		`{"text":"\"\\\/\b\f\n\t"}`:               {Text: "\"\\/\b\f\n\t"},
		`{"text":"\ufffd"}`:                       {Text: "\ufffd"},
		"{\"text\":\"\u2028😀\"}":                  {Text: "\u2028😀"},
		`{"pointer":"x"}`:                         {Pointer: &text},
		`{"number":18446744073709551615}`:         {Number: 1<<64 - 1},
		`{"float":-1.5e+2}`:                       {Float: -150},
		`{"float":0}`:                             {},
		`{"flag":true,"Plain":"x"}`:               {Flag: true, Plain: "x"},
		`{"list":[{"name":"a"},{"name":"a"},{}]}`: {List: []strictElement{{"a"}, {"a"}, {}}},
		`{"list":[]}`:                             {List: []strictElement{}},
		`{"map":{"any":"x","Any":"y","":"z"}}`:    {Map: map[string]string{"any": "x", "Any": "y", "": "z"}},
		`{"promoted":3}`:                          {strictPromoted: strictPromoted{3}},
		`{"time":"2024-05-06T07:08:09Z"}`:         {Time: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)},
	} {
		var got strictTarget
		if err := decodeStrict([]byte(input), &got); err != nil {
			t.Errorf("%s: %v", input, err)
		} else if !reflect.DeepEqual(got, target) {
			t.Errorf("%s: %+v, want %+v", input, got, target)
		}
	}
}

func TestDecodeStrict_Refuses(t *testing.T) {
	t.Parallel()
	for input, says := range map[string]string{
		``:                                   "object",
		`[]`:                                 "object",
		`null`:                               "object",
		`"x"`:                                "object",
		`{`:                                  "byte 1",
		`{"text"`:                            "in the middle",
		`{"text":`:                           "byte 8, in the middle",
		`{"text":"x`:                         "in the middle",
		`{"text":"x"`:                        "byte 11, in the middle",
		`{"text":"x",}`:                      "field name",
		`{,}`:                                "field name",
		`{text:"x"}`:                         "field name",
		`{'text':"x"}`:                       "field name",
		`{"text" "x"}`:                       "expecting ':'",
		`{"text":"x"}}`:                      "after its end",
		`{"text":"x"}{}`:                     "after its end",
		`{"text":"x"} x`:                     "after its end",
		`{"text":"x","text":"x"}`:            "twice",
		`{"text":"x","t\u0065xt":"x"}`:       "twice",
		`{"list":[{"name":"a","name":"b"}]}`: "twice",
		`{"map":{"a":"1","a":"2"}}`:          "twice",
		`{"Text":"x"}`:                       "unknown field",
		`{"plain":"x"}`:                      "unknown field",
		`{"Skipped":"x"}`:                    "unknown field",
		`{"hidden":"x"}`:                     "unknown field",
		`{"strictPromoted":{}}`:              "unknown field",
		`{"list":[{"Name":"a"}]}`:            "unknown field",
		`{"other":1}`:                        `"flag"`,
		`{"text":null}`:                      "null",
		`{"list":[null]}`:                    "null",
		`{"text":1}`:                         `field "text" of the JSON document does not take a number: it takes a string`,
		`{"text":{}}`:                        `does not take an object: it takes a string`,
		`{"text":[]}`:                        `does not take an array`,
		`{"number":-1}`:                      `field "number" of the JSON document does not take -1: it takes a whole number from 0 to 18446744073709551615`,
		`{"number":1.5}`:                     `does not take 1.5`,
		`{"number":18446744073709551616}`:    `does not take 18446744073709551616`,
		`{"number":"1"}`:                     `does not take a string`,
		`{"number":true}`:                    `does not take true or false`,
		`{"flag":1}`:                         `it takes true or false`,
		`{"list":{}}`:                        `field "list" of the JSON document does not take an object: it takes an array`,
		`{"list":[[]]}`:                      `does not take an array: it takes an object`,
		`{"promoted":1.5}`:                   `field "promoted" of the JSON document does not take 1.5: it takes a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"number":` + strings.Repeat("1", 10_000) + `}`: `field "number"`,
		`{"number":01}`:                           "expecting ','",
		`{"number":+1}`:                           "value",
		`{"number":.5}`:                           "value",
		`{"float":1.}`:                            "digit",
		`{"float":1e}`:                            "digit",
		`{"float":-}`:                             "digit",
		`{"float":NaN}`:                           "value",
		`{"flag":True}`:                           "value",
		`{"flag":tru}`:                            "expecting 'e'",
		`{"text":"\x41"}`:                         "escape",
		`{"text":"\u12g4"}`:                       "escape sequence",
		`{"text":"\u+123"}`:                       "escape sequence",
		`{"text":"\u12"}`:                         "escape sequence",
		`{"text":"\`:                              "in the middle",
		`{"text":"\ud800"}`:                       "surrogate",
		`{"text":"\ud800\n"}`:                     "surrogate",
		`{"text":"\ud800\ud800"}`:                 "surrogate",
		`{"text":"\udc00"}`:                       "surrogate",
		`{"text":"\udc00\udc00"}`:                 "surrogate",
		`{"\ud800":1}`:                            "surrogate",
		"{\"text\":\"\xff\"}":                     "UTF-8",
		"{\"text\":\"\xed\xa0\x80\"}":             "UTF-8",
		"{\"text\":\"\xc0\x80\"}":                 "UTF-8",
		"{\"text\":\"a\nb\"}":                     "control character",
		"{\"text\":\"a\x00b\"}":                   "control character",
		"\ufeff{}":                                "object",
		"{\u00a0}":                                "field name",
		`{"time":"yesterday"}`:                    "does not decode",
		`{"text":` + strings.Repeat("[", 100_000): "nests deeper",
		`{"text":` + strings.Repeat(`{"a":`, 100_000): "nests deeper",
		`{"map":` + strings.Repeat(`{"a":`, 100_000):  "nests deeper",
	} {
		var got strictTarget
		err := decodeStrict([]byte(input), &got)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: error %v, want one about %q", input, err, says)
			continue
		}
		if p, ok := err.(*problem); !ok || p.document.Status != 400 {
			t.Errorf("%.60q: %v is not a 400", input, err)
		}
		if got.hidden != "" {
			t.Errorf("%.60q set an unexported field", input)
		}
	}
}

// FuzzDecodeStrict: what is accepted is JSON to encoding/json too, says each
// name once, and holds no character that was replaced; decoded, written and
// decoded again it is the same.
func FuzzDecodeStrict(f *testing.F) {
	for _, input := range []string{`{}`, `{"text":"x"}`, `{"list":[{"name":"a"}],"number":1}`, `{"text":"\ud83d\ude00"}`, `{"map":{"a":"b"},"float":-1e9}`, `{"time":"2024-05-06T07:08:09Z"}`} {
		f.Add([]byte(input))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		var first, again strictTarget
		if decodeStrict(input, &first) != nil {
			return
		}
		if !json.Valid(input) || !utf8.Valid(input) || repeatsName(t, input) {
			t.Fatalf("%q is accepted", input)
		}
		if strings.Contains(first.Text, "\ufffd") && !strings.Contains(string(input), "\ufffd") && !strings.Contains(strings.ToLower(string(input)), `\ufffd`) {
			t.Fatalf("%q: a character was replaced: %q", input, first.Text)
		}
		written, err := json.Marshal(&first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(written, &again); err != nil || !sameTarget(&first, &again) {
			t.Fatalf("%q: %+v came back as %+v (%v)", input, first, again, err)
		}
	})
}

func sameTarget(a, b *strictTarget) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

// repeatsName tells by the tokens of encoding/json, another way than the
// decoder's own.
func repeatsName(t *testing.T, input []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(input))
	var open []map[string]bool // nil for an array
	name := false
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return false
		}
		if err != nil {
			t.Fatalf("%q: %v", input, err)
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{':
				open, name = append(open, map[string]bool{}), true
				continue
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
		case string:
			if name {
				seen := open[len(open)-1]
				if seen[token] {
					return true
				}
				seen[token], name = true, false
				continue
			}
		}
		name = len(open) > 0 && open[len(open)-1] != nil
	}
}
