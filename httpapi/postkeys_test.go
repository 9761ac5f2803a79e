package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/kvstore"
)

func (db costDB) PutMany(_ context.Context, puts []kvstore.SmallPut, each func(i int, r kvstore.PutResult, err error)) {
	for i := range puts {
		each(i, kvstore.PutResult{Outcome: kvstore.Created, Meta: db.v.Meta}, nil)
	}
}

type leading struct{ httpapi.Cluster }

func (leading) Leads() bool { return true }

// BenchmarkBatch is a POST /keys of 1000 lines, over a connection, to a store that
// costs nothing: time is per line.
func BenchmarkBatch(b *testing.B) {
	const lines = 1000
	v := kvstore.NewValue(kvstore.Meta{Key: "k", Revision: 12345, Size: 256}, make([]byte, 256))
	server := httptest.NewServer(httpapi.NewDatabase(httpapi.DatabaseConfig{DB: costDB{v: v}, Cluster: leading{}, Registry: struct{ httpapi.Registry }{}}))
	defer server.Close()
	var body bytes.Buffer
	for i := range lines {
		line, err := json.Marshal(api.PutDocument{Key: new(fmt.Sprintf("%032d", i)), Value: new(fmt.Sprintf("%256d", i))})
		if err != nil {
			b.Fatal(err)
		}
		body.Write(append(line, '\n'))
	}
	b.ReportAllocs()
	for b.Loop() {
		r, err := http.Post(server.URL+"/keys", api.ContentTypeNDJSON, bytes.NewReader(body.Bytes()))
		if err != nil {
			b.Fatal(err)
		}
		answer, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || bytes.Count(answer, []byte("\n")) != lines || !bytes.Contains(answer, []byte(`"created"`)) {
			b.Fatalf("%d: %.300s %v", r.StatusCode, answer, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
}

// BenchmarkParsePut is the work that one line costs before it is put. Lines differ,
// since a decoder may keep the strings that it saw last.
func BenchmarkParsePut(b *testing.B) {
	const lines = 1000
	for _, encoding := range []string{"", api.EncodingBase64} {
		all := make([][]byte, lines)
		for i := range all {
			value := fmt.Sprintf("%256d", i)
			if encoding != "" {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			line, err := json.Marshal(api.PutDocument{Key: new(fmt.Sprintf("%032d", i)), Value: &value, Encoding: encoding})
			if err != nil {
				b.Fatal(err)
			}
			all[i] = line
		}
		b.Run(cmp.Or(encoding, "text"), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := httpapi.ParsePut(all[i%lines]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
