package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

func getResults(t *testing.T, text string) (all []api.GetResult) {
	t.Helper()
	for line := range strings.Lines(text) {
		if err := misfitSchema(mustDescribe(t), "GetResult", line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		var r api.GetResult
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// TestManyGets_Lines: a result for each line that is not blank, in their order.
func TestManyGets_Lines(t *testing.T) {
	n := newBatchNode(t)
	n.db.set("a", "text/x-a", "one")
	n.db.set("\xff", "", "\xfe")
	n.db.set("full", "", strings.Repeat("v", frame.ValueBytesMax))
	n.db.set("la/../rge", "", strings.Repeat("v", frame.ValueBytesMax+1))
	body := `{"key":"a"}` + "\n\n" + `{"key":"b"}` + "\r\n" + `{"key_base64":"/w=="}` + "\n" + `{"key":"a","x":1}` + "\n" + `{"key":""}` + "\n" +
		`{"key":"full"}` + "\n" + `{"key":"la/../rge"}` + "\n" + `{}` + "\n" + `{"key":"a"}`
	got := want(t, n.post("/keys/get", body), 200)
	wantHeader(t, got, "Content-Type", api.ContentTypeNDJSON)
	exact := `{"key":"a","status":"found","revision":1,"sha256":"` + hexSum("one") + `","size":3,"content_type":"text/x-a","time":"2024-05-06T07:08:09.123456789Z","value":"one"}` + "\n"
	if !strings.HasPrefix(got.body, exact) {
		t.Errorf("the answer begins %.300s, want %s", got.body, exact)
	}
	var seen []string
	for _, r := range getResults(t, got.body) {
		seen = append(seen, fmt.Sprintf("%s%s %s", r.Key, r.KeyBase64, r.Status))
		switch {
		case r.Status == api.BatchInvalid && (r.Type != api.ProblemInvalid || !strings.HasPrefix(r.Detail, "line ")):
			t.Errorf("invalid: %+v", r)
		case r.KeyBase64 != "" && (r.Encoding != "base64" || *r.Value != "/g=="):
			t.Errorf("binary: %+v", r)
		case r.Key == "full" && len(*r.Value) != frame.ValueBytesMax:
			t.Errorf("%d bytes", len(*r.Value))
		case r.Key == "la/../rge" && (r.Value != nil || r.Location != "/key?key=la%2F..%2Frge" || *r.Size != frame.ValueBytesMax+1):
			t.Errorf("large: %+v", r)
		}
	}
	if want := "a found,b absent,/w== found, invalid, invalid,full found,la/../rge found, invalid,a found"; strings.Join(seen, ",") != want {
		t.Errorf("results %s, want %s", strings.Join(seen, ","), want)
	}
	if n.counters.Gets.Load() != 6 || n.counters.Absences.Load() != 1 {
		t.Errorf("counted %d gets, %d absences", n.counters.Gets.Load(), n.counters.Absences.Load())
	}
}

// TestManyGets_Confirmed: the absences that come together are confirmed at once,
// and without a confirmation they are none.
func TestManyGets_Confirmed(t *testing.T) {
	n := newBatchNode(t)
	body := strings.Repeat(`{"key":"b"}`+"\n", 10)
	for _, r := range getResults(t, want(t, n.post("/keys/get", body), 200).body) {
		if r.Status != api.GetAbsent {
			t.Errorf("result %+v", r)
		}
	}
	if n.db.confirms == 0 || n.db.confirms > 3 {
		t.Errorf("%d confirmations of 10 absences", n.db.confirms)
	}
	n.db.confirmErr = kvstore.ErrUnavailable
	for _, r := range getResults(t, want(t, n.post("/keys/get", body), 200).body) {
		if r.Status != api.BatchFailed || r.Type != api.ProblemUnavailable || r.Detail == "" {
			t.Errorf("result %+v", r)
		}
	}
	for _, r := range getResults(t, want(t, n.post("/keys/get?consistency=local", body), 200).body) {
		if r.Status != api.GetAbsent {
			t.Errorf("result %+v", r)
		}
	}
}

// TestManyGets_WhileSending: each result comes before the next line is sent.
func TestManyGets_WhileSending(t *testing.T) {
	n := newBatchNode(t)
	n.db.set("a", "", "one")
	conn := n.dial()
	defer conn.Close()
	fmt.Fprint(conn, "POST /keys/get HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	in := bufio.NewReader(answerOn(t, conn).Body)
	for range 20 {
		chunk(conn, `{"key":"a"}`+"\n")
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, `"status":"found"`) {
			t.Fatalf("result %q, %v", line, err)
		}
	}
	chunk(conn, strings.Repeat("x", getLineBytesMax+1))
	line, err := in.ReadString('\n')
	if results := getResults(t, line); err != nil || results[0].Status != api.BatchError || results[0].Line != 21 || results[0].Type != api.ProblemTooLarge {
		t.Errorf("the last line is %q, %v", line, err)
	}
}

// TestManyGets_Closing: a node that stops says so.
func TestManyGets_Closing(t *testing.T) {
	closing := make(chan struct{})
	n := newBatchNode(t, func(c *DatabaseConfig) { c.Closing = closing })
	conn := n.dial()
	defer conn.Close()
	fmt.Fprint(conn, "POST /keys/get HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	in := bufio.NewReader(answerOn(t, conn).Body)
	close(closing)
	line, err := in.ReadString('\n')
	if results := getResults(t, line); err != nil || results[0].Status != api.BatchError || results[0].Type != api.ProblemUnavailable {
		t.Errorf("the last line is %q, %v", line, err)
	}
	want(t, n.post("/keys/get", ""), 503).problem(t)
}

// TestManyGets_Deaf: clients that do not read their results keep no more than those,
// so others are answered although each look-up takes all the memory there is.
func TestManyGets_Deaf(t *testing.T) {
	n := &node{t: t, db: newFakeDB(), counters: &Counters{}}
	n.db.set("a", "", "one")
	h := NewDatabase(DatabaseConfig{DB: n.db, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}, Counters: n.counters,
		JSONBytesInFlight: shareAll * (getLinesBytes + 64<<10) / shareAnswers, AnswerTimeout: time.Second})
	n.serve(h)
	const deaf = 3
	writers := make(chan *deafWriter, deaf)
	hears := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(hears)
	for range deaf {
		wg.Go(func() {
			defer func() { _ = recover() }() // http.ErrAbortHandler
			w := &deafWriter{httptest.NewRecorder(), writers, hears}
			r := httptest.NewRequest(http.MethodPost, "/keys/get", strings.NewReader(`{"key":"a"}`))
			r.Host = n.addr
			h.ServeHTTP(w, r)
		})
	}
	for i := range deaf {
		select {
		case w := <-writers:
			if w.Code != http.StatusOK {
				t.Fatalf("status %d", w.Code)
			}
		case <-time.After(patience):
			t.Fatalf("%d of %d deaf clients have results", i, deaf)
		}
	}
	for _, r := range getResults(t, want(t, n.post("/keys/get", `{"key":"a"}`), 200).body) {
		if r.Status != api.GetFound {
			t.Errorf("beside deaf clients: %+v", r)
		}
	}
}

// deafWriter is for a client that takes the header of an answer, and nothing else
// until it hears.
type deafWriter struct {
	*httptest.ResponseRecorder
	begun chan<- *deafWriter
	hears <-chan struct{}
}

// Write waits.
func (w *deafWriter) Write(p []byte) (int, error) {
	w.begun <- w
	<-w.hears
	return len(p), nil
}

// TestManyGets_Short: where there is no memory for a look-up, the answer says so, and
// from which line on.
func TestManyGets_Short(t *testing.T) {
	n := newBatchNode(t, func(c *DatabaseConfig) { c.JSONBytesInFlight, c.AnswerTimeout = getLinesBytes-1, 10*time.Millisecond })
	n.db.set("a", "", "one")
	results := getResults(t, want(t, n.post("/keys/get", "\n"+`{"key":"a"}`+"\n"+`{"key":"a"}`), 200).body)
	if len(results) != 1 || results[0].Status != api.BatchError || results[0].Type != api.ProblemOverloaded || results[0].Line != 2 {
		t.Errorf("results %+v", results)
	}
}

// TestManyGets_Cache: a cache node says where it found a value.
func TestManyGets_Cache(t *testing.T) {
	cache, database, reader := newCacheNode(t)
	database.db.set("a", "", "one")
	reader.source = "peer"
	got := getResults(t, want(t, cache.post("/keys/get", `{"key":"a"}`+"\n"+`{"key":"b"}`), http.StatusOK).body)
	if len(got) != 2 || got[0].Cache != "peer" || *got[0].Value != "one" || got[1].Status != api.GetAbsent {
		t.Errorf("results %+v", got)
	}
}
