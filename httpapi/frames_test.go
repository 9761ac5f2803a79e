package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// frames is a request in frames that is under way.
type frames struct {
	t    *testing.T
	conn *net.TCPConn
	in   *frame.Reader
}

// frames begins a request and takes the head of its answer.
func (n *node) frames(path string) *frames {
	n.t.Helper()
	conn := n.dial()
	n.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", path, api.ContentTypeFrames)
	return &frames{t: n.t, conn: conn, in: frame.NewReader(framesOn(n.t, conn))}
}

// answerOn takes the head of an answer.
func answerOn(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	return resp
}

func framesOn(t *testing.T, conn net.Conn) io.Reader {
	t.Helper()
	resp := answerOn(t, conn)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != api.ContentTypeFrames || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("answer %d, %v", resp.StatusCode, resp.Header)
	}
	return resp.Body
}

func (f *frames) send(b []byte) { chunk(f.conn, string(b)) }

func (f *frames) put(p frame.Put) { f.send(frame.AppendPut(nil, &p)) }

func (f *frames) get(ids []uint32, key func(id uint32) string, local bool) {
	var b []byte
	for _, id := range ids {
		b = frame.AppendGet(b, &frame.Get{ID: id, Key: key(id), Local: local})
	}
	f.send(b)
}

func (f *frames) end() { io.WriteString(f.conn, "0\r\n\r\n") }

// next takes an answer: a *frame.Set, *frame.Value or *frame.Problem, or the id
// of a large value. nil is the orderly end.
func (f *frames) next() any {
	f.t.Helper()
	answer, err := f.in.Next()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		f.t.Fatalf("read an answer: %v", err)
	}
	var got any
	switch answer.Kind {
	case frame.KindSet:
		v, e := answer.Set()
		got, err = &v, e
	case frame.KindValue:
		v, e := answer.Value()
		v.Value = bytes.Clone(v.Value)
		got, err = &v, e
	case frame.KindProblem:
		v, e := answer.Problem()
		got, err = &v, e
	case frame.KindLarge:
		got, err = answer.ID, answer.Large()
	default:
		f.t.Fatalf("a %v frame", answer.Kind)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return got
}

func (f *frames) wantEnd() {
	f.t.Helper()
	if got := f.next(); got != nil {
		f.t.Errorf("behind the last answer: %+v", got)
	}
}

// documentOfFrame is a problem frame as the document of a single request.
func documentOfFrame(p *frame.Problem) api.Problem {
	d := api.Problem{Type: p.Type, Title: p.Title, Status: int(p.Status), Detail: p.Detail, LimitBytes: int64(p.Limit)}
	if p.HasWinner {
		size := int64(p.Winner.Size)
		d.Revision, d.SHA256, d.Size = p.Winner.Revision, hex.EncodeToString(p.Winner.Digest[:]), &size
	}
	return d
}

