package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/forward"
)

// hold opens n connections that send text and then nothing, and leaves them open
// for the test.
func (n *node) hold(count int, text string) (conns []*net.TCPConn) {
	n.t.Helper()
	for range count {
		conn := n.dial()
		n.t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, text); err != nil {
			n.t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return conns
}

// putsDocument reports whether a document with a value of so many bytes was put. A
// node that refuses it may do so before it has read all of it.
func (n *node) putsDocument(key string, size int) bool {
	resp, err := http.Post(n.url+"/key", "application/json", strings.NewReader(`{"key":"`+key+`","value":"`+strings.Repeat("v", size)+`"}`))
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusOK
}

// othersGoOn fails unless small requests of others are answered.
func (n *node) othersGoOn(t *testing.T, name string) {
	t.Helper()
	n.db.set("there", "", "v")
	for method, target := range map[string]string{"GET": "/key/there", "HEAD": "/keep/there"} {
		want(t, n.send(method, target, ""), 200)
	}
	want(t, n.get("/key/absent"), 404)
	want(t, n.get("/key/there?format=json"), 200)
	want(t, n.put("/key/put-"+name, "v"), 201)
	want(t, n.post("/key", `{"key":"json-`+name+`","value":"`+strings.Repeat("v", 10<<10)+`"}`), 201)
	want(t, n.post("/caches", `{"name":"c1","url":"http://127.0.0.1:1"}`), 200)
	for _, target := range []string{"/members", "/caches", "/dbs", "/stats", "/livez"} {
		want(t, n.get(target), 200)
	}
	want(t, n.post("/members", `{"name":"n4","peer_url":"http://127.0.0.1:2","client_url":"http://127.0.0.1:3"}`), 200)
}

// TestHostile_SlowDocuments: JSON bodies that are announced and do not come, or
// come in part, keep nothing of others from being done; and give everything back.
func TestHostile_SlowDocuments(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"announced": "POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n{",
		"part":      "POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n" + strings.Repeat(" ", 1<<20),
		"small":     "POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat(" ", 30<<10),
		"chunked":   "POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n" + strings.Repeat(" ", 256<<10),
		"heartbeat": "POST /caches HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat(" ", 32<<10),
		"members":   "POST /members HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat(" ", 32<<10),
	} {
		t.Run(name, func(t *testing.T) {
			const slow, idle = 100, 20 * time.Second
			flying := new(flights)
			n := newNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout, c.Traffic = idle, flying })
			conns := n.hold(slow, request)
			flying.awaitBegun(t, slow) // the first of them may have given way by then
			began := time.Now()
			n.othersGoOn(t, name)
			poll(t, "a large document is put", func() bool {
				return n.putsDocument("large-"+name, 5<<20)
			})
			if took := time.Since(began); took > idle*3/4 {
				t.Errorf("others waited for %v", took)
			}
			for _, conn := range conns {
				conn.Close()
			}
			flying.await(t, 0)
		})
	}
}

// flights counts requests.
type flights struct{ n, begun atomic.Int64 }

func (f *flights) Route(string, string) func(int, time.Duration) {
	return func(int, time.Duration) {}
}
func (f *flights) InFlight(change int) {
	f.n.Add(int64(change))
	f.begun.Add(int64(max(change, 0)))
}

func (f *flights) awaitBegun(t *testing.T, n int64) {
	t.Helper()
	poll(t, fmt.Sprint(n, " requests have begun"), func() bool { return f.begun.Load() >= n })
}

func (f *flights) await(t *testing.T, n int64) {
	t.Helper()
	poll(t, fmt.Sprint(n, " requests are in flight"), func() bool { return f.n.Load() == n })
}

