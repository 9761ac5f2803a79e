package httpapi

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

const joiner = `{"id":"ab12","name":"n4","peer_url":"http://127.0.0.1:12003","client_url":"http://127.0.0.1:11003"}`

func TestMembers_List(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if got := want(t, n.get("/members"), 200); got.body != `{"members":[],"leader":"","term":0}`+"\n" {
		t.Errorf("an empty list is %s", got.body)
	}
	n.cluster.members = api.Members{Members: []api.Member{{ID: "1", Name: "n1", Role: api.RoleLeader, Healthy: true}}, Leader: "n1", Term: 3, Stale: true}
	got := want(t, n.get("/members?consistency=local"), 200)
	wantHeader(t, got, "Cache-Control", "no-store")
	var all api.Members
	if err := json.Unmarshal([]byte(got.body), &all); err != nil || all.Leader != "n1" || !all.Stale || len(all.Members) != 1 {
		t.Errorf("members %+v (%v)", all, err)
	}
	if strings.Join(n.cluster.asked, ",") != "members,members local" {
		t.Errorf("the cluster was asked %v", n.cluster.asked)
	}
}

func TestMembers_Add(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.cluster.created = true
	got := want(t, n.post("/members", joiner, "Content-Type: text/plain"), 201)
	if !strings.Contains(got.body, `"id":"ab12"`) || n.cluster.lastAsked() != "add n4 voter" {
		t.Errorf("answer %s, asked %q", got.body, n.cluster.lastAsked())
	}
	n.cluster.created = false
	want(t, n.post("/members", strings.Replace(joiner, "{", `{"role":"learner",`, 1)), 200)
	if n.cluster.lastAsked() != "add n4 learner" {
		t.Errorf("asked %q", n.cluster.lastAsked())
	}
	want(t, n.post("/members", strings.Replace(joiner, "{", `{"level":2,`, 1)), 200)
	if n.cluster.lastAsked() != "add n4 voter level 2" {
		t.Errorf("asked %q", n.cluster.lastAsked())
	}
}

func TestMembers_AddRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, body := range []string{
		``, `{}`, `[]`, strings.Replace(joiner, `"name"`, `"Name"`, 1), strings.Replace(joiner, `"n4"`, `""`, 1), strings.Replace(joiner, `"n4"`, `4`, 1),
		strings.Replace(joiner, "{", `{"role":"leader",`, 1), strings.Replace(joiner, "{", `{"name":"n5",`, 1), joiner + joiner,
		`{"name":"n4","peer_url":"http://x"}`, `{"name":"n4","client_url":"http://x"}`,
	} {
		want(t, n.post("/members", body), 400).problem(t)
	}
	p := want(t, n.post("/members", joiner+strings.Repeat(" ", jsonClusterBytesMax)), 413).problem(t)
	if p.LimitBytes != jsonClusterBytesMax {
		t.Errorf("limit %d", p.LimitBytes)
	}
	if len(n.cluster.asked) > 0 {
		t.Errorf("the cluster was asked %v", n.cluster.asked)
	}
}

func TestMembers_Changes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ method, target, body, asked, answer string }{
		{"DELETE", "/members/n1", "", "remove n1", `{"removed":"n1"}`},
		{"DELETE", "/members/n1?force=true", "", "remove n1 force", `{"removed":"n1"}`},
		{"DELETE", "/members/n1?force=false", "", "remove n1", `{"removed":"n1"}`},
		{"POST", "/members/n1/promote", "", "promote n1", `{"promoted":"n1"}`},
		{"POST", "/leader", `{"to":"n2"}`, "lead n2", `{"leader":"n2"}`},
	} {
		n := newNode(t)
		send := func() reply { return n.send(tt.method, tt.target, tt.body, "Content-Length: "+itoa(len(tt.body))) }
		if got := want(t, send(), 200); got.body != tt.answer+"\n" || n.cluster.lastAsked() != tt.asked {
			t.Errorf("%s %s: answer %q, asked %q", tt.method, tt.target, got.body, n.cluster.lastAsked())
		}
		for err, status := range map[error]int{
			refused("it would lose the quorum"): 409, ErrUnknownMember: 404, ErrBadMember: 400, kvstore.ErrUnavailable: 503,
			kvstore.ErrOutcomeUnknown: 504, kvstore.ErrOverloaded: 429, errFake: 500,
		} {
			n.cluster.err = err
			p := want(t, send(), status).problem(t)
			if status == 409 && p.Detail != "it would lose the quorum" || status >= 500 && status != 503 && !strings.Contains(p.Detail, "GET /members") {
				t.Errorf("%s %s with %v: detail %q", tt.method, tt.target, err, p.Detail)
			}
		}
	}
}

func TestMembers_BadRequests(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	want(t, n.send("DELETE", "/members/n1?force=yes", ""), 400).problem(t)
	want(t, n.send("DELETE", "/members/n1?forced=true", ""), 400).problem(t)
	want(t, n.post("/members/n1/promote?x=1", ""), 400).problem(t)
	want(t, n.post("/leader", `{"to":""}`), 400).problem(t)
	want(t, n.post("/leader", `{"To":"n1"}`), 400).problem(t)
	want(t, n.post("/leader", ``), 400).problem(t)
	if len(n.cluster.asked) > 0 {
		t.Errorf("the cluster was asked %v", n.cluster.asked)
	}
}

func TestMembers_Timeout(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.AnswerTimeout = 30 * time.Millisecond })
	n.cluster.block = true
	want(t, n.post("/members", joiner), 504).problem(t)
	want(t, n.get("/members"), 503).problem(t)
}

