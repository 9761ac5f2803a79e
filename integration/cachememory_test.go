package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// endless is a database node on which every key is set. The bytes follow from the key, so it
// has far more of them than any disk here could hold.
type endless struct{ reads atomic.Int64 }

func (d *endless) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/caches" {
		json.NewEncoder(w).Encode(api.HeartbeatAnswer{Caches: []api.CacheNode{}, DBs: []api.DBNode{}})
		return
	}
	d.reads.Add(1)
	key := strings.TrimPrefix(r.URL.Path, "/key/")
	body := endlessValue(key)
	digest := sha256.Sum256(body)
	h := w.Header()
	h.Set("ETag", `"`+hex.EncodeToString(digest[:])+`"`)
	h.Set(api.HeaderRevision, "1")
	h.Set(api.HeaderTime, "2024-05-06T07:08:09.123456789Z")
	h.Set("Content-Type", "text/plain")
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body)
}

// endlessValue has a size from 64 B to 128 KiB, with every power of two equally likely.
func endlessValue(key string) []byte {
	seed := sha256.Sum256([]byte(key))
	size := 64 << (seed[0] % 11)
	size += size * int(seed[1]) / 256
	return pattern(key, size)
}

// TestCacheMemory reads a million keys with 25 GiB of values from a cache node of 128 MiB, by
// Zipf's law: the process must stay within 1.3 × --cache-bytes + 96 MiB (docs/limits.md).
func TestCacheMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is read from /proc")
	}
	const (
		cacheBytes = 128 << 20
		limit      = cacheBytes*13/10 + 96<<20
		keys       = 1_000_000
		readers    = 8
		reads      = 5000 // each
	)
	plain, err := clustertest.PlainBinary(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	database := &endless{}
	server := httptest.NewServer(database)
	defer server.Close()
	addr := clustertest.FreeAddr(t)
	cache := clustertest.NewProcess(t, plain, "c1", addr, "cache", "--name", "c1", "--listen", addr, "--nodes", server.URL, "--cache-bytes", fmt.Sprint(cacheBytes))
	cache.Start()
	cache.WaitReady()

	sums := make([]float64, keys) // of the law's parts
	for i, sum := 0, 0.; i < keys; i++ {
		sum += 1 / float64(i+1)
		sums[i] = sum
	}
	var readings sync.WaitGroup
	for reader := range readers {
		readings.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(reader), 1))
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			hc := &http.Client{Transport: transport, Timeout: clustertest.Patience}
			for range reads {
				i, _ := slices.BinarySearch(sums, rng.Float64()*sums[keys-1])
				key := fmt.Sprint("app/", i)
				if err := readEndless(hc, cache.URL(), key); err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
			}
		})
	}
	readings.Wait()

	var s api.CacheStats
	if err := getJSON(cache.URL()+"/stats", &s); err != nil {
		t.Fatal(err)
	}
	m, err := cache.Memory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d reads, %d of the database; %d records in %d MiB, %d let go; %v", s.Gets, database.reads.Load(), s.Items, s.Bytes>>20, s.Evictions, m)
	if s.Gets < readers*reads || s.Evictions == 0 || s.Bytes > cacheBytes || s.Bytes < cacheBytes*9/10 {
		t.Errorf("%d of %d reads, %d records let go, %d of %d bytes held: the cache was not under pressure, or took more than it may",
			s.Gets, readers*reads, s.Evictions, s.Bytes, cacheBytes)
	}
	if m.Peak > limit {
		t.Errorf("the process took up to %d MiB; want at most 1.3 × %d MiB + 96 MiB = %d MiB", m.Peak>>20, cacheBytes>>20, limit>>20)
	}
}

// readEndless reads a key until it gets an answer: an overloaded machine may not load it in
// time.
func readEndless(hc *http.Client, url, key string) (err error) {
	for range 20 {
		var again bool
		if again, err = tryEndless(hc, url, key); !again {
			break
		}
	}
	return err
}

func tryEndless(hc *http.Client, url, key string) (again bool, err error) {
	resp, err := hc.Get(url + "/key/" + key)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(got) != string(endlessValue(key))) {
		err = fmt.Errorf("status %d with %d wrong bytes", resp.StatusCode, len(got))
	}
	return resp.StatusCode == http.StatusServiceUnavailable, err
}

func getJSON(url string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}
