package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

const (
	oldHistory   = "00112233445566778899aabbccddeeff"
	newHistoryID = "ffeeddccbbaa99887766554433221100"
)

// ofHistory is a node that holds one history: it names it, and refuses positions of
// another one, or beyond its newest revision.
type ofHistory struct {
	*history
	id     string
	parent *Origin
}

func (h *ofHistory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(api.HeaderHistory, h.id)
	q := r.URL.Query()
	since, _ := strconv.ParseUint(q.Get("since"), 10, 64)
	last, _ := h.state()
	switch asked := q.Get("history"); {
	case r.Method == http.MethodPut:
		acceptPut(w, r)
	case asked != "" && asked != h.id, since > last:
		problem(w, Problem{Type: api.ProblemHistoryChanged, Status: 409, Detail: "another history", History: h.id, Parent: h.parent, Newest: last})
	default:
		h.history.ServeHTTP(w, r)
	}
}

func TestClient_Changes_NeverGoesOnInAnotherHistory(t *testing.T) {
	t.Parallel()
	old := &ofHistory{history: newHistory(5), id: oldHistory}
	forced := &ofHistory{history: newHistory(9), id: newHistoryID, parent: &Origin{ID: oldHistory, Revision: 4, Head: "aa"}}
	var queries []string
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if queries = append(queries, r.URL.RawQuery); len(queries) == 1 {
			old.ServeHTTP(w, r)
		} else {
			forced.ServeHTTP(w, r)
		}
	})
	c, _ := newClient(t, u)
	var last Position
	for change, err := range c.Changes(t.Context(), ChangesOptions{Since: 2, Follow: true, OnBreak: func(error) {}}) {
		if err == nil {
			if last = change.Position(); last.Revision == 5 {
				close(old.hangUp)
			}
			continue
		}
		var changed *HistoryChangedError
		if !errors.As(err, &changed) || !errors.Is(err, ErrHistoryChanged) {
			t.Fatalf("ended with %v", err)
		}
		if changed.Asked != last || changed.History != newHistoryID || changed.Newest != 9 || changed.Common() != 4 || err.Error() != "read changes: another history" {
			t.Errorf("%+v: %v", changed, err)
		}
	}
	if want := (Position{Revision: 5, History: oldHistory}); last != want || !slices.Equal(queries, []string{"follow=true&since=2", "follow=true&history=" + oldHistory + "&since=5"}) {
		t.Errorf("at %v after queries %q", last, queries)
	}

	// A kept position is checked at once, and the walk of a bare revision is not.
	queries = queries[:1]
	for _, err := range c.Changes(t.Context(), ChangesOptions{Since: last.Revision, History: last.History}) {
		if !errors.Is(err, ErrHistoryChanged) {
			t.Errorf("%v", err)
		}
	}
	n := 0
	for change, err := range c.Changes(t.Context(), ChangesOptions{Since: 5}) {
		if n++; err != nil || change.History != newHistoryID {
			t.Errorf("%+v, %v", change, err)
		}
	}
	for _, err := range c.Changes(t.Context(), ChangesOptions{Since: 10, Follow: true}) {
		if n++; !errors.Is(err, ErrHistoryChanged) {
			t.Errorf("beyond the newest revision: %v", err)
		}
	}
	if n != 5 {
		t.Errorf("%d changes and errors", n)
	}
}

// A node that passes over history= is found out all the same.
func TestClient_Changes_ChecksWhatNodesName(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]http.HandlerFunc{
		"header": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(api.HeaderHistory, newHistoryID)
			io.WriteString(w, lineOf(3, false))
		},
		"heartbeat": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"event":"heartbeat","revision":2,"history":%q}`+"\n"+lineOf(3, false), newHistoryID)
		},
	} {
		u, requests := endpoint(t, serve)
		c, _ := newClient(t, u)
		for _, err := range c.Changes(t.Context(), ChangesOptions{Since: 2, History: oldHistory, Follow: true}) {
			var changed *HistoryChangedError
			if !errors.As(err, &changed) || changed.History != newHistoryID || changed.Asked != (Position{Revision: 2, History: oldHistory}) || changed.Common() != 0 || requests.Load() != 1 {
				t.Errorf("%s: %v after %d requests", name, err, requests.Load())
			}
		}
	}
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"event":"heartbeat","revision":0,"history":%q}`+"\n"+lineOf(1, false), newHistoryID)
	})
	c, _ := newClient(t, u)
	for change, err := range c.Changes(t.Context(), ChangesOptions{Follow: true, Limit: 1}) {
		if err != nil || change.History != newHistoryID {
			t.Errorf("a heartbeat that comes first: %+v, %v", change, err)
		}
	}
}

