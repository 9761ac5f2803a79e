package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// postLines sends lines to POST /keys as they are made, and calls got for each result as it
// comes.
func postLines(t testing.TB, base string, lines int, line func(i int) string, got func(i int, r api.BatchResult)) {
	t.Helper()
	body, feed := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(feed, 64<<10)
		for i := range lines {
			if _, err := w.WriteString(line(i)); err != nil {
				break
			}
		}
		w.Flush()
		sent <- feed.Close()
	}()
	resp, err := http.Post(base+"/keys", api.ContentTypeNDJSON, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("status %d: %s", resp.StatusCode, text)
	}
	results := json.NewDecoder(bufio.NewReaderSize(resp.Body, 64<<10))
	for i := 0; ; i++ {
		var r api.BatchResult
		err := results.Decode(&r)
		if err == io.EOF {
			if i != lines {
				t.Fatalf("%d results for %d lines", i, lines)
			}
			break
		}
		if err != nil {
			t.Fatalf("result %d: %v", i+1, err)
		}
		got(i, r)
	}
	body.Close()
	<-sent
}

// TestBatch sends lines through a follower or leader and through a cache: one client waits for
// each result before it sends the next line, another sends everything before it reads.
func TestBatch(t *testing.T) {
	c := clustertest.Start(t, 3, 1)
	for _, base := range []string{c.DBs[0].URL(), c.DBs[2].URL(), c.Caches[0].URL()} {
		name := base[len("http://"):]
		body, feed := io.Pipe()
		resp, err := http.Post(base+"/keys", api.ContentTypeNDJSON, body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer := json.NewDecoder(resp.Body)
		for i := range 20 {
			fmt.Fprintf(feed, `{"key":"%s/one/%d","value":"v"}`+"\n", name, i)
			var r api.BatchResult
			if err := answer.Decode(&r); err != nil || r.Status != api.BatchCreated || r.Key != fmt.Sprint(name, "/one/", i) {
				t.Fatalf("line %d: %+v, %v", i+1, r, err)
			}
		}
		feed.Close()
		if err := answer.Decode(&api.BatchResult{}); err != io.EOF {
			t.Errorf("behind the last result: %v", err)
		}

		var all strings.Builder
		const lines = 6_000
		for i := range lines {
			fmt.Fprintf(&all, `{"key":"%s/all/%d","value":"%d"}`+"\n", name, i/2, i)
		}
		resp, err = http.Post(base+"/keys", "", strings.NewReader(all.String()))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer = json.NewDecoder(resp.Body)
		for i := range lines {
			var r api.BatchResult
			wanted := []string{api.BatchCreated, api.BatchConflict}[i%2]
			if err := answer.Decode(&r); err != nil || r.Status != wanted || r.Key != fmt.Sprint(name, "/all/", i/2) {
				t.Fatalf("line %d: %+v, %v", i+1, r, err)
			}
		}
	}
}

// TestBatch_NodeStops: the stream through a stopping node ends with a line that says where. If
// the client resumes there at another node, every line is put once.
func TestBatch_NodeStops(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, 0)
	body, feed := io.Pipe()
	defer body.Close()
	ahead := make(chan struct{}, 64) // a node that stops finishes what it has begun, within two seconds
	go func() {
		for i := 0; ; i++ {
			select {
			case ahead <- struct{}{}:
			case <-t.Context().Done():
				return
			}
			if _, err := fmt.Fprintf(feed, `{"key":"k%d","value":"v"}`+"\n", i); err != nil {
				return
			}
		}
	}()
	resp, err := http.Post(c.DBs[0].URL()+"/keys", "", body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := json.NewDecoder(resp.Body)
	closed := make(chan error, 1)
	for i := 0; ; i++ {
		if i == 1000 {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				closed <- c.DBs[0].Close(ctx)
			}()
		}
		var r api.BatchResult
		if err := answer.Decode(&r); err != nil {
			t.Fatalf("result %d: %v", i+1, err)
		}
		<-ahead
		if r.Status == api.BatchError {
			if r.Line != uint64(i+1) || r.Type != api.ProblemUnavailable {
				t.Errorf("error line behind %d results: %+v", i, r)
			}
			break
		}
		if r.Key != fmt.Sprint("k", i) || i < 1000 && r.Status != api.BatchCreated {
			t.Fatalf("result %d: %+v", i+1, r)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// BenchmarkBatch puts 200,000 keys of 32 bytes with values of 256 in one request, on a cluster
// of three in this process.
func BenchmarkBatch(b *testing.B) {
	c := clustertest.Start(b, 3, 1)
	value := strings.Repeat("v", 256-16)
	for _, via := range []struct{ name, url string }{{"n1", c.DBs[0].URL()}, {"n2", c.DBs[1].URL()}, {"cache", c.Caches[0].URL()}} {
		b.Run(via.name, func(b *testing.B) {
			const lines = 200_000
			start := time.Now()
			for range b.N {
				run := fmt.Sprintf("%012x", time.Now().UnixNano()&0xffffffffffff)
				postLines(b, via.url, lines, func(i int) string {
					return fmt.Sprintf(`{"key":"%s%020d","value":"%016d%s"}`+"\n", run, i, i, value)
				}, func(i int, r api.BatchResult) {
					if r.Status != api.BatchCreated || !strings.HasSuffix(r.Key, fmt.Sprintf("%020d", i)) {
						b.Fatalf("line %d: %+v", i+1, r)
					}
				})
			}
			b.ReportMetric(float64(b.N*lines)/time.Since(start).Seconds(), "keys/s")
		})
	}
}
