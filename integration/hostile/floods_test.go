package hostile

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// floodAttacks take connections, descriptors and processors.
func floodAttacks() []attack {
	limited := plan{
		under: []string{"sh", "-c", `ulimit -n 200; exec "$0" "$@"`},
		flags: []string{"--snapshot-log-bytes", "65536"},
	}
	return []attack{
		{name: "descriptors", cuts: true, near: true, plan: limited, run: descriptors},
		{name: "descriptors-at-work", cuts: true, plan: limited, run: descriptorsAtWork},
		{name: "silent-connections", near: true, run: silentConnections},
		{name: "connect-and-go", run: connectAndGo},
		{name: "pipelined", quick: true, near: true, run: pipelined},
		{name: "resets", run: resets},
	}
}

// descriptors opens more connections than nodes may have files, on both ports of each, while
// puts make them cut their logs: if a file cannot be opened then, the disk is not damaged.
func descriptors(a *attacker) {
	for _, g := range a.w.targets(true) {
		a.open(150, g.addr, "")
		a.open(150, g.addr, "GET /ping HTTP/1.1\r\nHost: "+g.addr+"\r\n\r\n")
	}
	a.fillLogs()
	a.hold()
}

// descriptorsAtWork does the same with connections that have a request under way.
func descriptorsAtWork(a *attacker) {
	for _, g := range a.w.targets(true) {
		path := g.api() + "/keys"
		if g.kind == peer {
			path = "/raft"
		}
		a.trickle(a.open(300, g.addr, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n{", path, g.addr)), "x")
	}
	a.fillLogs()
	a.hold()
}

// fillLogs puts until every log was cut a few times, as far as possible.
func (a *attacker) fillLogs() {
	value := strings.Repeat("v", 20_000)
	for i := range 120 {
		d := a.w.DBs[i%3]
		put := fmt.Sprintf("PUT /key/fill/%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", i, d.Addr, len(value), value)
		_, _ = a.request(d.Addr, put, 2*time.Second)
	}
}

// silentConnections opens many connections and sends nothing, or little.
func silentConnections(a *attacker) {
	for _, g := range a.w.targets(true) {
		a.open(400, g.addr, "")
		a.trickle(a.open(100, g.addr, "G"), "E")
	}
	a.hold()
}

// connectAndGo connects and disconnects at once, in the middle of a request, and after it.
func connectAndGo(a *attacker) {
	var wg sync.WaitGroup
	for _, g := range a.w.targets(true) {
		wg.Go(func() {
			for i := range 600 {
				c, err := a.dial(g.addr, false)
				if err != nil {
					continue
				}
				put := fmt.Sprintf("PUT %s/key/gone/%d HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\nx", g.api(), i, g.addr)
				_, _ = c.Write([]byte(put[:i*len(put)/600]))
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	a.hold()
}

// resets interrupts frames, lines and uploads with a reset.
func resets(a *attacker) {
	var wg sync.WaitGroup
	for _, g := range a.w.servers(true) {
		wg.Go(func() {
			for i := range 500 {
				c, err := a.dial(g.addr, false)
				if err != nil {
					continue
				}
				head := fmt.Sprintf("POST %s/keys HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n", g.api(), g.addr, []string{framesType, "application/x-ndjson"}[i%2])
				_, _ = c.Write([]byte(head + "\x00\x00\x00\x40\x01\x00"))
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	a.hold()
}

// pipelined sends thousands of requests on each connection and reads no answer.
func pipelined(a *attacker) {
	var wg sync.WaitGroup
	for _, g := range a.w.targets(true) {
		for i, path := range []string{"/ping", "/stats", g.api() + "/key/" + seedKey(2), g.api() + "/key/not/set", "/nothing", "/oncekv/identity"} {
			text := strings.Repeat(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, g.addr), 500)
			wg.Go(func() { a.openDeaf(2+i%2, g.addr, text) })
		}
	}
	a.hold()
	wg.Wait()
}
