package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// forked is a history that went on from the history 1, and its parent as documents
// have it.
func forked() (kvstore.History, api.Origin) {
	parent := kvstore.Origin{ID: historyOf(1).ID, Revision: 2, Head: kvstore.Digest{7}}
	return historyOf(2, parent), api.Origin{ID: parent.ID.String(), Revision: 2, Head: parent.Head.String()}
}

// TestHistory_Named: whatever has a revision names the history that it is of; the
// value of a key, which anybody may keep for ever, does not.
func TestHistory_Named(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("k", "", "v")
	answers := map[string]func() reply{
		"a put":          func() reply { return want(t, n.put("/key/k", "v"), 200) },
		"a kept put":     func() reply { return want(t, n.put("/keep/k", "other"), 200) },
		"a put by query": func() reply { return want(t, n.put("/key?key=k", "v"), 200) },
		"a document":     func() reply { return want(t, n.post("/key", `{"key":"k","value":"v"}`), 200) },
		"a conflict":     func() reply { return want(t, n.put("/key/k", "other"), 409) },
		"a refusal":      func() reply { return want(t, n.put("/key/", "v"), 400) },
		"lines":          func() reply { return want(t, n.post("/keys", doc("k", "v")), 200) },
		"keys":           func() reply { return want(t, n.get("/keys"), 200) },
		"changes":        func() reply { return want(t, n.get("/changes"), 200) },
		"stats":          func() reply { return want(t, n.get("/stats"), 200) },
		"ping":           func() reply { return want(t, n.get("/ping"), 200) },
		"members":        func() reply { return want(t, n.send("HEAD", "/members", ""), 200) },
		"a change of members": func() reply {
			return want(t, n.send("DELETE", "/members/n2", ""), 200)
		},
	}
	second, _ := forked()
	for _, held := range []kvstore.History{{}, historyOf(1), second} {
		n.db.mu.Lock()
		n.db.held = held
		n.db.mu.Unlock()
		name := ""
		if !held.ID.IsZero() {
			name = held.ID.String()
		}
		for what, ask := range answers {
			if got := ask().header.Get(api.HeaderHistory); got != name {
				t.Errorf("%s names the history %q, want %q", what, got, name)
			}
		}
		for _, target := range []string{"/key/k", "/key/nothing", "/livez"} {
			wantHeader(t, n.get(target), api.HeaderHistory, "")
		}
		// But for a cache node, which keeps it under the history that it was found in.
		for _, target := range []string{"/key/k", "/key?key=k", "/keep/k", "/key/nothing", "/key/k?format=json"} {
			wantHeader(t, n.get(target, "Oncekv-History: "+kvstore.HistoryID{}.String()), api.HeaderHistory, name)
		}
		conn := n.dial()
		fmt.Fprintf(conn, "POST /keys HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 0\r\n\r\n", api.ContentTypeFrames)
		if got := answerOn(t, conn).Header.Get(api.HeaderHistory); got != name {
			t.Errorf("frames name the history %q, want %q", got, name)
		}
		conn.Close()
	}
}

// TestHistory_FormattedOnce: answers share what they say of the history.
func TestHistory_FormattedOnce(t *testing.T) {
	db := newFakeDB()
	db.held = historyOf(1)
	names := &identity{history: db.History}
	first := names.now()
	if names.now() != first || testing.AllocsPerRun(100, func() { names.now() }) != 0 {
		t.Error("the same history is formatted again")
	}
	db.held = historyOf(2)
	if names.now() == first || names.now().text != historyOf(2).ID.String() {
		t.Error("another history has the name of the first")
	}
}

