package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// sourced is a cache node's Reader over a database.
type sourced struct {
	db     *fakeDB
	source string
	block  bool
}

func (s *sourced) Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, string, error) {
	if s.block {
		<-ctx.Done()
		return nil, "", ctx.Err()
	}
	v, err := s.db.Get(ctx, key, c)
	return v, s.source, err
}

// newCacheNode starts a cache node in front of a database node.
func newCacheNode(t *testing.T, adjust ...func(*CacheConfig)) (cache, database *node, reader *sourced) {
	t.Helper()
	database = newNode(t)
	reader = &sourced{db: database.db, source: "load"}
	to, err := url.Parse(database.url)
	if err != nil {
		t.Fatal(err)
	}
	cfg := CacheConfig{
		Reader:      reader,
		Forward:     &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }},
		PeerHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "peer "+r.URL.Path) }),
		Stats: func() any {
			return api.CacheStats{Role: api.RoleCache, CacheFigures: api.CacheFigures{Hits: 3}}
		},
		Ready: func(context.Context) error { return nil },
	}
	for _, f := range adjust {
		f(&cfg)
	}
	cache = &node{t: t, db: database.db}
	cache.serve(NewCache(cfg))
	return cache, database, reader
}

func TestCache_Reads(t *testing.T) {
	t.Parallel()
	cache, database, reader := newCacheNode(t)
	database.db.set("a/ b", "text/x-a", "value")
	for _, source := range []string{"hit", "peer", "load", "elsewhere"} {
		reader.source = source
		for _, target := range []string{"/key/a/%20b", "/keep/a%2F%20b", "/key?key=a/+b", "/key/a/%20b?format=json"} {
			got := want(t, cache.get(target), 200)
			wantHeader(t, got, "Oncekv-Cache", source)
			direct := database.get(target)
			for _, name := range []string{"Etag", "Repr-Digest", "Oncekv-Revision", "Oncekv-Time", "Last-Modified", "Cache-Control", "Content-Type", "Content-Length"} {
				wantHeader(t, got, name, direct.header.Get(name))
			}
			if got.body != direct.body {
				t.Errorf("%s: %q, from the database %q", target, got.body, direct.body)
			}
		}
		wantHeader(t, want(t, cache.get("/key/a/%20b", "Range: bytes=1-2"), 206), "Oncekv-Cache", source)
	}
	want(t, cache.get("/key/x"), 404).problem(t)
	want(t, cache.get("/key/a/%20b", "Range: bytes=99-"), 416).problem(t)
}

func TestCache_Consistency(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	want(t, cache.get("/key/x"), 404)
	want(t, cache.get("/key/x?consistency=local"), 404)
	if got := fmt.Sprint(database.db.gets); got != fmt.Sprint([]kvstore.Consistency{kvstore.Linearizable, kvstore.Local}) {
		t.Errorf("the reader was asked %v", got)
	}
}

func TestCache_Timeout(t *testing.T) {
	t.Parallel()
	cache, _, reader := newCacheNode(t, func(c *CacheConfig) { c.AnswerTimeout = 30 * time.Millisecond })
	reader.block = true
	want(t, cache.get("/key/x"), 503).problem(t)
}

// holdingReader holds one value and hangs for everything else.
type holdingReader struct{ held *kvstore.Value }

func (h holdingReader) Get(ctx context.Context, _ kvstore.Key, _ kvstore.Consistency) (*kvstore.Value, string, error) {
	<-ctx.Done()
	return nil, "", context.Cause(ctx)
}

func (h holdingReader) Held(key kvstore.Key) (*kvstore.Value, bool) { return h.held, key == h.held.Key }

