package httpapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// bothKinds runs a test with an inline and with a streamed value of the key
// "a".
func bothKinds(t *testing.T, value string, test func(t *testing.T, n *node)) {
	for _, kind := range []string{"inline", "streamed"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			if kind == "streamed" {
				n.db.inlineMax = -1
			}
			n.db.set("a", "text/x-a", value)
			test(t, n)
		})
	}
}

func TestGet_Headers(t *testing.T) {
	t.Parallel()
	bothKinds(t, "value", func(t *testing.T, n *node) {
		got := want(t, n.get("/key/a"), 200)
		if got.body != "value" {
			t.Errorf("body %q", got.body)
		}
		sum := strings.TrimPrefix(digestHeader("value"), "Repr-Digest: ")
		for name, value := range map[string]string{
			"Content-Type": "text/x-a", "Content-Length": "5", "Accept-Ranges": "bytes",
			"Etag": `"` + hexSum("value") + `"`, "Repr-Digest": sum, "Oncekv-Revision": "1",
			"Last-Modified": "Mon, 06 May 2024 07:08:09 GMT", "Oncekv-Time": "2024-05-06T07:08:09.123456789Z",
			"Cache-Control":          "public, max-age=31536000, immutable",
			"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox",
			"Oncekv-Cache": "",
		} {
			wantHeader(t, got, name, value)
		}
	})
}

// TestGet_HeadEqualsGet: a HEAD has every header of the GET, and no body.
func TestGet_HeadEqualsGet(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "value", strings.Repeat("v", 100_000)} {
		bothKinds(t, value, func(t *testing.T, n *node) {
			for _, target := range []string{"/key/a", "/keep/a", "/key?key=a", "/key/a?format=json", "/key/absent", "/ping", "/stats", "/nothing", "/key/a?x=1"} {
				const id = "X-Request-Id: same"
				get, head := n.get(target, id), n.send("HEAD", target, "", id)
				get.header.Del("Date")
				head.header.Del("Date")
				if head.body != "" || get.status != head.status {
					t.Errorf("%s: HEAD is %d with %d bytes, GET is %d", target, head.status, len(head.body), get.status)
				}
				for name := range get.header {
					wantHeader(t, head, name, get.header.Get(name))
				}
				for name := range head.header {
					wantHeader(t, get, name, head.header.Get(name))
				}
			}
		})
	}
}

// TestGet_HeadReadsNothing: a HEAD of a large value must not load it.
func TestGet_HeadReadsNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.inlineMax = -1
	n.db.set("a", "", "value")
	n.db.broken = &tornReader{}
	for _, lines := range [][]string{{"X: y"}, {"Range: bytes=1-2"}, {`If-None-Match: "x"`}, {`If-None-Match: "x"`, "Range: bytes=1-2"}} {
		got := want(t, n.send("HEAD", "/key/a", "", lines...), 200)
		wantHeader(t, got, "Content-Length", "5")
	}
	want(t, n.get("/key/a", `If-None-Match: *`), 304)
}

