package hostile

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// rangeAttacks ask for impossible parts of values.
func rangeAttacks() []attack {
	return []attack{{name: "ranges", quick: true, run: ranges}}
}

// rangeCase is a Range by RFC 9110 §14, and the answer for a value of so many bytes. A node
// may ignore what it does not understand, and answer with the whole value: that is "whole". An
// empty value has no parts; net/http usually answers 200, which is as good. Only a valid range
// that cannot be satisfied must tell the size in its 416.
type rangeCase struct {
	size  int
	value string
	want  string // Content-Range; "416" or "whole" else
}

func rangeCases() []rangeCase {
	const beyond = "18446744073709551616" // 2^64
	return []rangeCase{
		{0, "bytes=0-", "416|whole"}, {0, "bytes=0-0", "416|whole"}, {0, "bytes=-5", "416|whole"}, {0, "bytes=-0", "416|whole"}, {0, "bytes=1-", "416|whole"},
		{1, "bytes=0-0", "bytes 0-0/1"}, {1, "bytes=0-", "bytes 0-0/1"}, {1, "bytes=-1", "bytes 0-0/1"}, {1, "bytes=-2", "bytes 0-0/1"}, {1, "bytes=-0", "416"}, {1, "bytes=1-", "416"}, {1, "bytes=1-1", "416"},
		{10, "bytes=0-4", "bytes 0-4/10"}, {10, "bytes=5-", "bytes 5-9/10"}, {10, "bytes=-3", "bytes 7-9/10"}, {10, "bytes=9-100", "bytes 9-9/10"}, {10, "bytes=10-", "416"}, {10, "bytes=-100", "bytes 0-9/10"},
		{10, "bytes=0-" + beyond, "bytes 0-9/10|whole"}, {10, "bytes=" + beyond + "-", "416|whole"}, {10, "bytes=-" + beyond, "bytes 0-9/10|whole"}, {10, "bytes=9223372036854775807-", "416|whole"}, {10, "bytes=0-9223372036854775807", "bytes 0-9/10|whole"},
		{10, "bytes=-9223372036854775808", "bytes 0-9/10|whole"},
		{10, "bytes=5-4", "whole|416"}, {10, "bytes=", "whole|416"}, {10, "bytes=-", "whole|416"}, {10, "bytes=a-b", "whole|416"}, {10, "bytes=1", "whole|416"}, {10, "bytes=--1", "whole|416"}, {10, "bytes=+1-2", "whole|416"}, {10, "bytes=1-+2", "whole|416"}, {10, "bytes=0x1-2", "whole|416"},
		{10, "bytes= 1 - 2 ", "whole|416|bytes 1-2/10"}, {10, "bytes=1.5-2", "whole|416"}, {10, "lines=1-2", "whole"}, {10, "BYTES=1-2", "whole|bytes 1-2/10"}, {10, "bytes 1-2", "whole|416"},
		{10, "bytes=0-0,2-3", "parts|whole"}, {10, "bytes=0-9,0-9", "parts|whole"}, {10, "bytes=20-30,40-", "416|whole"}, {10, "bytes=" + strings.Repeat("0-0,", 8000) + "1-1", "whole|416|parts"}, {10, "bytes=,,1-2", "bytes 1-2/10|whole|416"},
	}
}

// ranges tries every case on a database and a cache node, cold and warm, with GET and HEAD.
func ranges(a *attacker) {
	for _, size := range []int{0, 1, 10} {
		put := fmt.Sprintf("PUT /key/range/%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", size, a.w.DBs[0].Addr, size, "0123456789"[:size])
		if got, err := a.request(a.w.DBs[0].Addr, put, 10*time.Second); err != nil || got.status != http.StatusCreated {
			a.t.Fatalf("put a value of %d bytes: %v, %v", size, got, err)
		}
	}
	for _, g := range a.w.servers(false) {
		for _, c := range rangeCases() {
			for range 2 { // loaded, and then kept
				a.tryRange(g, c)
			}
		}
	}
	a.hold()
}

func (a *attacker) tryRange(g target, c rangeCase) {
	url := fmt.Sprintf("%s/key/range/%d", g.api(), c.size)
	got, err := a.request(g.addr, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nRange: %s\r\n\r\n", url, g.addr, c.value), 10*time.Second)
	if err != nil {
		a.fail("the %s: Range %.40q of %d bytes: %v", g, c.value, c.size, err)
		return
	}
	said := got.header.Get("Content-Range")
	became := fmt.Sprintf("%d", got.status)
	switch {
	case got.status == http.StatusOK && got.body == "0123456789"[:c.size]:
		became = "whole"
	case got.status == http.StatusPartialContent && strings.HasPrefix(got.header.Get("Content-Type"), "multipart/byteranges"):
		became = "parts"
	case got.status == http.StatusPartialContent:
		became = said
		var from, to, of int
		if n, err := fmt.Sscanf(said, "bytes %d-%d/%d", &from, &to, &of); n != 3 || err != nil || from < 0 || to < from || to >= of || of != c.size || got.body != "0123456789"[:c.size][from:to+1] {
			a.fail("the %s: Range %.40q of %d bytes is 206 with Content-Range %q and %q", g, c.value, c.size, said, got.body)
			return
		}
	case got.status == http.StatusRequestedRangeNotSatisfiable && said != fmt.Sprintf("bytes */%d", c.size) && (said != "" || c.want == "416"):
		a.fail("the %s: Range %.40q of %d bytes is 416 with Content-Range %q", g, c.value, c.size, said)
		return
	}
	for _, fine := range strings.Split(c.want, "|") {
		if became == fine {
			return
		}
	}
	a.fail("the %s: Range %.40q of %d bytes is %s, Content-Range %q; want one of %s", g, c.value, c.size, became, said, c.want)
}
