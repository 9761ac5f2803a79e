package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// listEcho notes what it is asked for, and has one page.
type listEcho struct {
	keyEcho
	asked kvstore.KeysRequest
	page  kvstore.KeysPage
}

func (e *listEcho) Changes(context.Context, kvstore.ChangesRequest, kvstore.Consistency) (kvstore.Changes, error) {
	return kvstore.Changes{}, nil
}

func (e *listEcho) Keys(_ context.Context, r kvstore.KeysRequest, _ kvstore.Consistency) (kvstore.KeysPage, error) {
	e.asked = r
	return e.page, nil
}

// ask reads a request line as net/http does and answers it; nil says that
// net/http itself refuses it.
func ask(t *testing.T, api http.Handler, target string) *httptest.ResponseRecorder {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
	if err != nil {
		return nil
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

// unescaped decodes %XX once and nothing else.
func unescaped(text string) (string, bool) {
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", false
		}
		digits := strings.ToLower(text[i+1 : i+3])
		high, low := strings.IndexByte(hex, digits[0]), strings.IndexByte(hex, digits[1])
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), true
}

// FuzzKeyTargets: however a client writes a request line, the key is what is
// in it, percent-decoded once, byte for byte; in the path and in the query it
// is the same key, but for what separates them.
func FuzzKeyTargets(f *testing.F) {
	for _, text := range []string{
		"a", "", "a/../b", "a%2fb", "a%252Fb", "a+b", "a%2bb", "%00", "a%", "a%zz", "a?b", "a#b", "a&b", "a;b", "a=b", "//", "%2e%2E/x", "\xff", "%ff%fe", "{x}", "*",
		escapedFully(strings.Repeat("k", kvstore.MaxKeyBytes)), strings.Repeat("k", kvstore.MaxKeyBytes+1), "a b", "a HTTP/1.1\r\nx: y", "ünï/日本",
	} {
		f.Add(text)
	}
	echo := new(listEcho)
	handler := NewDatabase(DatabaseConfig{DB: echo, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}})
	f.Fuzz(func(t *testing.T, text string) {
		check := func(target, written string) (key string, taken bool) {
			t.Helper()
			echo.key = ""
			w := ask(t, handler, target)
			if w == nil {
				return "", false
			}
			key, sound := unescaped(written)
			switch valid := sound && kvstore.Key(key).Validate() == nil; {
			case valid && (w.Code != 200 || string(echo.key) != key):
				t.Fatalf("%q: status %d, arrived as %q, want %q", target, w.Code, echo.key, key)
			case !valid && (w.Code != 400 || echo.key != ""):
				t.Fatalf("%q: status %d, arrived as %q, and it is no key", target, w.Code, echo.key)
			}
			return key, w.Code == 200
		}
		if strings.Contains(text, " HTTP/") {
			return // the request line ends there
		}
		var inPath, inQuery string
		var path, query bool
		if !strings.Contains(text, "?") {
			inPath, path = check(pathKey+text, text)
			if kept, too := check(pathKeep+text, text); kept != inPath || too != path {
				t.Fatalf("%q is %q in one path and %q in the other", text, inPath, kept)
			}
		}
		if !strings.ContainsAny(text, "&;") {
			inQuery, query = check(pathTwin+"?key="+text, strings.ReplaceAll(text, "+", "%20"))
		}
		if path && query && inPath != inQuery && !strings.Contains(text, "+") {
			t.Fatalf("%q is %q in the path and %q in the query", text, inPath, inQuery)
		}
	})
}

