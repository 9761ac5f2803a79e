package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// streamCount counts a client's requests, in frames and others.
type streamCount struct {
	http.RoundTripper
	streams, others atomic.Int64
}

func (s *streamCount) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Content-Type") == api.ContentTypeFrames {
		s.streams.Add(1)
	} else {
		s.others.Add(1)
	}
	return s.RoundTripper.RoundTrip(r)
}

func countingClient(t testing.TB, urls ...string) (*client.Client, *streamCount) {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 256, ExpectContinueTimeout: http.DefaultTransport.(*http.Transport).ExpectContinueTimeout}
	t.Cleanup(transport.CloseIdleConnections)
	count := &streamCount{RoundTripper: transport}
	c, err := client.New(client.Config{Endpoints: urls, HTTPClient: &http.Client{Transport: count}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, count
}

// readAll is a Get with its bytes.
func readAll(c *client.Client, key string) (*client.Object, []byte, error) {
	o, err := c.Get(context.Background(), key, client.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	defer o.Body.Close()
	value, err := io.ReadAll(o.Body)
	return o, value, err
}

// TestCoalesce_Semantics: calls that travel together mean what they mean alone, at database
// nodes and through a cache node: every put keeps its own identity, strict puts have one
// winner, losers learn who won, absence is confirmed, and large values are sent alone.
func TestCoalesce_Semantics(t *testing.T) {
	cluster := clustertest.Start(t, 3, 1)
	for name, url := range map[string]string{"database": cluster.DBs[0].URL(), "cache": cluster.Caches[0].URL()} {
		t.Run(name, func(t *testing.T) {
			c, count := countingClient(t, url)
			const callers, rounds = 32, 12
			var winners [rounds]atomic.Int64
			var calls sync.WaitGroup
			for caller := range callers {
				calls.Go(func() {
					for round := range rounds {
						own(t, c, fmt.Sprintf("%s/own/%d/%d", name, caller, round), caller*round)
						race(t, c, fmt.Sprintf("%s/race/%d", name, round), caller, &winners[round])
					}
				})
			}
			calls.Wait()
			for round := range winners {
				if n := winners[round].Load(); n != 1 {
					t.Errorf("%d callers have won key %d", n, round)
				}
			}
			if count.streams.Load() < 2 || count.others.Load() >= 7*callers*rounds {
				t.Errorf("%d streams, and %d requests beside them", count.streams.Load(), count.others.Load())
			}
		})
	}
}

// own puts, repeats and reads a key of its caller; sizes vary, and some values are too large
// for a frame.
func own(t *testing.T, c *client.Client, key string, n int) {
	value := bytes.Repeat([]byte{byte(n), 0xff}, n*37%500)
	if n%10 == 1 {
		value = bytes.Repeat(value, 200)
	}
	ctx := context.Background()
	if _, _, err := readAll(c, key); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("%s before it is put: %v", key, err)
	}
	options := client.PutOptions{ContentType: "text/x-own", PutID: client.NewPutID(), IfAbsent: n%2 == 0}
	a, err := c.PutBytes(ctx, key, value, options)
	if err != nil || !a.Created || a.Size != int64(len(value)) {
		t.Errorf("put %s: %+v, %v", key, a, err)
		return
	}
	if again, err := c.PutBytes(ctx, key, value, options); err != nil || again != a {
		t.Errorf("put %s again: %+v, %v", key, again, err)
	}
	if kept, err := c.PutBytes(ctx, key, []byte("other"), client.PutOptions{KeepExisting: true}); err != nil || kept.Created || kept.SHA256 != a.SHA256 {
		t.Errorf("put %s and keep: %+v, %v", key, kept, err)
	}
	o, got, err := readAll(c, key)
	if err != nil || !bytes.Equal(got, value) || o.Revision != a.Revision || o.SHA256 != a.SHA256 || o.ContentType != "text/x-own" || o.Time == nil {
		t.Errorf("get %s: %d bytes, %+v, %v", key, len(got), o, err)
	}
}

// race puts a key that every caller puts, each with its own bytes.
func race(t *testing.T, c *client.Client, key string, caller int, winners *atomic.Int64) {
	value := []byte(fmt.Sprint("of caller ", caller))
	a, err := c.PutBytes(context.Background(), key, value, client.PutOptions{IfAbsent: caller%2 == 0})
	o, got, getErr := readAll(c, key)
	if getErr != nil {
		t.Errorf("get %s: %v", key, getErr)
		return
	}
	var lost *client.ConflictError
	switch {
	case err == nil && a.Created && bytes.Equal(got, value):
		winners.Add(1)
	case errors.As(err, &lost) && !bytes.Equal(got, value):
		if lost.Revision != o.Revision || lost.SHA256 != o.SHA256 || lost.Size != o.Size || !errors.Is(err, api.ErrExists) || errors.Is(err, api.ErrConflict) != (caller%2 == 1) {
			t.Errorf("%s lost to %+v, it is %+v", key, lost, o)
		}
	default:
		t.Errorf("put %s: %+v, %v; it is %q", key, a, err, got)
	}
}

// TestCoalesce_NodeStops: the node that holds the streams stops in the middle, and another
// node answers every call, once and correctly.
func TestCoalesce_NodeStops(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Start(t, 3, 0)
	c, count := countingClient(t, cluster.DBs[0].URL(), cluster.DBs[1].URL(), cluster.DBs[2].URL())
	const callers, each = 32, 40
	var under, done atomic.Int64
	killed := make(chan struct{})
	var calls sync.WaitGroup
	for caller := range callers {
		calls.Go(func() {
			for n := range each {
				if under.Add(1) == callers*each/4 {
					close(killed)
				}
				key := fmt.Sprintf("stops/%d/%d", caller, n)
				a, err := c.PutBytes(context.Background(), key, []byte(key), client.PutOptions{IfAbsent: true})
				if err != nil || !a.Created {
					t.Errorf("put %s: %+v, %v", key, a, err)
					continue
				}
				if o, got, err := readAll(c, key); err != nil || string(got) != key || o.Revision != a.Revision {
					t.Errorf("get %s: %q, %v", key, got, err)
				}
				done.Add(1)
			}
		})
	}
	<-killed
	if err := cluster.DBs[0].Close(t.Context()); err != nil {
		t.Error(err)
	}
	calls.Wait()
	if done.Load() != callers*each || count.streams.Load() < 3 {
		t.Errorf("%d of %d calls, %d streams", done.Load(), callers*each, count.streams.Load())
	}
	seen := 0
	for _, err := range c.Keys(t.Context(), client.KeysOptions{Prefix: "stops/"}) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
	}
	if seen != callers*each {
		t.Errorf("%d keys of %d puts", seen, callers*each)
	}
}

