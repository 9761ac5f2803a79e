package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

func forwardTo(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, FlushInterval: -1}
}

// stream is an open answer of GET /changes.
type stream struct {
	resp  *http.Response
	lines *bufio.Reader
	err   error // io.EOF after a clean end
}

// open begins a stream; header lines are "Name: value".
func (n *node) open(t *testing.T, target string, header ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("%s: %d %v", target, resp.StatusCode, resp.Header)
	}
	return &stream{resp: resp, lines: bufio.NewReader(resp.Body)}
}

// next returns the next line, "" at the end.
func (s *stream) next() string {
	line, err := s.lines.ReadString('\n')
	s.err = err
	return strings.TrimSuffix(line, "\n")
}

// change fails unless the next line is a change, of this revision.
func (s *stream) change(t *testing.T, revision uint64) api.Change {
	t.Helper()
	line := s.next()
	var c api.Change
	if err := json.Unmarshal([]byte(line), &c); err != nil || c.Revision != revision || c.SHA256 == "" {
		t.Fatalf("line %q, %v; want revision %d", line, s.err, revision)
	}
	return c
}

// mark fails unless the next line is a mark.
func (s *stream) mark(t *testing.T, event string) api.ChangesMark {
	t.Helper()
	line := s.next()
	var m api.ChangesMark
	if err := json.Unmarshal([]byte(line), &m); err != nil || m.Event != event {
		t.Fatalf("line %q, %v; want event %q", line, s.err, event)
	}
	return m
}

// ended fails unless the stream has come to a clean end.
func (s *stream) ended(t *testing.T) {
	t.Helper()
	if line := s.next(); line != "" || s.err != io.EOF {
		t.Fatalf("line %q, %v; want the end", line, s.err)
	}
}

func TestChanges_Lines(t *testing.T) {
	n, h := newHistoryNode(t)
	before := time.Now()
	h.set("a<b", "text/x-a", "one\n")
	h.set("b/\xff", "", "\xff\x00")
	h.set("c", "", "")
	h.set("./large", "", strings.Repeat("x", api.ChangeValueBytesMax+1))
	h.set("d/max", "", strings.Repeat("\x01", api.ChangeValueBytesMax))

	got := want(t, n.get("/changes"), 200)
	wantHeader(t, got, "Content-Type", "application/x-ndjson")
	wantHeader(t, got, "Cache-Control", "no-store")
	lines := strings.SplitAfter(got.body, "\n")
	if len(lines) != 6 || lines[5] != "" {
		t.Fatalf("%d lines: %q", len(lines), got.body)
	}
	var first api.Change
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Time.Before(before.Add(-time.Second)) {
		t.Fatalf("%+v, %v", first, err)
	}
	at := first.Time.Format(time.RFC3339Nano)
	if line := fmt.Sprintf(`{"key":"a<b","revision":1,"sha256":"%s","size":4,"content_type":"text/x-a","time":"%s"}`+"\n", hexSum("one\n"), at); lines[0] != line {
		t.Errorf("line %q, want %q", lines[0], line)
	}

	lines = strings.SplitAfter(want(t, n.get("/changes?values=true&since=0&follow=false"), 200).body, "\n")
	for i, end := range []string{`,"value":"one\n"}`, `,"value":"/wA=","encoding":"base64"}`, `,"value":""}`, `,"location":"/key?key=.%2Flarge"}`, `\u0001"}`} {
		if !strings.HasSuffix(lines[i], end+"\n") {
			t.Errorf("line %d ends with %q, want %q", i, lines[i][max(0, len(lines[i])-60):], end)
		}
	}
	if !strings.Contains(lines[1], `{"key_base64":"Yi//","revision":2`) {
		t.Errorf("binary key: %q", lines[1])
	}
	for query, revisions := range map[string]string{
		"since=3": "4 5 ", "since=5": "", "since=1&limit=2": "2 3 ", "prefix=b": "2 ", "limit=1000000": "1 2 3 4 5 ", "prefix=zz": "", "since=99&consistency=local": "",
	} {
		if got := revisionsIn(t, want(t, n.get("/changes?"+query), 200).body); got != revisions {
			t.Errorf("%s: revisions %q, want %q", query, got, revisions)
		}
	}
	if got := want(t, n.send("HEAD", "/changes?follow=true", ""), 200); got.body != "" || got.header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("HEAD: %q %v", got.body, got.header)
	}
}

func revisionsIn(t *testing.T, body string) (list string) {
	t.Helper()
	for line := range strings.Lines(body) {
		var c api.Change
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		list += fmt.Sprint(c.Revision, " ")
	}
	return list
}

