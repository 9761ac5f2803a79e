package kvstore

import (
	"testing"
	"time"
)

// The sender dropped an upload by an entry that this store will never see: the
// snapshot brings it beyond. Its chunks are in the way of nobody, and nobody would
// ever remove them.
func TestStore_Install_DropsTheChunksOfUploadsThatAreGone(t *testing.T) {
	gone, kept, now := uploadID{1}, uploadID{2}, time.Unix(1, 0)
	first := [][]byte{openCommand(gone, now), openCommand(kept, now), testChunk(gone, 0, make([]byte, ChunkBytes), now), testChunk(gone, 1, []byte("b"), now), testChunk(kept, 0, []byte("c"), now)}
	apply := func(s *Store, index uint64, cmds ...[]byte) {
		t.Helper()
		if _, err := applyTo(s, index, 7, cmds, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	sender, d := mustOpen(t, newMemDisks(), StoreConfig{}), newMemDisks()
	receiver := mustOpen(t, d, StoreConfig{})
	apply(sender, 1, first...)
	apply(receiver, 1, first...)
	apply(sender, 2, abandonCommand(gone), testPut("k", "id", "", []byte("v"), now))
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	if err := catchUp(t, receiver, index, meta, snapshot, sender); err != nil {
		t.Fatal(err)
	}
	left := map[uploadID]int{}
	if err := d.history.View(func(tx Tx) error {
		for _, id := range []uploadID{gone, kept} {
			for n := range uint32(2) {
				if key := makeChunkKey(id, n); tx.Get(BucketChunks, key[:]) != nil {
					left[id]++
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left[gone] != 0 || left[kept] != 1 {
		t.Errorf("of the upload that was dropped %d chunks are left, of the open one %d; want 0 and 1", left[gone], left[kept])
	}
}