// TestFramedPuts_SameAsPut: a put in a frame is answered as PUT /key/{key} is.
func TestFramedPuts_SameAsPut(t *testing.T) {
	n := newBatchNode(t)
	f := n.frames("/keys")
	alone := newNode(t)
	steps := []struct {
		put frame.Put
	}{
		{put: frame.Put{Key: "a", Value: []byte("one"), PutID: "first"}},
		{put: frame.Put{Key: "a", Value: []byte("one"), PutID: "first"}},
		{put: frame.Put{Key: "a", Value: []byte("one"), PutID: "first", IfAbsent: true}},
		{put: frame.Put{Key: "a", Value: []byte("one")}},
		{put: frame.Put{Key: "a", Value: []byte("one"), IfAbsent: true}},
		{put: frame.Put{Key: "a", Value: []byte("two")}},
		{put: frame.Put{Key: "a", Value: []byte("two"), IfAbsent: true}},
		{put: frame.Put{Key: "a", Value: []byte("two"), Keep: true}},
		{put: frame.Put{Key: "b", Value: []byte("x"), HasDigest: true, Digest: sha256.Sum256([]byte("y"))}},
		{put: frame.Put{Key: "b", Value: []byte("y"), HasDigest: true, Digest: sha256.Sum256([]byte("y")), ContentType: "text/x-b"}},
		{put: frame.Put{Key: "c", Value: []byte("y"), ContentType: "no/type/at all"}},
		{put: frame.Put{Key: "d", Value: []byte{}, ContentType: "application/x-www-form-urlencoded"}},
		{put: frame.Put{Key: strings.Repeat("k", 1024), Value: []byte("v")}},
		{put: frame.Put{Key: "\xff/../ +", Value: []byte("\x00\xff")}},
	}
	for i, step := range steps {
		p := step.put
		p.ID = uint32(1000 - i)
		f.put(p)
		got := f.next()
		var headers []string
		for name, value := range map[string]string{"Content-Type": p.ContentType, api.HeaderPutID: p.PutID} {
			if value != "" {
				headers = append(headers, name+": "+value)
			}
		}
		if p.IfAbsent {
			headers = append(headers, "If-None-Match: *")
		}
		if p.HasDigest {
			headers = append(headers, digestHeader("y"))
		}
		target := api.KeyTarget(p.Key, nil)
		if p.Keep {
			target += "?on-conflict=keep"
		}
		single := alone.put(target, string(p.Value), headers...)
		if set, ok := got.(*frame.Set); ok {
			body := fmt.Sprintf(`"revision":%d,"sha256":"%x","size":%d,"created":%v}`, set.Revision, set.Digest, set.Size, set.Created)
			if set.ID != p.ID || single.status > 201 || !strings.Contains(single.body, body) {
				t.Errorf("step %d: %+v, alone %d %s", i, set, single.status, single.body)
			}
			continue
		}
		problem := got.(*frame.Problem)
		if single.status < 400 {
			t.Errorf("step %d: %+v, alone %d %s", i, problem, single.status, single.body)
			continue
		}
		want, document := single.problem(t), documentOfFrame(problem)
		if problem.ID != p.ID || fmt.Sprintf("%+v %v", withoutSize(document), sizeOf(document)) != fmt.Sprintf("%+v %v", withoutSize(want), sizeOf(want)) {
			t.Errorf("step %d:\n%+v, alone\n%+v", i, document, want)
		}
	}
	f.put(frame.Put{ID: 7, Key: "", Value: []byte("v")})
	f.put(frame.Put{ID: 8, Key: "e", Value: []byte("v"), PutID: "a b"})
	for range 2 {
		if p, ok := f.next().(*frame.Problem); !ok || p.Status != 400 || p.Type != api.ProblemInvalid {
			t.Errorf("bad key or id: %+v", p)
		}
	}
	f.end()
	f.wantEnd()
	for key, v := range alone.db.values {
		if got := n.db.values[key]; got == nil || got.SHA256 != v.SHA256 || got.ContentType != v.ContentType {
			t.Errorf("%q is %+v, alone %+v", key, got, v)
		}
	}
	if len(n.db.values) != len(alone.db.values) || n.counters.Puts.Load() != alone.counters.Puts.Load() || n.counters.Created.Load() != alone.counters.Created.Load() {
		t.Errorf("%d keys and %d puts, alone %d and %d", len(n.db.values), n.counters.Puts.Load(), len(alone.db.values), alone.counters.Puts.Load())
	}
}

func withoutSize(p api.Problem) api.Problem { p.Size = nil; return p }

func sizeOf(p api.Problem) int64 {
	if p.Size == nil {
		return -1
	}
	return *p.Size
}

