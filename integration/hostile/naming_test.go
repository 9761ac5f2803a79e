package hostile

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"
)

// namingAttacks use host names: in the requests of a browser that was deceived about them, and
// in URLs that a node is told to use.
func namingAttacks() []attack {
	return []attack{
		{name: "foreign-host", quick: true, run: foreignHost},
		{name: "hostile-urls", quick: true, run: hostileURLs},
		{name: "redirects", run: redirects},
	}
}

// foreignHosts are names that no node of the world has.
func foreignHosts() []string {
	return []string{
		"attacker.example", "attacker.example:11000", "ATTACKER.example.", "127.0.0.1.attacker.example", "localhost.attacker.example",
		"attacker.localhost.example:80", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "n1", "c1", "localhost-", "localhost:80.attacker.example",
		"[::1].attacker.example", "[::1", "127.0.0.1:80:80", "user@127.0.0.1", "xn--nxasmq6b", "metadata",
	}
}

// ownHosts are names that work without any setting.
func ownHosts() []string {
	return []string{"127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:11000", "localhost", "LOCALHOST", "localhost:5551", "10.1.2.3:80", "[2001:db8::1]:80"}
}

// foreignHost sends requests like a page of another site whose name was pointed at this
// machine. It must get only answers that reveal nothing.
func foreignHost(a *attacker) {
	var tries []hostTry
	for _, g := range a.w.targets(false) {
		for i, host := range foreignHosts() {
			for _, line := range hostRoutes(g, i) {
				tries = append(tries, hostTry{g, line, host, host})
				if !strings.Contains(host, "@") { // what is before it is not the host of a URL
					tries = append(tries, hostTry{g, absolute(line, host), g.addr, host}) // the line goes before the Host
				}
			}
		}
	}
	a.each(len(tries), 16, func(i int) { a.tryHost(tries[i]) })
	for _, g := range a.w.servers(false) {
		for i, host := range foreignHosts() {
			a.mustNotExist(fmt.Sprintf("host/%s/%d", g.node.Name, i), fmt.Sprintf("a request to the %s with Host %q", g.kind, host))
		}
	}
	a.openHosts()
	a.hold()
}

type hostTry struct {
	g        target
	line     string
	at, page string // the Host, and the host of the page
}

func (a *attacker) tryHost(h hostTry) {
	got, err := a.request(h.g.addr, browserRequest(h.line, h.at, h.page), 10*time.Second)
	if err == nil && got.status != http.StatusMisdirectedRequest && got.status != http.StatusBadRequest {
		a.fail("the %s (%s) does not refuse %q with Host %q of a page of %s with 421: %v", h.g, h.g.kind, h.line, h.at, h.page, got)
	}
}

// hostRoutes returns requests for each kind of route.
func hostRoutes(g target, i int) []string {
	if g.kind == peer {
		return []string{"GET /oncekv/identity", "POST /oncekv/members", "POST /raft", "GET /raft/probing"}
	}
	key := fmt.Sprintf("key=host/%s/%d", g.node.Name, i)
	lines := []string{"GET /stats", "GET /metrics", "GET /nothing", "PUT " + g.api() + "/key?" + key, "GET " + g.api() + "/key/" + seedKey(0), "GET " + g.api() + "/keys?limit=1", "POST " + g.api() + "/keys"}
	switch g.kind {
	case database:
		return append(lines, "DELETE /members/nobody", "GET /dbs", "POST /caches")
	case cache:
		return append(lines, "GET /peer/ping", "GET /peer/record?key=eA")
	}
	return append(lines, "GET /", "GET /events", "DELETE /api/members/nobody")
}

func absolute(line, host string) string {
	method, path, _ := strings.Cut(line, " ")
	return method + " http://" + host + path
}

// browserRequest returns what a browser sends for a page of host.
func browserRequest(line, at, host string) string {
	body := ""
	if !strings.HasPrefix(line, "GET ") {
		body = "Content-Length: 1\r\n"
	}
	return fmt.Sprintf("%s HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n%s\r\nx", line, at, host, body)
}

