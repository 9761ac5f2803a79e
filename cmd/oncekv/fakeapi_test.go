package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/frame"
)

// fakeAPI is a store in memory with the part of the HTTP API that the commands need.
type fakeAPI struct {
	*httptest.Server

	mu      sync.Mutex
	values  map[string]fakeValue
	puts    int
	refuse  int    // status that every put gets, if not 0
	detail  string // detail of that refusal
	corrupt bool   // values arrive with a wrong byte
	changes []string
	members api.Members
	caches  []api.CacheNode
	history int            // streams of /changes break off after this many lines; 0: never
	batch   int            // streams of POST /keys break off after so many answers; 0: never
	of      api.History    // the history it holds; none if ID is empty
	index   api.IndexRuns  // in stats
	files   api.ValueFiles // in stats
	scrub   api.Scrub      // in stats

	receive func(io.Reader) // sees the body of every put before it is read
}

type fakeValue struct {
	body        []byte
	contentType string
	by          string
	meta        map[string]string
	gone        bool // the value was retired
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
	t.Cleanup(func() {
		f.CloseClientConnections() // streams are open for a while
		f.Close()
	})
	return f
}

func (f *fakeAPI) serve(w http.ResponseWriter, r *http.Request) {
	key, isKey := strings.CutPrefix(r.URL.Path, "/key/")
	if r.URL.Path == "/key" {
		key, isKey = r.URL.Query().Get("key"), true
	}
	if r.URL.Path == "/keys" && r.Method == http.MethodPost {
		if r.Header.Get("Content-Type") == api.ContentTypeFrames {
			f.putMany(w, r)
		} else {
			f.putLines(w, r)
		}
		return
	}
	if r.URL.Path == "/keys/get" { // like a node without frames, which does not read the body
		writeProblem(w, api.Problem{Status: http.StatusNotFound, Type: api.ProblemNoRoute, Detail: "no such route"})
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of.ID != "" {
		w.Header().Set(api.HeaderHistory, f.of.ID)
	}
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
	if f.receive != nil {
		f.receive(r.Body)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f.puts++
	if f.refuse != 0 {
		writeProblem(w, api.Problem{Status: f.refuse, Detail: cmp.Or(f.detail, "refused by the test")})
		return
	}
	id := r.Header.Get(api.HeaderPutID)
	v, found := f.values[key]
	if !found {
		v = fakeValue{body: body, contentType: r.Header.Get("Content-Type"), putID: id, revision: len(f.values) + 1, meta: map[string]string{}}
		for name, values := range r.Header {
			if name, found := strings.CutPrefix(name, api.HeaderMetaPrefix); found {
				v.meta[strings.ToLower(name)] = values[0]
			}
		}
		f.values[key] = v
	}
	size := int64(len(v.body))
	lost := api.Problem{Detail: fmt.Sprintf("key %q is set to other bytes", key), Revision: uint64(v.revision), SHA256: v.digest(), Size: &size}
	won := !found || id != "" && v.putID == id
	switch {
	case r.Header.Get("If-None-Match") == "*" && !won:
		lost.Status = http.StatusPreconditionFailed
		writeProblem(w, lost)
	case !bytes.Equal(v.body, body):
		lost.Status = http.StatusConflict
		writeProblem(w, lost)
	default:
		status := map[bool]int{true: http.StatusCreated, false: http.StatusOK}[won]
		answer := api.PutAnswer{Revision: uint64(v.revision), SHA256: v.digest(), Size: size, Created: won}
		answer.Key, answer.KeyBase64 = api.JSONKey(key)
		answerJSON(w, status, answer)
	}
}

// putLines answers a stream of lines, none of which sets a key that is set.
func (f *fakeAPI) putLines(w http.ResponseWriter, r *http.Request) {
	flow := http.NewResponseController(w)
	flow.EnableFullDuplex()
	w.Header().Set("Content-Type", api.ContentTypeNDJSON)
	flow.Flush()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		put, err := httpapi.ParsePut(lines.Bytes())
		if err != nil {
			panic(err)
		}
		f.locked(func() {
			f.puts++
			v := fakeValue{body: put.Value, contentType: put.ContentType, meta: put.Meta, revision: len(f.values) + 1}
			f.values[put.Key] = v
			size := int64(len(v.body))
			json.NewEncoder(w).Encode(api.BatchResult{Key: put.Key, Status: api.BatchCreated, Revision: uint64(v.revision), SHA256: v.digest(), Size: &size})
		})
		flow.Flush()
	}
}

// putMany answers a stream of frames, each as it comes.
func (f *fakeAPI) putMany(w http.ResponseWriter, r *http.Request) {
	flow := http.NewResponseController(w)
	flow.EnableFullDuplex()
	w.WriteHeader(http.StatusContinue)
	w.Header().Set("Content-Type", api.ContentTypeFrames)
	w.WriteHeader(http.StatusOK)
	flow.Flush()
	frames := frame.NewReader(r.Body)
	for n := 1; ; n++ {
		received, err := frames.Next()
		put, bad := received.Put()
		if err != nil || bad != nil {
			return
		}
		put.Value = bytes.Clone(put.Value)
		broken := false
		f.locked(func() {
			w.Write(f.putFrame(&put))
			broken = n == f.batch
		})
		flow.Flush()
		if broken {
			flow.SetReadDeadline(time.Now()) // or net/http waits for the rest of the body
			panic(http.ErrAbortHandler)
		}
	}
}

func (f *fakeAPI) putFrame(put *frame.Put) []byte {
	f.puts++
	switch {
	case string(put.Value) == "too large":
		return frame.AppendProblem(nil, &frame.Problem{ID: put.ID, Status: http.StatusRequestEntityTooLarge, Type: api.ProblemTooLarge, Detail: "too large for the test"})
	case f.refuse != 0:
		return frame.AppendProblem(nil, &frame.Problem{ID: put.ID, Status: uint16(f.refuse), Detail: cmp.Or(f.detail, "refused by the test")})
	}
	v, found := f.values[put.Key]
	if !found {
		v = fakeValue{body: put.Value, contentType: put.ContentType, meta: put.Meta, putID: put.PutID, revision: len(f.values) + 1}
		f.values[put.Key] = v
	}
	winner := frame.Winner{Revision: uint64(v.revision), Size: uint64(len(v.body)), Digest: sha256.Sum256(v.body)}
	if !bytes.Equal(v.body, put.Value) {
		return frame.AppendProblem(nil, &frame.Problem{ID: put.ID, Status: http.StatusConflict, Type: api.ProblemConflict, Detail: "the key is set to other bytes", HasWinner: true, Winner: winner})
	}
	return frame.AppendSet(nil, &frame.Set{ID: put.ID, Created: v.putID == put.PutID, Winner: winner})
}

func (f *fakeAPI) get(w http.ResponseWriter, r *http.Request, key string) {
	v, found := f.values[key]
	if !found {
		writeProblem(w, api.Problem{Status: http.StatusNotFound, Type: api.ProblemNotFound, Detail: "not set"})
		return
	}
	if v.gone {
		writeProblem(w, api.Problem{Status: http.StatusGone, Type: api.ProblemGone, Detail: "retired by the test"})
		return
	}
	sum, _ := hex.DecodeString(v.digest())
	h := w.Header()
	for name, value := range v.meta {
		h.Set(api.HeaderMetaPrefix+name, value)
	}
	if v.by != "" {
		h.Set(api.HeaderBy, v.by)
	}
	h.Set("ETag", strconv.Quote(v.digest()))
	h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
	h.Set("Content-Type", v.contentType)
	h.Set("Content-Length", strconv.Itoa(len(v.body)))
	h.Set(api.HeaderRevision, strconv.Itoa(v.revision))
	h.Set(api.HeaderTime, time.Unix(1700000000, 0).UTC().Format(time.RFC3339Nano))
	body := bytes.Clone(v.body)
	if f.corrupt {
		body[0] ^= 1
	}
	w.Write(body)
}

// value returns the value of key.
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

// locked lets do use the fields: an abandoned request may still be under way.
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
		answerJSON(w, http.StatusCreated, api.Member{Name: "n4", Role: api.RoleLearner})
	case r.URL.Path == "/ping":
		io.WriteString(w, "pong\n")
	case r.URL.Path == "/keys":
		f.list(w, r)
	case r.URL.Path == "/changes":
		f.listChanges(w, r)
	case r.URL.Path == "/caches":
		answerJSON(w, http.StatusOK, f.caches)
	case r.URL.Path == "/stats":
		var of *api.History
		if f.of.ID != "" {
			of = &f.of
		}
		answerJSON(w, http.StatusOK, api.Stats{Name: "fake", Role: api.RoleLeader, History: of, Level: api.Levels{Store: 1, Program: 2}, Revision: uint64(len(f.values)), Keys: uint64(len(f.values)), Puts: uint64(f.puts), IndexBytes: 5 << 20, Index: f.index, Values: f.files, Scrub: f.scrub})
	case strings.HasSuffix(r.URL.Path, "/n9"):
		writeProblem(w, api.Problem{Status: http.StatusConflict, Type: api.ProblemRefused, Detail: "would lose quorum"})
	default:
		answerJSON(w, http.StatusOK, f.members)
	}
}

