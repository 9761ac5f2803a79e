package deploy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// forever is the Cache-Control of a value.
const forever = "public, max-age=31536000, immutable"

// TestNginx runs the shipped configuration in a real nginx, in front of a real cluster.
func TestNginx(t *testing.T) {
	path := tool(t, "nginx", "nginx")
	c := clustertest.NewProcesses(t, binary, 1, 3)
	addr, dir := clustertest.FreeAddr(t), t.TempDir()
	for _, d := range []string{"cache", "body"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	site := replaced(t, text(t, "nginx/oncekv.conf"), "listen 80;", "listen "+addr+";", "/var/cache/nginx/oncekv", filepath.Join(dir, "cache"),
		"10.0.0.11:5551", c.Caches[0].Addr, "10.0.0.12:5551", c.Caches[1].Addr, "10.0.0.13:5551", c.Caches[2].Addr)
	around := "worker_processes 2;\npid nginx.pid;\nerror_log stderr warn;\nevents {}\n" +
		"http {\naccess_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n" +
		site + "\n}\n"
	if os.Geteuid() == 0 {
		around = "user root root;\n" + around // the test's directory is its owner's
	}
	config := write(t, dir, "nginx.conf", around)
	p := &proxied{t: t, cluster: c, clean: true, durable: true,
		process: clustertest.NewProcess(t, path, "nginx", addr, "-p", dir, "-c", config, "-e", "stderr", "-g", "daemon off;")}
	p.check()
}

// TestVarnish does the same with Varnish, run as its file says.
func TestVarnish(t *testing.T) {
	path := tool(t, "varnishd", "varnish")
	c := clustertest.NewProcesses(t, binary, 1, 3)
	addr, dir := clustertest.FreeAddr(t), t.TempDir()
	vcl := text(t, "varnish/oncekv.vcl")
	pairs := make([]string, 0, 6)
	for i, n := range c.Caches {
		host, port, _ := strings.Cut(n.Addr, ":")
		address := ".host = %q;\n    .port = %q;"
		pairs = append(pairs, fmt.Sprintf(address, fmt.Sprintf("10.0.0.1%d", i+1), "5551"), fmt.Sprintf(address, host, port))
	}
	config := write(t, dir, "oncekv.vcl", replaced(t, vcl, pairs...))

	_, line, found := strings.Cut(vcl, "#   varnishd ")
	line, _, _ = strings.Cut(line, "\n")
	if !found {
		t.Fatal("varnish/oncekv.vcl does not say how to run it")
	}
	line = replaced(t, line, "-a :80", "-a "+addr, "/etc/varnish/oncekv.vcl", config, "malloc,4g", "malloc,64m",
		"/var/lib/varnish/large,50g", filepath.Join(dir, "large")+",64m")
	args := append([]string{"-F", "-j", "none", "-n", filepath.Join(dir, "work")}, strings.Fields(line)...)
	p := &proxied{t: t, cluster: c, process: clustertest.NewProcess(t, path, "varnish", addr, args...)}
	p.check()
}

// replaced replaces each string, which must occur, by the one after it.
func replaced(t *testing.T, s string, pairs ...string) string {
	t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(s, pair[0]) {
			t.Fatalf("there is no %q to replace", pair[0])
		}
		s = strings.ReplaceAll(s, pair[0], pair[1])
	}
	return s
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// proxied is a cluster behind a proxy.
type proxied struct {
	t       *testing.T
	cluster *clustertest.Processes
	process *clustertest.Process // the proxy
	clean   bool                 // it refuses paths that climb above the root
	durable bool                 // it keeps values across restarts
}

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends one request with its target unchanged.
func (p *proxied) do(method, target, body string, headers ...string) answer {
	p.t.Helper()
	a, err := ask(p.process.Addr, method, target, body, headers...)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, target, err)
	}
	return a
}

func (p *proxied) get(target string, headers ...string) answer {
	p.t.Helper()
	return p.do(http.MethodGet, target, "", headers...)
}

