package httpapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

func TestPostKey_Created(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	got := want(t, n.post("/key", `{"key":"foo","value":"bar"}`, "Content-Type: application/x-www-form-urlencoded"), 201)
	wantHeader(t, got, "Location", "/key/foo")
	wantHeader(t, got, "Etag", `"`+hexSum("bar")+`"`)
	wantHeader(t, got, "Oncekv-Revision", "1")
	if !answerIn(t, got).Created {
		t.Error("created is false")
	}
	read := want(t, n.get("/key/foo"), 200)
	wantHeader(t, read, "Content-Type", "text/plain; charset=utf-8")
	if read.body != "bar" {
		t.Errorf("the value is %q", read.body)
	}
}

// TestPostKey_AsPut: everything about a put but key, value and content type is
// said the same way.
func TestPostKey_AsPut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "one")
	one, two := `{"key":"a","value":"one"}`, `{"key":"a","value":"two"}`
	want(t, n.post("/key", one), 200)
	want(t, n.post("/key", two), 409)
	want(t, n.post("/key", one, "If-None-Match: *"), 412)
	want(t, n.post("/key", one, `If-Match: "x"`), 412)
	want(t, n.post("/key?on-conflict=keep", two), 200)
	mine := []string{"If-None-Match: *", "Oncekv-Put-Id: me"}
	want(t, n.post("/key", `{"key":"b","value":""}`, mine...), 201)
	want(t, n.post("/key", `{"key":"b","value":""}`, mine...), 201)
}

func TestPostKey_Document(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ body, key, value, contentType, location string }{
		{`{"key":"ü b","value":"\u00e9\ud83d\ude00"}`, "ü b", "é😀", contentTypeText, "/key/%C3%BC%20b"},
		{`{"key_base64":"Yf/+","value":"v"}`, "a\xff\xfe", "v", contentTypeText, "/key/a%FF%FE"},
		{`{"key":"a","value":"AP8=","encoding":"base64","content_type":"image/x"}`, "a", "\x00\xff", "image/x", "/key/a"},
		{` {"value" : "" , "key" : "a//b/" } ` + "\n", "a//b/", "", contentTypeText, "/key/a//b/"},
		{`{"key":"a/../b c","value":""}`, "a/../b c", "", contentTypeText, "/key?key=a%2F..%2Fb+c"},
		{`{"key":"a?b#c%+;","value":""}`, "a?b#c%+;", "", contentTypeText, "/key/a%3Fb%23c%25%2B%3B"},
	} {
		n := newNode(t)
		got := want(t, n.post("/key", tt.body), 201)
		wantHeader(t, got, "Location", tt.location)
		read := want(t, n.get(tt.location), 200)
		if read.body != tt.value || read.header.Get("Content-Type") != tt.contentType {
			t.Errorf("%s: read %q as %q", tt.body, read.body, read.header.Get("Content-Type"))
		}
		if got := string(n.db.lastRequest(t).Key); got != tt.key {
			t.Errorf("%s: the key is %q", tt.body, got)
		}
	}
}

