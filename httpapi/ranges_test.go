package httpapi

import (
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// rangedValues are a value in one piece, one that is streamed, and none at all.
func rangedValues(n *node) map[string]string {
	values := map[string]string{"ten": "0123456789", "none": "", "large": strings.Repeat("0123456789", 20<<10)}
	n.db.inlineMax = 100 << 10
	for key, value := range values {
		n.db.set(key, "", value)
	}
	return values
}

// TestRanges_Grammar holds answers against RFC 9110 (14), on a database node and a
// cache node.
func TestRanges_Grammar(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	rangedValues(database)
	for _, c := range []struct {
		key, header string
		status      int
		content     string // Content-Range
		body        string
	}{
		{"ten", "bytes=0-0", 206, "bytes 0-0/10", "0"},
		{"ten", "bytes=2-4", 206, "bytes 2-4/10", "234"},
		{"ten", "bytes=7-", 206, "bytes 7-9/10", "789"},
		{"ten", "bytes=7-7000", 206, "bytes 7-9/10", "789"},
		{"ten", "bytes=-3", 206, "bytes 7-9/10", "789"},
		{"ten", "bytes=-10", 206, "bytes 0-9/10", "0123456789"},
		{"ten", "bytes=-11", 206, "bytes 0-9/10", "0123456789"},
		{"ten", "bytes=0007-00008", 206, "bytes 7-8/10", "78"},
		{"ten", "bytes=-0003", 206, "bytes 7-9/10", "789"},
		{"ten", "Bytes=2-4", 206, "bytes 2-4/10", "234"},
		{"ten", "bytes=2-4 ", 206, "bytes 2-4/10", "234"},
		{"ten", "bytes=,2-4,", 206, "bytes 2-4/10", "234"},
		{"ten", "bytes= \t, \t2-4", 206, "bytes 2-4/10", "234"},
		{"ten", "bytes=8-99999999999999999999999999", 206, "bytes 8-9/10", "89"},
		{"ten", "bytes=-99999999999999999999999999", 206, "bytes 0-9/10", "0123456789"},
		{"ten", "bytes=8-9,10-", 206, "bytes 8-9/10", "89"},
		{"ten", "bytes=20-30,-2", 206, "bytes 8-9/10", "89"},

		{"ten", "bytes=10-", 416, "bytes */10", ""},
		{"ten", "bytes=10-20", 416, "bytes */10", ""},
		{"ten", "bytes=-0", 416, "bytes */10", ""},
		{"ten", "bytes=-00", 416, "bytes */10", ""},
		{"ten", "bytes=99999999999999999999999999-", 416, "bytes */10", ""},
		{"ten", "bytes=99999999999999999999999998-99999999999999999999999999", 416, "bytes */10", ""},
		{"ten", "bytes=10-,-0,11-12", 416, "bytes */10", ""},

		{"ten", "bytes=4-2", 200, "", "0123456789"},
		{"ten", "bytes=99999999999999999999999999-99999999999999999999999998", 200, "", "0123456789"},
		{"ten", "bytes=0-1,4-2", 200, "", "0123456789"},
		{"ten", "bytes=", 200, "", "0123456789"},
		{"ten", "bytes=,", 200, "", "0123456789"},
		{"ten", "bytes", 200, "", "0123456789"},
		{"ten", "bytes=-", 200, "", "0123456789"},
		{"ten", "bytes=--1", 200, "", "0123456789"},
		{"ten", "bytes=1", 200, "", "0123456789"},
		{"ten", "bytes=a-b", 200, "", "0123456789"},
		{"ten", "bytes=+1-2", 200, "", "0123456789"},
		{"ten", "bytes=0x1-2", 200, "", "0123456789"},
		{"ten", "bytes=1 - 2", 200, "", "0123456789"},
		{"ten", "bytes=1-2;3-4", 200, "", "0123456789"},
		{"ten", "bytes =1-2", 200, "", "0123456789"},
		{"ten", "lines=0-1", 200, "", "0123456789"},
		{"ten", "bytes=0-9,0-9,0-9", 200, "", "0123456789"},
		{"ten", "bytes=" + strings.Repeat("0-0,", rangesMax) + "1-1", 200, "", "0123456789"},
		{"ten", "bytes=0-0\r\nRange: bytes=1-1", 200, "", "0123456789"},

		{"none", "bytes=-5", 200, "", ""},
		{"none", "bytes=-0", 200, "", ""},
		{"none", "bytes=0-", 200, "", ""},
		{"none", "bytes=0-0", 200, "", ""},
		{"none", "bytes=0-0,-1", 200, "", ""},

		{"large", "bytes=-1", 206, "bytes 204799-204799/204800", "9"},
		{"large", "bytes=100000-100002", 206, "bytes 100000-100002/204800", "012"},
		{"large", "bytes=204800-", 416, "bytes */204800", ""},
	} {
		for where, n := range map[string]*node{"database": database, "cache": cache} {
			for _, target := range []string{"/key/" + c.key, "/keep/" + c.key, "/key?key=" + c.key} {
				name := fmt.Sprintf("%s %s %q", where, target, c.header)
				got := n.raw(t, "GET "+target+" HTTP/1.1\r\nHost: x\r\nRange: "+c.header+"\r\n\r\n")
				if got.status != c.status || got.header.Get("Content-Range") != c.content {
					t.Errorf("%s: %d, Content-Range %q", name, got.status, got.header.Get("Content-Range"))
					continue
				}
				if got.status == 416 {
					if p := got.problem(t); p.Type != api.ProblemRange {
						t.Errorf("%s: %+v", name, p)
					}
					continue
				}
				if got.body != c.body || got.header.Get("Content-Length") != fmt.Sprint(len(c.body)) || got.header.Get("Etag") == "" || got.header.Get("Accept-Ranges") != "bytes" {
					t.Errorf("%s: body %q, headers %v", name, got.body, got.header)
				}
				head := n.raw(t, "HEAD "+target+" HTTP/1.1\r\nHost: x\r\nRange: "+c.header+"\r\n\r\n")
				if head.status != 200 || head.header.Get("Content-Range") != "" {
					t.Errorf("HEAD %s: %d %v", name, head.status, head.header)
				}
			}
		}
	}
}

// TestRanges_Conditions: conditions are judged before the range.
func TestRanges_Conditions(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	rangedValues(database)
	tag := want(t, database.get("/key/ten"), 200).header.Get("Etag")
	date := want(t, database.get("/key/ten"), 200).header.Get("Last-Modified")
	for _, n := range []*node{database, cache} {
		for lines, status := range map[string]int{
			"Range: bytes=1-2\r\nIf-Range: " + tag:                             206,
			"Range: bytes=1-2\r\nIf-Range: W/" + tag:                           200,
			"Range: bytes=1-2\r\nIf-Range: \"other\"":                          200,
			"Range: bytes=1-2\r\nIf-Range: " + date:                            206,
			"Range: bytes=1-2\r\nIf-Range: Mon, 02 Jan 2006 15:04:05 GMT":      200,
			"Range: bytes=1-2\r\nIf-Range: nonsense":                           200,
			"Range: bytes=10-\r\nIf-Range: " + tag:                             416,
			"Range: bytes=10-\r\nIf-Range: \"other\"":                          200,
			"If-Range: " + tag:                                                 200,
			"Range: bytes=1-2\r\nIf-None-Match: " + tag:                        304,
			"Range: bytes=10-\r\nIf-None-Match: " + tag:                        304,
			"Range: bytes=1-2\r\nIf-None-Match: \"other\"":                     206,
			"Range: bytes=1-2\r\nIf-Match: \"other\"":                          412,
			"Range: bytes=10-\r\nIf-Match: \"other\"":                          412,
			"Range: bytes=1-2\r\nIf-Modified-Since: " + date:                   304,
			"Range: bytes=1-2\r\nIf-Unmodified-Since: " + date:                 206,
			"Range: bytes=4-2\r\nIf-None-Match: " + tag:                        304,
			"Range: bytes=1-2\r\nIf-Range: " + tag + "\r\nIf-Match: \"other\"": 412,
		} {
			got := n.raw(t, "GET /key/ten HTTP/1.1\r\nHost: x\r\n"+lines+"\r\n\r\n")
			if got.status != status {
				t.Errorf("%q: %d, want %d", lines, got.status, status)
			}
			if got.status >= 400 {
				got.problem(t)
			}
		}
		got := n.raw(t, "GET /key/absent HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n")
		want(t, got, 404).problem(t)
		whole := want(t, n.get("/key/ten?format=json"), 200).body
		part := want(t, n.raw(t, "GET /key/ten?format=json HTTP/1.1\r\nHost: x\r\nRange: bytes=-3\r\n\r\n"), 206)
		if part.body != whole[len(whole)-3:] {
			t.Errorf("part of a document %q", part.body)
		}
		past := want(t, n.raw(t, fmt.Sprintf("GET /key/ten?format=json HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-\r\n\r\n", len(whole))), 416)
		wantHeader(t, past, "Content-Range", fmt.Sprintf("bytes */%d", len(whole)))
	}
}

// TestRanges_Random: whatever is asked for, what comes is a part of the value, and
// is where its header says.
func TestRanges_Random(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	values := rangedValues(database)
	random := rand.New(rand.NewPCG(1, 2))
	number := func() string {
		return []string{"", "0", fmt.Sprint(random.IntN(12)), fmt.Sprint(random.IntN(210_000)), "18446744073709551616"}[random.IntN(5)]
	}
	for range 400 {
		key := []string{"ten", "none", "large"}[random.IntN(3)]
		var specs []string
		for range 1 + random.IntN(4) {
			specs = append(specs, number()+"-"+number())
		}
		header := "bytes=" + strings.Join(specs, []string{",", ", ", " ,,"}[random.IntN(3)])
		for _, n := range []*node{database, cache} {
			got := n.raw(t, "GET /key/"+key+" HTTP/1.1\r\nHost: x\r\nRange: "+header+"\r\n\r\n")
			checkRanged(t, key+" "+header, values[key], got)
		}
	}
}

func checkRanged(t *testing.T, name, value string, got reply) {
	t.Helper()
	switch got.status {
	case 200:
		if got.body != value {
			t.Errorf("%s: %d bytes, not the value", name, len(got.body))
		}
	case 416:
		if size := got.header.Get("Content-Range"); size != fmt.Sprintf("bytes */%d", len(value)) {
			t.Errorf("%s: 416 with Content-Range %q", name, size)
		}
	case 206:
		media, parameters, _ := mime.ParseMediaType(got.header.Get("Content-Type"))
		if media != "multipart/byteranges" {
			checkPart(t, name, value, got.header.Get("Content-Range"), got.body)
			return
		}
		parts := multipart.NewReader(strings.NewReader(got.body), parameters["boundary"])
		for {
			part, err := parts.NextPart()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			body, err := io.ReadAll(part)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			checkPart(t, name, value, part.Header.Get("Content-Range"), string(body))
		}
	default:
		t.Errorf("%s: status %d", name, got.status)
	}
}

func checkPart(t *testing.T, name, value, header, body string) {
	t.Helper()
	var first, last, size int
	if _, err := fmt.Sscanf(header, "bytes %d-%d/%d", &first, &last, &size); err != nil || first > last || last >= size || size != len(value) {
		t.Errorf("%s: Content-Range %q of %d bytes", name, header, len(value))
		return
	}
	if body != value[first:last+1] {
		t.Errorf("%s: %q has other bytes", name, header)
	}
}