// TestFramedPuts_Errors: what the database says is told as to a single put, and
// a panic is one put's failure.
func TestFramedPuts_Errors(t *testing.T) {
	n := newBatchNode(t)
	n.put = func(_ context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		switch r.Key {
		case "panic":
			panic("secret")
		case "disk":
			return kvstore.PutResult{}, kvstore.ErrDiskReserve
		case "limit":
			return kvstore.PutResult{}, &kvstore.TooLargeError{LimitBytes: 3}
		case "unknown":
			return kvstore.PutResult{}, kvstore.ErrOutcomeUnknown
		}
		return kvstore.PutResult{}, kvstore.ErrUnavailable
	}
	f := n.frames("/keys")
	for key, want := range map[string]frame.Problem{
		"panic":     {Status: 500, Type: api.ProblemInternal},
		"disk":      {Status: 507, Type: api.ProblemDiskReserve},
		"limit":     {Status: 413, Type: api.ProblemTooLarge, HasLimit: true, Limit: 3},
		"unknown":   {Status: 504, Type: api.ProblemOutcomeUnknown},
		"no leader": {Status: 503, Type: api.ProblemUnavailable, RetryAfter: 1},
	} {
		f.put(frame.Put{ID: 9, Key: key})
		got := f.next().(*frame.Problem)
		if strings.Contains(got.Detail, "secret") || got.Detail == "" || got.Title == "" {
			t.Errorf("%s: %+v", key, got)
		}
		got.Detail, got.Title, want.ID = "", "", 9
		if *got != want {
			t.Errorf("%s: %+v, want %+v", key, *got, want)
		}
	}
	f.end()
	f.wantEnd()
}

// TestFramedPuts_NoOrder: a put that waits keeps no other waiting, not even one
// of the same key.
func TestFramedPuts_NoOrder(t *testing.T) {
	n := newBatchNode(t)
	gate := make(chan struct{})
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		if r.PutID == "slow" {
			<-gate
		}
		return n.db.Put(ctx, r)
	}
	f := n.frames("/keys")
	f.put(frame.Put{ID: 1, Key: "a", PutID: "slow", Value: []byte("v")})
	for id := range uint32(100) {
		f.put(frame.Put{ID: id + 2, Key: "a", Value: []byte("v")})
		if s, ok := f.next().(*frame.Set); !ok || s.ID != id+2 || s.Created != (id == 0) {
			t.Fatalf("answer %+v", s)
		}
	}
	f.end() // what is under way is answered all the same
	close(gate)
	if s, ok := f.next().(*frame.Set); !ok || s.ID != 1 || s.Created {
		t.Errorf("answer %+v", s)
	}
	f.wantEnd()
}

// TestFramed_Malformed: what is no frame, or not of this resource, ends the
// stream behind the answers to what came before it.
func TestFramed_Malformed(t *testing.T) {
	n := newBatchNode(t)
	for name, tt := range map[string]struct{ path, bad string }{
		"a line":       {"/keys", doc("a", "v")},
		"a get":        {"/keys", string(frame.AppendGet(nil, &frame.Get{ID: 1, Key: "k"}))},
		"a put":        {"/keys/get", string(frame.AppendPut(nil, &frame.Put{ID: 1, Key: "k"}))},
		"id 0":         {"/keys", string(frame.AppendPut(nil, &frame.Put{Key: "k"}))},
		"id 0, get":    {"/keys/get", string(frame.AppendGet(nil, &frame.Get{Key: "k"}))},
		"short fields": {"/keys", "\x00\x00\x00\x06\x01\x00\x00\x00\x01\x04"},
		"too long":     {"/keys/get", "\x7f\x00\x00\x06\x02\x00\x00\x00\x01\x04"},
	} {
		f := n.frames(tt.path)
		before := frame.AppendPut(nil, &frame.Put{ID: 77, Key: "before", Value: []byte("v")})
		if tt.path == "/keys/get" {
			before = frame.AppendGet(nil, &frame.Get{ID: 77, Key: "absent"})
		}
		f.send(append(before, tt.bad...))
		switch got := f.next().(type) {
		case *frame.Set:
			if got.ID != 77 {
				t.Errorf("%s: %+v", name, got)
			}
		case *frame.Problem:
			if got.ID != 77 || got.Status != 404 {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if p, ok := f.next().(*frame.Problem); !ok || p.ID != 0 || p.Status != 400 || p.Type != api.ProblemInvalid {
			t.Errorf("%s: the last frame is %+v", name, p)
		}
		f.wantEnd()
		f.conn.Close()
	}
	if len(n.db.values) != 1 {
		t.Errorf("%d keys are set", len(n.db.values))
	}
}

// TestFramed_Refused: what is wrong with the request as a whole is said before
// the first frame.
func TestFramed_Refused(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.FramedStreams = 1 })
	batch := "Content-Type: " + api.ContentTypeFrames
	for _, path := range []string{"/keys", "/keys/get"} {
		want(t, n.send("POST", path, "", batch), 411).problem(t)
		want(t, n.post(path+"?x=1", "", batch), 400).problem(t)
		want(t, n.post(path, "", batch, "Content-Encoding: gzip"), 415).problem(t)
		want(t, n.post(path, "", batch, "Sec-Fetch-Site: cross-site"), 403).problem(t)
	}
	want(t, n.post("/keys", "", batch, "If-None-Match: *"), 400).problem(t)
	want(t, n.post("/keys/get?consistency=x", "", batch), 400).problem(t)
}

// TestFramed_Closing: a node that stops answers what it has taken, and says that
// it stops.
func TestFramed_Closing(t *testing.T) {
	for _, path := range []string{"/keys", "/keys/get"} {
		t.Run(path, func(t *testing.T) {
			closing, gate := make(chan struct{}), make(chan struct{})
			n := newBatchNode(t, func(c *DatabaseConfig) { c.Closing = closing })
			taken := make(chan struct{})
			n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
				close(taken)
				<-gate
				return n.db.Put(context.WithoutCancel(ctx), r)
			}
			f := n.frames(path)
			if path == "/keys" {
				f.put(frame.Put{ID: 5, Key: "k"})
				<-taken
			}
			close(closing)
			close(gate)
			if path == "/keys" {
				if s, ok := f.next().(*frame.Set); !ok || s.ID != 5 {
					t.Errorf("answer %+v", s)
				}
			}
			if p, ok := f.next().(*frame.Problem); !ok || p.ID != 0 || p.Status != 503 || p.Type != api.ProblemUnavailable {
				t.Errorf("the last frame is %+v", p)
			}
			f.wantEnd()
			want(t, n.post(path, "", "Content-Type: "+api.ContentTypeFrames), 503).problem(t)
		})
	}
}

// TestFramed_Gone: when the client is gone, what is not proposed is not.
func TestFramed_Gone(t *testing.T) {
	n := newBatchNode(t)
	ended := make(chan error, 1)
	began := make(chan struct{})
	n.put = func(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return kvstore.PutResult{}, ctx.Err()
	}
	f := n.frames("/keys")
	f.put(frame.Put{ID: 1, Key: "k"})
	<-began
	f.conn.SetLinger(0)
	f.conn.Close()
	select {
	case err := <-ended:
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ended by time: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the put goes on")
	}
}

// TestFramed_Idle: a client that sends nothing is told so, and let go.
func TestFramed_Idle(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.BodyIdleTimeout = 100 * time.Millisecond })
	f := n.frames("/keys")
	if p, ok := f.next().(*frame.Problem); !ok || p.ID != 0 || p.Status != 408 {
		t.Errorf("the last frame is %+v", p)
	}
	f.wantEnd()
}

// TestFramedGets: values come as they are, absences share one confirmation.
func TestFramedGets(t *testing.T) {
	n := newBatchNode(t)
	n.db.set("a", "text/x-a", "one")
	n.db.set("\xff", "", "")
	n.db.set("large", "", strings.Repeat("v", frame.ValueBytesMax+1))
	n.db.set("full", "", strings.Repeat("v", frame.ValueBytesMax))
	n.db.inlineMax = 10
	n.db.set("streamed", "", "more than ten bytes")
	f := n.frames("/keys/get")
	keys := map[uint32]string{1: "a", 2: "\xff", 3: "large", 4: "full", 5: "streamed", 6: "absent", 7: "absent", 8: "other", 9: "", 10: "a"}
	f.get([]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, func(id uint32) string { return keys[id] }, false)
	f.end()
	seen := make(map[uint32]bool)
	see := func(id uint32) {
		if seen[id] || keys[id] == "" && id != 9 {
			t.Errorf("id %d is answered again, or never asked", id)
		}
		seen[id] = true
	}
	for got := f.next(); got != nil; got = f.next() {
		switch got := got.(type) {
		case *frame.Value:
			see(got.ID)
			v := n.db.values[kvstore.Key(keys[got.ID])]
			raw, _ := v.Bytes()
			if got.Revision != uint64(v.Revision) || got.Digest != v.SHA256 || got.Time != fakeTime.UnixNano() || got.ContentType != mediaTypeOf(&v.Meta) || !bytes.Equal(got.Value, raw) || got.Cache != "" {
				t.Errorf("%q: %.100v", keys[got.ID], got)
			}
		case *frame.Problem:
			see(got.ID)
			status, detail := uint16(404), fmt.Sprintf("key %q is not set", keys[got.ID])
			if got.ID == 9 {
				status, detail = 400, got.Detail
			}
			if got.ID < 6 || got.Status != status || got.Detail != detail {
				t.Errorf("%q: %+v", keys[got.ID], got)
			}
		case uint32:
			see(got)
			if got != 3 && got != 5 {
				t.Errorf("%q is too large", keys[got])
			}
		}
	}
	if len(seen) != len(keys) {
		t.Errorf("%d of %d are answered", len(seen), len(keys))
	}
	if n.db.confirms != 1 {
		t.Errorf("%d confirmations of 3 absences", n.db.confirms)
	}
	if n.counters.Gets.Load() != 9 || n.counters.Absences.Load() != 3 {
		t.Errorf("counted %d gets, %d absences", n.counters.Gets.Load(), n.counters.Absences.Load())
	}
}

// TestFramedGets_Unconfirmed: without a quorum what is set is found, and what is
// not is not called absent, except for who asks this node alone.
func TestFramedGets_Unconfirmed(t *testing.T) {
	n := newBatchNode(t)
	n.db.set("a", "", "one")
	n.db.confirmErr = kvstore.ErrUnavailable
	f := n.frames("/keys/get")
	for id, want := range map[uint32]uint16{1: 0, 2: 503, 3: 404} {
		f.get([]uint32{id}, func(uint32) string { return map[bool]string{true: "a", false: "b"}[want == 0] }, want == 404)
		switch got := f.next().(type) {
		case *frame.Value:
			if want != 0 {
				t.Errorf("answer %+v", got)
			}
		case *frame.Problem:
			if got.Status != want || got.ID != id {
				t.Errorf("answer %+v, want %d", got, want)
			}
		}
	}
	f.end()
	f.wantEnd()
	g := n.frames("/keys/get?consistency=local")
	g.get([]uint32{1}, func(uint32) string { return "b" }, false)
	if p, ok := g.next().(*frame.Problem); !ok || p.Status != 404 {
		t.Errorf("answer %+v", p)
	}
	g.end()
	g.wantEnd()
}

// TestFramedGets_SlowReader: answers that nobody takes are not made.
func TestFramedGets_SlowReader(t *testing.T) {
	n := newBatchNode(t)
	n.db.set("full", "", strings.Repeat("v", frame.ValueBytesMax))
	const gets = 3000 // 190 MiB
	f := n.frames("/keys/get")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		ids := make([]uint32, 100)
		for i := range uint32(gets / 100) {
			for j := range ids {
				ids[j] = i*100 + uint32(j) + 1
			}
			f.get(ids, func(uint32) string { return "full" }, false)
		}
		f.end()
	}()
	looked := func() int {
		n.db.mu.Lock()
		defer n.db.mu.Unlock()
		return len(n.db.gets)
	}
	eventually(t, "the first is looked up", func() bool { return looked() > 0 })
	before := -1
	eventually(t, "the node waits", func() bool { now := looked(); still := now == before; before = now; return still })
	seen := make(map[uint32]bool)
	for got := f.next(); got != nil; got = f.next() {
		v, ok := got.(*frame.Value)
		if !ok || seen[v.ID] || len(v.Value) != frame.ValueBytesMax {
			t.Fatalf("answer %.100v", got)
		}
		seen[v.ID] = true
	}
	<-sent
	if len(seen) != gets {
		t.Errorf("%d of %d answers", len(seen), gets)
	}
}

