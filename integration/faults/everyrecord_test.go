package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// recordsEnough makes a log with some seconds' worth of starts.
const recordsEnough = 12

// Invariant 8: one bit is flipped in every flushed record of a small log in turn. The node
// must refuse each time, and name file and offset.
func TestEveryRecord_Damaged_RefusesToStart(t *testing.T) {
	needsMachine(t)
	t.Parallel()
	n := clustertest.NewProcesses(t, run.bin, 1, 0).DBs[0]
	n.Start()
	n.WaitReady()
	cl := clustertest.Client(t, n.URL())
	for i := range recordsEnough {
		key := fmt.Sprintf("record/%d", i)
		if _, err := cl.PutBytes(context.Background(), key, []byte("value of "+key), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.Kill9()
	all, err := walFrames(filepath.Join(n.Dir, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	synced := syncedFrames(all)
	rng := rand.New(rand.NewPCG(run.seed, 0))
	for _, f := range synced {
		at, bit := f.off+rng.Int64N(f.end-f.off), uint(rng.IntN(8))
		if err := flip(f.file, at, bit); err != nil {
			t.Fatal(err)
		}
		refusesRecord(t, n, f, at)
		if err := flip(f.file, at, bit); err != nil {
			t.Fatal(err)
		}
	}
	n.Start()
	n.WaitReady()
	t.Logf("%d records damaged in turn, the whole log accepted in the end", len(synced))
}

func refusesRecord(t *testing.T, n *clustertest.Process, f frame, at int64) {
	t.Helper()
	before, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	code := n.Wait()
	for _, word := range []string{f.file, fmt.Sprintf("offset %d", f.off)} {
		if code != 1 || !strings.Contains(n.Log(), word) {
			t.Errorf("a bit at %d of the record at %d: code %d, and it does not say %q:\n%s", at, f.off, code, word, tail(n.Log()))
		}
	}
	after, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("a bit at %d of the record at %d: the log was changed", at, f.off)
	}
}