func TestPostKey_Refused(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"nothing":            ``,
		"open":               `{`,
		"array":              `[]`,
		"string":             `"x"`,
		"no key":             `{"value":"x"}`,
		"no value":           `{"key":"a"}`,
		"both keys":          `{"key":"a","key_base64":"YQ==","value":"x"}`,
		"empty key":          `{"key":"","value":"x"}`,
		"NUL key":            `{"key":"a\u0000","value":"x"}`,
		"long key":           `{"key":"` + strings.Repeat("k", 1025) + `","value":"x"}`,
		"number value":       `{"key":"a","value":1}`,
		"object value":       `{"key":"a","value":{"a":1}}`,
		"null value":         `{"key":"a","value":null}`,
		"unknown field":      `{"key":"a","value":"y","ttl":1}`,
		"duplicate field":    `{"key":"z","key":"a","value":"y"}`,
		"escaped duplicate":  `{"key":"z","\u006bey":"a","value":"y"}`,
		"wrong case":         `{"Key":"a","value":"y"}`,
		"trailing":           `{"key":"a","value":"y"} {}`,
		"trailing comma":     `{"key":"a","value":"y",}`,
		"not utf-8":          "{\"key\":\"a\",\"value\":\"\xff\"}",
		"surrogate":          `{"key":"a","value":"\ud800"}`,
		"reversed surrogate": `{"key":"a","value":"\udc00\ud800"}`,
		"bad base64":         `{"key":"a","value":"*","encoding":"base64"}`,
		"unpadded base64":    `{"key":"a","value":"AP8","encoding":"base64"}`,
		"broken base64":      `{"key":"a","value":"A\nP8=","encoding":"base64"}`,
		"slack base64":       `{"key":"a","value":"AP9=","encoding":"base64"}`,
		"bad key base64":     `{"key_base64":"*","value":"x"}`,
		"encoding":           `{"key":"a","value":"y","encoding":"rot13"}`,
		"content type":       `{"key":"a","value":"y","content_type":"no such"}`,
		"split header":       `{"key":"a","value":"y","content_type":"text/plain\r\nX: y"}`,
		"BOM":                "\ufeff" + `{"key":"a","value":"y"}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			want(t, n.post("/key", body), 400).problem(t)
			n.db.nothingSet(t)
		})
	}
}

func TestPostKey_RefusedHeaders(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	body := `{"key":"a","value":"x"}`
	want(t, n.post("/key", body, digestHeader("x")), 400).problem(t)
	want(t, n.post("/key", body, "Content-Range: bytes 0-0/1"), 400).problem(t)
	want(t, n.post("/key", body, "Content-Encoding: gzip"), 415).problem(t)
	for query, use := range map[string]string{"?key=a": "use PUT /key?key=a ", "?on-conflict=keep&key=a%2Fb%26c": "use PUT /key?key=a%2Fb%26c ", "?key=": "key", "?x=1": `takes "on-conflict"`, "?key=a&x=1": "parameter"} {
		if p := want(t, n.post("/key"+query, body), 400).problem(t); !strings.Contains(p.Detail, use) {
			t.Errorf("POST /key%s: %s", query, p.Detail)
		}
	}
	want(t, n.send("POST", "/key", ""), 411).problem(t)
	want(t, n.post("/key", body, "Sec-Fetch-Site: same-site"), 403).problem(t)
	n.db.nothingSet(t)
}

func TestPostKey_TooLarge(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.MaxValueBytes = 3 })
	p := want(t, n.post("/key", `{"key":"a","value":"four"}`), 413).problem(t)
	if p.LimitBytes != 3 {
		t.Errorf("limit %d", p.LimitBytes)
	}
	p = want(t, n.send("POST", "/key", "", "Content-Length: 8388609", "Expect: 100-continue"), 413).problem(t)
	if p.Type != api.ProblemTooLarge || p.LimitBytes != jsonPutBytesMax || !strings.Contains(p.Detail, "PUT") {
		t.Errorf("problem %+v", p)
	}
	chunk := "800001\r\n" + strings.Repeat(" ", 0x800001) + "\r\n0\r\n\r\n"
	want(t, n.send("POST", "/key", chunk, "Transfer-Encoding: chunked"), 413).problem(t)
	n.db.nothingSet(t)
}

func TestPostKey_Chunked(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	value := strings.Repeat("v", 100_000) // grows the buffer several times
	body := `{"key":"a","value":"` + value + `"}`
	want(t, n.send("POST", "/key", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body), "Transfer-Encoding: chunked"), 201)
	if got := want(t, n.get("/key/a"), 200); got.body != value {
		t.Errorf("the value has %d bytes", len(got.body))
	}
}

// TestPostKey_Memory: documents are held whole, so there is a bound on all of
// them together, and what was held is given back.
func TestPostKey_Memory(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.JSONBytesInFlight = 256 << 10 })
	small, large := `{"key":"a","value":"x"}`, `{"key":"a","value":"`+strings.Repeat("x", 60<<10)+`"}`
	for range 5 {
		got := want(t, n.post("/key", large), 429)
		if got.problem(t); got.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if got := n.post("/key", small); got.status != 201 && got.status != 200 {
			t.Fatalf("status %d: memory is not given back", got.status)
		}
	}
}

// ParsePut takes and refuses what a node does.
func TestParsePut(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]client.PutItem{
		`{"key":"a","value":"1"}`: {Key: "a", Value: []byte("1"), ContentType: "text/plain; charset=utf-8"},
		` {"value":"","key_base64":"/w==","content_type":"text/x-a"}` + "\r": {Key: "\xff", Value: []byte{}, ContentType: "text/x-a"},
		`{"key":"a","value":"/w==","encoding":"base64"}`:                     {Key: "a", Value: []byte("\xff"), ContentType: "text/plain; charset=utf-8"},
	} {
		if got, err := ParsePut([]byte(document)); err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("%s: %q, %v", document, got, err)
		}
	}
	for _, document := range []string{
		``, `1`, `{}`, `{"key":"a"}`, `{"value":"a"}`, `{"key":"","value":"a"}`, `{"key":"a","value":"1"}{}`, `{"key":"a","value":"1","x":1}`, `{"key":"a","Value":"1"}`,
		`{"key":"a","key":"a","value":"1"}`, `{"key":"a","value":"1","content_type":"/"}`, `{"key":"a","value":"x","encoding":"base64"}`, `{"key":"a","value":"\ud800"}`,
	} {
		if got, err := ParsePut([]byte(document)); err == nil {
			t.Errorf("%s: %q", document, got)
		}
	}
}