// TestFramed_Cache: a cache node reads frames itself and forwards puts.
func TestFramed_Cache(t *testing.T) {
	cache, database, reader := newCacheNode(t)
	database.db.set("a", "text/x-a", "one")
	reader.source = "hit"
	f := cache.frames("/keys/get")
	f.get([]uint32{1}, func(uint32) string { return "a" }, false)
	if v, ok := f.next().(*frame.Value); !ok || v.Cache != "hit" || string(v.Value) != "one" || v.ContentType != "text/x-a" {
		t.Errorf("answer %+v", v)
	}
	f.get([]uint32{2, 3}, func(id uint32) string { return map[uint32]string{2: "b"}[id] }, true)
	for range 2 {
		if p, ok := f.next().(*frame.Problem); !ok || p.Status != map[uint32]uint16{2: 404, 3: 400}[p.ID] {
			t.Errorf("answer %+v", p)
		}
	}
	f.end()
	f.wantEnd()
	p := cache.frames("/keys")
	p.put(frame.Put{ID: 1, Key: "new", Value: []byte("v")})
	if s, ok := p.next().(*frame.Set); !ok || !s.Created {
		t.Errorf("answer %+v", s)
	}
	p.end()
	p.wantEnd()
	if database.db.values["new"] == nil {
		t.Error("the put did not arrive")
	}
	want(t, cache.post("/keys/get", "", "Content-Type: text/plain"), http.StatusOK)
}

// mapMemory holds everything it is shown.
type mapMemory map[kvstore.Key]*kvstore.Value

func (m mapMemory) Held(key kvstore.Key) (*kvstore.Value, bool) { v, found := m[key]; return v, found }
func (m mapMemory) Hold(v *kvstore.Value)                       { m[v.Key] = v }

// TestFramedGets_Hot: what is in memory is answered without the store.
func TestFramedGets_Hot(t *testing.T) {
	memory := mapMemory{}
	n := newBatchNode(t, func(c *DatabaseConfig) { c.Hot = memory })
	n.db.set("k", "", "value")
	f := n.frames("/keys/get")
	for id := range uint32(3) {
		f.get([]uint32{id + 1}, func(uint32) string { return "k" }, false)
		if v, ok := f.next().(*frame.Value); !ok || v.ID != id+1 || string(v.Value) != "value" {
			t.Fatalf("answer %+v", v)
		}
		n.db.mu.Lock()
		delete(n.db.values, "k")
		n.db.mu.Unlock()
	}
	f.get([]uint32{9}, func(uint32) string { return "absent" }, false)
	if p, ok := f.next().(*frame.Problem); !ok || p.Status != 404 {
		t.Errorf("answer %+v", p)
	}
	if len(memory) != 1 || n.counters.Gets.Load() != 4 {
		t.Errorf("%d values are held, %d gets counted", len(memory), n.counters.Gets.Load())
	}
}

// TestFramedPuts_Leader: the head of the leader's answer, and of no other's, says so.
func TestFramedPuts_Leader(t *testing.T) {
	for _, leads := range []bool{true, false} {
		n := newBatchNode(t)
		n.manyPuts.leads = func() bool { return leads }
		conn := n.dial()
		fmt.Fprintf(conn, "POST /keys HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", api.ContentTypeFrames)
		if role := answerOn(t, conn).Header.Get(api.HeaderRole); (role == api.RoleLeader) != leads || !leads && role != "" {
			t.Errorf("leads %v: role %q", leads, role)
		}
		conn.Close()
	}
}