// FuzzListTokens: a page's "next" leads on from its last key, needs no
// escaping, and is the only token of that key.
func FuzzListTokens(f *testing.F) {
	for _, key := range []string{"a", "", "\xff/\x01", "a\x00b", strings.Repeat("k", kvstore.MaxKeyBytes)} {
		for _, history := range []kvstore.HistoryID{{}, historyOf(1).ID, historyOf(2).ID} {
			f.Add(key, tokenOf(history, kvstore.Key(key)))
			f.Add(key, tokenOf(history, kvstore.Key(key))+"\n")
		}
	}
	f.Add("a", "AWF=")
	f.Add("a", "AmE")
	f.Add("+ &", "%41%57%45")
	echo := new(listEcho)
	handler := NewDatabase(DatabaseConfig{DB: echo, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}})
	f.Fuzz(func(t *testing.T, text, token string) {
		history, after, err := parseToken(token)
		if err == nil && (tokenOf(history, after) != token || after.Validate() != nil) {
			t.Fatalf("token %q is taken for %q, whose token is %q", token, after, tokenOf(history, after))
		}
		echo.asked = kvstore.KeysRequest{}
		w := ask(t, handler, pathKeys+"?after="+url.QueryEscape(token))
		status := 200
		if err != nil && token != "" {
			status = 400
		}
		if status != w.Code || echo.asked.After != after || echo.asked.History != history {
			t.Fatalf("token %q: status %d, %q of %s is asked for, want %q of %s", token, w.Code, echo.asked.After, echo.asked.History, after, history)
		}
		key := kvstore.Key(text)
		if key.Validate() != nil {
			return
		}
		echo.page = kvstore.KeysPage{Keys: []kvstore.Meta{{Key: key}}, More: true, History: historyOf(1).ID}
		w = ask(t, handler, pathKeys+"?prefix="+escapedFully(text))
		var page api.KeysPage
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 || echo.asked.Prefix != key || len(page.Keys) != 1 {
			t.Fatalf("prefix %q: status %d, asked for %q: %s (%v)", text, w.Code, echo.asked.Prefix, w.Body, err)
		}
		if listed, err := page.Keys[0].RawKey(); err != nil || listed != text {
			t.Fatalf("%q is listed as %q (%v)", text, listed, err)
		}
		if url.QueryEscape(page.Next) != page.Next {
			t.Fatalf("%q: the token %q has to be escaped", text, page.Next)
		}
		if ask(t, handler, pathKeys+"?after="+page.Next); echo.asked.After != key || echo.asked.History != echo.page.History {
			t.Fatalf("%q: the next page is after %q of %s", text, echo.asked.After, echo.asked.History)
		}
	})
}

// putNames are the fields of a PutDocument.
var putNames = []string{"content_type", "encoding", "key", "key_base64", "value"}

// decodesStrictly tells by encoding/json alone, another way than the decoder's
// own, whether a document should decode, and what it says.
func decodesStrictly(input []byte) (d api.PutDocument, ok bool) {
	if !utf8.Valid(input) || !json.Valid(input) || replaces(input) {
		return d, false
	}
	seen := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(input))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return d, false
	}
	for dec.More() {
		token, err := dec.Token()
		name, isName := token.(string)
		if err != nil || !isName || seen[name] || !slices.Contains(putNames, name) {
			return d, false
		}
		seen[name] = true
		if token, err = dec.Token(); err != nil {
			return d, false
		}
		if _, isText := token.(string); !isText {
			return d, false // every field is text
		}
	}
	if _, err := dec.Token(); err != nil {
		return d, false
	}
	return d, json.Unmarshal(input, &d) == nil
}

var jsonEscape = regexp.MustCompile(`\\(u[0-9a-fA-F]{4}|.)`)

// replaces tells whether encoding/json puts U+FFFD for what is no character:
// it has more of them than the document.
func replaces(input []byte) bool {
	const replacement = "\ufffd"
	written := strings.Count(string(input), replacement)
	for _, escape := range jsonEscape.FindAll(input, -1) {
		if strings.EqualFold(string(escape), `\ufffd`) {
			written++
		}
	}
	decoded := 0
	for dec := json.NewDecoder(bytes.NewReader(input)); ; {
		token, err := dec.Token()
		if err != nil {
			return err != io.EOF || decoded != written
		}
		if text, ok := token.(string); ok {
			decoded += strings.Count(text, replacement)
		}
	}
}

// putLine is the document that the client makes of an item.
func putLine(t *testing.T, item client.PutItem, base bool) []byte {
	t.Helper()
	value := string(item.Value)
	d := api.PutDocument{Value: &value, ContentType: item.ContentType}
	if key, b64 := api.JSONKey(item.Key); b64 != "" {
		d.KeyBase64 = &b64
	} else {
		d.Key = &key
	}
	if base || !utf8.Valid(item.Value) {
		value, d.Encoding = base64.StdEncoding.EncodeToString(item.Value), api.EncodingBase64
	}
	line, err := json.Marshal(&d)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func sameItem(a, b client.PutItem) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.ContentType == b.ContentType
}

