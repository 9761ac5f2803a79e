package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// startOne runs a single node with one revision more than a checkpoint.
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

// Only an answer of a member on its peer port counts. Stats from anywhere else, whatever
// they say, neither start a read of the whole store nor stop the node.
func TestDatabase_Compare_FiguresAloneCountForNothing(t *testing.T) {
	d := startOne(t)
	own := d.stats().Checkpoints
	if len(own) != 1 || own[0].Revision != uint64(kvstore.CheckpointRevisions) {
		t.Fatalf("checkpoints %+v", own)
	}
	other := strings.Repeat("0", 64)
	newest := uint64(d.store.Stats().Revision)
	for _, theirs := range []api.Stats{
		{Checkpoints: []api.Checkpoint{{Revision: own[0].Revision, Digest: other}}},
		{Revision: newest, Digest: other},
	} {
		if at, differs := d.differs(7, theirs); !differs || at == 0 {
			t.Errorf("%+v: looked at: %v, at revision %d", theirs, differs, at)
		}
		if !d.judge(context.Background(), newest) {
			t.Errorf("%+v: somebody is wrong", theirs)
		}
	}
	for _, theirs := range []api.Stats{
		{Revision: newest, Digest: d.store.Stats().Digest.String(), Checkpoints: own},
		{Checkpoints: []api.Checkpoint{{Revision: own[0].Revision - 1, Digest: other}, {Revision: own[0].Revision * 2, Digest: other}}},
	} {
		if at, differs := d.differs(8, theirs); differs {
			t.Errorf("%+v: looked at, at revision %d", theirs, at)
		}
	}
	// Two members that stand still at different revisions are a reason to ask.
	behind := api.Stats{Revision: newest - 5, Digest: other}
	if _, differs := d.differs(9, behind); differs {
		t.Error("a member that is behind was looked at at once")
	}
	if at, differs := d.differs(9, behind); !differs || at != newest-5 {
		t.Errorf("a member that stays behind was looked at: %v, at revision %d", differs, at)
	}
	d.agreed(9)
	if _, differs := d.differs(9, behind); differs {
		t.Error("looked at again although nobody had another history")
	}
	behind.Revision++
	d.differs(9, behind)
	if at, differs := d.differs(9, behind); !differs || at != newest-4 {
		t.Errorf("a member that went on and stays behind was looked at: %v, at revision %d", differs, at)
	}
	if d.verified.Load() != 0 {
		t.Error("it read its whole store")
	}
	if _, err := d.db.Get(context.Background(), "k0", kvstore.Linearizable); err != nil {
		t.Fatal(err)
	}
}

// A node whose history is wrong stops after lookTime, even if its large store has not been
// read to the end.
func TestDatabase_StopDiverged_DoesNotWaitForItsDisk(t *testing.T) {
	d, err := StartDatabase(context.Background(), DatabaseConfig{Name: "n1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	for d.store.Stats().Revision == 0 {
		_, err := d.db.Put(context.Background(), kvstore.PutRequest{Key: "k", Body: strings.NewReader("v"), Size: 1})
		if err != nil && !errors.Is(err, kvstore.ErrUnavailable) { // no leader yet
			t.Fatal(err)
		}
	}
	if err := d.store.Commit(); err != nil { // so that there is something to read
		t.Fatal(err)
	}
	d.stopDiverged(context.Background(), 1, raftnode.ErrDiverged, 0)
	select {
	case <-d.Done():
	case <-time.After(time.Minute):
		t.Fatal("it serves on")
	}
	if err := d.Err(); !errors.Is(err, raftnode.ErrDiverged) {
		t.Errorf("it stopped because of %v", err)
	}
}