// TestCache_Held: what the reader holds is answered at once, whatever is asked
// of it: a condition, a range, a document.
func TestCache_Held(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t, func(c *CacheConfig) { c.AnswerTimeout = 30 * time.Millisecond })
	v := database.db.set("held", "text/x-a", "value")
	cache.serve(NewCache(CacheConfig{Reader: holdingReader{v}, AnswerTimeout: 30 * time.Millisecond}))
	for range 2 {
		got := want(t, cache.get("/key/held"), 200)
		if wantHeader(t, got, "Oncekv-Cache", "hit"); got.body != "value" {
			t.Errorf("%q", got.body)
		}
		etag := got.header.Get("Etag")
		wantHeader(t, want(t, cache.get("/keep/held", "If-None-Match: "+etag), 304), "Oncekv-Cache", "hit")
		if part := want(t, cache.get("/key/held", "Range: bytes=1-2"), 206); part.body != "al" || part.header.Get("Content-Length") != "2" {
			t.Errorf("%q, %v", part.body, part.header)
		}
		want(t, cache.get("/key/held", "If-Match: "+etag), 200)
		want(t, cache.get("/key/held?format=json&consistency=local"), 200)
		head := want(t, cache.send("HEAD", "/key/held", ""), 200)
		wantHeader(t, head, "Content-Length", "5")
	}
	want(t, cache.get("/key/other"), 503).problem(t)
}

// TestValueHeaders_AreThoseOfTheValue: two values whose headers would be kept in
// the same place, by turns.
func TestValueHeaders_AreThoseOfTheValue(t *testing.T) {
	t.Parallel()
	headers := newValueHeaders()
	one := kvstore.Meta{Key: "a", Revision: 1, Size: 5, SHA256: kvstore.Digest{1}, ContentType: "text/a", Time: fakeTime}
	two := one
	two.Revision += kvstore.Revision(len(headers.slots))
	other := one
	other.SHA256, other.ContentType, other.Size, other.Time = kvstore.Digest{2}, "", 7, fakeTime.Add(time.Hour)
	for range 2 {
		for _, m := range []kvstore.Meta{one, two, one, other, one} {
			h := http.Header{}
			headers.setRaw(h, &m)
			if h.Get("Etag") != etagOf(m.SHA256) || h.Get("Oncekv-Revision") != fmt.Sprint(uint64(m.Revision)) || h.Get("Content-Length") != fmt.Sprint(m.Size) ||
				h.Get("Content-Type") != mediaTypeOf(&m) || h.Get("Last-Modified") != m.Time.Format(http.TimeFormat) || h.Get("Oncekv-Time") != m.Time.Format(time.RFC3339Nano) {
				t.Errorf("%+v has the headers %v", m, h)
			}
		}
	}
}