func TestChanges_BadParameters(t *testing.T) {
	n, h := newHistoryNode(t)
	h.set("k", "", "v")
	for _, query := range []string{
		"since=x", "since=", "since=-1", "since=+1", "since=1.5", "since=18446744073709551616", "since=1&since=1", "history=", "history=1", "history=00000000000000000000000000000000", "history=0000000000000000000000000000000A",
		"limit=0", "limit=x", "limit=-1", "values=yes", "follow=1", "follow=", "prefix=a;b", "prefix=%00", "after=x", "consistency=x",
	} {
		want(t, n.get("/changes?"+query), 400).problem(t)
	}
	events := "Accept: text/event-stream"
	want(t, n.get("/changes?follow=false", events), 400).problem(t)
	want(t, n.get("/changes", events, "Last-Event-ID: x"), 400).problem(t)
	want(t, n.get("/changes", events, "Last-Event-ID: 1 "+"2"), 400).problem(t)
	want(t, n.get("/changes?since=x", events, "Last-Event-ID: 1"), 400).problem(t)
	for _, id := range []string{"1.", "1.2", ".", "1." + historyOf(1).ID.String() + ".", "1," + historyOf(1).ID.String()} {
		want(t, n.get("/changes", events, "Last-Event-ID: "+id), 400).problem(t)
	}
	// Of lines, the header is none of our business.
	want(t, n.get("/changes", "Last-Event-ID: x"), 200)
}

// TestChanges_SameEverywhere: replicas answer with the same bytes, whatever
// each has committed and indexed.
func TestChanges_SameEverywhere(t *testing.T) {
	n, h := newHistoryNode(t)
	for i := range 1300 {
		h.set(fmt.Sprintf("k/%d", i*7919%1300), "", fmt.Sprint("value ", i))
	}
	other := serveHistory(t, h.replica())
	for _, query := range []string{"", "since=600", "values=true&prefix=k/1", "limit=700"} {
		one, two := want(t, n.get("/changes?"+query), 200), want(t, other.get("/changes?"+query), 200)
		if one.body != two.body || one.body == "" {
			t.Errorf("%s: %d and %d bytes differ", query, len(one.body), len(two.body))
		}
	}
}

func TestChanges_Follow(t *testing.T) {
	n, h := newHistoryNode(t)
	h.set("before", "", "1")
	s := n.open(t, "/changes?follow=true&values=true")
	if got := s.resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("content type %q", got)
	}
	s.change(t, 1)
	ahead := n.open(t, "/changes?follow=true&since=4&limit=2&consistency=local") // beyond the newest: waits
	filtered := n.open(t, "/changes?follow=true&prefix=x/&limit=1")
	h.set("pending", "", "2")
	s.change(t, 2)
	if err := h.store.Commit(); err != nil {
		t.Fatal(err)
	}
	h.set("behind a commit", "", "3")
	s.change(t, 3)
	if err := h.store.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	h.set("x/behind a flush", "", "4")
	if c := s.change(t, 4); *c.Value != "4" {
		t.Errorf("value %q", *c.Value)
	}
	filtered.change(t, 4)
	filtered.ended(t) // that was its limit
	h.set("five", "", "5")
	h.set("six", "", "6")
	ahead.change(t, 5)
	ahead.change(t, 6)
	ahead.ended(t)
}