// A stream from a node that was left behind says nothing any more. What another
// answer of the client names lets it ask again.
func TestClient_Changes_NoticesWhatPutsAreOf(t *testing.T) {
	t.Parallel()
	old := &ofHistory{history: newHistory(3), id: oldHistory}
	forced := &ofHistory{history: newHistory(3), id: newHistoryID, parent: &Origin{ID: oldHistory, Revision: 3}}
	u, requests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Query().Get("since") == "0" {
			old.ServeHTTP(w, r)
		} else {
			forced.ServeHTTP(w, r)
		}
	})
	c, _ := newClient(t, u)
	put := func() {
		answer, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{})
		if err != nil || answer.History != newHistoryID {
			t.Errorf("%+v, %v", answer, err)
		}
	}
	var last error
	broke := func(err error) {
		if !errors.Is(err, errOtherHistory) {
			t.Errorf("the stream broke off with %v", err)
		}
	}
	for change, err := range c.Changes(t.Context(), ChangesOptions{Follow: true, OnBreak: broke}) {
		if last = err; change.Revision == 3 {
			put()
			put()
		}
	}
	if !errors.Is(last, ErrHistoryChanged) || requests.Load() != 4 {
		t.Errorf("ended with %v after %d requests", last, requests.Load())
	}
}

// An endpoint that still has the walk's history lets it go on, and is not asked again
// and again because another one has not.
func TestClient_Changes_OutlivesForeignAnswers(t *testing.T) {
	t.Parallel()
	old := &ofHistory{history: newHistory(3), id: oldHistory}
	a, requests := endpoint(t, old.ServeHTTP)
	c, _ := newClient(t, a)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	n := 0
	for _, err := range c.Changes(ctx, ChangesOptions{Follow: true}) {
		if err != nil {
			break
		}
		c.histories.heard(newHistoryID)
		switch n++; n {
		case 3, 4, 5: // each comes behind what was heard
			old.grow(1)
		case 6:
			stop()
		}
	}
	if n != 6 || requests.Load() != 2 {
		t.Errorf("%d changes in %d requests", n, requests.Load())
	}
}

