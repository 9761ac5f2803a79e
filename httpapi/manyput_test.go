package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// batchNode serves POST /keys alone. When the test ends nothing of any request
// may be left: no goroutine, no part of a budget.
type batchNode struct {
	*node
	manyPuts *manyPuts
	handler  http.Handler
	streams  int64                                                                // that work at a time
	put      func(context.Context, kvstore.PutRequest) (kvstore.PutResult, error) // instead of db.Put
}

// batchDB is a fakeDB whose Put can be replaced.
type batchDB struct {
	*fakeDB
	n *batchNode
}

func (db batchDB) Put(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
	if db.n.put != nil {
		return db.n.put(ctx, r)
	}
	return db.fakeDB.Put(ctx, r)
}

// PutMany puts all at the same time.
func (db batchDB) PutMany(ctx context.Context, puts []kvstore.SmallPut, each func(i int, r kvstore.PutResult, err error)) {
	putEach(ctx, db, puts, each)
}

func newBatchNode(t *testing.T, adjust ...func(*DatabaseConfig)) *batchNode {
	t.Helper()
	n := &batchNode{node: &node{t: t, db: newFakeDB(), counters: &Counters{}}}
	cfg := DatabaseConfig{Counters: n.counters, SpillDir: t.TempDir()}
	for _, f := range adjust {
		f(&cfg)
	}
	cfg.DB, cfg.Cluster = batchDB{n.db, n}, &fakeCluster{leads: true}
	cfg.setDefaults()
	n.streams = int64(cfg.BatchStreams)
	n.manyPuts = newManyPuts(&cfg, &puts{db: cfg.DB, counters: cfg.Counters, limit: cfg.MaxValueBytes, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout})
	rt := newRouter(cfg.Counters, cfg.Logger, nil, nil, noRoute)
	rt.on(http.MethodPost, "/keys", putting, n.manyPuts.serve)
	gets := newManyGets(&cfg, budget.New(cfg.JSONBytesInFlight))
	rt.manyReads(gets)
	n.handler = rt.behind(cfg.BodyIdleTimeout, cfg.RequestsInFlight)
	server := httptest.NewUnstartedServer(n.handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	before := runtime.NumGoroutine()
	server.Start()
	n.url, n.addr = server.URL, server.Listener.Addr().String()
	t.Cleanup(func() {
		n.allOver()
		server.Close()
		eventually(t, "no goroutine is left", func() bool {
			http.DefaultClient.CloseIdleConnections()
			return runtime.NumGoroutine() <= before
		})
		for _, f := range []*sessions{n.manyPuts.frames, gets.sessions} {
			if left := f.places.Free(); left != int64(cfg.FramedStreams) {
				t.Errorf("%d of %d streams are free", left, cfg.FramedStreams)
			}
		}
		if left := gets.memory.Free(); left != cfg.JSONBytesInFlight {
			t.Errorf("%d of %d bytes for lines are free", left, cfg.JSONBytesInFlight)
		}
		if !n.manyPuts.slots.TryAcquire(batchPuts) || !n.manyPuts.memory.TryAcquire(max(cfg.BatchBytesInFlight, batchLongBytes)) {
			t.Error("a part of a budget is not given back")
		}
		if left, _ := filesIn(cfg.SpillDir); left > 0 {
			t.Errorf("%d files are left", left)
		}
	})
	return n
}

// allOver waits until no request in lines is left, and no part of what they share
// is held.
func (n *batchNode) allOver() {
	n.t.Helper()
	eventually(n.t, "every request is over", func() bool { return n.manyPuts.lines.places.Free() == n.streams+batchRestingStreams })
	if free := n.manyPuts.lines.working.Free(); free != n.streams {
		n.t.Errorf("%d of %d places to work in are free", free, n.streams)
	}
	if free := n.manyPuts.long.Free(); free != batchLongLines*batchLongBytes {
		n.t.Errorf("%d bytes for long lines are free", free)
	}
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			var stacks [1 << 16]byte
			t.Fatalf("not within %v: %s\n%s", patience, what, stacks[:runtime.Stack(stacks[:], true)])
		}
	}
}

// results reads result lines.
func results(t *testing.T, text string) (all []api.BatchResult) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r api.BatchResult
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %d is %q: %v", len(all)+1, line, err)
		}
		all = append(all, r)
	}
	return all
}

func statuses(all []api.BatchResult) string {
	var s []string
	for _, r := range all {
		s = append(s, r.Status)
	}
	return strings.Join(s, " ")
}

// open sends a request's head; the body is chunked and for the caller to send.
func (n *batchNode) open(header ...string) *net.TCPConn {
	n.t.Helper()
	conn := n.dial()
	n.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST /keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%s\r\n", strings.Join(append(header, ""), "\r\n"))
	return conn
}

func chunk(conn io.Writer, text string) error {
	_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(text), text)
	return err
}

// answerOn reads an answer's head; its body is read through the reader.
func (n *batchNode) answerOn(conn io.Reader) *bufio.Reader {
	n.t.Helper()
	in, ok := conn.(*bufio.Reader)
	if !ok {
		in = bufio.NewReader(conn)
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		n.t.Fatalf("read the answer: %v", err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != api.ContentTypeNDJSON || resp.Header.Get("Cache-Control") != "no-store" {
		n.t.Fatalf("answer %d, %v", resp.StatusCode, resp.Header)
	}
	return bufio.NewReader(resp.Body)
}

func doc(key, value string) string { return fmt.Sprintf(`{"key":%q,"value":%q}`+"\n", key, value) }

func TestBatch_Lines(t *testing.T) {
	n := newBatchNode(t)
	n.db.set("old", "", "v")
	body := doc("a", "one") + "\n \t\r\n" +
		doc("a", "one") + doc("a", "two") +
		`{"key_base64":"/w==","value":"AP8=","encoding":"base64","content_type":"image/x"}` + "\r\n" +
		doc("", "x") + `{"key":"b","value":1}` + "\n" + `{"Key":"b","value":"x"}` + "\n{\n[]\n\xff\n" + `{"key":"c","value":"x"} {}` + "\n" +
		doc("<&>", "") +
		`{"key":"old","value":"v"}` // without its line's end
	got := want(t, n.post("/keys", body, "Content-Type: application/x-www-form-urlencoded"), 200)
	wantHeader(t, got, "Content-Type", "application/x-ndjson")
	one, empty := hexSum("one"), hexSum("")
	all := results(t, got.body)
	rev := fmt.Sprint(all[0].Revision) // other keys may be set before it
	lines := strings.SplitAfter(got.body, "\n")
	for i, exact := range map[int]string{
		0:  `{"key":"a","status":"created","revision":` + rev + `,"sha256":"` + one + `","size":3}` + "\n",
		1:  `{"key":"a","status":"unchanged","revision":` + rev + `,"sha256":"` + one + `","size":3}` + "\n",
		2:  `{"key":"a","status":"conflict","revision":` + rev + `,"sha256":"` + one + `","size":3,"detail":"the key is set to other bytes since revision ` + rev + ` (3 bytes, sha256 ` + one + `), and cannot be changed; choose another key"}` + "\n",
		13: "",
	} {
		if lines[i] != exact {
			t.Errorf("result %d is\n%s, want\n%s", i+1, lines[i], exact)
		}
	}
	if s := statuses(all); s != "created unchanged conflict created invalid invalid invalid invalid invalid invalid invalid created unchanged" {
		t.Fatalf("statuses %q", s)
	}
	if r := all[3]; r.Key != "" || r.KeyBase64 != "/w==" || *r.Size != 2 {
		t.Errorf("binary key: %+v", r)
	}
	if v := n.db.values["\xff"]; v == nil || v.ContentType != "image/x" {
		t.Errorf("value %+v", v)
	}
	if r := all[11]; r.Key != "<&>" || *r.Size != 0 || r.SHA256 != empty || !strings.Contains(lines[11], `"<&>"`) {
		t.Errorf("empty value: %+v", r)
	}
	for i, r := range all[4:11] {
		if !strings.HasPrefix(r.Detail, fmt.Sprintf("line %d: ", i+7)) || r.Revision != 0 || r.Size != nil {
			t.Errorf("invalid: %+v", r)
		}
	}
	if got := []uint64{n.counters.Puts.Load(), n.counters.Created.Load(), n.counters.Unchanged.Load(), n.counters.Conflicts.Load()}; !slices.Equal(got, []uint64{6, 3, 2, 1}) {
		t.Errorf("counted %v", got)
	}
}

func TestBatch_NoLines(t *testing.T) {
	n := newBatchNode(t)
	for _, body := range []string{"", "\n", "\n\n \n"} {
		if got := want(t, n.post("/keys", body), 200); got.body != "" {
			t.Errorf("%q answers %q", body, got.body)
		}
	}
}

func TestBatch_Refused(t *testing.T) {
	n := newBatchNode(t)
	want(t, n.send("POST", "/keys", ""), 411).problem(t)
	want(t, n.post("/keys?on-conflict=keep", ""), 400).problem(t)
	want(t, n.post("/keys", "", "Content-Encoding: gzip"), 415).problem(t)
	want(t, n.post("/keys", "", "Sec-Fetch-Site: cross-site"), 403).problem(t)
	for _, line := range []string{"If-None-Match: *", `If-Match: "x"`, "Oncekv-Put-Id: x", "Content-Range: bytes 0-0/1", digestHeader("x")} {
		want(t, n.post("/keys", doc("a", "v"), line), 400).problem(t)
	}
	n.db.nothingSet(t)
}

// TestBatch_WhileSending: the answer begins before the first line, and each
// result comes before the next line is sent.
func TestBatch_WhileSending(t *testing.T) {
	n := newBatchNode(t)
	for _, header := range [][]string{nil, {"Expect: 100-continue"}} {
		conn := n.open(header...)
		raw := bufio.NewReader(conn)
		if header != nil {
			if resp, err := http.ReadResponse(raw, nil); err != nil || resp.StatusCode != 100 {
				t.Fatalf("%+v, %v", resp, err)
			}
		}
		in := n.answerOn(raw)
		for i := range 50 {
			chunk(conn, doc(fmt.Sprint("k", i), "v"))
			line, err := in.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, fmt.Sprintf(`{"key":"k%d","status":`, i)) {
				t.Fatalf("result %d: %q, %v", i, line, err)
			}
		}
		io.WriteString(conn, "0\r\n\r\n")
		if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
			t.Errorf("the end: %q, %v", rest, err)
		}
	}
}

