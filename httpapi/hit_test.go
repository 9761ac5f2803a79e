package httpapi_test

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/server/metrics"
)

// heldReader holds one value.
type heldReader struct{ v *kvstore.Value }

func (h heldReader) Get(_ context.Context, key kvstore.Key, _ kvstore.Consistency) (*kvstore.Value, string, error) {
	if key != h.v.Key {
		return nil, "", kvstore.ErrNotFound
	}
	return h.v, "hit", nil
}

func (h heldReader) Held(key kvstore.Key) (*kvstore.Value, bool) {
	return h.v, key == h.v.Key
}

// discarding is a connection that takes everything.
type discarding struct {
	header http.Header
	bytes  int
}

func (d *discarding) Header() http.Header { return d.header }

func (d *discarding) Write(p []byte) (int, error) {
	d.bytes += len(p)
	return len(p), nil
}

func (d *discarding) WriteHeader(int) {}

// hit is a cache node's API that holds a value, and a request for it.
func hit(tb testing.TB) (handler http.Handler, request *http.Request, value *kvstore.Value) {
	body := make([]byte, 1024)
	value = kvstore.NewValue(kvstore.Meta{Key: "app/v1/main.js", Revision: 12345, Size: int64(len(body)), SHA256: sha256.Sum256(body),
		ContentType: "text/javascript", Time: time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)}, body)
	m := metrics.NewCache("c1", func() api.CacheStats { return api.CacheStats{} })
	handler = httpapi.NewCache(httpapi.CacheConfig{Reader: heldReader{value}, Traffic: m.Traffic})
	request = &http.Request{Method: "GET", URL: &url.URL{Path: "/key/app/v1/main.js"}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {"x"}}, Host: "127.0.0.1", Body: http.NoBody}
	return handler, request.WithContext(tb.Context()), value
}

// What is held is answered without a context, a timer or a header of its own.
func TestCache_HitAllocatesLittle(t *testing.T) {
	handler, request, value := hit(t)
	w := &discarding{header: http.Header{}}
	allocations := testing.AllocsPerRun(100, func() {
		clear(w.header)
		w.bytes = 0
		handler.ServeHTTP(w, request)
	})
	if allocations > 2 || int64(w.bytes) != value.Size || len(w.header["Etag"]) != 1 {
		t.Errorf("%v allocations for %d bytes and %v", allocations, w.bytes, w.header)
	}
}

// BenchmarkHit is what a cache node's handler adds to net/http's work for a key
// that is held, beside a bare chi handler that answers with the same bytes and
// headers.
func BenchmarkHit(b *testing.B) {
	handler, request, value := hit(b)
	first := &discarding{header: http.Header{}}
	handler.ServeHTTP(first, request)
	body, _ := value.Bytes()
	if first.bytes != len(body) {
		b.Fatalf("%d bytes, %v", first.bytes, first.header)
	}

	bare := chi.NewRouter()
	bare.Get("/key/*", func(w http.ResponseWriter, r *http.Request) {
		if chi.URLParam(r, "*") != "app/v1/main.js" {
			http.NotFound(w, r)
			return
		}
		for name, lines := range first.header {
			w.Header().Set(name, lines[0])
		}
		w.Write(body)
	})
	for _, h := range []struct {
		name    string
		handler http.Handler
	}{{"bare", bare}, {"cache", handler}} {
		b.Run(h.name, func(b *testing.B) {
			b.ReportAllocs()
			w := &discarding{header: http.Header{}}
			for b.Loop() {
				clear(w.header)
				h.handler.ServeHTTP(w, request)
			}
		})
	}
}
