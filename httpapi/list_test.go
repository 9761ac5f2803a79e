package httpapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// The fake database lists nothing; lists are tested on a store.

func (db *fakeDB) Keys(context.Context, kvstore.KeysRequest, kvstore.Consistency) (kvstore.KeysPage, error) {
	return kvstore.KeysPage{History: db.History().ID}, nil
}

func (db *fakeDB) Changes(_ context.Context, r kvstore.ChangesRequest, _ kvstore.Consistency) (kvstore.Changes, error) {
	held := db.History()
	if !r.History.IsZero() && r.History != held.ID {
		return kvstore.Changes{}, &kvstore.HistoryChangedError{Asked: r.History, Since: r.After, History: held.ID, Parent: held.Parent()}
	}
	return kvstore.Changes{History: held.ID}, nil
}

func (db *fakeDB) Advanced(kvstore.Revision) <-chan struct{} { return nil }

func (db *fakeDB) History() kvstore.History {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.held
}

// history is a database of one node, in memory, and its log.
type history struct {
	*kvstore.DB
	t     *testing.T
	store *kvstore.Store

	mu       sync.Mutex
	index    uint64
	commands [][]byte
	reads    int
	readErr  error // of ReadIndex
	failAt   int   // Changes with a limit above 1 fail from this call on; 0: never
	changes  int
	behind   func() // called by ReadIndex, without the lock
}

// historyOf is a history that went on from others.
func historyOf(id byte, parents ...kvstore.Origin) kvstore.History {
	return kvstore.History{ID: kvstore.HistoryID{id, 15: id}, Parents: parents}
}

// fork begins another history, which goes on from the one before.
func (h *history) fork(id byte) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index++
	if err := h.store.Fork(h.index, 1, nil, historyOf(id).ID); err != nil {
		h.t.Fatal(err)
	}
}

func newHistory(t *testing.T) *history {
	t.Helper()
	values, err := bodies.Open(bodies.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = values.Close() })
	index, err := keyruns.Open(keyruns.Config{Files: keyruns.NewMemFiles()})
	if err != nil {
		t.Fatal(err)
	}
	store, err := kvstore.OpenStore(kvstore.StoreConfig{History: engine.NewMemEngine(), Index: index, Bodies: values})
	if err != nil {
		t.Fatal(err)
	}
	h := &history{t: t, store: store}
	h.DB = kvstore.NewDB(store, h, kvstore.DBConfig{})
	return h
}

func (h *history) Propose(_ context.Context, command []byte) (any, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index++
	h.commands = append(h.commands, command)
	results, err := h.store.Apply(h.index, 1, [][]byte{command}, nil)
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

func (h *history) ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error)) {
	for i, command := range commands {
		result, err := h.Propose(ctx, command)
		each(i, result, err)
	}
}

func (h *history) Distribute(ctx context.Context, list []bodies.Body) error {
	for _, b := range list {
		if _, err := h.store.Bodies().Append(b.Digest, b.Data); err != nil {
			return err
		}
	}
	return h.store.Bodies().Sync(ctx)
}

