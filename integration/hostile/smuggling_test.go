package hostile

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// smugglingAttacks send the rest of a body after an early answer: it must never be run as
// requests.
func smugglingAttacks() []attack {
	return []attack{
		{name: "smuggled-bodies", run: smuggledBodies},
		{name: "smuggled-early", quick: true, run: smuggledEarly},
		{name: "ambiguous-framing", quick: true, run: ambiguousFraming},
	}
}

// early is a request that may be answered before its body has arrived.
type early struct {
	g       target
	method  string
	path    string
	headers string // more of them, each with its end of line
	framing string // how the body is announced, and its beginning
}

func (e early) String() string {
	return fmt.Sprintf("%s %s at the %s (%s) with %.60q %.40q", e.method, e.path, e.g, e.g.kind, e.framing, e.headers)
}

// framings are ways to announce a body that does not come.
func framings() []string {
	return []string{
		"Transfer-Encoding: chunked\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"k",
		"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"key\r\n",
		"Content-Length: 100000\r\n\r\n",
		"Content-Length: 100000\r\n\r\n{\"k",
		"Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n",
		"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
	}
}

// routesOf returns all routes of the listener that take a body, and some that do not.
func routesOf(g target) []string {
	common := []string{"GET /ping", "GET /readyz", "GET /stats", "POST /nothing", "POST /ping", "GET /metrics", "DELETE /key/x", "BREW /pot", "OPTIONS *"}
	api := []string{"PUT /key/early", "PUT /key?key=early", "PUT /key?nonsense=1", "POST /key", "POST /keys", "POST /keys/get", "POST /keys?x=1", "GET /key/" + seedKey(0), "GET /keys", "GET /changes", "POST /members", "DELETE /members/nobody", "POST /members/nobody/promote", "POST /leader", "POST /caches"}
	switch g.kind {
	case peer:
		return append(common, "POST /raft", "GET /raft/stream/message/1", "GET /oncekv/identity", "POST /oncekv/members", "GET /oncekv/snapshot?index=1", "POST /raft/snapshot")
	case cache:
		return append(append(common, api...), "PUT /keep/early", "GET /keep/early", "GET /peer/ping", "GET /peer/record?key=eA", "GET /peer/stream", "POST /peer/stream")
	case admin:
		for i, r := range api {
			method, path, _ := strings.Cut(r, " ")
			api[i] = method + " /api" + path
		}
		return append(append(common, api...), "GET /", "GET /owner?key=x", "GET /assets/none", "POST /events")
	}
	return append(append(common, api...), "PUT /keep/early", "GET /keep/early")
}

// variations are headers that make a node answer early.
func variations() []string {
	return []string{
		"",
		"Content-Encoding: gzip\r\n",
		"Content-Type: application/vnd.oncekv.batch\r\n",
		"Origin: http://attacker.example\r\nSec-Fetch-Site: cross-site\r\n",
		"Content-Range: bytes 0-1/2\r\n",
		"If-None-Match: *\r\n",
		"Connection: Upgrade\r\nUpgrade: oncekv-peer/1\r\n",
	}
}

// smuggledBodies sends every request of every kind of node, waits for its answer however long
// that takes, and sends a put as the rest of its body.
func smuggledBodies(a *attacker) {
	var all []early
	for _, g := range a.w.targets(false) {
		for _, r := range routesOf(g) {
			method, path, _ := strings.Cut(r, " ")
			for _, f := range framings() {
				all = append(all, early{g: g, method: method, path: path, framing: f})
			}
		}
	}
	a.smuggle(all, silence)
}

// smuggledEarly does so with requests that are refused at once.
func smuggledEarly(a *attacker) {
	var all []early
	for _, g := range a.w.targets(false) {
		for _, r := range []string{"PUT /key/early", "POST /key", "POST /keys", "POST /keys/get", "POST /members", "GET /peer/stream", "POST /oncekv/members"} {
			method, path, _ := strings.Cut(r, " ")
			for _, more := range variations() {
				for _, f := range framings() {
					all = append(all, early{g: g, method: method, path: g.api() + path, headers: more, framing: f})
				}
			}
		}
	}
	a.smuggle(all, 3*time.Second)
}

