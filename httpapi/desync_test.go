package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/kvstore"
)

// desyncIdle is the idle time-out of the nodes under attack.
const desyncIdle = 150 * time.Millisecond

// bodyStarts are ways to begin a body and then wait for the answer. What follows
// is the rest of that body, whatever it looks like.
var bodyStarts = []struct{ name, header, sent string }{
	{"chunked, nothing sent", "Transfer-Encoding: chunked\r\n", ""},
	{"chunked, a chunk begun", "Transfer-Encoding: chunked\r\n", "ff\r\nabc"},
	{"chunked, a chunk sent", "Transfer-Encoding: chunked\r\n", "3\r\n{}\n\r\n"},
	{"chunked, no chunk size", "Transfer-Encoding: chunked\r\n", "zz\r\n"},
	{"chunked, in trailers", "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n", "0\r\nX-T: a\r\n"},
	{"short length", "Content-Length: 120\r\n", "abc"},
	{"long length", "Content-Length: 1000000\r\n", "abc"},
	{"beyond every limit", "Content-Length: 9000000000000\r\n", "abc"},
	{"length, go-ahead wanted", "Content-Length: 120\r\nExpect: 100-continue\r\n", ""},
	{"chunked, go-ahead wanted", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", ""},
	{"another page's", "Transfer-Encoding: chunked\r\nOrigin: http://elsewhere.example\r\n", ""},
	{"with a change of protocol", "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", ""},
	{"in frames", "Transfer-Encoding: chunked\r\nContent-Type: " + api.ContentTypeFrames + "\r\n", "5\r\n"},
	{"for a JSON list", "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n", "2\r\n[1\r\n"},
}

// attacked is a node whose every route is attacked.
type attacked struct {
	kind string
	node *node
	db   *fakeDB
	api  string // what the database's routes are below
	h    http.Handler
}

func attackedNodes(t *testing.T) []attacked {
	t.Helper()
	closing := make(chan struct{})
	database := &node{t: t, db: newFakeDB(), cluster: &fakeCluster{}, registry: &fakeRegistry{}, counters: &Counters{}}
	databaseAPI := NewDatabase(DatabaseConfig{DB: database.db, Cluster: database.cluster, Registry: database.registry,
		Metrics: http.NotFoundHandler(), BodyIdleTimeout: desyncIdle, AnswerTimeout: desyncIdle, Closing: closing})
	database.serve(databaseAPI)
	pass := forward.New(forward.Config{Databases: func() []string { return []string{database.url} }})
	t.Cleanup(pass.Close)
	cacheAPI := NewCache(CacheConfig{Reader: &sourced{db: database.db}, Forward: pass, Metrics: http.NotFoundHandler(), BodyIdleTimeout: desyncIdle, Closing: closing,
		PeerHandler: http.NotFoundHandler(), Stats: func() any { return api.CacheStats{} }, Ready: func(context.Context) error { return nil }})
	adminAPI := NewAdmin(AdminConfig{Topology: &fakeTopology{number: 1}, Page: fakePage{"/", "/assets/x", "/favicon.svg"}, Forward: pass,
		Metrics: http.NotFoundHandler(), BodyIdleTimeout: desyncIdle, Closing: closing, Stats: func() any { return api.AdminStats{} }, Ready: func(context.Context) error { return nil }})
	cache, admin := &node{t: t}, &node{t: t}
	cache.serve(cacheAPI)
	admin.serve(adminAPI)
	t.Cleanup(func() { close(closing) }) // before the servers wait for their streams
	return []attacked{
		{"database", database, database.db, "", databaseAPI},
		{"cache", cache, database.db, "", cacheAPI},
		{"admin", admin, database.db, pathAPI, adminAPI},
	}
}

// targets are requests for every route that the node has, and for some it has not.
func (a *attacked) targets(t *testing.T) []string {
	t.Helper()
	targets := []string{"POST /nothing", "DELETE " + a.api + "/key/a", "BREW " + a.api + "/key/a", "OPTIONS *", "TRACE /ping", "CONNECT x:80", "POST " + a.api + "/key/a",
		"GET " + a.api + "/changes?follow=true", "PUT " + a.api + "/key/%00", "POST " + a.api + "/keys?x=1", "GET http://elsewhere" + a.api + "/key/a"}
	err := chi.Walk(a.h.(*front).next.(*chi.Mux), func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		targets = append(targets, method+" "+strings.NewReplacer("*", "x", "{name}", "n1").Replace(pattern))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return targets
}

// TestDesync_RestOfABody: whatever a request is answered before its body has
// ended, the rest of the body is never run as another request.
func TestDesync_RestOfABody(t *testing.T) {
	t.Parallel()
	var running sync.WaitGroup
	places := make(chan struct{}, 128)
	for _, a := range attackedNodes(t) {
		for i, target := range a.targets(t) {
			for j, start := range bodyStarts {
				places <- struct{}{}
				running.Go(func() {
					defer func() { <-places }()
					key := fmt.Sprintf("smuggled-%s-%d-%d", a.kind, i, j)
					method, _, _ := strings.Cut(target, " ")
					request := target + " HTTP/1.1\r\nHost: x\r\n" + start.header + "\r\n" + start.sent
					if err := a.attack(method, request, key); err != nil {
						t.Errorf("%s node, %s, %s: %v", a.kind, target, start.name, err)
					}
				})
			}
		}
	}
	running.Wait()
}

// attack sends the beginning of a request, waits for its answer, and goes on
// with what would be a put if it were not the rest of a body.
func (a *attacked) attack(method, request, key string) error {
	conn, err := net.Dial("tcp", a.node.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	for status := 0; status < 200; {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return nil // broken off, which is an answer too
		}
		status = resp.StatusCode
		_ = conn.SetReadDeadline(time.Now().Add(4 * desyncIdle)) // there are streams without an end
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	_, _ = fmt.Fprintf(conn, "PUT %s/key/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", a.api, key)
	_ = conn.SetReadDeadline(time.Now().Add(2 * desyncIdle))
	rest, _ := io.ReadAll(in)
	if strings.Contains(string(rest), "HTTP/1.") {
		return fmt.Errorf("the rest of the body is answered %.120q", rest)
	}
	if _, err := a.db.Get(context.Background(), kvstore.Key(key), kvstore.Local); !errors.Is(err, kvstore.ErrNotFound) {
		return fmt.Errorf("the rest of the body has set a key (%v)", err)
	}
	return nil
}

// TestDesync_WhatFollowsAWholeBody: a connection whose request was read to its end
// goes on, except after an answer that may have begun before that, and after a
// chunked body (see TestDesync_TwoEnds).
func TestDesync_WhatFollowsAWholeBody(t *testing.T) {
	t.Parallel()
	for _, a := range attackedNodes(t) {
		conn := a.node.dial()
		defer conn.Close()
		in := bufio.NewReader(conn)
		for i := range 3 {
			fmt.Fprintf(conn, "PUT %s/key/whole HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", a.api)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s node, put %d: %v", a.kind, i, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close || !slices.Contains([]int{200, 201}, resp.StatusCode) {
				t.Errorf("%s node, put %d: %s, close %v, %v", a.kind, i, resp.Status, resp.Close, err)
			}
		}
		for _, path := range []string{"/keys", "/keys/get"} {
			if path == "/keys/get" && a.kind == "cache" {
				continue // it answers a list when it has read it
			}
			conn := a.node.dial()
			defer conn.Close()
			fmt.Fprintf(conn, "POST %s%s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", a.api, path, api.ContentTypeFrames)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s node, %s: %v", a.kind, path, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || !resp.Close {
				t.Errorf("%s node, %s: %s, close %v, %v", a.kind, path, resp.Status, resp.Close, err)
			}
		}
	}
}

// TestDesync_NoLength: who says nothing of a body's length, or says it in a way
// that HTTP/1.0 does not have, has sent his last request on that connection.
func TestDesync_NoLength(t *testing.T) {
	t.Parallel()
	for _, a := range attackedNodes(t) {
		for i, request := range []string{
			"PUT " + a.api + "/key/a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
			"PUT " + a.api + "/key/b HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx",
			"GET " + a.api + "/key/a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
			"POST /nothing HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
			"PUT " + a.api + "/key/a HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST " + a.api + "/keys HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			if err := a.attack(http.MethodPut, request, fmt.Sprintf("unframed-%s-%d", a.kind, i)); err != nil {
				t.Errorf("%s node, %q: %v", a.kind, request, err)
			}
		}
	}
}