// What this version does not know counts its revision, and nothing else.
func TestClient_Changes_PassesOverUnknownTypes(t *testing.T) {
	t.Parallel()
	var queries []string
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		switch queries = append(queries, r.URL.RawQuery); len(queries) {
		case 1:
			io.WriteString(w, lineOf(1, false)+`{"type":"retire","revision":2,"key":{"from":"a"}}`+"\n"+`{"type":"policy","revision":3}`+"\n")
		default:
			io.WriteString(w, lineOf(4, false))
		}
	})
	c, _ := newClient(t, u)
	var seen []uint64
	for change, err := range c.Changes(t.Context(), ChangesOptions{Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, change.Revision)
	}
	if !slices.Equal(seen, []uint64{1, 4}) || !slices.Equal(queries, []string{"limit=2&since=0", "limit=1&since=3"}) {
		t.Errorf("%v after %q", seen, queries)
	}
	u, _ = endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"type":"policy","revision":2}`+"\n")
	})
	c, _ = newClient(t, u)
	for _, err := range c.Changes(t.Context(), ChangesOptions{}) {
		if !errors.Is(err, ErrServer) {
			t.Errorf("a gap before an unknown type: %v", err)
		}
	}
}

func TestClient_Keys_OfOneHistory(t *testing.T) {
	t.Parallel()
	page := func(w http.ResponseWriter, history string, page api.KeysPage) {
		w.Header().Set(api.HeaderHistory, history)
		json.NewEncoder(w).Encode(page)
	}
	first := api.KeysPage{Keys: []Record{{Key: "a", Revision: 1}}, Next: "t1"}
	for name, second := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemHistoryChanged, Status: 409, History: newHistoryID, Parent: &Origin{ID: oldHistory, Revision: 7}})
		},
		"named": func(w http.ResponseWriter, r *http.Request) {
			page(w, newHistoryID, api.KeysPage{Keys: []Record{{Key: "b", Revision: 2}}})
		},
	} {
		u, requests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("after") == "" {
				page(w, oldHistory, first)
			} else {
				second(w, r)
			}
		})
		c, _ := newClient(t, u)
		keys, err := listed(t, c, KeysOptions{})
		var changed *HistoryChangedError
		if !slices.Equal(keys, []string{"a"}) || !errors.As(err, &changed) || changed.History != newHistoryID || changed.Asked.History != oldHistory || requests.Load() != 2 {
			t.Errorf("%s: listed %q, %v after %d requests", name, keys, err, requests.Load())
		}
	}
	var query string
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		page(w, oldHistory, api.KeysPage{})
	})
	c, _ := newClient(t, u)
	if _, err := listed(t, c, KeysOptions{After: "a", History: oldHistory}); err != nil || query != "after="+api.KeysToken("a")+"&history="+oldHistory {
		t.Errorf("query %q, %v", query, err)
	}
	if _, err := listed(t, c, KeysOptions{After: "a", History: "A" + oldHistory[1:]}); !errors.Is(err, ErrInvalid) {
		t.Errorf("no history: %v", err)
	}
}

func TestPosition(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Position{
		"0": {}, "18446744073709551615": {Revision: 1<<64 - 1}, "42." + oldHistory: {Revision: 42, History: oldHistory},
	} {
		if got, err := ParsePosition(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "." + oldHistory, "-1", "+1", "1.5", "18446744073709551616", "7.", "7." + oldHistory[1:], "7." + strings.ToUpper(oldHistory), "7." + oldHistory + ".", "7@" + oldHistory, "now"} {
		if _, err := ParsePosition(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestClient_Gone(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemGone, Status: http.StatusGone, Detail: "retired"})
	})
	c, _ := newClient(t, u)
	_, err := c.Get(t.Context(), "k", GetOptions{})
	_, statErr := c.Stat(t.Context(), "k", GetOptions{}) // without a document
	if !errors.Is(err, ErrGone) || !errors.Is(statErr, ErrGone) || errors.Is(err, ErrNotFound) || requests.Load() != 2 {
		t.Errorf("%v, %v after %d requests", err, statErr, requests.Load())
	}
}

func TestClient_Meta(t *testing.T) {
	t.Parallel()
	want := map[string]string{"source": `a "b" c`, "x-2": "", "z": "~"}
	var sent http.Header
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			sent = r.Header
			acceptPut(w, r)
			return
		}
		for name, value := range want {
			w.Header().Set(api.HeaderMetaPrefix+name, value)
		}
		w.Header().Set(api.HeaderBy, "someone")
		serveValue(w, digestOf([]byte("v")), []byte("v"))
	})
	c, _ := newClient(t, u)
	if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{Meta: want}); err != nil {
		t.Fatal(err)
	}
	for name, value := range want {
		if got := sent.Get(api.HeaderMetaPrefix + name); got != value {
			t.Errorf("sent %q for %s, want %q", got, name, value)
		}
	}
	record, err := c.Stat(t.Context(), "k", GetOptions{})
	if err != nil || record.By != "someone" || !sameMeta(record.Meta, want) {
		t.Errorf("%+v, %v", record, err)
	}
	for name, meta := range map[string]map[string]string{
		"no name": {"": "v"}, "case": {"Name": "v"}, "colon": {"a:b": "v"}, "long": {strings.Repeat("n", 65): "v"},
		"line end": {"n": "a\nb"}, "not ASCII": {"n": "ü"}, "space before": {"n": " v"}, "space behind": {"n": "v "}, "space": {"n": " "},
	} {
		if _, err := c.PutBytes(t.Context(), "k", nil, PutOptions{Meta: meta}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func sameMeta(a, b map[string]string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }
