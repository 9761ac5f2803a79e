package metrics_test

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/server/metrics"
)

// oneValue is a database that has every key and can only be read.
type oneValue struct {
	httpapi.DB
	value *kvstore.Value
}

func (o oneValue) Get(context.Context, kvstore.Key, kvstore.Consistency) (*kvstore.Value, error) {
	return o.value, nil
}

// nowhere discards an answer.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

// BenchmarkGet reads a short value through a database node's whole handler, without a
// connection, with and without metrics.
func BenchmarkGet(b *testing.B) {
	body := []byte("value")
	db := oneValue{value: kvstore.NewValue(kvstore.Meta{Key: "a", Revision: 1, Size: int64(len(body)), SHA256: sha256.Sum256(body), ContentType: "text/plain", Time: time.Unix(1, 0)}, body)}
	serve := func(b *testing.B, traffic httpapi.Traffic) {
		h := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: db, Cluster: struct{ httpapi.Cluster }{}, Registry: struct{ httpapi.Registry }{}, Traffic: traffic})
		r := httptest.NewRequest("GET", "/key/a", nil)
		w := &nowhere{header: http.Header{}}
		b.ReportAllocs()
		for b.Loop() {
			clear(w.header)
			h.ServeHTTP(w, r)
		}
	}
	b.Run("unmeasured", func(b *testing.B) { serve(b, nil) })
	b.Run("measured", func(b *testing.B) {
		serve(b, metrics.NewCache("c1", func() api.CacheStats { return api.CacheStats{} }).Traffic)
	})
}
