package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
)

// fakeAPI is a store in memory that speaks as much of the HTTP contract as the
// commands need.
type fakeAPI struct {
	*httptest.Server

	mu      sync.Mutex
	values  map[string]fakeValue
	puts    int
	refuse  int  // status that every put gets, if not 0
	corrupt bool // values arrive with a wrong byte
	changes []string
	members client.Members
}

type fakeValue struct {
	body        []byte
	contentType string
	putID       string
	revision    int
}

func (v fakeValue) digest() string {
	sum := sha256.Sum256(v.body)
	return hex.EncodeToString(sum[:])
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{values: map[string]fakeValue{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAPI) serve(w http.ResponseWriter, r *http.Request) {
	key, isKey := strings.CutPrefix(r.URL.Path, "/key/")
	if r.URL.Path == "/key" {
		key, isKey = r.URL.Query().Get("key"), true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case isKey && r.Method == http.MethodPut:
		f.put(w, r, key)
	case isKey:
		f.get(w, r, key)
	default:
		f.cluster(w, r)
	}
}

func (f *fakeAPI) put(w http.ResponseWriter, r *http.Request, key string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f.puts++
	if f.refuse != 0 {
		writeProblem(w, client.Problem{Status: f.refuse, Detail: "refused by the test"})
		return
	}
	id := r.Header.Get(client.HeaderPutID)
	v, found := f.values[key]
	if !found {
		v = fakeValue{body: body, contentType: r.Header.Get("Content-Type"), putID: id, revision: len(f.values) + 1}
		f.values[key] = v
	}
	size := int64(len(v.body))
	lost := client.Problem{Detail: fmt.Sprintf("key %q is set to other bytes", key), Revision: uint64(v.revision), SHA256: v.digest(), Size: &size}
	won := v.putID == id
	switch {
	case r.Header.Get("If-None-Match") == "*" && !won:
		lost.Status = http.StatusPreconditionFailed
		writeProblem(w, lost)
	case !bytes.Equal(v.body, body):
		lost.Status = http.StatusConflict
		writeProblem(w, lost)
	default:
		status := map[bool]int{true: http.StatusCreated, false: http.StatusOK}[won]
		answer := client.PutAnswer{Revision: uint64(v.revision), SHA256: v.digest(), Size: size, Created: won}
		answer.Key, answer.KeyBase64 = client.JSONKey(key)
		answerJSON(w, status, answer)
	}
}

func (f *fakeAPI) get(w http.ResponseWriter, r *http.Request, key string) {
	v, found := f.values[key]
	if !found {
		writeProblem(w, client.Problem{Status: http.StatusNotFound, Type: client.ProblemNotFound, Detail: "not set"})
		return
	}
	sum, _ := hex.DecodeString(v.digest())
	h := w.Header()
	h.Set("ETag", strconv.Quote(v.digest()))
	h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
	h.Set("Content-Type", v.contentType)
	h.Set("Content-Length", strconv.Itoa(len(v.body)))
	h.Set(client.HeaderRevision, strconv.Itoa(v.revision))
	h.Set(client.HeaderTime, time.Unix(1700000000, 0).UTC().Format(time.RFC3339Nano))
	body := bytes.Clone(v.body)
	if f.corrupt {
		body[0] ^= 1
	}
	w.Write(body)
}

// value returns what key is set to.
func (f *fakeAPI) value(key string) (fakeValue, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.values[key]
	return v, ok
}

func (f *fakeAPI) body(key string) string {
	v, _ := f.value(key)
	return string(v.body)
}

func (f *fakeAPI) putCount() (n int) {
	f.locked(func() { n = f.puts })
	return n
}

// locked lets do use the fields: a request that a client gave up may still be
// served.
func (f *fakeAPI) locked(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fakeAPI) cluster(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method != http.MethodGet {
		f.changes = append(f.changes, fmt.Sprintf("%s %s %s", r.Method, r.URL, bytes.TrimSpace(body)))
	}
	switch {
	case r.URL.Path == "/members" && r.Method == http.MethodPost:
		answerJSON(w, http.StatusCreated, client.Member{Name: "n4", Role: client.RoleLearner})
	case strings.HasSuffix(r.URL.Path, "/n9"):
		writeProblem(w, client.Problem{Status: http.StatusConflict, Type: client.ProblemRefused, Detail: "would lose quorum"})
	default:
		answerJSON(w, http.StatusOK, f.members)
	}
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func writeProblem(w http.ResponseWriter, p client.Problem) {
	w.Header().Set("Content-Type", client.ContentTypeProblem)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// result is what one command did.
type result struct {
	code           int
	stdout, stderr string
}

// command runs the command line against f, with input on standard input.
func (f *fakeAPI) command(t *testing.T, input io.Reader, args ...string) result {
	t.Helper()
	return runCommand(t, input, map[string]string{"ONCEKV_ENDPOINTS": f.URL}, args...)
}

func runCommand(t *testing.T, input io.Reader, env map[string]string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, input, &stdout, &stderr, func(name string) string { return env[name] })
	return result{code, stdout.String(), stderr.String()}
}

func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

func (r result) wantStdout(t *testing.T, parts ...string) result {
	t.Helper()
	contains(t, "standard output", r.stdout, parts)
	return r
}

func (r result) wantStderr(t *testing.T, parts ...string) result {
	t.Helper()
	contains(t, "standard error", r.stderr, parts)
	return r
}

func contains(t *testing.T, where, s string, parts []string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(s, p) {
			t.Errorf("%s does not say %q:\n%s", where, p, s)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
