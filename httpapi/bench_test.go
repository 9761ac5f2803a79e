package httpapi

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// discard is a writer that keeps nothing, for benchmarks of handlers alone.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkDatabase_Get is a GET of a short value through the whole handler,
// without a connection.
func BenchmarkDatabase_Get(b *testing.B) {
	db := newFakeDB()
	db.set("a", "text/plain", "value")
	h := NewDatabase(DatabaseConfig{DB: db, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}})
	r := httptest.NewRequest("GET", "/key/a", nil)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		db.gets = db.gets[:0]
		h.ServeHTTP(w, r)
	}
}