// TestHistory_Heartbeat: a cache node hears which history the node holds, and of which
// it is part.
func TestHistory_Heartbeat(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	beat := func() (answer api.HeartbeatAnswer) {
		got := want(t, n.post("/caches", `{"name":"c1","url":"http://127.0.0.1:5551"}`), 200)
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if got := beat(); got.History != nil {
		t.Errorf("without a history: %+v", got.History)
	}
	held, parent := forked()
	n.db.held = held
	if got := beat().History; got == nil || got.ID != held.ID.String() || len(got.Parents) != 1 || got.Parents[0] != parent {
		t.Errorf("history %+v", got)
	}
}

// changedTo fails unless the answer is the 409 that says which history there is.
func changedTo(t *testing.T, got reply, h *history, newest uint64) api.Problem {
	t.Helper()
	p := want(t, got, 409).problem(t)
	held := h.History()
	if p.Type != api.ProblemHistoryChanged || p.History != held.ID.String() || p.Parent == nil || *p.Parent != originOf(held.Parent()) || p.Newest != newest {
		t.Errorf("problem %+v, parent %+v", p, p.Parent)
	}
	wantHeader(t, got, api.HeaderHistory, held.ID.String())
	return p
}

func TestKeys_History(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	for _, key := range []string{"a", "b", "c"} {
		h.set(key, "", "v")
	}
	bare := page(t, n.get("/keys?limit=1")).Next
	if bare != api.KeysToken("a") {
		t.Errorf("token %q without a history", bare)
	}
	h.fork(1)
	next := page(t, n.get("/keys?limit=1")).Next
	for _, query := range []string{"after=" + next, "after=" + bare, "history=" + historyOf(1).ID.String() + "&after=" + next} {
		if p := page(t, n.get("/keys?"+query)); len(p.Keys) != 2 || p.Keys[0].Key != "b" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	for _, bad := range []string{"", "x", strings.Repeat("0", 32), strings.Repeat("A", 32), historyOf(1).ID.String()[1:]} {
		want(t, n.get("/keys?history="+bad), 400).problem(t)
	}

	h.fork(2)
	held := h.History()
	for _, query := range []string{"after=" + next, "after=" + next + "&consistency=local", "history=" + historyOf(1).ID.String(), "history=" + historyOf(1).ID.String() + "&after=" + next} {
		if p := changedTo(t, n.get("/keys?"+query), h, 3); !strings.Contains(p.Detail, "history "+held.ID.String()+" now, not "+historyOf(1).ID.String()) {
			t.Errorf("%s: %q", query, p.Detail)
		}
	}
	if p := page(t, n.get("/keys?after="+bare)); len(p.Keys) != 2 {
		t.Errorf("a token without a history: %+v", p)
	}

	if p := want(t, n.get("/keys?history="+held.ID.String()+"&after="+next), 400).problem(t); !strings.Contains(p.Detail, `start again, without "after"`) {
		t.Errorf("a token of another history than the one that is named: %q", p.Detail)
	}

	// A node that does not know its cluster's history yet asks first.
	h.behind = func() { h.fork(3) }
	if p := page(t, n.get("/keys?consistency=local&history="+historyOf(3).ID.String())); len(p.Keys) != 3 {
		t.Errorf("behind: %+v", p)
	}
	h.behind, h.readErr = nil, kvstore.ErrUnavailable
	want(t, n.get("/keys?consistency=local&history="+historyOf(9).ID.String()), 503).problem(t)
}

func TestChanges_HistoryChanged(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	for _, key := range []string{"a", "b", "c"} {
		h.set(key, "", "v")
	}
	h.fork(1)
	h.fork(2)
	first, second, unknown := historyOf(1).ID.String(), historyOf(2).ID.String(), historyOf(9).ID.String()
	const events = "Accept: text/event-stream"
	for _, tt := range []struct {
		query  string
		header []string
		says   string
	}{
		{"history=" + first, nil, "not " + first},
		{"since=1&history=" + first, nil, "drop what was read"},
		{"since=1&history=" + unknown, nil, "not " + unknown},
		{"since=1&history=" + unknown + "&consistency=local", nil, "not " + unknown},
		{"since=1&history=" + unknown + "&follow=true", nil, "not " + unknown},
		{"since=1&history=" + first + "&follow=true", nil, "not " + first},
		{"since=1&history=" + first + "&consistency=local", nil, "not " + first},
		{"since=1&history=" + first + "&follow=true&consistency=local", nil, "not " + first},
		{"since=9&history=" + second, nil, "ends at revision 3, before the revision 9"},
		{"since=9&history=" + second + "&follow=true", nil, "ends at revision 3"},
		{"since=9", nil, "ends at revision 3"},
		{"since=9&follow=true", nil, "ends at revision 3"},
		{"since=18446744073709551615", nil, "ends at revision 3"},
		{"", []string{events, "Last-Event-ID: 1." + first}, "not " + first},
		{"since=1&history=" + second, []string{events, "Last-Event-ID: 2." + first}, "not " + first},
		{"", []string{events, "Last-Event-ID: 9"}, "ends at revision 3"},
		{"history=" + first, []string{events, "Last-Event-ID: 2"}, "not " + first},
	} {
		if p := changedTo(t, n.get("/changes?"+tt.query, tt.header...), h, 3); !strings.Contains(p.Detail, tt.says) {
			t.Errorf("%s %v: %q", tt.query, tt.header, p.Detail)
		}
	}
	for query, revisions := range map[string]string{
		"since=1&history=" + second: "2 3 ", "since=3&history=" + second: "", "since=1": "2 3 ", "since=9&consistency=local": "",
		"since=9&consistency=local&history=" + second: "",
	} {
		if got := revisionsIn(t, want(t, n.get("/changes?"+query), 200).body); got != revisions {
			t.Errorf("%s: revisions %q, want %q", query, got, revisions)
		}
	}
}

// TestChanges_MerelyBehind: a node that has not caught up asks the cluster before it
// says that a position is not there, and a follower waits while nobody answers.
func TestChanges_MerelyBehind(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.Heartbeat = 50 * time.Millisecond })
	h.set("a", "", "v")
	second := historyOf(2).ID.String()
	h.behind = func() { // what catching up brings
		h.behind = nil
		h.fork(2)
		h.set("b", "", "v")
	}
	s := n.open(t, "/changes?follow=true&since=2&history="+second)
	h.set("c", "", "v")
	s.change(t, 3)
	s.resp.Body.Close()

	h.readErr = kvstore.ErrUnavailable
	want(t, n.get("/changes?since=5"), 503).problem(t)
	for _, query := range []string{"", "&follow=true", "&consistency=local"} {
		want(t, n.get("/changes?history="+historyOf(1).ID.String()+query), 503).problem(t)
	}
	lines := n.open(t, "/changes?follow=true&since=5&history="+second)
	for range 2 {
		if m := lines.mark(t, api.EventHeartbeat); m.Revision != 3 || m.History != second {
			t.Fatalf("a heartbeat tells %+v, and this node is at revision 3", m)
		}
	}
	events := n.open(t, "/changes?since=5", "Accept: text/event-stream", "Last-Event-ID: 5."+second)
	if line := events.next(); line != "event: heartbeat" {
		t.Errorf("line %q: it would make the browser go on before what it asked for", line)
	}
	for _, key := range []string{"d", "e", "f"} {
		h.set(key, "", "v")
	}
	for {
		var c api.Change
		line := lines.next()
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%v in %q, %v", err, line, lines.err)
		}
		if c.SHA256 != "" && c.Revision != 6 {
			t.Fatalf("line %q, want revision 6", line)
		}
		if c.SHA256 != "" {
			return
		}
	}
}

