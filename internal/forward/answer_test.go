package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// through starts a node that forwards to a database node that answers with do. around sets the
// node's own headers about its connection to the client.
func through(t *testing.T, do http.HandlerFunc, around func(http.ResponseWriter)) *httptest.Server {
	t.Helper()
	database := httptest.NewServer(do)
	t.Cleanup(database.Close)
	h := New(Config{Databases: func() []string { return []string{database.URL} }})
	t.Cleanup(h.Close)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if around != nil {
			around(w)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(node.Close)
	return node
}

// The headers that the handlers around set survive, whatever answers precede the database
// node's last one.
func TestForward_HeadersAroundSurvive(t *testing.T) {
	node := through(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</early>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusContinue)
		w.Header().Del("Link")
		w.Header().Set("X-Own", "database")
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}, func(w http.ResponseWriter) {
		w.Header().Set("Connection", "close")
		w.Header().Set("X-Around", "node")
	})
	resp, err := http.Post(node.URL+"/keys", "", io.MultiReader(strings.NewReader("chunked")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !resp.Close || resp.StatusCode != http.StatusCreated || resp.Header.Get("X-Around") != "node" || resp.Header.Get("X-Own") != "database" || resp.Header.Get("Link") != "" {
		t.Errorf("%s, close %v, %v", resp.Status, resp.Close, resp.Header)
	}
}

// A database node checks a forwarded request by its own name, not by the browser's headers
// about the page that asked the first node.
func TestForward_AsksInItsOwnName(t *testing.T) {
	got := make(chan *http.Request, 1)
	node := through(t, func(_ http.ResponseWriter, r *http.Request) { got <- r }, nil)
	req, err := http.NewRequest(http.MethodPut, node.URL+"/key/a?x=1", strings.NewReader("v"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "db.example:1"
	for name, value := range map[string]string{"Origin": "http://db.example:1", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Connection": "upgrade", "Upgrade": "websocket", "If-Match": `"a"`} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r := <-got
	if !strings.HasPrefix(r.Host, "127.0.0.1:") || r.Header.Get("If-Match") != `"a"` || r.URL.RawQuery != "x=1" {
		t.Errorf("the database node was asked as %q: %v", r.Host, r)
	}
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Upgrade", "Connection"} {
		if r.Header.Get(name) != "" {
			t.Errorf("%s: %q was passed on", name, r.Header.Get(name))
		}
	}
}

// An answer that breaks off at the database node breaks off here too, so that nobody takes
// part of a value for all of it.
func TestForward_BrokenAnswerBreaksOff(t *testing.T) {
	for name, head := range map[string]string{
		"a length":  "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome bytes",
		"chunks":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
		"bad chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nzz\r\nbytes",
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = fmt.Fprint(conn, head)
		}()
		h := New(Config{Databases: func() []string { return []string{"http://" + ln.Addr().String()} }})
		t.Cleanup(h.Close)
		node := httptest.NewServer(h)
		t.Cleanup(node.Close)
		resp, err := http.Get(node.URL + "/key/a")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("%s: %s %q passes for all of it", name, resp.Status, body)
		}
	}
}

// If a database node switches protocols, which no request asked for, the node does not follow.
func TestForward_NoOtherProtocol(t *testing.T) {
	node := through(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	}, nil)
	req, err := http.NewRequest(http.MethodGet, node.URL+"/keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("the answer is %s", resp.Status)
	}
}