// TestHostile_Documents_GiveBack: whatever becomes of a document, its memory comes
// back, and never more is held than twice of what has come.
func TestHostile_Documents_GiveBack(t *testing.T) {
	t.Parallel()
	small, large := budget.New(1<<20), budget.New(32<<20)
	bodies := &jsonBodies{read: decodeStrict, limit: jsonPutBytesMax, idle: time.Second, small: small, large: large}
	free := func() int64 { return small.Free() + large.Free() }
	all := free()
	feed := make(chan string)
	done := make(chan error)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var document api.PutDocument
		release, err := bodies.decode(w, r, &document)
		release()
		done <- err
	}))
	defer server.Close()
	for _, end := range []bool{false, true} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for text := range feed {
				io.WriteString(conn, text)
			}
			if end {
				conn.Close()
			}
		}()
		feed <- "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n"
		for sent := 0; sent < 2<<20; sent += 256 << 10 {
			feed <- strings.Repeat(" ", 256<<10)
			if held := all - free(); held > 2*int64(sent+512<<10) {
				t.Errorf("%d bytes came, %d are held", sent, held)
			}
		}
		close(feed)
		if err := <-done; err == nil {
			t.Error("half a document was read")
		}
		if free() != all {
			t.Errorf("%d bytes are still held", all-free())
		}
		conn.Close()
		feed = make(chan string)
	}
}

// TestHostile_ListsOfNodes: clients that ask for a long list and do not read keep
// nobody from reading it.
func TestHostile_ListsOfNodes(t *testing.T) {
	t.Parallel()
	flying := new(flights)
	long := make(manyNodes, 2000)
	for i := range long {
		long[i] = api.CacheNode{Name: strings.Repeat("n", 255), URL: "http://" + strings.Repeat("u", 1000)}
	}
	n := newNode(t, func(c *DatabaseConfig) { c.Registry, c.Traffic, c.BodyIdleTimeout = long, flying, 6*time.Second })
	var conns []*net.TCPConn
	for range 20 {
		conn := n.dial()
		defer conn.Close()
		conn.SetReadBuffer(4 << 10)
		for range 4 { // more than the sockets take
			io.WriteString(conn, "GET /caches HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		conns = append(conns, conn)
	}
	poll(t, "the list is read", func() bool { return n.get("/caches").status == 200 })
	want(t, n.post("/caches", `{"name":"c1","url":"http://127.0.0.1:1"}`), 200)
	for _, conn := range conns {
		conn.Close()
	}
	flying.await(t, 0)
}

// manyNodes is a Registry that knows many.
type manyNodes []api.CacheNode

func (m manyNodes) Heartbeat(string, api.Heartbeat) api.HeartbeatAnswer {
	return api.HeartbeatAnswer{}
}
func (m manyNodes) Caches() []api.CacheNode { return m }

// TestHostile_SlowDocumentIsToldSo: a body that gives way to others is answered 408.
func TestHostile_SlowDocumentIsToldSo(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.JSONBytesInFlight = 24 << 20 })
	held := n.hold(1, "POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n"+strings.Repeat(" ", 7<<20))
	poll(t, "a large document is put", func() bool {
		return n.putsDocument("large", 3<<20)
	})
	p := want(t, n.receive(held[0], "POST"), 408).problem(t)
	if p.Type != api.ProblemTimeout || !strings.Contains(p.Detail, "nothing was set") {
		t.Errorf("%+v", p)
	}
}

// TestHostile_SilentStreams: streams that say nothing, or half a line, or half a
// frame, keep no other from being answered.
func TestHostile_SilentStreams(t *testing.T) {
	head := "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"
	half := `{"key":"half`
	for name, request := range map[string]string{
		"lines":      fmt.Sprintf(head, "/keys", api.ContentTypeNDJSON),
		"half lines": fmt.Sprintf(head, "/keys", api.ContentTypeNDJSON) + fmt.Sprintf("%x\r\n%s\r\n", len(half), half),
		"a line": fmt.Sprintf(head, "/keys", api.ContentTypeNDJSON) +
			fmt.Sprintf("%x\r\n%s\n\r\n", 1+len(`{"key":"a","value":"v"}`), `{"key":"a","value":"v"}`),
		"long lines": fmt.Sprintf(head, "/keys", api.ContentTypeNDJSON) + fmt.Sprintf("%x\r\n%s\r\n", 200<<10, half+strings.Repeat("v", 200<<10-len(half))),
		"frames":     fmt.Sprintf(head, "/keys", api.ContentTypeFrames),
		"gets":       fmt.Sprintf(head, "/keys/get", api.ContentTypeNDJSON),
		"half gets":  fmt.Sprintf(head, "/keys/get", api.ContentTypeNDJSON) + fmt.Sprintf("%x\r\n%s\r\n", len(half), half),
		"get frames": fmt.Sprintf(head, "/keys/get", api.ContentTypeFrames) + "1\r\nx\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			n := newBatchNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout, c.BatchStreams, c.FramedStreams = 3*time.Second, 2, 4 })
			var conns []*net.TCPConn
			for range 6 {
				conns = append(conns, n.hold(1, request)...)
				n.receiveHead(conns[len(conns)-1])
			}
			want(t, n.post("/keys", doc("k-"+name, "v")), 200)
			want(t, n.post("/keys/get", `{"key":"k-`+name+`"}`), 200)
			f := n.frames("/keys")
			f.end()
			f.wantEnd()
			g := n.frames("/keys/get")
			g.end()
			g.wantEnd()
			if strings.HasPrefix(name, "long") {
				eventually(t, "a long line is put", func() bool {
					return strings.Contains(n.post("/keys", doc("long", strings.Repeat("v", 200<<10))).body, `"status":"created"`)
				})
			}
			for _, conn := range conns {
				conn.Close()
			}
		})
	}
}