func TestCaches_Heartbeat(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if got := want(t, n.get("/caches"), 200); got.body != "[]\n" {
		t.Errorf("no caches are %q", got.body)
	}
	if got := want(t, n.get("/dbs"), 200); got.body != "[]\n" {
		t.Errorf("no database nodes are %q", got.body)
	}
	beat, err := json.Marshal(api.Heartbeat{Name: "c1", URL: "http://127.0.0.1:5551", Leaving: true, CacheFigures: api.CacheFigures{Hits: 9}})
	if err != nil {
		t.Fatal(err)
	}
	if got := want(t, n.post("/caches", string(beat)), 200); got.body != `{"caches":[],"dbs":[]}`+"\n" {
		t.Errorf("answer %q", got.body)
	}
	if n.registry.last.Hits != 9 || n.registry.last.Name != "c1" || !n.registry.last.Leaving {
		t.Errorf("the registry got %+v", n.registry.last)
	}
	n.registry.caches = []api.CacheNode{{Name: "c1", Healthy: true}}
	if got := want(t, n.get("/caches"), 200); !strings.Contains(got.body, `"healthy":true`) {
		t.Errorf("caches %s", got.body)
	}
	for _, body := range []string{`{"name":"c1"}`, `{"name":"c1","url":"http://x","hits":-1}`, `{"name":"c1","url":"http://x","Hits":1}`, `{"name":"c1","url":"http://x","hits":null}`, `{"name":"c1","url":"http://x","new":1,"new":2}`, `{"name":"c1","url":"http://x"}x`, `null`} {
		want(t, n.post("/caches", body), 400).problem(t)
	}
	for _, url := range []string{"c1:5551", "https://c1:5551", "http://u:p@c1:5551", "http://c1:5551/x", "http://c1:5551?x", "http://c1:5551#x", "http://169.254.169.254", "http://[::ffff:a9fe:a9fe]:80", "http://0:80", "http://0.0.0.0:80", "javascript:alert(1)"} {
		p := want(t, n.post("/caches", `{"name":"c1","url":"`+url+`"}`), 400).problem(t)
		if !strings.Contains(p.Detail, "http://10.0.0.1:11000") {
			t.Errorf("%s: %s", url, p.Detail)
		}
	}
	for _, name := range []string{`"\u001b[31mevil\nforged"`, `""`, `"a b"`, `"\u202egnp"`, `".c1"`, `"http://127.0.0.1:1"`, `"` + strings.Repeat("n", 65) + `"`, `"` + strings.Repeat("n", 3000) + `"`} {
		p := want(t, n.post("/caches", `{"name":`+name+`,"url":"http://127.0.0.1:1"}`), 400).problem(t)
		if !strings.Contains(p.Detail, "1 to 64 letters") || len(p.Detail) > 1024 {
			t.Errorf("%.40s: %s", name, p.Detail)
		}
	}
	if p := want(t, n.post("/caches", `{"url":"http://127.0.0.1:1"}`), 400).problem(t); !strings.Contains(p.Detail, `"name"`) {
		t.Errorf("without a name: %s", p.Detail)
	}
	if p := want(t, n.post("/caches", `{"name":"c1","url":"http://127.0.0.1:1","gets":-1}`), 400).problem(t); !strings.HasPrefix(p.Detail, `field "gets" of the JSON document does not take -1`) {
		t.Errorf("a number that does not fit: %s", p.Detail)
	}
	if n.registry.last.URL != "http://127.0.0.1:5551" {
		t.Errorf("the registry got %s", n.registry.last.URL)
	}
}

// TestCaches_HeartbeatOfANewerNode: while nodes are upgraded one after the other,
// a cache node may say more than this node knows of.
func TestCaches_HeartbeatOfANewerNode(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	want(t, n.post("/caches", `{"name":"c1","url":"http://127.0.0.1:5551","rooms":["a",null,{"hits":3,"Hits":null}],"hits":9,"zone":null,"new":1.5}`), 200)
	if got := n.registry.last; got.Hits != 9 || got.URL != "http://127.0.0.1:5551" {
		t.Errorf("the registry got %+v", got)
	}
}

func TestHealth_Answers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, leads := range []bool{true, false} { // clients choose by it where to send puts
		n.cluster.leads = leads
		if role := want(t, n.get("/ping"), 200).header.Get(api.HeaderRole); (role == api.RoleLeader) != leads || !leads && role != "" {
			t.Errorf("leads %v: role %q", leads, role)
		}
	}
	for target, body := range map[string]string{"/ping": "pong", "/livez": "ok", "/readyz": "ready"} {
		got := want(t, n.get(target), 200)
		wantHeader(t, got, "Cache-Control", "no-store")
		if got.body != body {
			t.Errorf("%s is %q", target, got.body)
		}
	}
	var stats api.Stats
	if err := json.Unmarshal([]byte(want(t, n.get("/stats"), 200).body), &stats); err != nil || stats.Keys != 7 {
		t.Errorf("stats %+v (%v)", stats, err)
	}
	n.cluster.ready = errors.New("no leader is known")
	got := want(t, n.get("/readyz"), 503)
	if p := got.problem(t); !strings.Contains(p.Detail, "no leader is known") {
		t.Errorf("detail %q", p.Detail)
	}
	wantHeader(t, got, "Retry-After", "1")
	want(t, n.get("/livez"), 200)
}
