package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// PutMany sets every key at once.
func (db costDB) PutMany(_ context.Context, puts []kvstore.SmallPut, each func(i int, r kvstore.PutResult, err error)) {
	for i := range puts {
		each(i, kvstore.PutResult{Outcome: kvstore.Created, Meta: db.v.Meta}, nil)
	}
}

// GetMany finds every key.
func (db costDB) GetMany(keys []kvstore.Key, each func(i int, v *kvstore.Value, err error)) {
	for i := range keys {
		each(i, db.v, nil)
	}
}

// streamRequests renders one request of each kind of stream.
var streamRequests = []struct {
	name, path, mediaType string
	append                func(b []byte, i int) []byte
}{
	{"lines/put", "/keys", api.ContentTypeNDJSON, func(b []byte, i int) []byte {
		return fmt.Appendf(b, `{"key":"%032d","value":"%0256d"}`+"\n", i, i)
	}},
	{"lines/get", "/keys/get", api.ContentTypeNDJSON, func(b []byte, i int) []byte {
		return fmt.Appendf(b, `{"key":"%032d"}`+"\n", i)
	}},
	{"frames/put", "/keys", api.ContentTypeFrames, func(b []byte, i int) []byte {
		return frame.AppendPut(b, &frame.Put{ID: uint32(i + 1), Key: fmt.Sprintf("%032d", i), Value: fmt.Appendf(nil, "%0256d", i)})
	}},
	{"frames/get", "/keys/get", api.ContentTypeFrames, func(b []byte, i int) []byte {
		return frame.AppendGet(b, &frame.Get{ID: uint32(i + 1), Key: fmt.Sprintf("%032d", i)})
	}},
}

// BenchmarkStreams is what streams cost, with a store that costs nothing: whole
// requests of 4096 (many), and one at a time on an open connection, each waiting for
// its answer (one).
func BenchmarkStreams(b *testing.B) {
	value := make([]byte, 256)
	v := kvstore.NewValue(kvstore.Meta{Key: "k", Revision: 12345, Size: int64(len(value)), ContentType: kvstore.DefaultContentType}, value)
	h := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: costDB{v: v}, Cluster: leading{}, Registry: struct{ httpapi.Registry }{}})
	const many = 4096
	for _, kind := range streamRequests {
		b.Run(kind.name+"/many", func(b *testing.B) {
			b.ReportAllocs()
			var body []byte
			for i := range many {
				body = kind.append(body, i)
			}
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, kind.path, bytes.NewReader(body))
				r.Header.Set("Content-Type", kind.mediaType)
				h.ServeHTTP(&flushed{paced{discarding{header: http.Header{}}}}, r)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/request")
		})
		b.Run(kind.name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			in, feed := io.Pipe()
			w := &toldWriter{flushed: flushed{paced{discarding{header: http.Header{}}}}, told: make(chan struct{}, 1)}
			over := make(chan struct{})
			go func() {
				defer close(over)
				r := httptest.NewRequest(http.MethodPost, kind.path, in)
				r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
				r.Header.Set("Content-Type", kind.mediaType)
				h.ServeHTTP(w, r)
			}()
			request := kind.append(nil, 1)
			for b.Loop() {
				feed.Write(request)
				<-w.told
			}
			feed.Close()
			<-over
		})
	}
}

// flushed is a connection that can be flushed.
type flushed struct{ paced }

func (*flushed) Flush() {}

// toldWriter tells of every write.
type toldWriter struct {
	flushed
	told chan struct{}
}

func (w *toldWriter) Write(p []byte) (int, error) {
	w.told <- struct{}{}
	return len(p), nil
}

// leading is a Cluster that leads.
type leading struct{ httpapi.Cluster }

func (leading) Leads() bool { return true }