// receiveHead reads the first bytes of an answer: the request is being worked on.
func (n *node) receiveHead(conn net.Conn) {
	n.t.Helper()
	got := make([]byte, 12)
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "HTTP/1.1 200" {
		n.t.Fatalf("the answer begins with %q, %v", got, err)
	}
}

// TestHostile_WhoDoesNotRead: readers that take nothing keep nobody else from
// reading for longer than their grace.
func TestHostile_WhoDoesNotRead(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.ValueBytesInFlight, c.BodyIdleTimeout = 2<<20, 3*time.Second })
	large := strings.Repeat("x", 6<<20)
	n.db.set("large", "", large)
	for range 8 {
		conn := n.dial()
		t.Cleanup(func() { conn.Close() })
		conn.SetReadBuffer(4 << 10)
		io.WriteString(conn, "GET /key/large HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	n.othersGoOn(t, "read")
	poll(t, "the large value is read by others", func() bool { return n.get("/key/large").body == large })
}

// TestForwarded_FailsAsDirect: a request that fails, fails in the same way whichever
// node was asked.
func TestForwarded_FailsAsDirect(t *testing.T) {
	idle := time.Second
	database := newNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout = 2 * idle })
	database.db.set("there", "", "v")
	passing := forward.New(forward.Config{Databases: func() []string { return []string{database.url} }})
	t.Cleanup(passing.Close)
	cache, _, reader := newCacheNode(t, func(c *CacheConfig) { c.Forward, c.BodyIdleTimeout = passing, idle })
	reader.db = database.db
	admin, _, _ := newAdminNode(t, func(c *AdminConfig) { c.Forward, c.BodyIdleTimeout = passing, idle })
	direct := newNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout = idle })
	direct.db.set("there", "", "v")

	for name, c := range map[string]struct {
		method, target, rest string // behind the target
		end                  bool   // nothing more is sent
	}{
		"stalled":         {"PUT", "/key/a", "Content-Length: 10\r\n\r\nhalf", false},
		"stalled at once": {"PUT", "/key/a", "Content-Length: 10\r\n\r\n", false},
		"stalled chunked": {"PUT", "/key/a", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false},
		"stalled twin":    {"PUT", "/key?key=a", "Content-Length: 10\r\n\r\nhalf", false},
		"stalled JSON":    {"POST", "/key", "Content-Length: 10\r\n\r\n{", false},
		"broken off":      {"PUT", "/key/a", "Content-Length: 10\r\n\r\nhalf", true},
		"broken chunks":   {"PUT", "/key/a", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true},
		"bad chunk":       {"PUT", "/key/a", "Transfer-Encoding: chunked\r\n\r\nzz\r\n", true},
		"broken JSON":     {"POST", "/key", "Content-Length: 10\r\n\r\n{", true},
		"no length":       {"PUT", "/key/a", "\r\n", false},
		"conflict":        {"PUT", "/key/there", "Content-Length: 1\r\n\r\nx", false},
		"too large":       {"PUT", "/key/a", fmt.Sprintf("Content-Length: %d\r\n\r\n", int64(2<<30)), true},
		"encoded":         {"PUT", "/key/a", "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", false},
		"part":            {"PUT", "/key/a", "Content-Range: bytes 0-0/5\r\nContent-Length: 1\r\n\r\nx", false},
		"digest":          {"PUT", "/key/a", "Repr-Digest: sha-256=:AAAA:\r\nContent-Length: 1\r\n\r\nx", false},
		"precondition":    {"PUT", "/key/there", "If-None-Match: *\r\nContent-Length: 1\r\n\r\nv", false},
		"cross-site":      {"PUT", "/key/a", "Sec-Fetch-Site: cross-site\r\nContent-Length: 1\r\n\r\nx", false},
		"bad parameter":   {"PUT", "/key/a?x=1", "Content-Length: 1\r\n\r\nx", false},
		"bad document":    {"POST", "/key", "Content-Length: 2\r\n\r\n{}", false},
		"bad list":        {"GET", "/keys?limit=x", "\r\n", false},
		"no method":       {"DELETE", "/key/there", "\r\n", false},
		"NUL":             {"PUT", "/key/a%00", "Content-Length: 1\r\n\r\nx", false},
		"batch condition": {"POST", "/keys", "If-Match: *\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := func(n *node, prefix string) (int, api.Problem) {
				conn := n.dial()
				defer conn.Close()
				fmt.Fprintf(conn, "%s %s%s HTTP/1.1\r\nHost: x\r\n%s", c.method, prefix, c.target, c.rest)
				if c.end {
					conn.CloseWrite()
				}
				got := n.receive(conn, c.method)
				return got.status, got.problem(t)
			}
			status, problem := ask(direct, "")
			for where, n := range map[string]*node{"cache": cache, "admin": admin} {
				prefix := ""
				if n == admin {
					prefix = "/api"
				}
				if s, p := ask(n, prefix); s != status || p.Type != problem.Type || p.Title != problem.Title {
					t.Errorf("%s: %d %+v\ndirect: %d %+v", where, s, p, status, problem)
				}
			}
			direct.db.nothingBut(t, "there")
			database.db.nothingBut(t, "there")
		})
	}
}

