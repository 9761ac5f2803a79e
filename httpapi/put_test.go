package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

func answerIn(t *testing.T, r reply) api.PutAnswer {
	t.Helper()
	var a api.PutAnswer
	if err := json.Unmarshal([]byte(r.body), &a); err != nil {
		t.Fatalf("put answer: %v in %q", err, r.body)
	}
	return a
}

func digestHeader(value string) string {
	sum := sha256.Sum256([]byte(value))
	return "Repr-Digest: sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

func TestPut_Created(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	got := want(t, n.put("/key/a", "one", "Content-Type: text/x-one"), 201)
	wantHeader(t, got, "Etag", `"`+hexSum("one")+`"`)
	wantHeader(t, got, "Oncekv-Revision", "1")
	wantHeader(t, got, "Cache-Control", "no-store")
	wantHeader(t, got, "Content-Type", "application/json")
	if a := answerIn(t, got); a != (api.PutAnswer{Key: "a", Revision: 1, SHA256: hexSum("one"), Size: 3, Created: true}) {
		t.Errorf("answer %+v", a)
	}
	if r := n.db.lastRequest(t); r.ContentType != "text/x-one" || r.Size != 3 || r.PutID != "" || r.SHA256 != nil {
		t.Errorf("the database was asked %+v", r)
	}
}

func TestPut_SameBytes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "text/x-one", "one")
	got := want(t, n.put("/key/a", "one", "Content-Type: text/x-other"), 200)
	wantHeader(t, got, "Etag", `"`+hexSum("one")+`"`)
	wantHeader(t, got, "Oncekv-Revision", "1")
	if a := answerIn(t, got); a.Created {
		t.Error("a repeat says created")
	}
}

func TestPut_OtherBytes(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		n := newNode(t)
		n.db.set("a", "", "")
		status, kind, lines := 409, api.ProblemConflict, []string(nil)
		if strict {
			status, kind, lines = 412, api.ProblemPrecondition, []string{"If-None-Match: *"}
		}
		got := want(t, n.put("/key/a", "two", lines...), status)
		p := got.problem(t)
		if p.Type != kind || p.Revision != 1 || p.SHA256 != hexSum("") || p.Size == nil || *p.Size != 0 {
			t.Errorf("strict=%v: the problem does not describe the winner: %s", strict, got.body)
		}
		wantHeader(t, got, "Etag", `"`+hexSum("")+`"`)
		wantHeader(t, got, "Oncekv-Revision", "1")
	}
}

// TestPut_IfNoneMatch: the condition is judged by the outcome, so it also
// holds for lists of tags, and only the one put that created is 201.
func TestPut_IfNoneMatch(t *testing.T) {
	t.Parallel()
	tag := `"` + hexSum("one") + `"`
	for _, tt := range []struct {
		name, set, body, condition string
		status                     int
	}{
		{"any, not set", "", "one", "*", 201},
		{"any, same bytes", "one", "one", "*", 412},
		{"any, other bytes", "one", "two", " * ", 412},
		{"its tag", "one", "one", tag, 412},
		{"its tag, weak", "one", "one", "W/" + tag, 412},
		{"its tag among others", "one", "two", `"x", ` + tag, 412},
		{"another tag, same bytes", "one", "one", `"x"`, 200},
		{"another tag, other bytes", "one", "two", `"x"`, 409},
		{"malformed", "", "one", `x`, 400},
		{"unfinished", "", "one", `"x`, 400},
		{"two without a comma", "", "one", `"x" "y"`, 400},
		{"star among tags", "", "one", `"x", *`, 400},
		{"empty", "", "one", ``, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			if tt.set != "" {
				n.db.set("a", "", tt.set)
			}
			got := want(t, n.put("/key/a", tt.body, "If-None-Match: "+tt.condition), tt.status)
			if tt.status == 412 {
				if p := got.problem(t); p.SHA256 != hexSum(tt.set) || p.Revision != 1 {
					t.Errorf("412 does not describe the winner: %s", got.body)
				}
			}
		})
	}
}

func TestPut_IfMatch(t *testing.T) {
	t.Parallel()
	tag := `"` + hexSum("one") + `"`
	for _, tt := range []struct {
		name, set, body, condition string
		status                     int
	}{
		{"not set", "", "one", `"abc"`, 412},
		{"any, not set", "", "one", `*`, 412},
		{"another tag", "one", "one", `"abc"`, 412},
		{"weak never matches", "one", "one", "W/" + tag, 412},
		{"its tag, same bytes", "one", "one", tag, 200},
		{"its tag, other bytes", "one", "two", `"x",` + tag, 409},
		{"any, set", "one", "one", `*`, 200},
		{"malformed", "", "one", `abc`, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			if tt.set != "" {
				n.db.set("a", "", tt.set)
			}
			want(t, n.put("/key/a", tt.body, "If-Match: "+tt.condition), tt.status)
			if tt.status == 412 || tt.status == 400 {
				n.db.nothingSet(t)
			}
		})
	}
}

func TestPut_IfMatchUnconfirmed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.getErr = kvstore.ErrUnavailable
	want(t, n.put("/key/a", "one", `If-Match: "abc"`), 503).problem(t)
	n.db.nothingSet(t)
}

