package httpapi

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// TestFront_CrossOrigin: no web page can burn keys on somebody's localhost.
func TestFront_CrossOrigin(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "v")
	bad := []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: http://evil.example", "Origin: null"}
	good := []string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Origin: http://" + n.addr, "X: y"}
	for method, target := range map[string]string{
		"PUT": "/key/new", "POST": "/key", "DELETE": "/members/n1", "PATCH": "/key/a", "BREW": "/nothing",
	} {
		for _, line := range bad {
			p := want(t, n.send(method, target, "", line, "Content-Length: 0"), 403).problem(t)
			if p.Type != api.ProblemForbidden {
				t.Errorf("%s with %s: type %q", method, line, p.Type)
			}
		}
		for _, line := range good {
			if got := n.send(method, target, "", line, "Content-Length: 0"); got.status == 403 {
				t.Errorf("%s with %s is refused", method, line)
			}
		}
	}
	for _, line := range bad {
		want(t, n.get("/key/a", line), 200)
	}
	if len(n.cluster.asked) != len(good) {
		t.Errorf("the cluster was asked %v", n.cluster.asked)
	}
}

// panickyDB panics on every call.
type panickyDB struct {
	*fakeDB
	with any
}

func (panickyDB) History() kvstore.History { return kvstore.History{} }

func (p panickyDB) Put(context.Context, kvstore.PutRequest) (kvstore.PutResult, error) { panic(p.with) }
func (p panickyDB) Get(context.Context, kvstore.Key, kvstore.Consistency) (*kvstore.Value, error) {
	panic(p.with)
}

func (p panickyDB) PutMany(context.Context, []kvstore.SmallPut, func(int, kvstore.PutResult, error)) {
	panic(p.with)
}
func (p panickyDB) GetMany([]kvstore.Key, func(int, *kvstore.Value, error)) { panic(p.with) }
func (p panickyDB) Confirm(context.Context) error                           { panic(p.with) }

func TestFront_Panic(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.DB = panickyDB{fakeDB: newFakeDB(), with: "secret"} })
	p := want(t, n.get("/key/a"), 500).problem(t)
	if p.Type != api.ProblemInternal || strings.Contains(p.Detail, "secret") {
		t.Errorf("problem %+v", p)
	}
	p = want(t, n.put("/key/a", "x"), 500).problem(t)
	if !strings.Contains(p.Detail, "repeating the same put is safe") {
		t.Errorf("a put that panicked: %q", p.Detail)
	}
	if n.counters.Errors.Load() != 2 {
		t.Errorf("errors %d", n.counters.Errors.Load())
	}
}

func TestFront_AbortPasses(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(c *DatabaseConfig) { c.DB = panickyDB{fakeDB: newFakeDB(), with: http.ErrAbortHandler} })
	conn := n.dial()
	defer conn.Close()
	io.WriteString(conn, "GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, err := io.ReadAll(conn); len(got) != 0 {
		t.Errorf("an aborted request is answered %q (%v)", got, err)
	}
}

// TestFront_PanicAfterBegin: no word may follow the bytes of a value.
func TestFront_PanicAfterBegin(t *testing.T) {
	t.Parallel()
	f := &front{hosts: everyHost{}, crossOrigin: http.NewCrossOriginProtection(), counters: new(Counters), logger: quiet(), idle: idleForTest, requests: newLimit(1),
		next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "some bytes")
			panic("late")
		})}
	n := &node{t: t}
	n.serve(f)
	conn := n.dial()
	defer conn.Close()
	io.WriteString(conn, "GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
	got, _ := io.ReadAll(conn)
	if strings.Contains(string(got), "problem") {
		t.Errorf("a problem follows the value's bytes: %q", got)
	}
}