func TestGet_Conditions(t *testing.T) {
	t.Parallel()
	tag := `"` + hexSum("value") + `"`
	before, at, after := "Mon, 06 May 2024 07:08:08 GMT", "Mon, 06 May 2024 07:08:09 GMT", "Mon, 06 May 2024 07:08:10 GMT"
	for _, tt := range []struct {
		lines  []string
		status int
		body   string
	}{
		{[]string{"If-None-Match: " + tag}, 304, ""},
		{[]string{"If-None-Match: W/" + tag}, 304, ""},
		{[]string{`If-None-Match: "x", ` + tag}, 304, ""},
		{[]string{"If-None-Match: *"}, 304, ""},
		{[]string{`If-None-Match: "x"`}, 200, "value"},
		{[]string{"If-Modified-Since: " + at}, 304, ""},
		{[]string{"If-Modified-Since: " + after}, 304, ""},
		{[]string{"If-Modified-Since: " + before}, 200, "value"},
		{[]string{"If-Modified-Since: yesterday"}, 200, "value"},
		{[]string{`If-None-Match: "x"`, "If-Modified-Since: " + after}, 200, "value"}, // If-None-Match wins
		{[]string{"If-Match: " + tag}, 200, "value"},
		{[]string{`If-Match: "x"`}, 412, ""},
		{[]string{"If-Unmodified-Since: " + before}, 412, ""},
		{[]string{"If-Unmodified-Since: " + at}, 200, "value"},
		{[]string{"Range: bytes=1-2"}, 206, "al"},
		{[]string{"Range: bytes=1-"}, 206, "alue"},
		{[]string{"Range: bytes=-2"}, 206, "ue"},
		{[]string{"Range: bytes=1-99"}, 206, "alue"},
		{[]string{"Range: bytes=0-4"}, 206, "value"},
		{[]string{"Range: bytes=5-"}, 416, ""},
		{[]string{"Range: bytes=3-2"}, 200, "value"},
		{[]string{"Range: bytes=x"}, 200, "value"},
		{[]string{"Range: items=1-2"}, 200, "value"}, // another unit is ignored
		{[]string{"Range: bytes=" + strings.Repeat("0-0,", 40) + "1-1"}, 200, "value"},
		{[]string{"Range: bytes=1-2", "If-Range: " + tag}, 206, "al"},
		{[]string{"Range: bytes=1-2", `If-Range: "x"`}, 200, "value"},
		{[]string{"Range: bytes=1-2", "If-Range: W/" + tag}, 200, "value"},
		{[]string{"Range: bytes=1-2", "If-Range: " + at}, 206, "al"},
		{[]string{"Range: bytes=1-2", "If-Range: " + before}, 200, "value"},
		{[]string{"Range: bytes=99-", "If-Range: " + `"x"`}, 200, "value"},
		{[]string{"Range: bytes=1-2", "If-None-Match: " + tag}, 304, ""},
		{[]string{"If-Range: " + tag}, 200, "value"},
	} {
		t.Run(strings.Join(tt.lines, " "), func(t *testing.T) {
			bothKinds(t, "value", func(t *testing.T, n *node) {
				for _, target := range []string{"/key/a", "/key?key=a"} {
					checkConditional(t, want(t, n.get(target, tt.lines...), tt.status), tt.body)
				}
			})
		})
	}
}

func checkConditional(t *testing.T, got reply, body string) {
	t.Helper()
	switch got.status {
	case 200, 206, 304:
		if got.body != body {
			t.Errorf("body %q, want %q", got.body, body)
		}
		wantHeader(t, got, "Etag", `"`+hexSum("value")+`"`)
		wantHeader(t, got, "Cache-Control", "public, max-age=31536000, immutable")
	default:
		got.problem(t)
		for _, name := range []string{"Etag", "Repr-Digest", "Last-Modified", "Oncekv-Revision"} {
			wantHeader(t, got, name, "")
		}
	}
}

func TestGet_RangeHeaders(t *testing.T) {
	t.Parallel()
	bothKinds(t, "value", func(t *testing.T, n *node) {
		part := want(t, n.get("/key/a", "Range: bytes=1-2"), 206)
		wantHeader(t, part, "Content-Range", "bytes 1-2/5")
		wantHeader(t, part, "Content-Length", "2")
		wantHeader(t, part, "Content-Type", "text/x-a")

		beyond := want(t, n.get("/key/a", "Range: bytes=9-"), 416)
		wantHeader(t, beyond, "Content-Range", "bytes */5")
		if p := beyond.problem(t); p.Type != api.ProblemRange {
			t.Errorf("type %q", p.Type)
		}
		malformed := want(t, n.get("/key/a", "Range: bytes=3-2"), 200)
		wantHeader(t, malformed, "Content-Range", "")
	})
}