func (h *history) ReadIndex(context.Context) error {
	if h.behind != nil {
		h.behind()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	return h.readErr
}

func (h *history) Changes(ctx context.Context, r kvstore.ChangesRequest, c kvstore.Consistency) (kvstore.Changes, error) {
	h.mu.Lock()
	if r.Limit > 1 {
		h.changes++
	}
	fails := h.failAt > 0 && h.changes >= h.failAt
	h.mu.Unlock()
	if fails {
		return kvstore.Changes{}, &kvstore.CorruptError{File: "x", Detail: "broken"}
	}
	return h.DB.Changes(ctx, r, c)
}

// set puts a value past the API.
func (h *history) set(key, contentType, value string) {
	h.t.Helper()
	_, err := h.Put(h.t.Context(), kvstore.PutRequest{Key: kvstore.Key(key), ContentType: contentType, Body: strings.NewReader(value), Size: int64(len(value))})
	if err != nil {
		h.t.Error(err)
	}
}

// replica replays the log on another store, committed and indexed in part.
func (h *history) replica() *history {
	other := newHistory(h.t)
	for i, command := range h.commands {
		if _, err := other.Propose(h.t.Context(), bytes.Clone(command)); err != nil {
			h.t.Fatal(err)
		}
		if i == len(h.commands)/2 {
			if err := other.store.FlushIndex(); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	return other
}

func newHistoryNode(t *testing.T, adjust ...func(*DatabaseConfig)) (*node, *history) {
	t.Helper()
	h := newHistory(t)
	return serveHistory(t, h, adjust...), h
}

func serveHistory(t *testing.T, h *history, adjust ...func(*DatabaseConfig)) *node {
	t.Helper()
	return newNode(t, append([]func(*DatabaseConfig){func(c *DatabaseConfig) { c.DB = h }}, adjust...)...)
}

func page(t *testing.T, got reply) api.KeysPage {
	t.Helper()
	want(t, got, 200)
	wantHeader(t, got, "Cache-Control", "no-store")
	wantHeader(t, got, "Content-Type", "application/json")
	var p api.KeysPage
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		t.Fatalf("page: %v in %q", err, got.body)
	}
	return p
}

// listed follows pages to the last one.
func listed(t *testing.T, n *node, query string) (keys []string) {
	t.Helper()
	after := ""
	for {
		p := page(t, n.get("/keys?"+query+after))
		for _, record := range p.Keys {
			key, err := record.RawKey()
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
		if p.Next == "" {
			return keys
		}
		after = "&after=" + p.Next
	}
}

func TestKeys_Document(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	if got := want(t, n.get("/keys"), 200); got.body != `{"keys":[]}`+"\n" {
		t.Errorf("no keys: %q", got.body)
	}
	h.set("a<&>", "text/x-a", "one")
	h.set("b/\xff", "", "")
	body := fmt.Sprintf(`{"keys":[{"key":"a<&>","revision":1,"sha256":"%s","size":3,"content_type":"text/x-a"},`+
		`{"key_base64":"Yi//","revision":2,"sha256":"%s","size":0,"content_type":"application/octet-stream"}]}`+"\n", hexSum("one"), hexSum(""))
	for _, query := range []string{"", "?prefix=&after=&limit=2", "?consistency=local", "?limit=10000"} {
		if got := want(t, n.get("/keys"+query), 200); got.body != body {
			t.Errorf("%s: %q", query, got.body)
		}
	}
	head := want(t, n.send("HEAD", "/keys", ""), 200)
	wantHeader(t, head, "Content-Length", itoa(len(body)))
	wantHeader(t, want(t, n.send("DELETE", "/keys", ""), 405), "Cache-Control", "no-store")
}

func TestKeys_BadParameters(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	h.set("k", "", "v")
	token := tokenOf(kvstore.HistoryID{}, "k")
	for _, query := range []string{
		"limit=-1", "limit=0", "limit=", "limit=+1", "limit=1e3", "limit=10001", "limit=99999999999999999999", "limit=1&limit=1",
		"prefix=a;b", "prefix=a%00", "prefix=" + strings.Repeat("k", 1025), "prefix=%zz", "since=1", "consistency=strong",
		"after=k", "after=" + token + "=", "after=" + token[:len(token)-1], "after=AQ", "after=" + base64.RawURLEncoding.EncodeToString([]byte("\x02k")),
		"after=" + base64.RawURLEncoding.EncodeToString([]byte("\x01a\x00b")), "after=%20" + token, "after=" + token + "%0A", "after=" + token[:1] + "%0D%0A" + token[1:],
	} {
		p := want(t, n.get("/keys?"+query), 400).problem(t)
		if p.Type != api.ProblemInvalid {
			t.Errorf("%s: %+v", query, p)
		}
	}
	if got := page(t, n.get("/keys?after="+token)); len(got.Keys) != 0 || got.Next != "" {
		t.Errorf("after the last key: %+v", got)
	}
}

func TestKeys_Pages(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	var all []string
	for i := range 95 {
		key := fmt.Sprintf("p/%02d", i*37%95)
		if i%10 == 0 {
			key += "\xff\xfe"
		}
		all = append(all, key)
		h.set(key, "", key)
		h.set("q"+key, "", "")
	}
	slices.Sort(all)
	for _, limit := range []int{1, 7, 94, 95, 96} {
		if got := listed(t, n, fmt.Sprint("prefix=p/&limit=", limit)); !slices.Equal(got, all) {
			t.Errorf("limit %d: %d keys of %d, or in another order", limit, len(got), len(all))
		}
		if err := h.store.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.store.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, n, "prefix=p/&limit=10"); !slices.Equal(got, all) {
		t.Errorf("indexed: %d keys", len(got))
	}
	next := page(t, n.get("/keys?limit=3")).Next
	if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(next) {
		t.Errorf("token %q", next)
	}
}

func TestKeys_PagesEndByBytes(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	long := strings.Repeat("é", 500)
	for i := range 1500 {
		h.set(fmt.Sprintf("%04d%s", i, long), "", "")
	}
	got := want(t, n.get("/keys?limit=10000"), 200)
	p := page(t, got)
	if len(p.Keys) < 500 || len(p.Keys) > 1200 || p.Next == "" || len(got.body) > 3<<19 {
		t.Errorf("%d keys in %d bytes, next %q", len(p.Keys), len(got.body), p.Next)
	}
	if keys := listed(t, n, "limit=10000"); len(keys) != 1500 {
		t.Errorf("%d keys in all", len(keys))
	}
}

// TestKeys_PagesAreStable: puts before and behind the pages read so far neither
// double nor hide a key that was there from the start.
func TestKeys_PagesAreStable(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	var all []string
	for i := range 300 {
		all = append(all, fmt.Sprintf("k/%03d", i))
		h.set(all[i], "", "v")
	}
	quit := make(chan struct{})
	var puts sync.WaitGroup
	puts.Go(func() {
		for i := range 2000 {
			select {
			case <-quit:
				return
			default:
			}
			h.set(fmt.Sprintf("k/%03d/%d", i*7%300, i), "", "v")
			if i%200 == 0 {
				if err := h.store.FlushIndex(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 5 {
		keys := listed(t, n, "prefix=k/&limit=17")
		if !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
			t.Error("keys are doubled or out of order")
		}
		keys = slices.DeleteFunc(keys, func(key string) bool { return len(key) > len("k/000") })
		if !slices.Equal(keys, all) {
			t.Errorf("%d keys of the first %d", len(keys), len(all))
		}
	}
	close(quit)
	puts.Wait()
}

func TestKeys_Consistency(t *testing.T) {
	t.Parallel()
	n, h := newHistoryNode(t)
	want(t, n.get("/keys?consistency=local"), 200)
	if h.reads != 0 {
		t.Error("a local list asked the cluster")
	}
	want(t, n.get("/keys"), 200)
	if h.reads != 1 {
		t.Errorf("a list was confirmed %d times", h.reads)
	}
	h.readErr = kvstore.ErrUnavailable
	wantHeader(t, want(t, n.get("/keys"), 503), "Retry-After", "1")
	want(t, n.get("/keys?consistency=local"), 200)
	want(t, n.get("/changes"), 503).problem(t)
	want(t, n.get("/changes?consistency=local"), 200)
}

func TestKeys_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	n, _ := newHistoryNode(t, func(c *DatabaseConfig) { c.JSONBytesInFlight = 100_000 })
	want(t, n.get("/keys"), 429).problem(t)
	want(t, n.get("/keys?limit=10"), 200)
	want(t, n.get("/keys?limit=10"), 200) // it was given back
}