func (db *fakeDB) nothingBut(t *testing.T, key string) {
	t.Helper()
	db.mu.Lock()
	defer db.mu.Unlock()
	for k := range db.values {
		if string(k) != key {
			t.Errorf("%q is set", k)
		}
	}
}

// TestErrors_AreProblems: whatever path is asked for, an error is a problem
// document, on every kind of node.
func TestErrors_AreProblems(t *testing.T) {
	t.Parallel()
	plain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no such thing", http.StatusNotFound)
	})
	database := newNode(t)
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) { c.PeerHandler = plain; c.Metrics = plain })
	admin, _, _ := newAdminNode(t, func(c *AdminConfig) { c.Page = rangedPage{}; c.Metrics = plain })
	for name, n := range map[string]*node{"database": database, "cache": cache, "admin": admin} {
		for _, path := range []string{"/nothing", "/peer/x", "/%70eer/x", "/metrics", "/assets/", "/assets/none", "/api", "/api/", "/api/x", "/%61pi/x", "//", "/api//", "/keys/x", "/members/", "/favicon.ico", "*"} {
			got := n.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if got.status >= 400 && !strings.HasPrefix(got.body, `{"type":"urn:oncekv:problem:`) {
				t.Errorf("%s %s: %d %q", name, path, got.status, got.body)
			}
		}
	}
	got := want(t, admin.raw(t, "GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=100-\r\n\r\n"), 416)
	got.problem(t)
	wantHeader(t, got, "Content-Range", "bytes */4")
	want(t, admin.raw(t, "PUT /%61pi/key/escaped HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv"), 201)
}

// raw sends a request as it is.
func (n *node) raw(t *testing.T, request string) reply {
	t.Helper()
	conn := n.dial()
	defer conn.Close()
	io.WriteString(conn, request)
	return n.receive(conn, strings.Fields(request)[0])
}

// rangedPage is a page whose files are served by net/http.
type rangedPage struct{}

func (rangedPage) Has(path string) bool { return path == "/" || strings.HasPrefix(path, "/assets/") }

func (rangedPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader("page"))
}