// TestChanges_FollowALot: a follower sees each revision once, in order, while
// puts, commits and flushes go on.
func TestChanges_FollowALot(t *testing.T) {
	n, h := newHistoryNode(t)
	const puts = 3000
	s := n.open(t, fmt.Sprint("/changes?follow=true&limit=", puts))
	go func() {
		for i := range puts {
			h.set(fmt.Sprint("k/", i), "", "v")
			if i%500 == 250 {
				if err := h.store.FlushIndex(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for i := range puts {
		if c := s.change(t, uint64(i+1)); c.Key != fmt.Sprint("k/", i) {
			t.Fatalf("revision %d is %q", i+1, c.Key)
		}
	}
	s.ended(t)
}

func TestChanges_Heartbeats(t *testing.T) {
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.Heartbeat = 10 * time.Millisecond })
	s := n.open(t, "/changes?follow=true&prefix=x/")
	if m := s.mark(t, api.EventHeartbeat); m.Revision != 0 || m.Reason != "" {
		t.Errorf("%+v", m)
	}
	h.set("y/1", "", "")
	h.set("y/2", "", "")
	for {
		if m := s.mark(t, api.EventHeartbeat); m.Revision == 2 {
			break // scanned, though nothing of it was sent
		}
	}
	events := n.open(t, "/changes?prefix=x/", "Accept: text/html;q=0.1, text/event-stream")
	for _, line := range []string{"id: 2", "event: heartbeat", `data: {"event":"heartbeat","revision":2}`, ""} {
		if got := events.next(); got != line {
			t.Errorf("line %q, want %q", got, line)
		}
	}
}

func TestChanges_Events(t *testing.T) {
	n, h := newHistoryNode(t)
	for i := range 5 {
		h.set(fmt.Sprint("k", i), "", "v\n")
	}
	event := func(s *stream, revision int) {
		t.Helper()
		id, data, end := s.next(), s.next(), s.next()
		if id != fmt.Sprint("id: ", revision) || !strings.HasPrefix(data, fmt.Sprintf(`data: {"key":"k%d","revision":%d,`, revision-1, revision)) || end != "" || s.err != nil {
			t.Fatalf("event %q %q %q, %v; want revision %d", id, data, end, s.err, revision)
		}
	}
	s := n.open(t, "/changes?since=3&values=true", "Accept: text/event-stream")
	if got := s.resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	event(s, 4)
	event(s, 5)
	s.resp.Body.Close()
	// What a browser does after a break: the same URL and what it saw last.
	s = n.open(t, "/changes?since=3&values=true", "Accept: text/event-stream", "Last-Event-ID: 4")
	event(s, 5)
	h.set("k5", "", "v")
	event(s, 6)
	s = n.open(t, "/changes?since=3", "Accept: text/event-stream", "Last-Event-ID: 0")
	event(s, 1)
}

func TestChanges_Accept(t *testing.T) {
	for accept, events := range map[string]bool{
		"": false, "*/*": false, "text/*": false, "text/event-stream": true, "Text/Event-Stream; charset=utf-8": true, "text/event-stream;q=0": false,
		"text/event-stream;q=0.0, application/x-ndjson": false, "application/json, text/event-stream;q=0.5": true, ",;": false,
	} {
		if got := wantsEvents(http.Header{"Accept": {accept}}); got != events {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

func TestChanges_ClosingEndsStreams(t *testing.T) {
	closing := make(chan struct{})
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.Closing = closing })
	h.set("k", "", "v")
	lines, events := n.open(t, "/changes?follow=true"), n.open(t, "/changes", "Accept: text/event-stream", "Last-Event-ID: 1")
	lines.change(t, 1)
	close(closing)
	if m := lines.mark(t, api.EventEnd); m.Reason != api.EndClosing || m.Revision != 1 || !strings.Contains(m.Detail, "another node") {
		t.Errorf("%+v", m)
	}
	lines.ended(t)
	for _, line := range []string{"id: 1", "event: end"} {
		if got := events.next(); got != line {
			t.Errorf("line %q, want %q", got, line)
		}
	}
	events.next() // data
	events.next() // the empty line
	events.ended(t)
	want(t, n.get("/changes?follow=true"), 503).problem(t)
	want(t, n.get("/keys"), 200) // in flight, or answered quickly anyway
}

// TestChanges_ServerStops: a server with followers shuts down at once.
func TestChanges_ServerStops(t *testing.T) {
	closing := make(chan struct{})
	server := &http.Server{Handler: NewDatabase(DatabaseConfig{DB: newHistory(t), Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, Closing: closing})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	n := &node{t: t, url: "http://" + ln.Addr().String()}
	var open []*stream
	for range 20 {
		open = append(open, n.open(t, "/changes?follow=true"))
	}
	close(closing)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Errorf("the server does not stop: %v", err)
	}
	for _, s := range open {
		s.mark(t, api.EventEnd)
		s.ended(t)
	}
	<-served
}

// TestChanges_CutListIsBrokenOff: half a list must not pass for all of it.
func TestChanges_CutListIsBrokenOff(t *testing.T) {
	n, h := newHistoryNode(t)
	for i := range partRecords + 10 {
		h.set(fmt.Sprint("k", i), "", "v")
	}
	h.failAt = 2
	for _, target := range []string{"/changes", "/changes?follow=true"} {
		h.mu.Lock()
		h.changes = 0
		h.mu.Unlock()
		s := n.open(t, target)
		line, sent := s.next(), 0
		for ; strings.HasPrefix(line, `{"key":`); line = s.next() {
			sent++
		}
		if !strings.HasPrefix(line, fmt.Sprintf(`{"event":"end","revision":%d,"reason":"failed",`, sent)) || sent == 0 || sent > partRecords {
			t.Errorf("%s: after %d lines %q", target, sent, line)
		}
		s.next()
		if follows := strings.Contains(target, "follow"); follows != (s.err == io.EOF) {
			t.Errorf("%s: it ends with %v", target, s.err)
		}
	}
}

// TestChanges_StreamsGiveWay: followers that wait keep nobody from reading. The one
// that has waited longest is told where to go on.
func TestChanges_StreamsGiveWay(t *testing.T) {
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.StreamsMax = 2 })
	h.set("k", "", "v")
	first := n.open(t, "/changes?follow=true")
	second := n.open(t, "/changes?follow=true")
	for _, s := range []*stream{first, second} {
		s.change(t, 1)
	}
	want(t, n.get("/changes"), 200)
	// The one that has waited longest: who began to wait first, nobody can tell here.
	ends := make(chan string, 2)
	for _, s := range []*stream{first, second} {
		go func() { ends <- s.next() }()
	}
	var m api.ChangesMark
	if line := <-ends; json.Unmarshal([]byte(line), &m) != nil || m.Event != api.EventEnd || m.Reason != api.EndOverloaded || m.Revision != 1 {
		t.Errorf("a stream ends with %q", line)
	}
	select {
	case line := <-ends:
		t.Errorf("the other one goes on with %q", line)
	default:
	}
}

func TestChanges_NoMemory(t *testing.T) {
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.JSONBytesInFlight, c.AnswerTimeout = 1000, 50*time.Millisecond })
	h.set("k", "", "v")
	s := n.open(t, "/changes?follow=true")
	if m := s.mark(t, api.EventEnd); m.Reason != api.EndOverloaded || m.Revision != 0 {
		t.Errorf("%+v", m)
	}
	s.ended(t)
}