// openHosts tries what must still work: probes by any name, and all of our own names.
func (a *attacker) openHosts() {
	for _, g := range a.w.servers(false) {
		for _, path := range []string{"/livez", "/readyz", "/ping"} {
			got, err := a.request(g.addr, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n", path), 10*time.Second)
			if err != nil || got.status != http.StatusOK {
				a.fail("the %s refuses %s by any name, which probes need: %v, %v", g, path, got, err)
			}
		}
		for _, host := range ownHosts() {
			got, err := a.request(g.addr, fmt.Sprintf("GET %s/key/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", g.api(), seedKey(0), host), 10*time.Second)
			if err != nil || got.status != http.StatusOK {
				a.fail("the %s refuses Host %s: %v, %v", g, host, got, err)
			}
		}
	}
}

// badURLs are URLs that no node may be told to connect to.
func badURLs() []string {
	return []string{
		"http://user:secret@127.0.0.1:9", "http://user@127.0.0.1:9", "http://@127.0.0.1:9", "http://127.0.0.1:9/?x=1", "http://127.0.0.1:9?x", "http://127.0.0.1:9/#f", "http://127.0.0.1:9#f",
		"http://169.254.169.254:80", "http://[fe80::1]:80", "http://[fe80::1%25lo]:80", "http://[::ffff:169.254.169.254]:80",
		"ftp://127.0.0.1:9", "file:///etc/passwd", "javascript:alert(1)", "gopher://127.0.0.1:9", "unix:///tmp/x",
		"http://127.0.0.1:9/path", "http://127.0.0.1:9/../..", "http://127.0.0.1:0", "http://127.0.0.1:99999", "http://127.0.0.1:-1", "http://:80", "http://", "//127.0.0.1:9", "127.0.0.1:9", "",
		"http://127.0.0.1:9\r\nX: y", "http://127.0.0.1 :9", "http://127.0.0.1:9\x00", "http://0.0.0.0:9", "http://[::]:9", "http://224.0.0.1:9", "http://" + strings.Repeat("a", 5000) + ":9",
	}
}

// hostileURLs gives nodes URLs that they must not accept.
func hostileURLs(a *attacker) {
	d := a.w.DBs[0]
	for i, bad := range badURLs() {
		member := fmt.Sprintf(`{"id":"%x","name":"evil%d","peer_url":"http://127.0.0.1:9","client_url":%s,"role":"learner"}`, 0xbad000+i, i, quoted(bad))
		peer := fmt.Sprintf(`{"id":"%x","name":"evil%d","client_url":"http://127.0.0.1:9","peer_url":%s,"role":"learner"}`, 0xbad000+i, i, quoted(bad))
		beat := fmt.Sprintf(`{"name":"evil%d","url":%s}`, i, quoted(bad))
		for _, try := range []struct{ what, addr, path, body string }{
			{"the client URL of a member", d.Addr, "/members", member},
			{"the peer URL of a member", d.Addr, "/members", peer},
			{"the client URL of a member, through the admin", a.w.admin.Addr, "/api/members", member},
			{"the URL of a cache node", d.Addr, "/caches", beat},
		} {
			got, err := a.request(try.addr, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", try.path, try.addr, len(try.body), try.body), 15*time.Second)
			if err != nil || got.status < 400 || got.status >= 500 {
				a.fail("%.80q is taken as "+try.what+": %v, %v", bad, got, err)
			}
		}
		_, _ = a.request(d.Addr, fmt.Sprintf("DELETE /members/evil%d?force=true HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", i, d.Addr), 15*time.Second)
	}
	a.hold()
}

func quoted(s string) string {
	return `"` + strings.NewReplacer("\r", `\r`, "\n", `\n`, "\x00", `\u0000`).Replace(s) + `"`
}

// redirects registers a member and a cache node that redirect everybody elsewhere: nobody may
// follow.
func redirects(a *attacker) {
	var followed, asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer liar.Close()
	d := a.w.DBs[0]
	member := fmt.Sprintf(`{"id":"bad","name":"liar","peer_url":%q,"client_url":%q,"role":"learner"}`, liar.URL, liar.URL)
	if status := a.postStatus(d.URL()+"/members", member); status >= 300 {
		a.t.Logf("a learner at a loopback address was refused: %d", status)
	}
	for range 4 {
		for _, d := range a.w.DBs {
			a.post(d.URL()+"/caches", fmt.Appendf(nil, `{"name":"liar","url":%q}`, liar.URL))
		}
		a.seen.rounds(0)
	}
	a.hold()
	if n := followed.Load(); n > 0 {
		a.fail("%d requests followed a redirect of a node that anybody can register", n)
	}
	if asked.Load() == 0 {
		a.fail("nobody asked the node that redirects, so nothing was shown")
	}
	if _, err := a.request(d.Addr, fmt.Sprintf("DELETE /members/liar?force=true HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", d.Addr), 30*time.Second); err != nil {
		a.fail("the learner that redirects cannot be removed: %v", err)
	}
}

func (a *attacker) postStatus(url, body string) int {
	resp, err := a.hc.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