// TestBatch_ResultsInOrder: lines are decided in the opposite order.
func TestBatch_ResultsInOrder(t *testing.T) {
	const lines = 2000
	n := newBatchNode(t)
	var mu sync.Mutex
	var gates []chan struct{}
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		gate := make(chan struct{})
		mu.Lock()
		gates = append(gates, gate)
		if len(gates) == lines {
			for _, g := range slices.Backward(gates) {
				close(g)
			}
		}
		mu.Unlock()
		<-gate
		return n.db.Put(ctx, r)
	}
	var body, wanted strings.Builder
	for i := range lines {
		body.WriteString(doc(fmt.Sprint("key", i), fmt.Sprint(i)))
		fmt.Fprintf(&wanted, "key%d %s\n", i, hexSum(fmt.Sprint(i)))
	}
	var got strings.Builder
	for _, r := range results(t, want(t, n.post("/keys", body.String()), 200).body) {
		fmt.Fprintf(&got, "%s %s\n", r.Key, r.SHA256)
	}
	if got.String() != wanted.String() {
		t.Error("the results are not in the order of the lines")
	}
}

// TestBatch_SameKey: lines with the same key are decided in their order, one
// at a time, however many others are being decided.
func TestBatch_SameKey(t *testing.T) {
	const keys, rounds = 97, 150
	n := newBatchNode(t)
	var mu sync.Mutex
	running := make(map[kvstore.Key]bool)
	lastOf := make(map[kvstore.Key]int)
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		text, _ := io.ReadAll(r.Body)
		var round int
		fmt.Sscan(string(text), &round)
		mu.Lock()
		if running[r.Key] || lastOf[r.Key] != round {
			t.Errorf("key %s: round %d comes after %d, running %v", r.Key, round, lastOf[r.Key], running[r.Key])
		}
		running[r.Key], lastOf[r.Key] = true, round+1
		mu.Unlock()
		for range int(r.Key[len(r.Key)-1]) % 7 {
			runtime.Gosched()
		}
		mu.Lock()
		running[r.Key] = false
		mu.Unlock()
		r.Body = bytes.NewReader(text)
		return n.db.Put(ctx, r)
	}
	var body strings.Builder
	for round := range rounds {
		for key := range keys {
			body.WriteString(doc(fmt.Sprint("k", key), fmt.Sprint(round)))
		}
	}
	for i, r := range results(t, want(t, n.post("/keys", body.String()), 200).body) {
		wanted := api.BatchConflict
		if i < keys {
			wanted = api.BatchCreated
		}
		if r.Status != wanted || r.SHA256 != hexSum("0") || r.Key != fmt.Sprint("k", i%keys) {
			t.Fatalf("line %d: %+v", i+1, r)
		}
	}
}