// smuggle tries all at the same time. wait bounds the wait for an answer; then the rest is
// sent without it.
func (a *attacker) smuggle(all []early, wait time.Duration) {
	var wg sync.WaitGroup
	for i, e := range all {
		wg.Go(func() { a.smuggleOne(e, fmt.Sprintf("smuggled/%d", i), wait) })
	}
	a.hold()
	wg.Wait()
	for i, e := range all {
		a.mustNotExist(fmt.Sprintf("smuggled/%d", i), "the rest of the body of "+e.String())
	}
}

func (a *attacker) smuggleOne(e early, key string, wait time.Duration) {
	c, err := a.dial(e.g.addr, false)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s", e.method, e.path, e.g.addr, e.headers, e.framing); err != nil {
		return
	}
	r := bufio.NewReader(c)
	_, first := finalAnswer(r, e.method)
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	// A put wherever a node accepts one: the admin does below /api, the peer port nowhere; but
	// one that reaches another listener counts too.
	put := fmt.Sprintf("PUT %s/key?key=%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1\r\n\r\nx", e.g.api(), key, e.g.addr)
	_, _ = io.WriteString(c, put+"\r\n\r\n"+put)
	if !first { // it waited for more of the body
		_, first = finalAnswer(r, e.method)
	}
	// The node may answer 400 because the rest is not a request.
	if again, ok := finalAnswer(r, http.MethodPut); first && ok && again.status != http.StatusBadRequest {
		a.fail("the rest of the body of %v was run as a request, and answered with %v", e, again)
	}
}

// finalAnswer reads an answer, and the preliminary ones before it; false if there is none, or
// it breaks off.
func finalAnswer(r *bufio.Reader, method string) (answer, bool) {
	for {
		got, err := readAnswer(r, method)
		if err != nil || got.status >= 200 || got.status == http.StatusSwitchingProtocols {
			return got, err == nil
		}
	}
}

// twoEnds is a framing that RFC 9112 defines: the chunks count. A node may accept it, and then
// closes the connection.
const twoEnds = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"

// ambiguousFraming sends requests whose end two readers may see at two places.
func ambiguousFraming(a *attacker) {
	n := 0
	keys := map[string]string{}
	for _, g := range a.w.targets(false) {
		for _, framing := range []string{
			twoEnds,
			"Content-Length: 5\r\nContent-Length: 6\r\n",
			"Content-Length: 5, 6\r\n",
			"Content-Length: +5\r\n",
			"Content-Length: 0x5\r\n",
			"Content-Length: -1\r\n",
			"Content-Length: 99999999999999999999\r\n",
			"Content-Length : 5\r\n",
			"Content-Length: 5\r\nTransfer-Encoding: chunked, identity\r\n",
			"Transfer-Encoding: identity\r\n",
			"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
			"Transfer-Encoding: xchunked\r\n",
			"Transfer-Encoding: \x0bchunked\r\n",
			"Transfer-Encoding\t: chunked\r\n",
			" Transfer-Encoding: chunked\r\n",
			"X: y\rTransfer-Encoding: chunked\r\n",
		} {
			n++
			key := fmt.Sprintf("ambiguous/%d", n)
			keys[key] = fmt.Sprintf("%q at the %s", framing, g)
			inner := fmt.Sprintf("PUT %s/key?key=%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1\r\n\r\nx", g.api(), key, g.addr)
			for _, body := range []string{"0\r\n\r\n" + inner, "hello" + inner} {
				got, err := a.request(g.addr, fmt.Sprintf("PUT %s/key?key=outer/%d HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", g.api(), n, g.addr, framing, body), 5*time.Second)
				if err == nil && got.status < 400 && framing != twoEnds {
					a.fail("the %s took a request whose length is not clear, %q: %v", g, framing, got)
				}
			}
		}
	}
	a.hold()
	for key, how := range keys {
		a.mustNotExist(key, "what follows a request with "+how)
	}
}