// TestDesync_TwoEnds: what somebody in front took for the body, by its length, is no
// request although the chunks had ended before it.
func TestDesync_TwoEnds(t *testing.T) {
	t.Parallel()
	for _, a := range attackedNodes(t) {
		for i, header := range []string{
			"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
			"Transfer-Encoding: chunked\r\nContent-Length: 200\r\n",
			"Content-Length: 200\r\nContent-Length: 200\r\nTransfer-Encoding: Chunked\r\n",
			"Content-Length: 0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n",
		} {
			for _, target := range []string{"PUT " + a.api + "/key/a", "GET " + a.api + "/key/a", "POST " + a.api + "/key", "POST /nothing", "GET /ping"} {
				method, path, _ := strings.Cut(target, " ")
				request := target + " HTTP/1.1\r\nHost: x\r\n" + header + "\r\n0\r\n\r\n"
				if err := a.attack(method, request, fmt.Sprintf("two-ends-%s-%s-%d", a.kind, strings.ReplaceAll(path, "/", "-"), i)); err != nil {
					t.Errorf("%s node, %q: %v", a.kind, request, err)
				}
			}
		}
	}
}

// TestFront_FullDuplexEndsTheConnection: whatever a handler does to its headers.
func TestFront_FullDuplexEndsTheConnection(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(http.ResponseWriter, *http.ResponseController){
		"says nothing":       func(http.ResponseWriter, *http.ResponseController) {},
		"only flushes":       func(_ http.ResponseWriter, conn *http.ResponseController) { _ = conn.Flush() },
		"writes":             func(w http.ResponseWriter, _ *http.ResponseController) { _, _ = io.WriteString(w, "x") },
		"keeps it alive":     func(w http.ResponseWriter, _ *http.ResponseController) { w.Header().Set("Connection", "keep-alive") },
		"clears its headers": func(w http.ResponseWriter, _ *http.ResponseController) { clear(w.Header()); w.WriteHeader(404) },
	} {
		f := &front{hosts: everyHost{}, crossOrigin: http.NewCrossOriginProtection(), counters: new(Counters), logger: quiet(), idle: desyncIdle, requests: newLimit(1),
			next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn := http.NewResponseController(w)
				if err := conn.EnableFullDuplex(); err != nil {
					t.Error(err)
				}
				do(w, conn)
			})}
		n := &node{t: t}
		n.serve(f)
		conn := n.dial()
		defer conn.Close()
		io.WriteString(conn, "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || !resp.Close {
			t.Errorf("a handler that %s: %+v, %v", name, resp, err)
		}
	}
}
