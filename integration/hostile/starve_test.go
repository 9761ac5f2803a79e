package hostile

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// starvingAttacks take what requests need, by starting many that never progress.
func starvingAttacks() []attack {
	return []attack{
		{name: "slow-json", quick: true, near: true, run: slowJSON},
		{name: "slow-uploads", near: true, run: slowUploads},
		{name: "slow-large-uploads", run: slowLargeUploads},
		{name: "silent-lines", near: true, run: silent("/keys", "application/x-ndjson", `{"key":"silent","val`)},
		{name: "silent-gets", near: true, run: silent("/keys/get", "application/x-ndjson", `{"key":"sil`)},
		{name: "silent-frames", near: true, run: silent("/keys", framesType, "\x00\x00\x00\x40\x01\x00")},
		{name: "silent-framed-gets", near: true, run: silent("/keys/get", framesType, "\x00\x00\x00\x40\x02\x00")},
		{name: "silent-peer-streams", cuts: true, near: true, plan: plan{cacheFlags: []string{"--max-connections", "64"}}, run: silentPeerStreams},
		{name: "half-sent", run: halfSent},
		{name: "slow-heartbeats", run: slowHeartbeats},
	}
}

const framesType = "application/vnd.oncekv.batch"

// slowJSON sends JSON bodies slowly: first of the largest possible size, then of ever smaller
// ones, which take the rest of the memory.
func slowJSON(a *attacker) {
	for _, g := range a.w.servers(true) {
		head := fmt.Sprintf("POST %s/key HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n", g.api(), g.addr)
		body := `{"key":"slow/json","value":"`
		for size := 8<<20 - 1; size > 512; size /= 2 {
			a.trickle(a.open(9, g.addr, head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, body)), "x")
		}
		a.trickle(a.open(16, g.addr, head+"Transfer-Encoding: chunked\r\n\r\n"+fmt.Sprintf("%x\r\n%s", 8<<20, body+string(make4k()))), "x")
	}
	a.hold()
}

func make4k() []byte { return slices.Repeat([]byte("v"), 4096) }

// slowUploads announces values of 1 GiB and sends nearly nothing of them.
func slowUploads(a *attacker) {
	for _, g := range a.w.servers(true) {
		head := fmt.Sprintf("PUT %s/key/slow/upload HTTP/1.1\r\nHost: %s\r\n", g.api(), g.addr)
		a.trickle(a.open(128, g.addr, head+fmt.Sprintf("Content-Length: %d\r\n\r\nx", 1<<30)), "x")
		a.trickle(a.open(64, g.addr, head+"Transfer-Encoding: chunked\r\n\r\n40000000\r\nx"), "x")
	}
	a.hold()
}

// slowLargeUploads first sends more than a chunk of each value.
func slowLargeUploads(a *attacker) {
	for _, g := range a.w.servers(true) {
		head := fmt.Sprintf("PUT %s/key/slow/large HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", g.api(), g.addr, 1<<30)
		a.trickle(a.open(64, g.addr, head+string(slices.Repeat(make4k(), 280))), "x")
	}
	a.hold()
}

// silent starts many requests whose answers come while their bodies are sent, and sends the
// first half of something; some of them send a byte now and then.
func silent(path, contentType, half string) func(*attacker) {
	return func(a *attacker) {
		for _, g := range a.w.servers(true) {
			head := fmt.Sprintf("POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", g.api(), path, g.addr, contentType)
			a.open(16, g.addr, head)
			a.open(130, g.addr, head+fmt.Sprintf("%x\r\n%s", 4096, half))
			a.trickle(a.open(154, g.addr, head+fmt.Sprintf("%x\r\n%s", 4096, half)), "a")
		}
		a.hold()
	}
}

// silentPeerStreams opens streams between cache nodes, and sends nothing on them.
func silentPeerStreams(a *attacker) {
	for _, c := range a.w.Caches {
		a.open(100, c.Addr, fmt.Sprintf("GET /peer/stream HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: oncekv-peer/1\r\n\r\n", c.Addr))
	}
	a.hold()
}

// slowHeartbeats sends the heartbeats of cache nodes slowly.
func slowHeartbeats(a *attacker) {
	for _, d := range a.w.DBs {
		head := fmt.Sprintf("POST /caches HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", d.Addr, 1<<20)
		a.trickle(a.open(100, d.Addr, head+`{"name":"x","url":"http://127.0.0.1:1","x":"`), "x")
		a.trickle(a.open(100, d.Addr, fmt.Sprintf("POST /members HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n{", d.Addr)), "x")
	}
	a.hold()
}

// silence is a little longer than a node waits for the next byte of a request.
const silence = 45 * time.Second

// halfSent sends the first half of every kind of request to every listener: the node must
// close each of the connections by itself.
func halfSent(a *attacker) {
	type half struct {
		g    target
		what string
		conn net.Conn
	}
	var halves []half
	for _, g := range a.w.targets(false) {
		for what, text := range halfRequests(g) {
			for _, c := range a.open(2, g.addr, text) {
				halves = append(halves, half{g, what, c})
			}
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	left := map[string]bool{}
	for _, h := range halves {
		wg.Go(func() {
			if !closed(h.conn, silence) {
				mu.Lock()
				left[fmt.Sprintf("%s (%s) after %s", h.g, h.g.kind, h.what)] = true
				mu.Unlock()
			}
		})
	}
	a.hold()
	wg.Wait()
	if len(left) > 0 {
		a.fail("connections stay open for ever without a byte (for %v): %s", silence, strings.Join(slices.Sorted(maps.Keys(left)), "; "))
	}
}

// halfRequests are requests that stop somewhere.
func halfRequests(g target) map[string]string {
	host := "Host: " + g.addr + "\r\n"
	all := map[string]string{
		"half a request line":                      "GET /pi",
		"half a header":                            "GET /ping HTTP/1.1\r\nHos",
		"a header without end":                     "GET /ping HTTP/1.1\r\n" + host,
		"a GET whose body does not come":           "GET /ping HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\nx",
		"a body that nobody wants":                 "POST /nothing HTTP/1.1\r\n" + host + "Content-Length: 1000\r\n\r\nx",
		"a chunked body that nobody wants":         "POST /nothing HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n100\r\nx",
		"an Expect: 100-continue that nobody uses": "PUT " + g.api() + "/key/half HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 100\r\n\r\n",
	}
	if g.kind == peer {
		cluster := "X-Etcd-Cluster-ID: 1\r\nOncekv-Cluster: 1\r\n"
		all["half a raft message"] = "POST /raft HTTP/1.1\r\n" + host + cluster + "Content-Length: 100\r\n\r\nx"
		all["half a change of members"] = "POST /oncekv/members HTTP/1.1\r\n" + host + cluster + "Content-Length: 100\r\n\r\n{"
		all["half an introduction"] = "GET /oncekv/identity HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\n{"
		return all
	}
	for what, line := range map[string]string{"a put": "PUT /key/half", "a document": "POST /key", "lines": "POST /keys", "gets": "POST /keys/get", "a change of members": "POST /members"} {
		method, path, _ := strings.Cut(line, " ")
		all["half of "+what] = method + " " + g.api() + path + " HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\n{"
		all["half a chunk of "+what] = method + " " + g.api() + path + " HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n100\r\n{"
		all["no chunk of "+what] = method + " " + g.api() + path + " HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n"
	}
	all["half a heartbeat"] = "POST /caches HTTP/1.1\r\n" + host + "Content-Length: 100\r\n\r\n{"
	return all
}
