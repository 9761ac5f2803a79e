package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// bin is the built program; TestMain sets it.
var bin string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "oncekv-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if bin, err = clustertest.Binary(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// full skips a case that needs more than an ordinary machine offers.
func full(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("ONCEKV_TEST_FULL") == "" {
		t.Skip(why + "; set ONCEKV_TEST_FULL=1 to run it")
	}
}

// writer puts numbered keys through all nodes until it is stopped, and remembers what was
// acknowledged.
type writer struct {
	t     *testing.T
	stopC chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex
	acked map[string]string
}

// startWriter runs workers that put one key after the other with a client of the given URLs.
func startWriter(t *testing.T, prefix string, workers int, urls ...string) *writer {
	w := &writer{t: t, stopC: make(chan struct{}), acked: map[string]string{}}
	for i := range workers {
		cl := clustertest.Client(t, urls...)
		w.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-w.stopC:
					return
				default:
				}
				key := fmt.Sprintf("%s/%d/%d", prefix, i, n)
				w.put(cl, key, "value of "+key)
			}
		})
	}
	return w
}

func (w *writer) put(cl *client.Client, key, value string) {
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	a, err := cl.PutBytes(ctx, key, []byte(value), client.PutOptions{})
	if err != nil {
		w.t.Errorf("put %s: %v", key, err)
		return
	}
	if !a.Created {
		w.t.Errorf("put %s: not created, though nobody else puts it", key)
	}
	w.mu.Lock()
	w.acked[key] = value
	w.mu.Unlock()
}

// count returns how many puts were acknowledged.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// waitFor waits for n more acknowledged puts.
func (w *writer) waitFor(n int) {
	w.t.Helper()
	from := w.count()
	clustertest.Eventually(w.t, fmt.Sprintf("%d more puts", n), func() error {
		if got := w.count() - from; got < n {
			return fmt.Errorf("%d of them", got)
		}
		return nil
	})
}

// stop ends the workers and returns what they put.
func (w *writer) stop() map[string]string {
	close(w.stopC)
	w.wg.Wait()
	return w.acked
}

// mustHave reads every key from every node, one node after the other.
func mustHave(t *testing.T, want map[string]string, nodes ...*clustertest.Process) {
	t.Helper()
	for _, n := range nodes {
		cl := clustertest.Client(t, n.URL())
		for key, value := range want {
			got, err := get(cl, key)
			if err != nil || got != value {
				t.Fatalf("%s: key %s: %q, %v; acknowledged was %q", n.Name, key, got, err, value)
			}
		}
	}
}

func get(cl *client.Client, key string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	o, err := cl.Get(ctx, key, client.GetOptions{})
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(o.Body)
	return string(b), errors.Join(err, o.Body.Close())
}

// pattern returns n bytes that differ for every seed.
func pattern(seed string, n int) []byte {
	sum := sha256.Sum256([]byte(seed))
	return bytes.Repeat(sum[:], n/len(sum)+1)[:n]
}