func ask(addr, method, target, body string, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	path, query, _ := strings.Cut(target, "?")
	req.URL = &url.URL{Scheme: "http", Host: addr, Opaque: path, RawQuery: query}
	for pair := range slices.Chunk(headers, 2) {
		if pair[0] == "Host" {
			req.Host = pair[1]
			continue
		}
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// want checks status and body of an answer.
func (p *proxied) want(a answer, status int, body string) {
	p.t.Helper()
	if a.status != status || a.body != body {
		p.t.Errorf("status %d, body %.200q; want %d, %.200q", a.status, a.body, status, body)
	}
}

// refused checks for a problem that nothing may cache.
func (p *proxied) refused(a answer, status int) {
	p.t.Helper()
	var problem api.Problem
	if err := json.Unmarshal([]byte(a.body), &problem); err != nil || a.status != status || problem.Status != status || problem.Detail == "" {
		p.t.Errorf("status %d, body %.300q; want a problem of status %d", a.status, a.body, status)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" || a.header.Get("X-Cache") == "HIT" {
		p.t.Errorf("status %d with Cache-Control %q, X-Cache %q", a.status, got, a.header.Get("X-Cache"))
	}
}

// kept checks that a value comes unchanged from the proxy's own cache. The end of an answer
// may reach the client before it is cached.
func (p *proxied) kept(target, value string) {
	p.t.Helper()
	clustertest.Eventually(p.t, "GET "+target+" is kept", func() error {
		a := p.get(target)
		p.want(a, http.StatusOK, value)
		if got := a.header.Get("Cache-Control"); got != forever {
			p.t.Errorf("GET %s: Cache-Control %q", target, got)
		}
		if got := a.header.Get("X-Cache"); got != "HIT" {
			return fmt.Errorf("X-Cache is %q", got)
		}
		return nil
	})
}

// start runs the proxy and waits until it passes requests on.
func (p *proxied) start() {
	p.t.Helper()
	p.process.Start()
	p.t.Cleanup(func() { p.process.Terminate() }) // while it has children to end
	clustertest.Eventually(p.t, p.process.Name+" answers", func() error {
		if !p.process.Running() {
			p.t.Fatalf("%s has ended; its log:\n%s", p.process.Name, p.process.Log())
		}
		_, err := ask(p.process.Addr, http.MethodGet, "/ping", "")
		return err
	})
}

func (p *proxied) check() {
	for _, n := range p.cluster.Caches {
		n.Args = append(n.Args, "--allowed-hosts", "kv.example.com")
	}
	p.cluster.StartAll()
	p.start()
	p.checkPut()
	p.checkHosts()
	p.checkRead()
	p.checkKeys()
	p.checkStreams()
	p.checkDeadCache()
	p.checkWithoutDatabase()
	p.checkAlone()
}

// checkPut: "not set" is never cached, and puts work as without a proxy.
func (p *proxied) checkPut() {
	for range 3 {
		p.refused(p.get("/key/first"), http.StatusNotFound)
	}
	created := p.do(http.MethodPut, "/key/first", "bar", "Content-Type", "text/plain")
	if created.status != http.StatusCreated || created.header.Get("Oncekv-Revision") != "1" {
		p.t.Fatalf("PUT: %+v", created)
	}
	p.want(p.get("/key/first"), http.StatusOK, "bar")
	p.kept("/key/first", "bar")
	a := p.get("/key/first")
	for name, want := range map[string]string{"Content-Type": "text/plain", "Oncekv-Revision": "1", "ETag": created.header.Get("ETag"),
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Content-Length": "3"} {
		if got := a.header.Get(name); got != want {
			p.t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	p.refused(p.do(http.MethodPut, "/key/first", "other"), http.StatusConflict)
	p.refused(p.do(http.MethodPut, "/key/first", "bar", "If-None-Match", "*"), http.StatusPreconditionFailed)
	p.refused(p.do(http.MethodDelete, "/key/first", ""), http.StatusMethodNotAllowed)
	if again := p.do(http.MethodPut, "/key/first", "bar"); again.status != http.StatusOK {
		p.t.Errorf("the same put again: %d", again.status)
	}
	if a := p.do(http.MethodPost, "/key", `{"key":"json","value":"bar"}`); a.status != http.StatusCreated {
		p.t.Errorf("POST /key: %+v", a)
	}
	if a := p.do(http.MethodPut, "/key/empty", "", "Content-Length", "0"); a.status != http.StatusCreated {
		p.t.Errorf("PUT of nothing: %+v", a)
	}
	p.want(p.get("/key/empty"), http.StatusOK, "")
	p.kept("/key/empty", "")
}

// checkHosts: the proxy's name leads to the nodes. A name that somebody else pointed at the
// proxy leads to nothing, not even to cached values.
func (p *proxied) checkHosts() {
	p.want(p.get("/key/first", "Host", "kv.example.com"), http.StatusOK, "bar")
	p.want(p.get("/key/first", "Host", "KV.Example.com:8080"), http.StatusOK, "bar")
	own := []string{"Host", "kv.example.com", "Origin", "http://kv.example.com", "Content-Type", "text/plain"}
	if a := p.do(http.MethodPut, "/key/own-page", "v", own...); a.status != http.StatusCreated {
		p.t.Errorf("a put of the proxy's own page: %+v", a)
	}
	p.refused(p.do(http.MethodPut, "/key/other-page", "v", "Host", "kv.example.com", "Origin", "http://other.example"), http.StatusForbidden)
	for _, host := range []string{"attacker.example", "kv.example.com.attacker.example", "127.0.0.1.attacker.example", "kvxexample.com"} {
		p.refused(p.get("/key/first", "Host", host), http.StatusMisdirectedRequest)
		p.refused(p.do(http.MethodPut, "/key/rebound", "v", "Host", host, "Origin", "http://"+host, "Sec-Fetch-Site", "same-origin"), http.StatusMisdirectedRequest)
	}
	p.refused(p.get("/key/rebound"), http.StatusNotFound)
}

// large returns a value of several pieces.
func large() string {
	return strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 3<<20/36) + "the end"
}

// checkRead: ranges and conditions, for a small value and for one in pieces.
func (p *proxied) checkRead() {
	value := large()
	if a := p.do(http.MethodPut, "/key/large", value); a.status != http.StatusCreated {
		p.t.Fatalf("PUT of %d bytes: %+v", len(value), a)
	}
	const from, to = 1<<20 - 50, 1<<20 + 49 // in two pieces
	across := p.get("/key/large", "Range", fmt.Sprintf("bytes=%d-%d", from, to))
	p.want(across, http.StatusPartialContent, value[from:to+1])
	if got, want := across.header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", from, to, len(value)); got != want {
		p.t.Errorf("Content-Range %q, want %q", got, want)
	}
	whole := p.get("/key/large")
	p.want(whole, http.StatusOK, value)
	p.kept("/key/large", value)
	p.want(p.get("/key/large", "Range", "bytes=-7"), http.StatusPartialContent, "the end")
	p.want(p.get("/key/large", "Range", "bytes=0-1,4-5"), http.StatusOK, value) // all of it is allowed, and simple
	p.want(p.get("/key/first", "Range", "bytes=1-"), http.StatusPartialContent, "ar")
	etag := p.get("/key/first").header.Get("ETag")
	p.want(p.get("/key/first", "If-None-Match", etag), http.StatusNotModified, "")
	p.want(p.get("/key/first", "If-None-Match", `"another"`), http.StatusOK, "bar")
	p.want(p.get("/key/first", "Range", "bytes=0-0", "If-Range", etag), http.StatusPartialContent, "b")
	p.want(p.get("/key/first", "Range", "bytes=0-0", "If-Range", `"another"`), http.StatusOK, "bar")
	if a := p.get("/key/first", "Range", "bytes=10-"); a.status != http.StatusRequestedRangeNotSatisfiable {
		p.t.Errorf("a range outside: %d", a.status)
	}
	head := p.do(http.MethodHead, "/key/large", "")
	p.want(head, http.StatusOK, "")
	if got, want := head.header.Get("Content-Length"), fmt.Sprint(len(value)); got != want || head.header.Get("ETag") != whole.header.Get("ETag") {
		p.t.Errorf("HEAD: Content-Length %q, want %s; ETag %s", got, want, head.header.Get("ETag"))
	}
}

// checkKeys: a key arrives as it was sent, and another spelling of its path never gives
// another key's value.
func (p *proxied) checkKeys() {
	for path, key := range map[string]string{
		"a%20b": "a b", "a+b": "a+b", "a%2Fb": "a/b", "x//y": "x//y", "/lead": "/lead", "tail/": "tail/", "x/../y": "x/../y", "x/..%2Fz": "x/../z",
		"%2e%2e/q": "../q", "./d": "./d", "%C3%BC/%E6%97%A5%e6%9c%ac": "ü/日本", "a%25b": "a%b", "a%252Fb": "a%2Fb", "q%3Fx%23y": "q?x#y", "!x@v1~*": "!x@v1~*",
		"%22q%22%5C": `"q"\`, "../keys": "../keys", "../changes": "../changes", "a%0Ab": "a\nb", "%FF": "\xff",
	} {
		value := "the value of " + key
		if a := p.do(http.MethodPut, "/key/"+path, value); a.status != http.StatusCreated {
			p.t.Errorf("PUT /key/%s: %d %s", path, a.status, a.body)
			continue
		}
		for range 2 { // from a node, and kept
			p.want(p.get("/key/"+path), http.StatusOK, value)
		}
		p.want(p.get("/key?key="+url.QueryEscape(key)), http.StatusOK, value)
		direct, err := ask(p.cluster.DBs[0].Addr, http.MethodGet, "/key?key="+url.QueryEscape(key), "")
		if err != nil || direct.body != value {
			p.t.Errorf("PUT /key/%s did not set the key %q: %v, %+v", path, key, err, direct)
		}
	}
	climbing := p.do(http.MethodPut, "/key/../../up", "v")
	switch {
	case !p.clean && climbing.status != http.StatusCreated, p.clean && climbing.status != http.StatusBadRequest:
		p.t.Errorf("PUT /key/../../up: %d", climbing.status)
	}
	if a := p.do(http.MethodPut, "/key?key=..%2F..%2Fup", "v"); a.status/100 != 2 {
		p.t.Errorf("PUT /key?key=..%%2F..%%2Fup: %+v", a)
	}
	p.want(p.get("/key?key=..%2F..%2Fup"), http.StatusOK, "v")
}

// checkStreams: lines pass through as they come, in both directions.
func (p *proxied) checkStreams() {
	ctx := clustertest.WithTimeout(p.t)
	for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
		key := "stream/" + accept
		lines := p.lines(ctx, http.MethodGet, "/changes?follow=true&prefix=stream/"+url.QueryEscape(accept), accept, nil)
		if a := p.do(http.MethodPut, "/key/"+key, "v"); a.status != http.StatusCreated {
			p.t.Fatalf("PUT %s: %+v", key, a)
		}
		for !strings.Contains(lines.next(), `"key":"`+key+`"`) {
		}
		lines.close()
	}
	r, w := io.Pipe()
	var batch *lineReader
	for i := range 3 { // sends each line after the result of the last
		line := fmt.Sprintf(`{"key":"batch/%d","value":"v"}`+"\n", i)
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(w, line)
			sent <- err
		}()
		if batch == nil {
			batch = p.lines(ctx, http.MethodPost, "/keys", "", r)
		}
		if got := batch.next(); !strings.Contains(got, `"status":"created"`) {
			p.t.Fatalf("POST /keys, line %d: %s", i, got)
		}
		if err := <-sent; err != nil {
			p.t.Fatal(err)
		}
	}
	_ = w.Close() // of a pipe: never fails
	batch.close()
	if a := p.get("/keys?prefix=batch/&limit=10"); strings.Count(a.body, `"key":`) != 3 {
		p.t.Errorf("GET /keys: %+v", a)
	}
}

// lineReader reads an answer's lines.
type lineReader struct {
	p    *proxied
	resp *http.Response
	from *bufio.Reader
}

func (p *proxied) lines(ctx context.Context, method, target, accept string, body io.Reader) *lineReader {
	p.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, p.process.URL()+target, body)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, target, err)
	}
	return &lineReader{p, resp, bufio.NewReader(resp.Body)}
}

func (l *lineReader) next() string {
	l.p.t.Helper()
	line, err := l.from.ReadString('\n')
	if err != nil {
		l.p.t.Fatalf("the stream ended with %v", err)
	}
	return line
}

func (l *lineReader) close() { _ = l.resp.Body.Close() } // reading is over

// checkDeadCache: a dead cache node disturbs nobody.
func (p *proxied) checkDeadCache() {
	dead := p.cluster.Caches[0]
	dead.Kill9()
	for i := range 12 {
		target := fmt.Sprintf("/key/failover/%d", i)
		if a := p.do(http.MethodPut, target, "v"); a.status != http.StatusCreated {
			p.t.Errorf("PUT %s with a dead cache node: %d %s", target, a.status, a.body)
		}
		p.want(p.get(target), http.StatusOK, "v")
	}
	dead.Start()
	dead.WaitReady()
}

// checkWithoutDatabase: the values in cache nodes are served; nothing about an unknown key is
// cached.
func (p *proxied) checkWithoutDatabase() {
	if a := p.do(http.MethodPut, "/key/held", "v"); a.status != http.StatusCreated {
		p.t.Fatalf("PUT: %+v", a)
	}
	for _, n := range p.cluster.Caches { // never through the proxy
		if a, err := ask(n.Addr, http.MethodGet, "/key/held", ""); err != nil || a.body != "v" {
			p.t.Fatalf("%s: %+v, %v", n.Name, a, err)
		}
	}
	db := p.cluster.DBs[0]
	db.Kill9()
	for range 4 { // each cache node refuses once
		p.refused(p.get("/key/later"), http.StatusServiceUnavailable)
	}
	p.want(p.get("/key/held"), http.StatusOK, "v")
	p.kept("/key/held", "v")
	db.Start()
	p.cluster.WaitReady()
	clustertest.Eventually(p.t, "absence is confirmed again", func() error {
		if a := p.get("/key/later"); a.status != http.StatusNotFound {
			return fmt.Errorf("status %d, body %s", a.status, a.body)
		}
		return nil
	})
	clustertest.Eventually(p.t, "puts get through again", func() error {
		if a := p.do(http.MethodPut, "/key/later", "v"); a.status/100 != 2 {
			return fmt.Errorf("status %d, body %s", a.status, a.body)
		}
		return nil
	})
	p.want(p.get("/key/later"), http.StatusOK, "v")
}

// checkAlone: with every node dead, the proxy serves what it has cached, and says so about the
// rest, until they are back.
func (p *proxied) checkAlone() {
	for _, n := range p.cluster.All() {
		n.Kill9()
	}
	p.checkKept()
	if p.durable {
		p.process.Terminate()
		p.start()
		p.checkKept()
	}
	p.cluster.StartAll()
	clustertest.Eventually(p.t, "requests get through again", func() error {
		if a := p.get("/key/unknown"); a.status != http.StatusNotFound {
			return fmt.Errorf("status %d, body %s", a.status, a.body)
		}
		return nil
	})
	clustertest.Eventually(p.t, "puts get through again", func() error {
		if a := p.do(http.MethodPut, "/key/unknown", "v"); a.status/100 != 2 {
			return fmt.Errorf("status %d, body %s", a.status, a.body)
		}
		return nil
	})
	p.want(p.get("/key/unknown"), http.StatusOK, "v")
}

func (p *proxied) checkKept() {
	p.t.Helper()
	p.kept("/key/first", "bar")
	p.kept("/key/empty", "")
	p.kept("/key/x//y", "the value of x//y")
	p.kept("/key/large", large())
	p.want(p.get("/key/large", "Range", "bytes=2000000-2000099"), http.StatusPartialContent, large()[2000000:2000100])
	p.want(p.get("/key/first", "If-None-Match", p.get("/key/first").header.Get("ETag")), http.StatusNotModified, "")
	if a := p.do(http.MethodHead, "/key/first", ""); a.status != http.StatusOK {
		p.t.Errorf("HEAD: %+v", a)
	}
	p.refused(p.get("/key/unknown"), http.StatusServiceUnavailable)
	p.refused(p.do(http.MethodPut, "/key/unknown", "v"), http.StatusGatewayTimeout)
}