func TestPut_PutID(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	mine := []string{"If-None-Match: *", "Oncekv-Put-Id: me-1"}
	want(t, n.put("/key/a", "one", mine...), 201)
	if got := n.db.lastRequest(t).PutID; got != "me-1" {
		t.Errorf("the database got the put id %q", got)
	}
	want(t, n.put("/key/a", "one", mine...), 201)
	want(t, n.put("/key/a", "one", "If-None-Match: *", "Oncekv-Put-Id: other"), 412)
	want(t, n.put("/key/a", "two", mine...), 412)
	want(t, n.put("/key/a", "one", "Oncekv-Put-Id: other"), 200)
}

func TestPut_Keep(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "one")
	for _, target := range []string{"/key/a?on-conflict=keep", "/keep/a", "/key?key=a&on-conflict=keep", "/keep/a?on-conflict=keep"} {
		got := want(t, n.put(target, "two"), 200)
		if a := answerIn(t, got); a.Created || a.SHA256 != hexSum("one") || a.Size != 3 {
			t.Errorf("%s: answer %+v does not describe the winner", target, a)
		}
		if _, has := got.header["Etag"]; has {
			t.Errorf("%s: a kept loser got an ETag", target)
		}
		wantHeader(t, got, "Oncekv-Revision", "1")

		same := want(t, n.put(target, "one"), 200)
		wantHeader(t, same, "Etag", `"`+hexSum("one")+`"`)
	}
	want(t, n.put("/keep/new", "two"), 201)
	want(t, n.put("/keep/a", "two", "If-None-Match: *"), 412)
	want(t, n.put("/key/a", "two"), 409)
}

// TestPut_Refused: everything that must be refused before anything is
// proposed.
func TestPut_Refused(t *testing.T) {
	t.Parallel()
	length := "Content-Length: 1"
	for _, tt := range []struct {
		name   string
		status int
		target string
		lines  []string
	}{
		{"no length", 411, "/key/a", nil},
		{"part", 400, "/key/a", []string{length, "Content-Range: bytes 0-0/9"}},
		{"coded", 415, "/key/a", []string{length, "Content-Encoding: gzip"}},
		{"coded as identity", 415, "/key/a", []string{length, "Content-Encoding: identity"}},
		{"content type", 400, "/key/a", []string{length, "Content-Type: no such;;type"}},
		{"content type without subtype", 400, "/key/a", []string{length, "Content-Type: text"}},
		{"content type of bytes", 400, "/key/a", []string{length, "Content-Type: text/plain; a=\"\xff\""}},
		{"content type with a tab", 400, "/key/a", []string{length, "Content-Type: text/plain;\ta=b"}},
		{"long content type", 400, "/key/a", []string{length, "Content-Type: text/" + strings.Repeat("x", 251)}},
		{"two content types", 400, "/key/a", []string{length, "Content-Type: text/plain", "Content-Type: text/html"}},
		{"too large", 413, "/key/a", []string{"Content-Length: 1073741825", "Expect: 100-continue"}},
		{"put id with a space", 400, "/key/a", []string{length, "Oncekv-Put-Id: a b"}},
		{"empty put id", 400, "/key/a", []string{length, "Oncekv-Put-Id:"}},
		{"long put id", 400, "/key/a", []string{length, "Oncekv-Put-Id: " + strings.Repeat("x", 65)}},
		{"two put ids", 400, "/key/a", []string{length, "Oncekv-Put-Id: a", "Oncekv-Put-Id: b"}},
		{"digest without sha-256", 400, "/key/a", []string{length, "Repr-Digest: sha-512=:AAAA:"}},
		{"digest in hex", 400, "/key/a", []string{length, "Repr-Digest: sha-256=" + hexSum("x")}},
		{"short digest", 400, "/key/a", []string{length, "Repr-Digest: sha-256=:AAAA:"}},
		{"two digests", 400, "/key/a", []string{length, digestHeader("x"), digestHeader("x")}},
		{"empty digest", 400, "/key/a", []string{length, "Repr-Digest:"}},
		{"empty key", 400, "/key/", []string{length}},
		{"empty kept key", 400, "/keep/", []string{length}},
		{"no key", 400, "/key", []string{length}},
		{"long key", 400, "/key/" + strings.Repeat("k", 1025), []string{length}},
		{"NUL in key", 400, "/key/a%00b", []string{length}},
		{"unknown parameter", 400, "/key/a?ttl=1", []string{length}},
		{"parameter of reads", 400, "/key/a?format=json", []string{length}},
		{"key twice", 400, "/key/a?key=b", []string{length}},
		{"on-conflict", 400, "/key/a?on-conflict=overwrite", []string{length}},
		{"empty on-conflict", 400, "/key/a?on-conflict", []string{length}},
		{"cross-site", 403, "/key/a", []string{length, "Sec-Fetch-Site: cross-site"}},
		{"other origin", 403, "/key/a", []string{length, "Origin: http://evil.example"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			body := "x"
			if tt.status == 413 || tt.status == 411 {
				body = ""
			}
			got := want(t, n.send("PUT", tt.target, body, tt.lines...), tt.status)
			got.problem(t)
			n.db.nothingSet(t)
		})
	}
}

