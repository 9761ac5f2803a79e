package httpapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/server/metrics"
)

// costDB answers at once: what is left is what the handler costs.
type costDB struct {
	httpapi.DB
	v *kvstore.Value
}

func (db costDB) Get(_ context.Context, key kvstore.Key, _ kvstore.Consistency) (*kvstore.Value, error) {
	if key != db.v.Key {
		return nil, kvstore.ErrNotFound
	}
	return db.v, nil
}

func (costDB) Confirm(context.Context) error { return nil }

func (costDB) History() kvstore.History { return kvstore.History{ID: kvstore.HistoryID{1}} }

func (db costDB) Put(_ context.Context, r kvstore.PutRequest) (kvstore.PutResult, error) {
	var buf [512]byte
	for {
		if _, err := r.Body.Read(buf[:]); err != nil {
			return kvstore.PutResult{Outcome: kvstore.Created, Meta: db.v.Meta}, nil
		}
	}
}

// paced is a connection that takes everything, and deadlines too.
type paced struct{ discarding }

func (*paced) SetReadDeadline(time.Time) error  { return nil }
func (*paced) SetWriteDeadline(time.Time) error { return nil }

// costs calls do with each kind of request: its handler, the request, and what
// renews it.
func costs(tb testing.TB, do func(name string, api http.Handler, r *http.Request, renew func())) {
	value := make([]byte, 256)
	key := "0123456789abcdef0123456789abcdef"
	v := kvstore.NewValue(kvstore.Meta{Key: kvstore.Key(key), Revision: 12345, Size: int64(len(value)), SHA256: sha256.Sum256(value),
		ContentType: kvstore.DefaultContentType, Time: time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)}, value)
	m := metrics.NewDatabase("n1", func() metrics.DatabaseFigures { return metrics.DatabaseFigures{} })
	api := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: costDB{v: v}, Cluster: struct{ httpapi.Cluster }{}, Registry: struct{ httpapi.Registry }{}, Traffic: m.Traffic})
	request := func(method, key string, body io.Reader, size int64) *http.Request {
		r := &http.Request{Method: method, URL: &url.URL{Path: "/key/" + key}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Host: "127.0.0.1", Body: io.NopCloser(body), ContentLength: size}
		return r.WithContext(tb.Context())
	}
	body := bytes.NewReader(value)
	do("get", api, request("GET", key, http.NoBody, 0), func() {})
	do("absent", api, request("GET", "absent", http.NoBody, 0), func() {})
	do("put", api, request("PUT", key, body, int64(len(value))), func() { body.Reset(value) })
}

// BenchmarkDatabase is what a database node's handler adds to net/http's work, with
// a store that costs nothing.
func BenchmarkDatabase(b *testing.B) {
	costs(b, func(name string, api http.Handler, r *http.Request, renew func()) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := &paced{discarding{header: http.Header{}}}
			for b.Loop() {
				clear(w.header)
				renew()
				api.ServeHTTP(w, r)
			}
		})
	})
}

// What a request of each kind allocates is bounded: a database node answers tens
// of thousands of them a second.
func TestDatabase_AllocatesLittle(t *testing.T) {
	most := map[string]float64{"get": 2, "absent": 14, "put": 12}
	costs(t, func(name string, api http.Handler, r *http.Request, renew func()) {
		w := &paced{discarding{header: http.Header{}}}
		allocations := testing.AllocsPerRun(100, func() {
			clear(w.header)
			renew()
			api.ServeHTTP(w, r)
		})
		if allocations > most[name] {
			t.Errorf("%s: %v allocations, want %v at most", name, allocations, most[name])
		}
	})
}

// hotMemory is a Memory that keeps everything, and counts.
type hotMemory struct {
	values map[kvstore.Key]*kvstore.Value
	held   int
}

func (m *hotMemory) Held(key kvstore.Key) (*kvstore.Value, bool) {
	v, found := m.values[key]
	return v, found
}

func (m *hotMemory) Hold(v *kvstore.Value) {
	m.values[v.Key] = v
	m.held++
}

// goneDB finds a value once.
type goneDB struct {
	costDB
	gets *int
}

func (db goneDB) Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, error) {
	if *db.gets++; *db.gets > 1 && key == db.v.Key {
		return nil, errors.New("asked again for what is held")
	}
	return db.costDB.Get(ctx, key, c)
}

// What was found is asked of the memory from then on, whatever else is asked of
// it; what is not set is never held.
func TestDatabase_Hot(t *testing.T) {
	t.Parallel()
	v := kvstore.NewValue(kvstore.Meta{Key: "k", Revision: 1, Size: 1, SHA256: sha256.Sum256([]byte("v"))}, []byte("v"))
	hot, gets := &hotMemory{values: make(map[kvstore.Key]*kvstore.Value)}, 0
	api := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: goneDB{costDB{v: v}, &gets}, Hot: hot, Cluster: struct{ httpapi.Cluster }{}, Registry: struct{ httpapi.Registry }{}})
	for _, target := range []string{"/key/k", "/key/k", "/keep/k", "/key?key=k", "/key/k?consistency=local", "/key/k?format=json"} {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		if w.Code != 200 || w.Header().Get("Oncekv-Revision") != "1" || w.Header().Get("Oncekv-Cache") != "" {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
	for range 3 {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequest("GET", "/key/absent", nil))
		if w.Code != 404 {
			t.Errorf("status %d", w.Code)
		}
	}
	if gets != 1+3*2 || hot.held != 1 {
		t.Errorf("the store was asked %d times, %d values were held", gets, hot.held)
	}
}