// TestChanges_NeverThere: a stream that waits because nobody confirms that what it
// waits for is not there ends when somebody does.
func TestChanges_NeverThere(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.Heartbeat = 20 * time.Millisecond })
	h.set("a", "", "v")
	h.fork(1)
	h.readErr = kvstore.ErrUnavailable
	s := n.open(t, "/changes?follow=true&since=5&history="+historyOf(1).ID.String())
	s.mark(t, api.EventHeartbeat)
	h.mu.Lock()
	h.readErr = nil
	h.mu.Unlock()
	for {
		var m api.ChangesMark
		if err := json.Unmarshal([]byte(s.next()), &m); err != nil {
			t.Fatal(err, s.err)
		}
		if m.Event == api.EventEnd {
			if m.Reason != api.EndHistory || m.Revision != 1 || !strings.Contains(m.Detail, "history=") {
				t.Errorf("%+v", m)
			}
			break
		}
	}
	s.ended(t)
}

// TestChanges_HistoryChangesMeanwhile: no stream goes on in another history than it
// began in. One that began while its node had none takes the first.
func TestChanges_HistoryChangesMeanwhile(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	s := n.open(t, "/changes?follow=true")
	wantHeader(t, reply{header: s.resp.Header}, api.HeaderHistory, "")
	h.fork(1)
	h.set("a", "", "v")
	s.change(t, 1)
	h.fork(2)
	h.set("b", "", "v")
	if m := s.mark(t, api.EventEnd); m.Reason != api.EndHistory || m.Revision != 1 || m.History != historyOf(1).ID.String() {
		t.Errorf("%+v", m)
	}
	s.ended(t)
}