func TestGet_RangeOfEmptyValue(t *testing.T) {
	t.Parallel()
	bothKinds(t, "", func(t *testing.T, n *node) {
		got := want(t, n.get("/key/a", "Range: bytes=0-9"), 200)
		wantHeader(t, got, "Content-Length", "0")
	})
}

func TestGet_ManyRanges(t *testing.T) {
	t.Parallel()
	bothKinds(t, strings.Repeat("0123456789", 50), func(t *testing.T, n *node) {
		got := want(t, n.get("/key/a", "Range: bytes=0-2,100-104,-1"), 206)
		kind, params, err := mime.ParseMediaType(got.header.Get("Content-Type"))
		if err != nil || kind != "multipart/byteranges" {
			t.Fatalf("content type %q: %v", got.header.Get("Content-Type"), err)
		}
		parts := multipart.NewReader(strings.NewReader(got.body), params["boundary"])
		for _, body := range []string{"012", "01234", "9"} {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(part); string(b) != body || err != nil {
				t.Errorf("part %q (%v), want %q", b, err, body)
			}
		}
	})
}

func TestGet_Absent(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, target := range []string{"/key/x", "/keep/x", "/key?key=x", "/key/x?format=json"} {
		p := want(t, n.get(target, `If-None-Match: "x"`), 404).problem(t)
		if p.Type != api.ProblemNotFound || !strings.Contains(p.Detail, `"x"`) {
			t.Errorf("%s: %+v", target, p)
		}
	}
}

// TestGet_Consistency cites invariant 4: absence is confirmed unless the
// caller asks for less; a value that is found needs no confirmation.
func TestGet_Consistency(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "value")
	for _, tt := range []struct {
		target          string
		status          int
		looks, confirms int
	}{
		{"/key/a", 200, 1, 0},
		{"/key/x", 404, 2, 1},
		{"/key/x?consistency=local", 404, 1, 0},
		{"/key?consistency=local&key=a", 200, 1, 0},
	} {
		n.db.gets, n.db.confirms = nil, 0
		want(t, n.get(tt.target), tt.status)
		if len(n.db.gets) != tt.looks || n.db.confirms != tt.confirms || slices.Contains(n.db.gets, kvstore.Linearizable) {
			t.Errorf("%s: the database was asked %v with %d confirmations, want %d and %d", tt.target, n.db.gets, n.db.confirms, tt.looks, tt.confirms)
		}
	}
}

// settingDB sets a key while an absence is being confirmed.
type settingDB struct{ *fakeDB }

func (db settingDB) Confirm(ctx context.Context) error {
	db.set("x", "", "value")
	return db.fakeDB.Confirm(ctx)
}

// TestGet_SetMeanwhile cites invariant 4: what was set before the absence was
// confirmed is found.
func TestGet_SetMeanwhile(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.DB = settingDB{c.DB.(*fakeDB)} })
	want(t, n.get("/key/x?consistency=local"), 404)
	if got := want(t, n.get("/key/x"), 200); got.body != "value" {
		t.Errorf("body %q", got.body)
	}
}

// TestGet_Unconfirmed: an absence that is not confirmed is no absence.
func TestGet_Unconfirmed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.confirmErr = kvstore.ErrUnavailable
	want(t, n.get("/key/x"), 503)
	want(t, n.get("/key/x?consistency=local"), 404)
}

func TestGet_Errors(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.getErr = kvstore.ErrUnavailable
	got := want(t, n.get("/key/a"), 503)
	if p := got.problem(t); !strings.Contains(p.Detail, "consistency=local") {
		t.Errorf("detail %q", p.Detail)
	}
	wantHeader(t, got, "Retry-After", "1")
	n.db.getErr = &kvstore.CorruptError{File: "history.db", Offset: 7}
	want(t, n.get("/key/a"), 500).problem(t)
	if n.counters.Errors.Load() != 2 || n.counters.Gets.Load() != 0 {
		t.Errorf("errors %d, gets %d", n.counters.Errors.Load(), n.counters.Gets.Load())
	}
}

func TestGet_JSON(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"plain <&> text", "", "\xff\x00bytes", strings.Repeat("x", 3000)} {
		bothKinds(t, value, func(t *testing.T, n *node) {
			got := want(t, n.get("/key/a?format=json"), 200)
			var d api.Document
			if err := json.Unmarshal([]byte(got.body), &d); err != nil {
				t.Fatal(err)
			}
			read := d.Value
			if d.Encoding == api.EncodingBase64 {
				raw, err := base64.StdEncoding.DecodeString(d.Value)
				if err != nil {
					t.Fatal(err)
				}
				read = string(raw)
			}
			if read != value || d.Key != "a" || d.Revision != 1 || d.SHA256 != hexSum(value) || d.ContentType != "text/x-a" ||
				d.Size != int64(len(value)) || !d.Time.Equal(fakeTime) {
				t.Errorf("document %+v", d)
			}
			wantHeader(t, got, "Content-Type", "application/json")
			wantHeader(t, got, "Repr-Digest", "")
			wantHeader(t, got, "Cache-Control", "public, max-age=31536000, immutable")
			wantHeader(t, got, "Content-Security-Policy", "sandbox")
			wantHeader(t, got, "Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
			tag := got.header.Get("Etag")
			if tag == `"`+hexSum(value)+`"` || tag == "" {
				t.Errorf("the document's ETag %s is that of the value", tag)
			}
			want(t, n.get("/key/a?format=json", "If-None-Match: "+tag), 304)
			want(t, n.get("/key/a", "If-None-Match: "+tag), 200)
			if part := want(t, n.get("/key/a?format=json", "Range: bytes=0-5"), 206); part.body != got.body[:6] {
				t.Errorf("range %q", part.body)
			}
			want(t, n.get("/key/a?format=json", "Range: bytes=100000-"), 416).problem(t)
		})
	}
}

func TestGet_JSONOfBinaryKey(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a\xff", "", "v")
	var d map[string]any
	if err := json.Unmarshal([]byte(want(t, n.get("/key/a%FF?format=json"), 200).body), &d); err != nil {
		t.Fatal(err)
	}
	if _, has := d["key"]; has || d["key_base64"] != "Yf8=" {
		t.Errorf("document %v", d)
	}
}

func TestGet_JSONTooLarge(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", strings.Repeat("x", jsonValueBytesMax+1))
	p := want(t, n.get("/key/a?format=json"), 400).problem(t)
	if !strings.Contains(p.Detail, "without format=json") {
		t.Errorf("detail %q", p.Detail)
	}
	n.db.set("b", "", strings.Repeat("x", jsonValueBytesMax))
	want(t, n.get("/key/b?format=json"), 200)
}

func TestGet_BadParameters(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "v")
	for _, target := range []string{
		"/key/a?format=xml", "/key/a?format", "/key/a?format=json&format=json", "/key/a?consistency=strong", "/key/a?ttl=1", "/key/a?on-conflict=keep",
		"/key/a?format=json;consistency=local", "/key/a?;", "/key/a?&", "/key/a?format=json&", "/key/a?format=%zz", "/key/a?%zz=1", "/key/a?Format=json",
		"/key", "/key?key=", "/key?key=a&key=b", "/key?format=json", "/key?key=a%00", "/keep?key=a", "/key/", "/keep/", "/ping?x=1", "/stats?x=1",
		"/livez?x", "/readyz?verbose", "/members?x=1", "/caches?x=1", "/dbs?x=1", "/members?consistency=strict",
	} {
		status := 400
		if strings.HasPrefix(target, "/keep?") {
			status = 404
		}
		want(t, n.get(target), status).problem(t)
	}
	want(t, n.get("/key/a?"), 200)
	want(t, n.get("/key/a?f%6Frmat=js%6fn"), 200)
}

// TestGet_Large: a value in many pieces arrives whole, on a connection that
// goes on to be used.
func TestGet_Large(t *testing.T) {
	t.Parallel()
	value := strings.Repeat("0123456789abcdef", 200_000)
	bothKinds(t, value, func(t *testing.T, n *node) {
		for range 2 {
			resp, err := http.Get(n.url + "/key/a")
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(b) != value {
				t.Fatalf("read %d bytes: %v", len(b), err)
			}
		}
	})
}

