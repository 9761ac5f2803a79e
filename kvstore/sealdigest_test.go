package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// flipped is a value in two chunks, and commands that put it with one bit flipped
// behind the digest's back: each chunk has a checksum of its own, made after.
type flipped struct {
	id     uploadID
	value  []byte
	chunks [2][]byte // commands, in order
	seal   []byte    // with the digest of the value
}

func newFlipped(key Key, n byte, flip bool) *flipped {
	now := time.Unix(int64(n), 0)
	f := &flipped{id: uploadID{n}, value: bytes.Repeat([]byte{n, 'x'}, ChunkBytes/2+8)}
	m := Meta{Key: key, Size: int64(len(f.value)), SHA256: sumOf(f.value), ContentType: "a/b", Time: now, PutID: fmt.Sprint("p", n)}
	f.seal = sealCommand(&m, f.id, 2)
	sent := bytes.Clone(f.value)
	if flip {
		sent[ChunkBytes+3] ^= 4
	}
	f.chunks = [2][]byte{testChunk(f.id, 0, sent[:ChunkBytes], now), testChunk(f.id, 1, sent[ChunkBytes:], now)}
	return f
}

func applyOne(t testing.TB, s *Store, index uint64, cmd []byte) any {
	t.Helper()
	res, err := s.Apply(index, 1, [][]byte{cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res[0]
}

// A value that is not what its digest says is refused at its seal, on every
// replica, whatever it has committed and however often it was restarted; its
// chunks go. The same key can be set then, and all of it can be pulled.
func TestStore_Apply_SealChecksTheDigest(t *testing.T) {
	bad, good := newFlipped("k", 1, true), newFlipped("k", 2, false)
	cmds := [][]byte{bad.chunks[1], bad.chunks[0], bad.seal, good.chunks[1], good.chunks[0], good.seal}
	for mask := range 1 << 6 { // of the first three: committed, restarted
		d := newMemDisks()
		s := mustOpen(t, d, StoreConfig{})
		var results []any
		for i, cmd := range cmds {
			results = append(results, applyOne(t, s, uint64(i+1), cmd))
			if i < 3 && mask&(1<<(2*i)) != 0 {
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
				if mask&(2<<(2*i)) != 0 {
					s = mustOpen(t, d, StoreConfig{})
				}
			}
		}
		if err, ok := results[2].(error); !ok || !errors.Is(err, ErrValueDamaged) {
			t.Fatalf("mask %b: the seal of a damaged value: %+v", mask, asPut(results[2]))
		}
		if got := asPut(results[5]); got.Outcome != Created || got.Meta.Revision != 1 || got.Meta.PutID != "p2" {
			t.Fatalf("mask %b: the seal of a sound value: %+v", mask, results[5])
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		if n := countChunks(t, s); n != 2 || s.Stats().OpenUploads != 0 {
			t.Fatalf("mask %b: %d chunks are kept, want the winner's 2; %d uploads are open", mask, n, s.Stats().OpenUploads)
		}
		if mask == 0 {
			index, _, meta, snapshot, err := s.Durable()
			if err != nil {
				t.Fatal(err)
			}
			r := mustOpen(t, newMemDisks(), StoreConfig{})
			if err := catchUp(t, r, index, meta, snapshot, s); err != nil {
				t.Fatal(err)
			}
			if v, err := r.Get("k"); err != nil || !bytes.Equal(readAll(t, v), good.value) {
				t.Fatalf("k on the receiver: %v", err)
			}
		}
	}
}

func countChunks(t testing.TB, s *Store) (n int) {
	t.Helper()
	if err := s.history.View(func(tx Tx) error {
		tx.Ascend(BucketChunks, nil, func(_, _ []byte) bool { n++; return true })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A replica that pulled an open upload answers to its seal as those that applied
// its chunks. The sender has applied the seal meanwhile: of the damaged value it
// has no chunk any more.
func TestStore_Apply_SealAfterAPullIsTheSame(t *testing.T) {
	for _, flip := range []bool{false, true} {
		for _, late := range []bool{false, true} { // the sender is at the seal
			for _, restart := range []bool{false, true} {
				f := newFlipped("k", 1, flip)
				sender := mustOpen(t, newMemDisks(), StoreConfig{})
				applyOne(t, sender, 1, f.chunks[1])
				if err := sender.Commit(); err != nil {
					t.Fatal(err)
				}
				_, _, _, snapshot, err := sender.Durable()
				if err != nil {
					t.Fatal(err)
				}
				seal := func() any { applyOne(t, sender, 2, f.chunks[0]); return applyOne(t, sender, 3, f.seal) }
				var want any
				if late {
					if want = seal(); sender.Commit() != nil {
						t.Fatal(sender.err())
					}
				}
				d := newMemDisks()
				r := mustOpen(t, d, StoreConfig{})
				if err := catchUp(t, r, 1, nil, snapshot, sender); err != nil {
					t.Fatal(err)
				}
				if !late {
					want = seal()
				}
				if restart {
					r = mustOpen(t, d, StoreConfig{})
				}
				applyOne(t, r, 2, f.chunks[0])
				if restart {
					if err := r.Commit(); err != nil {
						t.Fatal(err)
					}
					r = mustOpen(t, d, StoreConfig{})
				}
				got := applyOne(t, r, 3, f.seal)
				if !sameAnswer(got, want) || flip != errors.Is(errorOf(got), ErrValueDamaged) {
					t.Fatalf("flip %v, late %v, restart %v: the receiver answers %v, the sender %v", flip, late, restart, got, want)
				}
				if err := errors.Join(r.Commit(), sender.Commit()); err != nil {
					t.Fatal(err)
				}
				if countChunks(t, r) != countChunks(t, sender) {
					t.Fatalf("the receiver has %d chunks, the sender %d", countChunks(t, r), countChunks(t, sender))
				}
			}
		}
	}
}

func errorOf(result any) error {
	err, _ := result.(error)
	return err
}

func sameAnswer(a, b any) bool {
	ea, eb := errorOf(a), errorOf(b)
	if ea != nil || eb != nil {
		return ea != nil && eb != nil && ea.Error() == eb.Error()
	}
	return asPut(a) == asPut(b)
}

// What goes wrong on this replica alone must not decide anything: it stops, or it
// finds out by itself.
func TestStore_Apply_SealIsNotDecidedByDamageHere(t *testing.T) {
	f := newFlipped("k", 1, false)
	t.Run("a chunk in memory", func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		applyOne(t, s, 1, f.chunks[1])
		s.chunks[makeChunkKey(f.id, 1)][chunkPrefixBytes] ^= 1
		if _, err := s.Apply(2, 1, [][]byte{f.chunks[0], f.seal}, nil); err == nil || s.err() == nil {
			t.Fatalf("the store goes on: %v", err)
		}
	})
	t.Run("a chunk in the file", func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		applyOne(t, s, 1, f.chunks[1])
		key := makeChunkKey(f.id, 1)
		if err := errors.Join(s.Commit(), s.history.Update(func(tx Tx) error { return tx.Delete(BucketChunks, key[:]) })); err != nil {
			t.Fatal(err)
		}
		_, err := s.Apply(2, 1, [][]byte{f.chunks[0], f.seal}, nil)
		if _, corrupt := errors.AsType[*CorruptError](err); !corrupt {
			t.Fatalf("the store goes on: %v", err)
		}
	})
	t.Run("the digest so far", func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		applyOne(t, s, 1, f.chunks[0])
		s.uploads[f.id].sum.Write([]byte("x"))
		applyOne(t, s, 2, f.chunks[1])
		if got := asPut(applyOne(t, s, 3, f.seal)); got.Outcome != Created {
			t.Fatalf("%+v", got)
		}
	})
}

// flippingLog flips a bit of a chunk between the digest of the value and the
// checksum of the chunk, as the proposer's memory may.
type flippingLog struct{ *directLog }

func (l flippingLog) Propose(ctx context.Context, cmd []byte) (any, error) {
	if commandKind(cmd[1]) == commandChunk {
		c, err := decodeCommand(cmd)
		if err != nil {
			return nil, err
		}
		cmd = bytes.Clone(cmd)
		cmd[len(cmd)-1] ^= 1
		sealChunk(cmd[chunkHeaderBytes-chunkPrefixBytes:], makeChunkKey(c.upload, c.number))
	}
	return l.directLog.Propose(ctx, cmd)
}

// The answer to a put that was damaged on its way is definite.
func TestDB_Put_DamagedOnItsWay(t *testing.T) {
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	db := NewDB(s, flippingLog{newDirectLog(s)}, DBConfig{})
	_, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(make([]byte, 2*ChunkBytes)), Size: -1})
	if !errors.Is(err, ErrValueDamaged) || errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("got %v", err)
	}
	if _, err := db.Get(t.Context(), "k", Local); !errors.Is(err, ErrNotFound) {
		t.Fatalf("Get: %v", err)
	}
	if err := s.Commit(); err != nil || countChunks(t, s) != 0 || s.Stats().OpenUploads != 0 {
		t.Fatalf("%d chunks are left, %v", countChunks(t, s), err)
	}
}