func TestBatch_Errors(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.AnswerTimeout = 2 * time.Second; c.MaxValueBytes = 3 })
	var tries atomic.Int64
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		switch r.Key {
		case "no leader":
			tries.Add(1)
			return kvstore.PutResult{}, kvstore.ErrUnavailable
		case "unknown":
			return kvstore.PutResult{}, kvstore.ErrOutcomeUnknown
		case "disk":
			return kvstore.PutResult{}, kvstore.ErrDiskReserve
		case "strange":
			return kvstore.PutResult{}, errors.New("strange")
		case "panic":
			panic("the database panics")
		case "late":
			<-ctx.Done()
			return kvstore.PutResult{}, ctx.Err()
		}
		return n.db.Put(ctx, r)
	}
	var body string
	for _, key := range []string{"ok", "no leader", "unknown", "disk", "strange", "panic", "late", "fine"} {
		body += doc(key, "v")
	}
	all := results(t, want(t, n.post("/keys", body+doc("large", "four")), 200).body)
	if s := statuses(all); s != "created failed unknown failed unknown unknown unknown created invalid" {
		t.Errorf("statuses %q", s)
	}
	for _, r := range all {
		if (r.Detail == "") != (r.Status == api.BatchCreated) {
			t.Errorf("detail of %+v", r)
		}
	}
	if tries.Load() < 2 {
		t.Errorf("%d tries without a leader", tries.Load())
	}
}

// TestBatch_Overload is waited out: no line fails for it.
func TestBatch_Overload(t *testing.T) {
	n := newBatchNode(t)
	var refused atomic.Int64
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		switch i := refused.Add(1); {
		case i < 2000 && i%2 == 0:
			return kvstore.PutResult{}, kvstore.ErrOverloaded
		case i < 2000 && i%3 == 0:
			return kvstore.PutResult{}, kvstore.ErrTooManyUploads
		}
		return n.db.Put(ctx, r)
	}
	var body strings.Builder
	for i := range 3000 {
		body.WriteString(doc(fmt.Sprint(i), fmt.Sprint("value", i)))
	}
	for i, r := range results(t, want(t, n.post("/keys", body.String()), 200).body) {
		if r.Status != api.BatchCreated || r.SHA256 != hexSum(fmt.Sprint("value", i)) {
			t.Fatalf("line %d: %+v", i+1, r)
		}
	}
}

func TestBatch_LongLines(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.BatchBytesInFlight = 1 })
	long := strings.Repeat("x", 3<<20)
	var body strings.Builder
	for i := range 5 {
		body.WriteString(doc(fmt.Sprint("long", i), long) + doc(fmt.Sprint("short", i), "v") + strings.Repeat(" ", 1<<17) + "\n")
	}
	all := results(t, want(t, n.post("/keys", body.String()), 200).body)
	if s := statuses(all); len(all) != 10 || strings.Contains(s, "invalid") || *all[8].Size != 3<<20 {
		t.Errorf("statuses %q", s)
	}
	limit := `{"key":"limit","value":"` + strings.Repeat("y", batchLineBytesMax-26) + `"}`
	all = results(t, want(t, n.post("/keys", doc("b", "v")+"\n"+limit+"\n"+doc("c", "v")+limit+" \n"+doc("d", "v")), 200).body)
	if s := statuses(all); s != "created created created error" {
		t.Fatalf("statuses %q", s)
	}
	if e := all[3]; e.Type != api.ProblemTooLarge || e.Line != 5 || !strings.Contains(e.Detail, "line 5") {
		t.Errorf("error line %+v", e)
	}
	if n.db.values["d"] != nil {
		t.Error("a line behind the end was put")
	}
}

// TestBatch_SendsBeforeItReads: all results wait in the file.
func TestBatch_SendsBeforeItReads(t *testing.T) {
	const lines = 100_000
	n := newBatchNode(t)
	in := n.sendAll(lines, "v")
	for i := range lines {
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, fmt.Sprintf(`{"key":"key%d","status":"created"`, i)) {
			t.Fatalf("result %d: %q, %v", i, line, err)
		}
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("the end: %q, %v", rest, err)
	}
}