// tornReader delivers some bytes and then fails.
type tornReader struct {
	bytes.Reader
	good int
	err  error
}

func (r *tornReader) Read(p []byte) (int, error) {
	if r.good <= 0 {
		if r.err == nil {
			return 0, errFake
		}
		return 0, r.err
	}
	n := min(len(p), r.good)
	for i := range n {
		p[i] = 'x'
	}
	r.good -= n
	return n, nil
}

func (r *tornReader) Seek(offset int64, _ int) (int64, error) { return offset, nil }

// TestGet_UnreadableAtOnce: nothing was sent yet, so the failure is answered.
func TestGet_UnreadableAtOnce(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"X: y", "Range: bytes=2-"} {
		n := newNode(t)
		n.db.inlineMax = -1
		n.db.set("a", "", strings.Repeat("x", 1000))
		n.db.broken = &tornReader{}
		got := want(t, n.get("/key/a", line), 500)
		got.problem(t)
		wantHeader(t, got, "Etag", "")
		n.db.broken = &tornReader{err: kvstore.ErrUnavailable}
		want(t, n.get("/key/a", line), 503).problem(t)
	}
}

// TestGet_UnreadableLater cites invariant 3: whoever reads fewer bytes than the
// value has must see the connection break.
func TestGet_UnreadableLater(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]error{"error": errFake, "early end": io.EOF} {
		for _, line := range []string{"X: y", "Range: bytes=0-199999", "Range: bytes=0-3,7-199999"} {
			t.Run(name+" "+line, func(t *testing.T) {
				n := newNode(t)
				n.db.inlineMax = -1
				n.db.set("a", "", strings.Repeat("x", 200_000))
				n.db.broken = &tornReader{good: 100_000, err: broken}
				r, _ := http.NewRequest("GET", n.url+"/key/a", nil)
				header, value, _ := strings.Cut(line, ": ")
				r.Header.Set(header, value)
				resp, err := http.DefaultClient.Do(r)
				if err == nil {
					defer resp.Body.Close()
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if err == nil {
					t.Error("a value that broke off arrived without an error")
				}
				if n.counters.Errors.Load() != 1 {
					t.Errorf("errors %d, want 1", n.counters.Errors.Load())
				}
			})
		}
	}
}

func TestReads_ServeRaw_Allocs(t *testing.T) {
	g := &reads{headers: newValueHeaders(), counters: &Counters{}, logger: nil, idle: time.Minute}
	v := newFakeDB().set("a", "text/plain", "value")
	r := httptest.NewRequest("GET", "/key/a", nil)
	w := &countingWriter{header: make(http.Header, 16)}
	got := testing.AllocsPerRun(100, func() {
		clear(w.header)
		if err := g.serveRaw(w, r, v, "hit"); err != nil {
			t.Fatal(err)
		}
	})
	if got > 4 { // the text of the headers, their slices, Content-Length
		t.Errorf("a read of a small value makes %v allocations, want 4 at most", got)
	}
}

type countingWriter struct {
	header http.Header
	bytes  int
}

func (w *countingWriter) Header() http.Header         { return w.header }
func (w *countingWriter) WriteHeader(int)             {}
func (w *countingWriter) Write(p []byte) (int, error) { w.bytes += len(p); return len(p), nil }

func BenchmarkReads_ServeRaw(b *testing.B) {
	g := &reads{headers: newValueHeaders(), counters: &Counters{}, idle: time.Minute}
	v := newFakeDB().set("a", "text/plain", "value")
	r := httptest.NewRequest("GET", "/key/a", nil)
	w := &countingWriter{header: make(http.Header, 16)}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		if err := g.serveRaw(w, r, v, "hit"); err != nil {
			b.Fatal(err)
		}
	}
}
