package hostile

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// rubbishAttacks send what is not a request, or one out of all proportion.
func rubbishAttacks() []attack {
	return []attack{
		{name: "rubbish", quick: true, run: rubbish},
		{name: "huge-headers", run: hugeHeaders},
		{name: "huge-requests", run: hugeRequests},
		{name: "json-bombs", run: jsonBombs},
		{name: "broken-frames", run: brokenFrames},
	}
}

// rubbish speaks other protocols to every listener.
func rubbish(a *attacker) {
	var wg sync.WaitGroup
	for _, g := range a.w.targets(false) {
		for what, text := range rubbishTexts(g) {
			wg.Go(func() { a.talk(g, what, text) })
		}
		wg.Go(func() { a.sayHello(g) })
		for i := range 50 {
			wg.Go(func() { _, _ = a.request(g.addr, string(random(1+i*97)), 20*time.Second) })
		}
	}
	a.hold()
	wg.Wait()
}

// talk sends something that must be refused, as an error of the sender.
func (a *attacker) talk(g target, what, text string) {
	got, err := a.request(g.addr, text, 20*time.Second)
	if err != nil {
		return // it closed the connection without a word
	}
	switch got.status {
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusServiceUnavailable:
	default:
		if got.status < 300 || got.status >= 500 {
			a.fail("the %s answers %s with %v", g, what, got)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// sayHello starts TLS where there is none.
func (a *attacker) sayHello(g target) {
	c, err := a.dial(g.addr, false)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := tls.Client(c, &tls.Config{ServerName: "attacker.example", InsecureSkipVerify: true}).Handshake(); err == nil { //nolint:gosec // no trust is asked for
		a.fail("the %s speaks TLS", g)
	} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		a.fail("the %s leaves a client that begins TLS without an answer for 10 s", g)
	}
}

func rubbishTexts(g target) map[string]string {
	host := "Host: " + g.addr + "\r\n"
	return map[string]string{
		"the preface of HTTP/2":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"an empty line":                       "\r\n\r\n\r\n\r\n",
		"a greeting of SSH":                   "SSH-2.0-OpenSSH_9.9\r\n",
		"a command of Redis":                  "*1\r\n$8\r\nFLUSHALL\r\n",
		"HTTP/0.9":                            "GET /ping\r\n",
		"HTTP/3.0":                            "GET /ping HTTP/3.0\r\n" + host + "\r\n",
		"HTTP/1.1 without Host":               "GET /ping HTTP/1.1\r\n\r\n",
		"two Hosts":                           "GET /ping HTTP/1.1\r\n" + host + host + "\r\n",
		"CONNECT":                             "CONNECT attacker.example:443 HTTP/1.1\r\n" + host + "\r\n",
		"CONNECT of a path":                   "CONNECT /key/x HTTP/1.1\r\n" + host + "\r\n",
		"TRACE":                               "TRACE / HTTP/1.1\r\n" + host + "\r\n",
		"a method with spaces":                "GET  /ping HTTP/1.1\r\n" + host + "\r\n",
		"a header without a name":             "GET /stats HTTP/1.1\r\n" + host + ": x\r\n\r\n",
		"a header with a NUL":                 "GET /stats HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n",
		"a folded header":                     "GET /nothing HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n",
		"a chunk of a size that is no number": "POST " + g.api() + "/keys HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Encoding: x\r\n\r\nzz\r\n",
		"a chunk of 2^64 bytes":               "PUT " + g.api() + "/key/chunk HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
		"a chunk with a long extension":       "PUT " + g.api() + "/key/chunk HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("e", 100_000) + "\r\nx\r\n0\r\n\r\n",
		"a chunk of more than it says":        "PUT " + g.api() + "/key/chunk HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n",
		"a path that does not decode":         "GET " + g.api() + "/key/a%zz HTTP/1.1\r\n" + host + "\r\n",
		"a key with a NUL":                    "PUT " + g.api() + "/key/a%00b HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n",
		"a compressed body":                   fmt.Sprintf("PUT %s/key/gzip HTTP/1.1\r\n%sContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", g.api(), host, len(bomb()), bomb()),
		"a compressed transfer":               "PUT " + g.api() + "/key/gzip HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"an upgrade":                          "GET /nothing HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
		"a websocket":                         "GET /nothing HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
	}
}

// bomb is a megabyte of zeros, compressed.
func bomb() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(make([]byte, 1<<20))
	_ = w.Close()
	return b.String()
}

// hugeHeaders sends more headers than any request needs.
func hugeHeaders(a *attacker) {
	for _, g := range a.w.targets(true) {
		host := "Host: " + g.addr + "\r\n"
		for what, text := range map[string]string{
			"100,000 lines of header":      "GET /nothing HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 100_000) + "\r\n",
			"100,000 headers":              "GET /nothing HTTP/1.1\r\n" + host + manyHeaders(100_000) + "\r\n",
			"a header of 16 MiB":           "GET /nothing HTTP/1.1\r\n" + host + "X: " + strings.Repeat("y", 16<<20) + "\r\n\r\n",
			"a path of 16 MiB":             "GET /nothing/" + strings.Repeat("y", 16<<20) + " HTTP/1.1\r\n" + host + "\r\n",
			"a method of 16 MiB":           strings.Repeat("M", 16<<20) + " / HTTP/1.1\r\n" + host + "\r\n",
			"a trailer of 16 MiB":          "PUT " + g.api() + "/key/trailer HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Encoding: x\r\n\r\n0\r\nX: " + strings.Repeat("y", 16<<20) + "\r\n\r\n",
			"a cookie of a million pieces": "GET /nothing HTTP/1.1\r\n" + host + "Cookie: " + strings.Repeat("a=b;", 1<<20) + "\r\n\r\n",
		} {
			a.each(4, 4, func(int) {
				if got, err := a.request(g.addr, text, 30*time.Second); err == nil && (got.status < 400 || got.status >= 500) {
					a.fail("the %s answers %s with %v", g, what, got)
				}
			})
		}
	}
	a.hold()
}

func manyHeaders(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-%d: y\r\n", i)
	}
	return b.String()
}