// sendAll sends lines without reading, and then returns the answer.
func (n *batchNode) sendAll(lines int, value string) *bufio.Reader {
	n.t.Helper()
	conn := n.open()
	// The kernel would keep tens of megabytes that are not read, and as many
	// that are not sent.
	if err := errors.Join(conn.SetReadBuffer(64<<10), conn.SetWriteBuffer(64<<10)); err != nil {
		n.t.Fatal(err)
	}
	out := bufio.NewWriter(conn)
	for i := range lines {
		if err := chunk(out, doc(fmt.Sprint("key", i), value)); err != nil {
			n.t.Fatalf("line %d: %v", i+1, err)
		}
	}
	out.WriteString("0\r\n\r\n")
	if err := out.Flush(); err != nil {
		n.t.Fatal(err)
	}
	return n.answerOn(conn)
}

// TestBatch_SpillFull: when the results do not fit, the stream ends with a line
// that says so; every line before it has its result and the rest is not put.
func TestBatch_SpillFull(t *testing.T) {
	for _, limit := range []int64{-1, 1 << 20} {
		n := newBatchNode(t, func(c *DatabaseConfig) { c.SpillBytes = limit; c.BodyIdleTimeout = 2 * time.Minute })
		n.manyPuts.stall = 5 * time.Second // a disk that others keep busy may stand still for longer than that
		text, err := io.ReadAll(n.sendAll(75_000, strings.Repeat("v", 290)))
		if err != nil {
			t.Fatal(err)
		}
		all := results(t, string(text))
		last := all[len(all)-1]
		if last.Status != api.BatchError || last.Type != api.ProblemOverloaded || last.Line != uint64(len(all)) {
			t.Fatalf("the last of %d lines is %+v", len(all), last)
		}
		for i, r := range all[:len(all)-1] {
			if r.Status != api.BatchCreated || r.Key != fmt.Sprint("key", i) {
				t.Fatalf("line %d: %+v", i+1, r)
			}
		}
		if n.db.values[kvstore.Key(fmt.Sprint("key", len(all)-1))] != nil || len(n.db.values) != len(all)-1 {
			t.Errorf("%d keys are set, %d have results", len(n.db.values), len(all)-1)
		}
	}
}

// TestBatch_NeverReads: a client that takes nothing is given up, however much
// it sent.
func TestBatch_NeverReads(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.SpillBytes = -1; c.BodyIdleTimeout = time.Second })
	conn := n.open()
	conn.SetReadBuffer(4096)
	go func() {
		out := bufio.NewWriter(conn)
		for i := 0; chunk(out, doc(fmt.Sprint("key", i), "v")) == nil && i < 300_000; i++ {
		}
		out.Flush()
	}()
	eventually(t, "the request has begun", func() bool { return n.manyPuts.lines.places.Free() == n.streams+batchRestingStreams-1 })
	eventually(t, "the request is given up", func() bool { return n.manyPuts.lines.places.Free() == n.streams+batchRestingStreams })
	conn.Close()
}

// TestBatch_ClientGoes: what is not decided is cancelled.
func TestBatch_ClientGoes(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){
		"closes":      func(c *net.TCPConn) { c.Close() },
		"resets":      func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"half a line": func(c *net.TCPConn) { chunk(c, `{"key":"half`); c.CloseWrite() },
		"rubbish":     func(c *net.TCPConn) { io.WriteString(c, "rubbish\r\n") },
		"at the end":  func(c *net.TCPConn) { io.WriteString(c, "0\r\n\r\n"); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newBatchNode(t)
			var begun, cancelled atomic.Int64
			n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
				begun.Add(1)
				<-ctx.Done()
				cancelled.Add(1)
				return kvstore.PutResult{}, kvstore.ErrUnavailable
			}
			conn := n.open()
			for i := range 500 {
				chunk(conn, doc(fmt.Sprint("k", i%400), "v"))
			}
			eventually(t, "the puts run", func() bool { return begun.Load() == 400 })
			leave(conn)
			eventually(t, "the request is over", func() bool { return n.manyPuts.lines.places.Free() == n.streams+batchRestingStreams })
			if begun.Load() != 400 || cancelled.Load() != 400 {
				t.Errorf("%d puts begun, %d ended", begun.Load(), cancelled.Load())
			}
		})
	}
}

