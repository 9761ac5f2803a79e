package kvstore

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// The sender dropped an upload by an entry that this store will never see: the
// snapshot brings it beyond. Its chunks are in the way of nobody, and nobody would
// ever remove them.
func TestStore_Install_DropsTheChunksOfUploadsThatAreGone(t *testing.T) {
	t.Parallel()
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
	if err := d.history.View(func(tx engine.Tx) error {
		for _, id := range []uploadID{gone, kept} {
			for n := range uint32(2) {
				if key := makeChunkKey(id, n); tx.Get(engine.BucketChunks, key[:]) != nil {
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

// The chunks of an upload that the snapshot does not have are held for one more commit,
// for bbolt may go back to what was before the install. Those of one that it seals are
// counted, and held no more.
func TestStore_Install_GivesUpWhatUploadsHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gone, open, sealed, now := uploadID{1}, uploadID{2}, uploadID{3}, time.Unix(1, 0)
		chunk := func(b byte) []byte { return bytes.Repeat([]byte{b}, ChunkBytes) }
		value := append(chunk('s'), 't')
		big := Meta{Key: "big", Size: int64(len(value)), SHA256: sumOf(value), ContentType: "a/b", Time: now, PutID: "p"}
		entries := [][][]byte{
			{openCommand(gone, now), testChunk(gone, 0, chunk('g'), now), openCommand(open, now), testChunk(open, 0, chunk('o'), now), openCommand(sealed, now), testChunk(sealed, 0, chunk('s'), now)},
			{abandonCommand(gone), testChunk(open, 1, chunk('p'), now), testChunk(sealed, 1, []byte{'t'}, now), sealCommand(&big, sealed, 2)},
			{testPut("k", "id", "", []byte("v"), now)},
		}
		apply := func(s *Store, i int) {
			t.Helper()
			if _, err := applyTo(s, uint64(i+1), 7, entries[i], nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		sender, receiver := mustOpen(t, newMemDisks(), StoreConfig{}), mustOpen(t, newMemDisks(), StoreConfig{})
		receiver.Recovered()
		apply(sender, 0)
		apply(receiver, 0)
		apply(sender, 1)
		index, _, meta, snapshot, err := sender.Durable()
		if err != nil {
			t.Fatal(err)
		}
		if err := catchUp(t, receiver, index, meta, snapshot, sender); err != nil {
			t.Fatal(err)
		}
		left := func() (names string) {
			reclaimFor(t, receiver, time.Hour)
			for _, data := range [][]byte{chunk('g'), chunk('o'), chunk('p'), chunk('s'), {'t'}} {
				if receiver.bodies.Has(bodies.Digest(sumOf(data))) {
					names += string(data[:1])
				}
			}
			return names
		}
		if got := left(); got != "gopst" {
			t.Errorf("after the install %q are left", got)
		}
		apply(receiver, 2)
		if got := left(); got != "opst" {
			t.Errorf("after one more commit %q are left", got)
		}
		// As if the record went: nothing else holds what it referred to.
		if err := receiver.bodies.Count([]bodies.Change{{Digest: bodies.Digest(sumOf(chunk('s'))), By: -1}, {Digest: bodies.Digest(sumOf([]byte{'t'})), By: -1}}, receiver.bodies.Mark()); err != nil {
			t.Fatal(err)
		}
		if got := left(); got != "op" {
			t.Errorf("without the record %q are left", got)
		}
		if _, err := applyTo(receiver, 4, 7, [][]byte{abandonCommand(open)}, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := receiver.Commit(); err != nil {
				t.Fatal(err)
			}
			if got, want := left(), []string{"op", ""}[i]; got != want {
				t.Errorf("%d commits after the upload was dropped %q are left, want %q", i+1, got, want)
			}
		}
	})
}

// An install begins while a flush ends.
func TestStore_Install_WhileAFlushEnds(t *testing.T) {
	t.Parallel()
	log, m := randomLog(t, 3, 120)
	cfg := tiny()
	cfg.MemtableBytes, cfg.GenerationBytes, cfg.CommitBytes = 60000, 1000, 2000
	sender := mustOpen(t, newMemDisks(), cfg)
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snap, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		s := mustOpen(t, newMemDisks(), cfg)
		for j := range 40 + i {
			mustApply(t, s, &log[j])
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := s.Stage(t.Context(), snap, serveFrom(sender), testFetch); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- s.flushFrozen(t.Context()) }()
		if err := s.Install(index, 7, meta, snap); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			m.check(t, s)
		}
	}
}