// hugeRequests sends parameters and tokens of the maximal length.
func hugeRequests(a *attacker) {
	long := strings.Repeat("a", 50_000)
	token := base64.RawURLEncoding.EncodeToString(random(30_000))
	for _, g := range a.w.servers(true) {
		for _, path := range []string{
			"/keys?prefix=" + long, "/keys?after=" + token, "/keys?after=" + strings.Repeat("_", 50_000), "/keys?limit=" + strings.Repeat("9", 50_000), "/keys?limit=-1", "/keys?limit=99999999999",
			"/keys?" + strings.Repeat("a&", 25_000), "/keys?" + strings.Repeat("limit=1&", 5_000), "/changes?since=" + strings.Repeat("9", 1000), "/changes?since=-1", "/changes?limit=0x7", "/changes?prefix=" + long,
			"/key?key=" + long, "/key/" + long, "/key/" + strings.Repeat("%41", 15_000), "/key?key=" + strings.Repeat("%00", 100), "/key?format=" + long + "&key=x", "/key/x?consistency=" + long,
		} {
			a.each(4, 4, func(int) {
				got, err := a.request(g.addr, fmt.Sprintf("GET %s%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", g.api(), path, g.addr), 10*time.Second)
				if err != nil || got.status != http.StatusBadRequest && got.status != http.StatusRequestHeaderFieldsTooLarge {
					a.fail("the %s answers GET %.30s… (%d bytes) with %v, %v; want 400", g, path, len(path), got, err)
				}
			})
		}
	}
	a.hold()
}

// jsonBombs sends documents that are deep, wide, or long.
func jsonBombs(a *attacker) {
	bombs := map[string]string{
		"brackets":         strings.Repeat("[", 8<<20-1),
		"braces":           strings.Repeat(`{"a":`, 1<<20),
		"a deep value":     `{"key":` + strings.Repeat("[", 4<<20) + strings.Repeat("]", 4<<20-20) + `}`,
		"a long number":    `{"key":"x","value":` + strings.Repeat("9", 8<<20-30) + `}`,
		"a million fields": "{" + strings.TrimSuffix(strings.Repeat(`"f":1,`, 1<<20), ",") + "}",
		"escapes":          `{"key":"` + strings.Repeat(`\u0061`, 1<<20) + `"}`,
		"a large key":      `{"key":"` + strings.Repeat("k", 8<<20-60) + `","value":"x"}`,
		"no base64":        `{"key":"bomb","encoding":"base64","value":"` + strings.Repeat("!", 8<<20-80) + `"}`,
		"blanks":           strings.Repeat(" ", 8<<20-1),
	}
	for _, g := range a.w.servers(false) {
		for what, body := range bombs {
			for _, path := range []string{"/key", "/keys", "/keys/get", "/members", "/leader", "/caches"} {
				a.each(3, 3, func(int) {
					head := fmt.Sprintf("POST %s%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", g.api(), path, g.addr, len(body))
					got, err := a.request(g.addr, head+body, 60*time.Second)
					if err == nil && got.status >= 500 && got.status != http.StatusServiceUnavailable {
						a.fail("the %s answers %s to POST %s with %v", g, what, path, got)
					}
				})
			}
		}
	}
	a.hold()
}

// brokenFrames sends malformed frames on every route for frames.
func brokenFrames(a *attacker) {
	frames := map[string]string{
		"length 0":        "\x00\x00\x00\x00",
		"length 4":        "\x00\x00\x00\x04\x01\x00\x00\x00",
		"the last length": "\xff\xff\xff\xff\x01\x00\x00\x00\x01",
		"no such kind":    "\x00\x00\x00\x05\x77\x00\x00\x00\x01",
		"id 0":            "\x00\x00\x00\x06\x02\x00\x00\x00\x00\x00",
		"all flags":       "\x00\x00\x00\x07\x02\x00\x00\x00\x01\xffx",
		"lying strings":   "\x00\x00\x00\x0a\x01\x00\x00\x00\x01\x00\xff\xff\xff\xff",
		"an answer":       "\x00\x00\x00\x05\x83\x00\x00\x00\x01",
	}
	for _, g := range a.w.servers(true) {
		for what, text := range frames {
			for _, path := range []string{"/keys", "/keys/get"} {
				for _, n := range []int{1, 500} {
					body := strings.Repeat(text, n)
					head := fmt.Sprintf("POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", g.api(), path, g.addr, framesType, len(body))
					if got, err := a.request(g.addr, head+body, 20*time.Second); err == nil && got.status >= 500 {
						a.fail("the %s answers a frame with %s to POST %s with %v", g, what, path, got)
					}
				}
			}
		}
	}
	for _, c := range a.w.Caches { // streams between cache nodes
		for _, text := range frames {
			a.open(3, c.Addr, fmt.Sprintf("GET /peer/stream HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: oncekv-peer/1\r\n\r\n%s", c.Addr, strings.Repeat(text, 100)))
		}
		a.openDeaf(16, c.Addr, fmt.Sprintf("GET /peer/stream HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: oncekv-peer/1\r\n\r\n%s", c.Addr, random(4096)))
	}
	a.hold()
}
