package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// readerAttacks ask, and do not read the answers.
func readerAttacks() []attack {
	return []attack{
		{name: "deaf-readers", near: true, run: deafReaders},
		{name: "deaf-large-values", plan: plan{largeBytes: 64 << 20}, run: deafLargeValues},
		{name: "deaf-batches", run: deafBatches},
		{name: "made-up-caches", near: true, run: madeUpCaches},
	}
}

// deafReaders ask for everything that is long, or never ends, and read nothing.
func deafReaders(a *attacker) {
	for _, g := range a.w.servers(true) {
		for _, path := range []string{"/keys?limit=10000", "/changes?values=true", "/changes?follow=true&since=0&values=true", "/key/" + seedKey(1)} {
			text := fmt.Sprintf("GET %s%s HTTP/1.1\r\nHost: %s\r\n\r\n", g.api(), path, g.addr)
			a.openDeaf(16, g.addr, strings.Repeat(text, 3)) // one after the other
		}
		for _, path := range []string{"/metrics", "/openapi.yaml", "/stats", "/caches", "/dbs", "/members"} {
			text := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, g.addr)
			a.openDeaf(8, g.addr, strings.Repeat(text, 10))
		}
	}
	a.openDeaf(150, a.w.admin.Addr, fmt.Sprintf("GET /events HTTP/1.1\r\nHost: %s\r\n\r\n", a.w.admin.Addr))
	a.hold()
}

// deafLargeValues asks for a value of 64 MiB over many connections.
func deafLargeValues(a *attacker) {
	for _, g := range a.w.servers(true) {
		for _, more := range []string{"", "Range: bytes=1-\r\n"} {
			a.openDeaf(32, g.addr, fmt.Sprintf("GET %s/key/large HTTP/1.1\r\nHost: %s\r\n%s\r\n", g.api(), g.addr, more))
		}
		a.openDeaf(16, g.addr, fmt.Sprintf("GET %s/key?key=large&format=json HTTP/1.1\r\nHost: %s\r\n\r\n", g.api(), g.addr))
	}
	a.hold()
}

// deafBatches sends lines of puts and gets, and never reads a result: for gets, more than the
// kernel buffers for a connection, which is over 2 MiB.
func deafBatches(a *attacker) {
	var puts, gets strings.Builder
	for i := range 200 {
		fmt.Fprintf(&puts, "{\"key\":\"deaf/%d\",\"value\":\"x\"}\n", i)
		fmt.Fprintf(&gets, "{\"key\":%q}\n", seedKey(i%seedKeys))
	}
	var wg sync.WaitGroup
	for _, g := range a.w.servers(true) {
		for path, lines := range map[string]string{"/keys": puts.String(), "/keys/get": strings.Repeat(gets.String(), 4)} {
			head := fmt.Sprintf("POST %s%s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", g.api(), path, g.addr)
			text := head + strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", len(lines), lines), 5)
			wg.Go(func() { a.openDeaf(20, g.addr, text) })
		}
	}
	wg.Wait()
	a.hold()
}

// madeUpCaches registers a thousand cache nodes that do not exist at each database node, reads
// none of the lists that come back, and asks for more of them.
func madeUpCaches(a *attacker) {
	for round := range 2 {
		for _, d := range a.w.DBs {
			a.each(1000, 8, func(i int) {
				name := fmt.Sprintf("made-up-%d-%s", i, strings.Repeat("n", i%3*25)) // some are nearly as long as they may get, or longer
				a.openDeaf(1, d.Addr, heartbeat(d.Addr, fmt.Sprintf(`{"name":%q,"url":"http://127.%d.%d.%d:%d"}`, name, 8+round, i/250, 1+i%250, 10_000+i)))
			})
			get := fmt.Sprintf("GET /caches HTTP/1.1\r\nHost: %s\r\n\r\n", d.Addr)
			a.openDeaf(75, d.Addr, strings.Repeat(get, 20))
			a.openDeaf(75, d.Addr, strings.Repeat(heartbeat(d.Addr, `{"name":"deaf","url":"http://127.8.8.8:1"}`), 20))
		}
		a.openDeaf(75, a.w.admin.Addr, strings.Repeat(fmt.Sprintf("GET /caches HTTP/1.1\r\nHost: %s\r\n\r\n", a.w.admin.Addr), 20))
		a.seen.rounds(1)
	}
	a.hold()
}

func heartbeat(addr, body string) string {
	return fmt.Sprintf("POST /caches HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", addr, len(body), body)
}

// post sends a body and ignores the result.
func (a *attacker) post(url string, body []byte) {
	ctx, cancel := context.WithTimeout(a.ctx, run.bound)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return
	}
	if resp, err := a.hc.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}