// TestBatch_Silent: a client that sends nothing more is told so.
func TestBatch_Silent(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout = 2 * time.Second })
	conn := n.open()
	chunk(conn, doc("a", "v")+`{"key":"b",`)
	text, _ := io.ReadAll(n.answerOn(conn))
	all := results(t, string(text))
	if s := statuses(all); s != "created error" {
		t.Fatalf("statuses %q", s)
	}
	if e := all[1]; e.Type != api.ProblemTimeout || e.Line != 2 {
		t.Errorf("error line %+v", e)
	}
}

// TestBatch_Closing: every line that was read has a result, and the last line
// says where to go on.
func TestBatch_Closing(t *testing.T) {
	closing := make(chan struct{})
	n := newBatchNode(t, func(c *DatabaseConfig) { c.Closing = closing })
	begun := make(chan struct{}, 3)
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		begun <- struct{}{}
		switch r.Key {
		case "late":
			<-closing
		case "never":
			<-ctx.Done()
			return kvstore.PutResult{}, kvstore.ErrOutcomeUnknown
		}
		return n.db.Put(ctx, r)
	}
	conn := n.open()
	in := n.answerOn(conn)
	chunk(conn, doc("a", "v")+doc("late", "v")+doc("never", "v")+doc("never", "w")+`{"key":"half`)
	for range 3 {
		<-begun
	}
	first, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fourth line is read", func() bool {
		if n.manyPuts.slots.TryAcquire(batchPuts - 2) { // "a" has given its own back
			n.manyPuts.slots.Release(batchPuts - 2)
			return false
		}
		return true
	})
	close(closing)
	text, err := io.ReadAll(in)
	all := results(t, first+string(text))
	if s := statuses(all); err != nil || s != "created created unknown failed error" {
		t.Fatalf("statuses %q, %v", s, err)
	}
	if e := all[4]; e.Type != api.ProblemUnavailable || e.Line != 5 || !strings.Contains(e.Detail, "stopping") {
		t.Errorf("error line %+v", e)
	}
	want(t, n.post("/keys", doc("b", "v")), 503).problem(t)
}

// TestBatch_TooManyStreams: a stream that works keeps its place, and the next one
// hears so.
func TestBatch_TooManyStreams(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.BatchStreams = 1 })
	taken, gate := make(chan struct{}, 1), make(chan struct{})
	n.put = func(context.Context, kvstore.PutRequest) (kvstore.PutResult, error) {
		taken <- struct{}{}
		<-gate
		return kvstore.PutResult{}, nil
	}
	conn := n.open()
	n.answerOn(conn)
	chunk(conn, doc("a", "v"))
	<-taken
	got := want(t, n.post("/keys", doc("a", "v")), 429)
	got.problem(t)
	if got.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	close(gate)
	conn.Close()
	n.allOver()
	want(t, n.post("/keys", doc("a", "v")), 200)
}

// TestBatch_Memory: what a request holds does not depend on its lines.
func TestBatch_Memory(t *testing.T) {
	lines := 100_000
	if !testing.Short() {
		lines = 300_000
	}
	n := newBatchNode(t)
	n.put = func(context.Context, kvstore.PutRequest) (kvstore.PutResult, error) {
		return kvstore.PutResult{Outcome: kvstore.Unchanged}, nil // keeps nothing
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := heap()
	start := time.Now()
	var during uint64
	body, feed := io.Pipe()
	go func() {
		out := bufio.NewWriterSize(feed, 1<<16)
		for i := range lines {
			if i == lines/2 {
				during = heap()
			}
			out.WriteString(doc(fmt.Sprintf("%032d", i), strings.Repeat("v", 256)))
		}
		out.Flush()
		feed.Close()
	}()
	resp, err := http.Post(n.url+"/keys", "", body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	got := 0
	for in.Scan() {
		got++
	}
	if got != lines || in.Err() != nil {
		t.Fatalf("%d results of %d, %v", got, lines, in.Err())
	}
	took := time.Since(start)
	t.Logf("%d lines in %v (%.0f/s); memory %d KiB before, %d during, %d after", lines, took, float64(lines)/took.Seconds(), before>>10, during>>10, heap()>>10)
	if during > before+64<<20 {
		t.Errorf("memory grew from %d to %d bytes", before, during)
	}
}