func TestCache_Forwards(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	want(t, cache.put("/key/a%2F../%20b", "one", "Content-Type: text/x-one"), 201)
	if r := database.db.lastRequest(t); r.Key != "a/../ b" || r.ContentType != "text/x-one" || r.Size != 3 {
		t.Errorf("the database was asked %+v", r)
	}
	want(t, cache.put("/keep/a%2F../%20b", "two"), 200)
	want(t, cache.put("/key?key=a/../+b", "two"), 409).problem(t)
	want(t, cache.post("/key", `{"key":"j","value":"v"}`), 201)
	want(t, cache.put("/key/a?ttl=1", "x"), 400).problem(t)
	want(t, cache.put("/key/empty", ""), 201)
	want(t, cache.send("PUT", "/key/chunked", "3\r\none\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 201)
}

// TestCache_ForwardsNoHalfPut: a proxy must not turn a broken body into a
// complete one, or one without a length into an empty one.
func TestCache_ForwardsNoHalfPut(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	want(t, cache.send("PUT", "/key/a", ""), 411).problem(t)
	for _, request := range []string{
		"PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
		"PUT /key/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		conn := cache.dial()
		defer conn.Close()
		io.WriteString(conn, request)
		conn.CloseWrite()
		if got := cache.receive(conn, "PUT"); got.status < 400 {
			t.Errorf("half a put is answered %d", got.status)
		}
	}
	database.db.nothingSet(t)
}

// TestCache_ForwardsSlowBody: a body that moves may take longer than the idle
// time, through a cache node too.
func TestCache_ForwardsSlowBody(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t, func(c *CacheConfig) { c.BodyIdleTimeout = idleForTest })
	conn := cache.dial()
	defer conn.Close()
	io.WriteString(conn, "PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
	tick := time.NewTicker(idleForTest / 3)
	defer tick.Stop()
	for range 8 {
		<-tick.C
		io.WriteString(conn, "x")
	}
	want(t, cache.receive(conn, "PUT"), 201)
	if r := database.db.lastRequest(t); r.Size != 8 {
		t.Errorf("size %d", r.Size)
	}
}

func TestCache_RefusesTheRest(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	for _, target := range []string{"/members", "/members/n1", "/members/n1/promote", "/leader", "/caches", "/dbs"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			p := want(t, cache.send(method, target, "", "Content-Length: 0"), 404).problem(t)
			if !strings.Contains(p.Detail, "ask a database node") {
				t.Errorf("%s %s: detail %q", method, target, p.Detail)
			}
		}
	}
	want(t, cache.get("/nothing"), 404).problem(t)
	got := want(t, cache.send("DELETE", "/key/a", ""), 405)
	wantHeader(t, got, "Allow", "GET, HEAD, PUT")
	want(t, cache.put("/key/a", "x", "Sec-Fetch-Site: cross-site"), 403).problem(t)
	if len(database.cluster.asked) > 0 {
		t.Errorf("the cluster was asked %v", database.cluster.asked)
	}
	database.db.nothingSet(t)
}

func TestCache_Health(t *testing.T) {
	t.Parallel()
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) {
		c.Ready = func(context.Context) error { return errors.New("no database node is known") }
	})
	if got := want(t, cache.get("/stats"), 200); !strings.Contains(got.body, `"hits":3`) {
		t.Errorf("stats %q", got.body)
	}
	want(t, cache.get("/ping"), 200)
	want(t, cache.get("/livez"), 200)
	if p := want(t, cache.get("/readyz"), 503).problem(t); !strings.Contains(p.Detail, "no database node") {
		t.Errorf("detail %q", p.Detail)
	}
	if got := want(t, cache.get("/peer/a%2Fb//c"), 200); got.body != "peer /peer/a/b//c" {
		t.Errorf("the peers' handler got %q", got.body)
	}
}

func TestCache_NoPeers(t *testing.T) {
	t.Parallel()
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) { c.PeerHandler = nil })
	want(t, cache.get("/peer/a"), 404).problem(t)
}

// TestCache_ForwardsBothWays: what the database answers to a line arrives
// before the next line is sent, and asking for a go-ahead changes nothing.
func TestCache_ForwardsBothWays(t *testing.T) {
	t.Parallel()
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		conn := http.NewResponseController(w)
		conn.Flush()
		for in := bufio.NewReader(r.Body); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, line)
			conn.Flush()
		}
	})
	n := newNode(t)
	n.serve(NewCache(CacheConfig{Forward: echo, Stats: func() any { return nil }, Ready: func(context.Context) error { return nil }}))
	for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
		conn := n.dial()
		defer conn.Close()
		fmt.Fprintf(conn, "POST /keys HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n", expect)
		in := bufio.NewReader(conn)
		if expect != "" {
			if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusContinue {
				t.Fatalf("%+v, %v", resp, err)
			}
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil || !resp.Close {
			t.Fatalf("%+v, %v", resp, err)
		}
		answer := bufio.NewReader(resp.Body)
		for _, line := range []string{"one\n", "two\n"} {
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(line), line)
			if got, err := answer.ReadString('\n'); got != line || err != nil {
				t.Errorf("%q came back as %q, %v", line, got, err)
			}
		}
		io.WriteString(conn, "0\r\n\r\n")
		if rest, err := io.ReadAll(answer); len(rest) > 0 || err != nil {
			t.Errorf("the end: %q, %v", rest, err)
		}
	}
	want(t, n.send("POST", "/keys", ""), 411).problem(t)
}
