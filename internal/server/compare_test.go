package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// startOne runs a node alone with one revision more than a checkpoint.
func startOne(t *testing.T) *Database {
	t.Helper()
	d, err := StartDatabase(context.Background(), DatabaseConfig{Name: "n1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	put := make(chan int)
	errs := make(chan error, 64)
	for range 64 {
		d.running.Go(func() {
			var first error
			for i := range put {
				_, err := d.db.Put(ctx, kvstore.PutRequest{Key: kvstore.Key(fmt.Sprintf("k%d", i)), Body: strings.NewReader("v"), Size: 1})
				for errors.Is(err, kvstore.ErrUnavailable) && ctx.Err() == nil { // no leader yet
					_, err = d.db.Put(ctx, kvstore.PutRequest{Key: kvstore.Key(fmt.Sprintf("k%d", i)), Body: strings.NewReader("v"), Size: 1})
				}
				if first == nil {
					first = err
				}
			}
			errs <- first
		})
	}
	for i := range int(kvstore.CheckpointRevisions) + 1 {
		put <- i
	}
	close(put)
	for range 64 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// Another member has another digest. A node whose own disk is in order goes
// on: the other one will find the fault in its own.
func TestDatabase_Compare_InnocentNodeGoesOn(t *testing.T) {
	d := startOne(t)
	own := d.stats().Checkpoints
	if len(own) != 1 || own[0].Revision != uint64(kvstore.CheckpointRevisions) {
		t.Fatalf("checkpoints %+v", own)
	}
	d.compare(context.Background(), raftnode.Member{Name: "n2"}, client.Stats{Checkpoints: []client.Checkpoint{{Revision: own[0].Revision, Digest: strings.Repeat("0", 64)}}})
	for d.verified.Load() == 0 {
		select {
		case <-d.Done():
			t.Fatalf("it stopped: %v", d.Err())
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := d.db.Get(context.Background(), "k0", kvstore.Linearizable); err != nil {
		t.Fatal(err)
	}
}