func TestPut_ContentType(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, want string }{
		{"", "application/octet-stream"},
		{"Content-Type:", "application/octet-stream"},
		{"Content-Type: application/x-www-form-urlencoded", "application/octet-stream"},
		{"Content-Type: Application/X-WWW-Form-Urlencoded; charset=utf-8", "application/octet-stream"},
		{"Content-Type: text/html; charset=utf-8", "text/html; charset=utf-8"},
		{"Content-Type: text/" + strings.Repeat("x", 250), "text/" + strings.Repeat("x", 250)},
		{"Content-Type: application/vnd.x+json;v=\"1;2\"", "application/vnd.x+json;v=\"1;2\""},
	} {
		n := newNode(t)
		lines := []string{}
		if tt.line != "" {
			lines = append(lines, tt.line)
		}
		want(t, n.put("/key/a", "x", lines...), 201)
		if got := n.db.lastRequest(t).ContentType; got != tt.want {
			t.Errorf("%q is kept as %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestPut_ReprDigest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	got := want(t, n.put("/key/a", "one", digestHeader("other")), 400)
	if p := got.problem(t); p.Type != api.ProblemDigestMismatch {
		t.Errorf("type %q", p.Type)
	}
	want(t, n.get("/key/a"), 404)
	want(t, n.put("/key/a", "one", "Repr-Digest: sha-512=:AAAA:, "+strings.TrimPrefix(digestHeader("one"), "Repr-Digest: ")), 201)
	want(t, n.put("/key/b", "one", digestHeader("one")+";q=1"), 201)
}

func TestPut_Chunked(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	want(t, n.send("PUT", "/key/a", "3\r\none\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 201)
	if r := n.db.lastRequest(t); r.Size != -1 {
		t.Errorf("a chunked body has size %d, want -1", r.Size)
	}
	want(t, n.get("/key/a"), 200)
}

func TestPut_ChunkedTooLarge(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.MaxValueBytes = 2 })
	got := want(t, n.send("PUT", "/key/a", "3\r\none\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 413)
	if p := got.problem(t); p.LimitBytes != 2 {
		t.Errorf("the limit is not in %q", got.body)
	}
	n.db.nothingSet(t)
	want(t, n.put("/key/a", "on"), 201)
}

func TestPut_Empty(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	want(t, n.put("/key/a", ""), 201)
	got := want(t, n.get("/key/a"), 200)
	wantHeader(t, got, "Content-Length", "0")
}

// TestPut_Errors: what the database says reaches the client, definite or not.
func TestPut_Errors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		status int
		kind   string
		retry  bool
		says   string
	}{
		{kvstore.ErrOverloaded, 429, api.ProblemOverloaded, true, "nothing was done"},
		{kvstore.ErrUnavailable, 503, api.ProblemUnavailable, true, "nothing was proposed"},
		{kvstore.ErrClosed, 503, api.ProblemUnavailable, true, "nothing was done"},
		{kvstore.ErrOutcomeUnknown, 504, api.ProblemOutcomeUnknown, false, "Repeating the same put"},
		{kvstore.ErrDiskReserve, 507, api.ProblemDiskReserve, false, "reserve"},
		{&kvstore.TooLargeError{LimitBytes: 9}, 413, api.ProblemTooLarge, false, "9 bytes"},
		{&kvstore.CorruptError{File: "f"}, 500, api.ProblemInternal, false, "another node"},
		{errFake, 500, api.ProblemInternal, false, "repeating the same put is safe"},
	} {
		for _, how := range []string{"PUT", "POST"} {
			n := newNode(t)
			n.db.putErr = tt.err
			var got reply
			if how == "PUT" {
				got = n.put("/key/a", "x")
			} else {
				got = n.post("/key", `{"key":"a","value":"x"}`)
			}
			p := want(t, got, tt.status).problem(t)
			if p.Type != tt.kind || !strings.Contains(p.Detail, tt.says) {
				t.Errorf("%s with %v: type %q, detail %q", how, tt.err, p.Type, p.Detail)
			}
			if has := got.header.Get("Retry-After") != ""; has != tt.retry {
				t.Errorf("%s with %v: Retry-After is %q", how, tt.err, got.header.Get("Retry-After"))
			}
		}
	}
}

func TestPut_Counters(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/key/a", "one")
	n.put("/key/a", "one")
	n.put("/key/a", "two")
	n.put("/keep/a", "two")
	n.put("/key/a", "one", "Content-Encoding: gzip") // refused: not a put
	n.get("/key/a")
	n.send("HEAD", "/key/a", "")
	n.get("/key/b")
	c := n.counters
	got := [...]uint64{c.Puts.Load(), c.Created.Load(), c.Unchanged.Load(), c.Conflicts.Load(), c.Gets.Load(), c.Absences.Load(), c.Errors.Load()}
	if got != [...]uint64{4, 1, 1, 2, 3, 1, 0} {
		t.Errorf("puts, created, unchanged, conflicts, gets, absences, errors are %v", got)
	}
}