// BenchmarkCoalesce compares 256 callers of one client, whose calls travel together, with the
// same calls as separate requests. The three nodes are in this process and share its
// processors.
func BenchmarkCoalesce(b *testing.B) {
	cluster := clustertest.Start(b, 3, 0)
	var urls []string
	for _, d := range cluster.DBs {
		urls = append(urls, d.URL())
	}
	value := bytes.Repeat([]byte("v"), 256)
	key := func(kind string, n int64) string {
		return fmt.Sprintf("bench/%08x/%s/%015x", rand.Uint32(), kind, n)[:32]
	}
	var set [1024]string
	fill := clustertest.Client(b, urls...)
	for i := range set {
		set[i] = key("g", int64(i))
		if _, err := fill.PutBytes(b.Context(), set[i], value, client.PutOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for name, call := range map[string]func(c *client.Client, n int64) error{
		"put": func(c *client.Client, n int64) error {
			_, err := c.PutBytes(b.Context(), key("p", n), value, client.PutOptions{})
			return err
		},
		"get": func(c *client.Client, n int64) error {
			_, _, err := readAll(c, set[n%int64(len(set))])
			return err
		},
	} {
		for how, single := range map[string]bool{"together": false, "single": true} {
			b.Run(name+"/"+how, func(b *testing.B) {
				c, err := client.New(client.Config{Endpoints: urls, SingleRequests: single})
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				b.SetParallelism(128) // 256 callers on two processors
				var n atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := call(c, n.Add(1)); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