// lateWriter is a client that takes everything, but lets the server wait before
// it takes the first change.
type lateWriter struct {
	*httptest.ResponseRecorder
	wait time.Duration
}

func (w *lateWriter) Write(p []byte) (int, error) {
	<-time.After(w.wait)
	return w.ResponseRecorder.Write(p)
}

func (w *lateWriter) SetWriteDeadline(time.Time) error { return nil }

// TestChanges_SlowFollowerIsTold: who takes long over some piece, but takes it,
// gets a last line that says so. A list that does not follow is never hurried.
func TestChanges_SlowFollowerIsTold(t *testing.T) {
	h := newHistory(t)
	h.set("k", "", "v")
	const idle = 100 * time.Millisecond
	api := NewDatabase(DatabaseConfig{DB: h, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, BodyIdleTimeout: idle})
	for target, event := range map[string]string{"/changes?follow=true": `{"event":"end","revision":1,"reason":"slow","detail":`, "/changes": ""} {
		w := &lateWriter{httptest.NewRecorder(), idle * 6 / 10}
		api.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		_, last, _ := strings.Cut(w.Body.String(), "\n")
		if !strings.HasPrefix(last, event) || event == "" && last != "" {
			t.Errorf("%s: ends with %q", target, last)
		}
	}
}

// TestChanges_StuckFollowerIsDropped: who takes nothing at all does not keep a
// stream.
func TestChanges_StuckFollowerIsDropped(t *testing.T) {
	h := newHistory(t)
	for i := range 64 {
		h.set(fmt.Sprint("k", i), "", strings.Repeat("x", 1<<20))
	}
	n := serveHistory(t, h, func(c *DatabaseConfig) { c.BodyIdleTimeout, c.StreamsMax = 200*time.Millisecond, 1 })
	conn := n.dial()
	defer conn.Close()
	fmt.Fprintf(conn, "GET /changes?follow=true&values=true HTTP/1.1\r\nHost: %s\r\n\r\n", n.addr)
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for n.get("/changes?limit=1").status != 200 {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the stream is still there")
		}
	}
	got, err := io.ReadAll(conn)
	if strings.HasSuffix(string(got), "\r\n0\r\n\r\n") || os.IsTimeout(err) {
		t.Errorf("the stream ended as if it were complete, or not at all: %v", err)
	}
}

func TestChanges_LargeValuesShareMemory(t *testing.T) {
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.JSONBytesInFlight, c.AnswerTimeout = 16<<20, patience })
	value := strings.Repeat("x", 1<<20)
	for i := range 8 {
		h.set(fmt.Sprint("k", i), "", value)
	}
	done := make(chan string, 4)
	for range 4 {
		go func() {
			resp, err := http.Get(n.url + "/changes?values=true")
			if err != nil {
				done <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			done <- fmt.Sprint(strings.Count(string(body), "\n"), err)
		}()
	}
	for range 4 {
		if got := <-done; got != "8 <nil>" {
			t.Errorf("read %s", got)
		}
	}
}

var _ Lister = (*kvstore.DB)(nil)
