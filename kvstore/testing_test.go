package kvstore

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"
)

func sumOf(b []byte) Digest { return sha256.Sum256(b) }

func contextWithCancel(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// waitFor polls until ok, and fails the test when that takes too long.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatal("condition did not come true in 20 s")
		case <-tick.C:
		}
	}
}
