package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
)

// described is the description, parsed once.
var described = sync.OnceValues(func() (*openapi3.T, error) {
	return openapi3.NewLoader().LoadFromData(description)
})

func mustDescribe(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// routesOf lists the routes of a handler, as "GET /key/{key}".
func routesOf(t *testing.T, h http.Handler) []string {
	t.Helper()
	var routes []string
	err := chi.Walk(h.(*front).next.(*chi.Mux), func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if !strings.HasPrefix(pattern, "/peer/") { // between cache nodes, not part of the API
			routes = append(routes, method+" "+documentedPath(pattern))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// operationsFor lists what the description has for one kind of node.
func operationsFor(t *testing.T, kind string) []string {
	t.Helper()
	var operations []string
	for path, item := range mustDescribe(t).Paths.Map() {
		for method, op := range item.Operations() {
			kinds, ok := op.Extensions["x-oncekv-nodes"].([]any)
			if !ok {
				t.Errorf("%s %s has no x-oncekv-nodes", method, path)
			}
			if slices.Contains(kinds, any(kind)) {
				operations = append(operations, method+" "+path)
			}
		}
	}
	return operations
}

// TestOpenAPI_Routes: every route of every kind of node is described, and
// every operation described is a route. What an admin has below /api is the
// database's.
func TestOpenAPI_Routes(t *testing.T) {
	t.Parallel()
	if err := mustDescribe(t).Validate(t.Context()); err != nil {
		t.Fatalf("the description itself: %v", err)
	}
	for kind, h := range map[string]http.Handler{
		"database": NewDatabase(DatabaseConfig{DB: newFakeDB(), Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, Metrics: http.NotFoundHandler()}),
		"cache":    NewCache(CacheConfig{Reader: &sourced{}, Forward: http.NotFoundHandler(), PeerHandler: http.NotFoundHandler(), Metrics: http.NotFoundHandler()}),
		"admin":    NewAdmin(AdminConfig{Topology: &fakeTopology{}, Page: fakePage{}, Forward: http.NotFoundHandler(), Metrics: http.NotFoundHandler()}),
	} {
		routes := routesOf(t, h)
		var operations []string
		for _, r := range routes {
			if method, path, _ := strings.Cut(r, " "); strings.HasPrefix(path, pathAPI) {
				operations, r = operationsFor(t, "database"), method+" "+strings.TrimPrefix(path, pathAPI)
			} else if isPage(path) {
				continue
			} else {
				operations = operationsFor(t, kind)
			}
			asGet := strings.Replace(r, "HEAD ", "GET ", 1) // every GET answers HEAD too
			if !slices.Contains(operations, r) && !slices.Contains(operations, asGet) {
				t.Errorf("%s node: %s is not described", kind, r)
			}
		}
		for _, o := range operationsFor(t, kind) {
			if !slices.Contains(routes, o) {
				t.Errorf("%s node: %s is described and no route", kind, o)
			}
		}
	}
}

// isPage reports whether a path is a file of the admin's page.
func isPage(path string) bool {
	return path == "/" || strings.HasPrefix(path, "/assets/") || path == "/favicon.svg"
}

// TestOpenAPI_Served: both kinds of node serve the same document.
func TestOpenAPI_Served(t *testing.T) {
	t.Parallel()
	cache, database, _ := newCacheNode(t)
	for _, n := range []*node{cache, database} {
		got := want(t, n.get("/openapi.yaml"), 200)
		wantHeader(t, got, "Content-Type", "application/yaml")
		wantHeader(t, got, "Cache-Control", "no-store")
		if !strings.HasPrefix(got.body, "openapi: 3.1") || got.body != string(description) {
			t.Errorf("the document begins %.40q", got.body)
		}
		want(t, n.send("HEAD", "/openapi.yaml", ""), 200)
		want(t, n.get("/openapi.yaml?x=1"), 400).problem(t)
	}
}

// TestOpenAPI_Fields: the schemas have exactly the fields of what is sent and
// read; those that may be left out are not required.
func TestOpenAPI_Fields(t *testing.T) {
	t.Parallel()
	for name, typ := range map[string]reflect.Type{
		"Record": reflect.TypeFor[api.Record](), "Document": reflect.TypeFor[api.Document](), "PutDocument": reflect.TypeFor[api.PutDocument](),
		"PutAnswer": reflect.TypeFor[api.PutAnswer](), "Problem": reflect.TypeFor[api.Problem](), "Member": reflect.TypeFor[api.Member](),
		"Members": reflect.TypeFor[api.Members](), "AddMember": reflect.TypeFor[api.AddMember](), "TransferLeader": reflect.TypeFor[api.TransferLeader](),
		"DBNode": reflect.TypeFor[api.DBNode](), "CacheNode": reflect.TypeFor[api.CacheNode](), "Heartbeat": reflect.TypeFor[api.Heartbeat](),
		"HeartbeatAnswer": reflect.TypeFor[api.HeartbeatAnswer](), "Checkpoint": reflect.TypeFor[api.Checkpoint](),
		"KeysPage": reflect.TypeFor[api.KeysPage](), "Change": reflect.TypeFor[api.Change](), "ChangesMark": reflect.TypeFor[api.ChangesMark](),
		"BatchResult": reflect.TypeFor[api.BatchResult](), "Stats": reflect.TypeFor[api.Stats](), "CacheStats": reflect.TypeFor[api.CacheStats](),
		"GetDocument": reflect.TypeFor[api.GetDocument](), "GetResult": reflect.TypeFor[api.GetResult](),
		"Origin": reflect.TypeFor[api.Origin](), "History": reflect.TypeFor[api.History](), "Levels": reflect.TypeFor[api.Levels](),
		"AdminStats": reflect.TypeFor[api.AdminStats](), "Owner": reflect.TypeFor[api.Owner](),
		"IndexRuns": reflect.TypeFor[api.IndexRuns](), "ValueFiles": reflect.TypeFor[api.ValueFiles](), "Scrub": reflect.TypeFor[api.Scrub](),
	} {
		ref := mustDescribe(t).Components.Schemas[name]
		if ref == nil {
			t.Errorf("there is no schema %s", name)
			continue
		}
		fields := jsonFields(typ)
		for field := range ref.Value.Properties {
			if _, ok := fields[field]; !ok {
				t.Errorf("%s: %q is described and never there", name, field)
			}
		}
		for field, always := range fields {
			if ref.Value.Properties[field] == nil {
				t.Errorf("%s: %q is not described", name, field)
			}
			if !always && slices.Contains(ref.Value.Required, field) && name != "Document" && name != "Problem" { // which always set them
				t.Errorf("%s: %q is required and may be left out", name, field)
			}
		}
	}
}

// jsonFields lists a struct's fields in JSON and whether each is always there.
func jsonFields(typ reflect.Type) map[string]bool {
	fields := make(map[string]bool)
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			for name, always := range jsonFields(f.Type) {
				fields[name] = always
			}
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		fields[name] = !strings.Contains(options, "omitempty")
	}
	return fields
}

// fits fails unless the description allows this answer to this request. It is
// asked about every answer of every test.
func (n *node) fits(method, target string, got reply) {
	n.t.Helper()
	if err := misfit(mustDescribe(n.t), method, target, got); err != nil {
		n.t.Errorf("the description does not allow the answer %d %.200q to %s %s: %v", got.status, got.body, method, target, err)
	}
}

func misfit(doc *openapi3.T, method, target string, got reply) error {
	path, _, _ := strings.Cut(strings.TrimPrefix(target, "http://elsewhere"), "?")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	if got.status == 400 && got.header.Get("Content-Type") != api.ContentTypeProblem && method != http.MethodHead {
		return nil // net/http answers what it cannot parse by itself, in plain text
	}
	if isPage(path) && got.status < 300 {
		return nil
	}
	path = strings.TrimPrefix(path, pathAPI)
	op, pattern := operationOf(doc, method, path)
	if op == nil || got.status == 404 && strings.Contains(got.body, api.ProblemNoRoute) { // the other kind of node has it
		return misfitElsewhere(doc, method, path, got)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: &http.Request{Method: method, URL: &url.URL{Path: pattern}},
			Route:   &routers.Route{Spec: doc, Path: pattern, PathItem: doc.Paths.Value(pattern), Method: method, Operation: op},
		},
		Status:  got.status,
		Header:  got.header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: method == http.MethodHead},
	}
	input.SetBodyBytes([]byte(got.body))
	if err := openapi3filter.ValidateResponse(context.Background(), input); err != nil {
		return err
	}
	if got.status == 200 && strings.Contains(target, "format=json") && method == http.MethodGet {
		return misfitSchema(doc, "Document", got.body)
	}
	return nil
}

// misfitElsewhere judges an answer to what is not described.
func misfitElsewhere(doc *openapi3.T, method, path string, got reply) error {
	switch {
	case strings.HasPrefix(path, "/peer/"), method == http.MethodHead:
		return nil
	case !slices.Contains([]int{403, 404, 405, 500, 503}, got.status):
		return errors.New("this request is not described")
	}
	return misfitSchema(doc, "Problem", got.body)
}

func misfitSchema(doc *openapi3.T, name, body string) error {
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return doc.Components.Schemas[name].Value.VisitJSON(v, openapi3.EnableJSONSchema2020())
}

// operationOf finds what is described for a decoded path. HEAD is described by
// GET where it has nothing of its own.
func operationOf(doc *openapi3.T, method, path string) (*openapi3.Operation, string) {
	pattern := path
	segments := strings.Split(path, "/")
	switch {
	case strings.HasPrefix(path, pathKey):
		pattern = pathKey + "{key}"
	case strings.HasPrefix(path, pathKeep):
		pattern = pathKeep + "{key}"
	case strings.HasPrefix(path, "/members/") && len(segments) == 3 && segments[2] != "":
		pattern = "/members/{name}"
	case strings.HasPrefix(path, "/members/") && len(segments) == 4:
		pattern = "/members/{name}/" + segments[3]
	}
	item := doc.Paths.Value(pattern)
	if item == nil {
		return nil, ""
	}
	op := item.Operations()[method]
	if op == nil && method == http.MethodHead {
		op = item.Get
	}
	return op, pattern
}

// TestOpenAPI_Finds: the check of answers does find what does not fit.
func TestOpenAPI_Finds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		method, target string
		got            reply
	}{
		"an undescribed status": {"GET", "/ping", reply{202, http.Header{"Content-Type": {"text/plain"}, "Cache-Control": {"no-store"}}, "pong"}},
		"a missing header":      {"GET", "/ping", reply{200, http.Header{"Content-Type": {"text/plain"}}, "pong"}},
		"a missing field":       {"GET", "/members", reply{200, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, `{"members":[],"leader":""}`}},
		"a wrong type":          {"GET", "/members", reply{200, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, `{"members":[],"leader":"","term":"1"}`}},
		"no problem":            {"BREW", "/ping", reply{405, http.Header{"Content-Type": {"text/plain"}}, "no"}},
	} {
		if misfit(mustDescribe(t), tt.method, tt.target, tt.got) == nil {
			t.Errorf("%s is allowed", name)
		}
	}
	ok := reply{200, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, `{"members":[],"leader":"","term":1}`}
	if err := misfit(mustDescribe(t), "GET", "/members", ok); err != nil {
		t.Errorf("a good answer: %v", err)
	}
}
