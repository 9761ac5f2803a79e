package client

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

// BenchmarkPutAll measures the client: the node answers what it reads at once.
func BenchmarkPutAll(b *testing.B) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		_ = conn.EnableFullDuplex()
		w.WriteHeader(http.StatusContinue)
		w.Header().Set("Content-Type", api.ContentTypeFrames)
		w.WriteHeader(http.StatusOK)
		_ = conn.Flush()
		frames := frame.NewReader(r.Body)
		var out []byte
		for {
			f, err := frames.Next()
			if err != nil {
				return
			}
			put, _ := f.Put()
			out = frame.AppendSet(out, &frame.Set{ID: f.ID, Created: true, Winner: frame.Winner{Revision: 1, Size: uint64(len(put.Value)), Digest: sha256.Sum256(put.Value)}})
			if !frames.Buffered() {
				w.Write(out)
				_ = conn.Flush()
				out = out[:0]
			}
		}
	}))
	defer node.Close()
	c, err := New(Config{Endpoints: []string{node.URL}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.ReportAllocs()
	for _, err := range c.PutAll(b.Context(), items(b.N)) {
		if err != nil {
			b.Fatal(err)
		}
	}
}