// list serves all keys, two on a page.
func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var keys []string
	for key := range f.values {
		if strings.HasPrefix(key, q.Get("prefix")) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	after, _ := base64.RawURLEncoding.DecodeString(q.Get("after"))
	if history := q.Get("history"); history != "" && history != f.of.ID {
		writeProblem(w, api.Problem{Status: http.StatusConflict, Type: api.ProblemHistoryChanged, Detail: "refused by the test", History: f.of.ID})
		return
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return len(after) > 0 && key <= string(after[1:]) })
	var page api.KeysPage
	for _, key := range keys[:min(2, len(keys))] {
		page.Keys = append(page.Keys, f.record(key))
	}
	if len(keys) > 2 {
		page.Next = api.KeysToken(keys[1])
	}
	answerJSON(w, http.StatusOK, page)
}

func (f *fakeAPI) record(key string) api.Record {
	v := f.values[key]
	r := api.Record{Revision: uint64(v.revision), SHA256: v.digest(), Size: int64(len(v.body)), ContentType: v.contentType, By: v.by, Meta: v.meta}
	r.Key, r.KeyBase64 = api.JSONKey(key)
	return r
}

// listChanges serves the changes so far. A followed stream ends there too, as if its node had
// died.
func (f *fakeAPI) listChanges(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, _ := strconv.Atoi(q.Get("since"))
	if history := q.Get("history"); since > len(f.values) || history != "" && history != f.of.ID {
		p := api.Problem{Status: http.StatusConflict, Type: api.ProblemHistoryChanged, Detail: "refused by the test", History: f.of.ID, Newest: uint64(len(f.values))}
		if n := len(f.of.Parents); n > 0 {
			p.Parent = &f.of.Parents[n-1]
		}
		writeProblem(w, p)
		return
	}
	byRevision := map[int]string{}
	for key, v := range f.values {
		byRevision[v.revision] = key
	}
	sent := 0
	for revision := since + 1; revision <= len(f.values); revision++ {
		key := byRevision[revision]
		if !strings.HasPrefix(key, q.Get("prefix")) {
			continue
		}
		change := api.Change{Record: f.record(key)}
		if q.Get("values") == "true" {
			value := string(f.values[key].body)
			if change.Value = &value; !utf8.ValidString(value) {
				value, change.Encoding = base64.StdEncoding.EncodeToString([]byte(value)), api.EncodingBase64
			}
		}
		json.NewEncoder(w).Encode(change)
		if sent++; sent == f.history {
			break
		}
	}
	if q.Get("follow") == "true" {
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func writeProblem(w http.ResponseWriter, p api.Problem) {
	w.Header().Set("Content-Type", api.ContentTypeProblem)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// result is the result of one command.
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
