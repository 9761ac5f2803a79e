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

// patience is how long a test waits for what has to come, on a machine with two
// cores, the race detector, and other tests beside.
const patience = 2 * time.Minute

// waitFor polls until ok, and fails the test when that takes too long.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("the condition did not come true in %v", patience)
		case <-tick.C:
		}
	}
}
