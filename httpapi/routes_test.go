package httpapi

import (
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func TestRoutes_NotFound(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, target := range []string{
		"/", "/nothing-here", "//key/a", "/KEY/a", "/keep", "/metrics", "/members/n1/demote", "/ping/", "/peer/x", "/key%20/a", "*",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "BREW"} {
			if target == "/keep" && method == "PUT" {
				continue
			}
			got := want(t, n.send(method, target, "", "Content-Length: 0"), 404)
			wantHeader(t, got, "Cache-Control", "no-store")
			if method == "HEAD" {
				continue
			}
			if p := got.problem(t); p.Type != api.ProblemNoRoute {
				t.Errorf("%s %s: type %q", method, target, p.Type)
			}
		}
	}
}

func TestRoutes_MethodNotAllowed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "v")
	for _, tt := range []struct{ target, allow, methods, says string }{
		{"/key/a", "GET, HEAD, PUT", "DELETE PATCH OPTIONS TRACE BREW", "set once"},
		{"/key/a", "GET, HEAD, PUT", "POST", "use PUT /key/a "},
		{"/key/a%2Fb%20c", "GET, HEAD, PUT", "POST", "use PUT /key/a%2Fb%20c "},
		{"/keep/a", "GET, HEAD, PUT", "POST", "use PUT /keep/a "},
		{"/key/a/", "GET, HEAD, PUT", "POST", "use PUT /key/a/ "},
		{"/key/a%2Fb//", "GET, HEAD, PUT", "DELETE", "set once"},
		{"/%6bey/a", "GET, HEAD, PUT", "DELETE", "set once"},
		{"/keep/a", "GET, HEAD, PUT", "DELETE PATCH", "set once"},
		{"/key?key=a", "GET, HEAD, PUT, POST", "DELETE PATCH", "set once"},
		{"/changes", "GET, HEAD", "PUT POST DELETE", "takes"},
		{"/members", "GET, HEAD, POST", "DELETE PUT", "takes"},
		{"/members/n1", "DELETE", "GET HEAD PUT POST", "takes"},
		{"/members/n1/promote", "POST", "GET DELETE", "takes"},
		{"/leader", "POST", "GET PUT", "takes"},
		{"/caches", "GET, HEAD, POST", "DELETE", "takes"},
		{"/dbs", "GET, HEAD", "POST", "takes"},
		{"/stats", "GET, HEAD", "POST DELETE", "takes"},
		{"/ping", "GET, HEAD", "POST", "takes"},
	} {
		for method := range strings.FieldsSeq(tt.methods) {
			got := want(t, n.send(method, tt.target, "", "Content-Length: 0"), 405)
			wantHeader(t, got, "Allow", tt.allow)
			if method == "HEAD" {
				continue
			}
			if p := got.problem(t); p.Type != api.ProblemMethod || !strings.Contains(p.Detail, tt.says) {
				t.Errorf("%s %s: %+v", method, tt.target, p)
			}
		}
	}
	want(t, n.get("/key/a"), 200)
}

// TestRoutes_Encoding: routes are found by the decoded path, whatever was
// escaped in it.
func TestRoutes_Encoding(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a", "", "v")
	want(t, n.get("/%70ing"), 200)
	want(t, n.get("/%6B%65%79/a"), 200)
	want(t, n.send("DELETE", "/members/n%31", ""), 200)
	if got := n.cluster.lastAsked(); got != "remove n1" {
		t.Errorf("the cluster was asked %q", got)
	}
}
