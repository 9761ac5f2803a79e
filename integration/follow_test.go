package integration

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// Invariant 5, as a reader of the history sees it: its node is killed, replaced by an empty
// one under the same name and address, and later the only one left to read from. The reader
// sees every revision once, in order.
func TestFollow_NodeKilledAndReplaced(t *testing.T) {
	t.Parallel()
	changes := 20_000
	if os.Getenv("ONCEKV_TEST_FULL") != "" {
		changes = 100_000
	}
	p := clustertest.NewProcesses(t, bin, 3, 0, "--snapshot-log-bytes", "1MiB")
	p.StartAll()
	followed, other := p.DBs[2], p.DBs[1]

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var seen atomic.Uint64
	ended := make(chan error, 1)
	follower := clustertest.Client(t, followed.URL(), other.URL())
	go func() { ended <- follow(ctx, follower, uint64(changes), &seen) }()
	put := make(chan error, 1)
	go func() { put <- putNumbered(clustertest.Client(t, p.DBs[0].URL()), changes) }()
	sees := func(n uint64) {
		t.Helper()
		for at := seen.Load(); at < n; at = seen.Load() { // as long as it takes, if it goes on
			clustertest.Eventually(t, fmt.Sprintf("a revision after %d, on the way to %d", at, n), func() error {
				if seen.Load() == at {
					return errors.New("it stands still")
				}
				return nil
			})
		}
	}

	sees(uint64(changes) / 10)
	followed.Kill9()
	clustertest.Eventually(t, "removal of the dead node", func() error {
		err := clustertest.Client(t, p.DBs[0].URL()).RemoveMember(clustertest.WithTimeout(t), followed.Name, false)
		if errors.Is(err, api.ErrNotFound) {
			err = nil // an earlier try whose answer was lost
		}
		return err
	})
	if err := os.RemoveAll(followed.Dir); err != nil {
		t.Fatal(err)
	}
	followed.Args = []string{"serve", "--name", followed.Name, "--listen", followed.Addr, "--peer-listen", followed.Peer, "--data-dir", followed.Dir, "--join", p.DBs[0].URL()}
	followed.Start()
	becomesVoter(t, followed.Name, p.DBs[0].URL())
	sees(uint64(changes) / 5)
	other.Kill9() // from here on only the replacement can be read from
	sees(uint64(changes))
	if err := errors.Join(<-put, <-ended); err != nil {
		t.Fatal(err)
	}
	other.Start()
	p.WaitReady()
	revision, _ := clustertest.SameHistory(t, p.DBs...)
	if revision != uint64(changes) {
		t.Errorf("revision %d after %d puts", revision, changes)
	}
	t.Logf("%d revisions, each once and in order", changes)
}

// follow reads the history from the beginning until it has seen last. It fails on anything but
// the next revision.
func follow(ctx context.Context, cl *client.Client, last uint64, seen *atomic.Uint64) error {
	for c, err := range cl.Changes(ctx, client.ChangesOptions{Follow: true}) {
		if err != nil {
			return fmt.Errorf("after revision %d: %w", seen.Load(), err)
		}
		if c.Revision != seen.Load()+1 {
			return fmt.Errorf("revision %d came after %d", c.Revision, seen.Load())
		}
		seen.Store(c.Revision)
		if c.Revision == last {
			return nil
		}
	}
	return errors.New("the history ended")
}

// putNumbered puts n keys in one stream.
func putNumbered(cl *client.Client, n int) error {
	items := func(yield func(client.PutItem) bool) {
		for i := range n {
			if !yield(client.PutItem{Key: fmt.Sprintf("follow/%d", i), Value: []byte("v")}) {
				return
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*clustertest.Patience)
	defer cancel()
	for r, err := range cl.PutAll(ctx, iter.Seq[client.PutItem](items)) {
		if err = errors.Join(err, r.Err); err != nil {
			return fmt.Errorf("put %d: %w", r.Index, err)
		}
	}
	return nil
}