// TestChanges_EventIDs: the id of an event is where to go on, and in which history.
func TestChanges_EventIDs(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t, func(c *DatabaseConfig) { c.Heartbeat = 50 * time.Millisecond })
	h.fork(1)
	h.set("a", "", "v")
	h.set("b", "", "v")
	const events = "Accept: text/event-stream"
	id := "id: 2." + historyOf(1).ID.String()
	for _, last := range []string{"1", "1." + historyOf(1).ID.String()} {
		s := n.open(t, "/changes", events, "Last-Event-ID: "+last)
		if got := s.next(); got != id {
			t.Errorf("after %s: %q, want %q", last, got, id)
		}
		s.next() // data
		s.next() // the empty line
		if got := s.next(); got != id {
			t.Errorf("heartbeat: %q", got)
		}
		if got := s.next(); got != "event: heartbeat" {
			t.Errorf("line %q", got)
		}
		if got := s.next(); !strings.Contains(got, `"revision":2,"history":"`+historyOf(1).ID.String()+`"`) {
			t.Errorf("heartbeat %q", got)
		}
		s.resp.Body.Close()
	}
}

// TestHistory_ThroughOtherNodes: what is said of a history, and the metadata of a put,
// goes through a node that forwards, both ways.
func TestHistory_ThroughOtherNodes(t *testing.T) {
	t.Parallel()
	database := newNode(t)
	database.db.held = historyOf(1)
	to, err := url.Parse(database.url)
	if err != nil {
		t.Fatal(err)
	}
	reader := &sourced{db: database.db, source: "load"}
	cache := &node{t: t, db: database.db}
	cache.serve(NewCache(CacheConfig{Reader: reader, Forward: forwardTo(to)}))
	admin := &node{t: t, db: database.db}
	admin.serve(NewAdmin(AdminConfig{Topology: &fakeTopology{}, Page: fakePage{}, Forward: forwardTo(to)}))

	name := historyOf(1).ID.String()
	for via, n := range map[string]*node{"": cache, "/api": admin} {
		key := "/key/k" + strings.TrimPrefix(via, "/")
		wantHeader(t, want(t, n.put(via+key, "v", "Oncekv-Meta-A: 1"), 201), api.HeaderHistory, name)
		if got := database.db.lastRequest(t).UserMeta.Map()["a"]; got != "1" {
			t.Errorf("%s: metadata arrives as %q", via, got)
		}
		wantHeader(t, n.get(via+key), "Oncekv-Meta-A", "1")
		wantHeader(t, n.get(via+"/keys"), api.HeaderHistory, name)
		p := want(t, n.get(via+"/changes?history="+historyOf(2).ID.String()), 409).problem(t)
		if p.Type != api.ProblemHistoryChanged || p.History != name {
			t.Errorf("%s: %+v", via, p)
		}
	}
}

// TestGone: a value that was retired is not "not set".
func TestGone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.getErr = fmt.Errorf("read: %w", kvstore.ErrGone)
	if p := want(t, n.get("/key/k"), 410).problem(t); p.Type != api.ProblemGone {
		t.Errorf("%+v", p)
	}
	f := n.frames("/keys/get")
	f.get([]uint32{1}, func(uint32) string { return "k" }, false)
	if p, ok := f.next().(*frame.Problem); !ok || p.Status != http.StatusGone || p.Type != api.ProblemGone {
		t.Errorf("frame %+v", p)
	}
	f.end()
}

// forksAfter is a database where another history begins after each look. A look that
// follows changes may still go on while the next one begins.
type forksAfter struct {
	*history
	next atomic.Uint32
}

func (f *forksAfter) Keys(ctx context.Context, r kvstore.KeysRequest, c kvstore.Consistency) (kvstore.KeysPage, error) {
	page, err := f.history.Keys(ctx, r, c)
	f.fork(byte(f.next.Add(1)))
	return page, err
}

func (f *forksAfter) Changes(ctx context.Context, r kvstore.ChangesRequest, c kvstore.Consistency) (kvstore.Changes, error) {
	changes, err := f.history.Changes(ctx, r, c)
	f.fork(byte(f.next.Add(1)))
	return changes, err
}

// TestHistory_OfWhatIsSent: an answer names the history that it was read from, also when
// another one has begun since. Who goes on from it is told then, with the parent; the id
// alone would not say up to where both are the same.
func TestHistory_OfWhatIsSent(t *testing.T) {
	t.Parallel()
	first := historyOf(1).ID.String()
	for _, path := range []string{"/keys?history=" + first, "/changes?follow=true&history=" + first} {
		f := &forksAfter{history: newHistory(t)}
		f.next.Store(1)
		f.set("k", "", "v")
		f.fork(1)
		n := newNode(t, func(c *DatabaseConfig) { c.DB = f })
		resp, err := http.Get(n.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get(api.HeaderHistory); got != first {
			t.Errorf("%s names the history %q", path, got)
		}
		if p := want(t, n.get(path), 409).problem(t); p.Parent == nil {
			t.Errorf("%s: %+v", path, p)
		}
	}
}