// FuzzPutDocument: a document is taken if and only if encoding/json reads it
// in no other way than anybody would, and then it says the same to both. The
// document of what it puts puts the same.
func FuzzPutDocument(f *testing.F) {
	for _, input := range []string{
		`{"key":"k","value":"v"}`, `{"key_base64":"/w==","value":"AA==","encoding":"base64","content_type":"a/b"}`,
		` { "value" : "\ud83d\ude00\ufffd\\\/" , "key" : "\u006b" } `, `{"key":"k","value":"\ud800"}`, `{"key":"k","value":"\\ud800"}`, "{\"key\":\"\ufffd\",\"value\":\"\xff\"}",
		`{"key":"k","key":"k","value":"v"}`, `{"key":"k","k\u0065y":"k","value":"v"}`, `{"Key":"k","value":"v"}`, `{"key":null,"value":"v"}`, `{"key":["k"],"value":{"a":1}}`,
		`{"key":"k","value":"v","other":"x"}`, `{"key":"k","value":"v"}{}`, `{"key":"k","value":1e5}`, `{"key":"k","value":"AA=","encoding":"base64"}`,
		`{"key":"k","value":"A\nA==","encoding":"base64"}`, `{"key":"k","key_base64":"aw==","value":""}`, `{"key":"k","value":"v","content_type":" text/html "}`, `[]`, ``,
	} {
		f.Add([]byte(input))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		var d api.PutDocument
		err := decodeStrict(input, &d)
		want, ok := decodesStrictly(input)
		if ok != (err == nil) {
			t.Fatalf("%q: error %v, by encoding/json alone it is taken: %v", input, err, ok)
		}
		item, perr := ParsePut(input)
		if err != nil {
			if perr == nil {
				t.Fatalf("%q is put, and does not decode: %v", input, err)
			}
			return
		}
		if a, b := mustMarshal(t, d), mustMarshal(t, want); a != b {
			t.Fatalf("%q is %s, to encoding/json it is %s", input, a, b)
		}
		if perr != nil {
			return
		}
		again, err := ParsePut(putLine(t, item, false))
		if err != nil || !sameItem(again, item) {
			t.Fatalf("%q puts %+v, whose document puts %+v (%v)", input, item, again, err)
		}
	})
}

func mustMarshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// FuzzPutItem: the document of any valid put is taken, and says what it said.
func FuzzPutItem(f *testing.F) {
	f.Add("k", []byte("v"), "text/html; charset=utf-8")
	f.Add("\xff\xfe", []byte{0, 1, 0xff}, "")
	f.Add("a/../\u2028", []byte("<&>\u2029\x7f\ufffd"), "a/b")
	f.Add("", []byte{}, "no type")
	f.Add("a\x00b", []byte("\xed\xa0\x80"), "a/b;\x01")
	f.Fuzz(func(t *testing.T, key string, value []byte, contentType string) {
		if !utf8.ValidString(contentType) {
			return // no document says it
		}
		mediaType, _, typeErr := mime.ParseMediaType(contentType)
		if typeErr == nil && !strings.Contains(mediaType, "/") {
			typeErr = errors.New("it has no subtype")
		}
		for _, base := range []bool{false, true} {
			item := client.PutItem{Key: key, Value: value, ContentType: contentType}
			line := putLine(t, item, base)
			got, err := ParsePut(line)
			if kvstore.Key(key).Validate() != nil || contentType != "" && typeErr != nil {
				if err == nil {
					t.Fatalf("%s is taken", line)
				}
				continue
			}
			if err != nil {
				if len(contentType) <= 255 && !strings.ContainsFunc(contentType, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Fatalf("%s is refused: %v", line, err)
				}
				continue
			}
			if item.ContentType = strings.TrimSpace(contentType); item.ContentType == "" {
				item.ContentType = contentTypeText
			}
			if !sameItem(got, item) {
				t.Fatalf("%s puts %+v", line, got)
			}
		}
	})
}
