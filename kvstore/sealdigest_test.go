package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// flipped is a value in two chunks, and commands that put it with one bit flipped
// behind the digest's back: each chunk has a checksum of its own, made after.
type flipped struct {
	id     uploadID
	value  []byte
	open   []byte    // command
	chunks [2][]byte // commands, in order
	seal   []byte    // with the digest of the value
}

func newFlipped(key Key, n byte, flip bool) *flipped {
	now := time.Unix(int64(n), 0)
	f := &flipped{id: uploadID{n}, open: openCommand(uploadID{n}, now), value: bytes.Repeat([]byte{n, 'x'}, ChunkBytes/2+8)}
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
	res, err := applyTo(s, index, 1, [][]byte{cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res[0]
}

// A value that is not what its digest says is refused at its seal, on every
// replica, whatever it has committed and however often it was restarted; its
// chunks go. The same key can be set then, and all of it can be pulled.
func TestStore_Apply_SealChecksTheDigest(t *testing.T) {
	t.Parallel()
	bad, good := newFlipped("k", 1, true), newFlipped("k", 2, false)
	cmds := [][]byte{bad.open, bad.chunks[0], bad.chunks[1], bad.seal, good.open, good.chunks[0], good.chunks[1], good.seal}
	for mask := range 1 << 8 { // of the first four: committed, restarted
		if mask>>1&0x55&^mask != 0 {
			continue // a restart is told by a commit before it only
		}
		d := newMemDisks()
		s := mustOpen(t, d, StoreConfig{})
		var results []any
		for i, cmd := range cmds {
			results = append(results, applyOne(t, s, uint64(i+1), cmd))
			if i < 4 && mask&(1<<(2*i)) != 0 {
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
				if mask&(2<<(2*i)) != 0 {
					s = mustOpen(t, d, StoreConfig{})
				}
			}
		}
		if err, ok := results[3].(error); !ok || !errors.Is(err, ErrValueDamaged) {
			t.Fatalf("mask %b: the seal of a damaged value: %+v", mask, asPut(results[3]))
		}
		if got := asPut(results[7]); got.Outcome != Created || got.Meta.Revision != 1 || got.Meta.PutID != "p2" {
			t.Fatalf("mask %b: the seal of a sound value: %+v", mask, results[7])
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
	if err := s.history.View(func(tx engine.Tx) error {
		tx.Ascend(engine.BucketChunks, nil, func(_, _ []byte) bool { n++; return true })
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
	t.Parallel()
	for _, flip := range []bool{false, true} {
		for _, late := range []bool{false, true} { // the sender is at the seal
			for _, restart := range []bool{false, true} {
				f := newFlipped("k", 1, flip)
				sender := mustOpen(t, newMemDisks(), StoreConfig{})
				applyOne(t, sender, 1, f.open)
				applyOne(t, sender, 2, f.chunks[0])
				if err := sender.Commit(); err != nil {
					t.Fatal(err)
				}
				_, _, _, snapshot, err := sender.Durable()
				if err != nil {
					t.Fatal(err)
				}
				seal := func() any { applyOne(t, sender, 3, f.chunks[1]); return applyOne(t, sender, 4, f.seal) }
				var want any
				if late {
					if want = seal(); sender.Commit() != nil {
						t.Fatal(sender.err())
					}
				}
				d := newMemDisks()
				r := mustOpen(t, d, StoreConfig{})
				if err := catchUp(t, r, 2, nil, snapshot, sender); err != nil {
					t.Fatal(err)
				}
				if !late {
					want = seal()
				}
				if restart {
					r = mustOpen(t, d, StoreConfig{})
				}
				reads := &readChunks{Engine: r.history}
				r.history = reads
				applyOne(t, r, 3, f.chunks[1])
				if restart {
					if err := r.Commit(); err != nil {
						t.Fatal(err)
					}
					r = mustOpen(t, d, StoreConfig{})
					reads = &readChunks{Engine: r.history}
					r.history = reads
				}
				got := applyOne(t, r, 4, f.seal)
				if !sameAnswer(got, want) || flip != errors.Is(errorOf(got), ErrValueDamaged) {
					t.Fatalf("flip %v, late %v, restart %v: the receiver answers %v, the sender %v", flip, late, restart, got, want)
				}
				if !flip && reads.n > 0 {
					t.Fatalf("late %v, restart %v: %d chunks are read again", late, restart, reads.n)
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

// A receiver that has the first chunks of an open upload compares the others alone with
// the digest that the snapshot tells.
func TestStore_Stage_GoesOnFromItsOwnDigest(t *testing.T) {
	t.Parallel()
	f := newFlipped("k", 1, false)
	sender, r := mustOpen(t, newMemDisks(), StoreConfig{}), mustOpen(t, newMemDisks(), StoreConfig{})
	for _, s := range []*Store{sender, r} {
		applyOne(t, s, 1, f.open)
		applyOne(t, s, 2, f.chunks[0])
	}
	applyOne(t, sender, 3, f.chunks[1])
	if err := errors.Join(sender.Commit(), r.Commit()); err != nil {
		t.Fatal(err)
	}
	_, _, _, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	reads := &readChunks{Engine: r.history}
	r.history = reads
	if err := r.Stage(t.Context(), snapshot, serveFrom(sender), testFetch); err != nil {
		t.Fatal(err)
	}
	if reads.n != 2 { // the first is there, the second is not
		t.Errorf("%d looks at chunks, want 2", reads.n)
	}
}

// readChunks counts reads of chunks.
type readChunks struct {
	engine.Engine
	n int
}

func (e *readChunks) View(fn func(engine.Tx) error) error {
	return e.Engine.View(func(tx engine.Tx) error { return fn(readChunksTx{tx, e}) })
}

type readChunksTx struct {
	engine.Tx
	e *readChunks
}

func (t readChunksTx) Get(b engine.Bucket, key []byte) []byte {
	if b == engine.BucketChunks {
		t.e.n++
	}
	return t.Tx.Get(b, key)
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
// finds out by itself, be it in memory, in what is stored, or in what it pulled.
func TestStore_Apply_SealIsNotDecidedByDamageHere(t *testing.T) {
	t.Parallel()
	f := newFlipped("k", 1, false)
	wrong := func(s *Store) { s.uploads[f.id].sum.Write(make([]byte, sha256.BlockSize)) }
	t.Run("the digest so far", func(t *testing.T) {
		for _, restart := range []bool{false, true} {
			d := newMemDisks()
			s := mustOpen(t, d, StoreConfig{})
			applyOne(t, s, 1, f.open)
			applyOne(t, s, 2, f.chunks[0])
			wrong(s)
			if restart {
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, d, StoreConfig{})
			}
			applyOne(t, s, 3, f.chunks[1])
			if got := asPut(applyOne(t, s, 4, f.seal)); got.Outcome != Created {
				t.Fatalf("restart %v: %+v", restart, got)
			}
		}
	})
	t.Run("and a chunk in memory", func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		applyOne(t, s, 1, f.open)
		applyOne(t, s, 2, f.chunks[0])
		wrong(s)
		s.chunks[makeChunkKey(f.id, 0)][statePrefixBytes] ^= 1
		if _, err := applyTo(s, 3, 1, [][]byte{f.chunks[1], f.seal}, nil); err == nil || s.err() == nil {
			t.Fatalf("the store goes on: %v", err)
		}
	})
	t.Run("the digest that a sender tells", func(t *testing.T) {
		sender, r := mustOpen(t, newMemDisks(), StoreConfig{}), mustOpen(t, newMemDisks(), StoreConfig{})
		applyOne(t, sender, 1, f.open)
		applyOne(t, sender, 2, f.chunks[0])
		wrong(sender)
		if err := sender.Commit(); err != nil {
			t.Fatal(err)
		}
		_, _, _, snapshot, err := sender.Durable()
		if err != nil {
			t.Fatal(err)
		}
		if err := catchUp(t, r, 2, nil, snapshot, sender); !errors.Is(err, errSnapshotBody) || r.err() != nil {
			t.Fatalf("it is taken: %v, %v", err, r.err())
		}
	})
	t.Run("the digest of a receiver", func(t *testing.T) {
		sender, r := mustOpen(t, newMemDisks(), StoreConfig{}), mustOpen(t, newMemDisks(), StoreConfig{})
		for _, s := range []*Store{sender, r} {
			applyOne(t, s, 1, f.open)
			applyOne(t, s, 2, f.chunks[0])
		}
		wrong(r)
		applyOne(t, sender, 3, f.chunks[1])
		if err := errors.Join(sender.Commit(), r.Commit()); err != nil {
			t.Fatal(err)
		}
		_, _, _, snapshot, err := sender.Durable()
		if err == nil {
			err = catchUp(t, r, 3, nil, snapshot, sender)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := asPut(applyOne(t, r, 4, f.seal)); got.Outcome != Created {
			t.Fatalf("%+v", got)
		}
	})
}

// The state of SHA-256 after any number of bytes is what its definition says, in a form
// that no release of Go can change, and it can be gone on from.
func TestUpload_Sum(t *testing.T) {
	t.Parallel()
	b := appendUpload(nil, newUpload(0))
	initial := []byte{0x6a, 0x09, 0xe6, 0x67, 0xbb, 0x67, 0xae, 0x85, 0x3c, 0x6e, 0xf3, 0x72, 0xa5, 0x4f, 0xf5, 0x3a, 0x51, 0x0e, 0x52, 0x7f, 0x9b, 0x05, 0x68, 0x8c, 0x1f, 0x83, 0xd9, 0xab, 0x5b, 0xe0, 0xcd, 0x19}
	if want := append(make([]byte, 8+1), initial...); !bytes.Equal(b, want) {
		t.Fatalf("of no bytes it is %x, want %x", b, want)
	}
	value := make([]byte, 300)
	_, _ = (&pattern{}).Read(value)
	for n := range value {
		u := newUpload(0)
		u.add(value[:n], 7)
		b := appendUpload(nil, u)
		if rest := n % 64; !bytes.Equal(b[len(b)-rest:], value[n-rest:n]) || len(b) != 8+len(binary.AppendUvarint(nil, uint64(n)))+32+rest {
			t.Fatalf("after %d bytes it is %x", n, b)
		}
		c := cursor{b: b}
		again := readUpload(&c)
		if err := c.end(); err != nil || again.bytes != int64(n) || again.time != 7 {
			t.Fatalf("after %d bytes: %+v, %v", n, again, err)
		}
		again.add(value[n:], 8)
		if again.digest() != sumOf(value) || u.digest() != sumOf(value[:n]) {
			t.Fatalf("after %d bytes it goes on to %s, want %s", n, again.digest(), sumOf(value))
		}
	}
	// A whole block that is the padding of "abc" leaves its digest as chaining value.
	padded := append([]byte("abc\x80"), make([]byte, 60)...)
	padded[63] = 24
	u := newUpload(0)
	u.add(padded, 0)
	sum := sumOf([]byte("abc"))
	if b := appendUpload(nil, u); !bytes.Equal(b[len(b)-32:], sum[:]) {
		t.Fatalf("the chaining value is %x, want %x", b[len(b)-32:], sum)
	}
}

// flippingLog flips a bit of a chunk between the digest of the value and that of the
// chunk, as the proposer's memory may.
type flippingLog struct{ *directLog }

func (l flippingLog) Propose(ctx context.Context, cmd []byte) (any, error) {
	if commandKind(cmd[1]) == commandChunk {
		c, err := decodeCommand(cmd)
		if err != nil {
			return nil, err
		}
		data := testBody(c.ref.Digest)
		data[len(data)-1] ^= 1
		cmd = testChunk(c.upload, c.number, data, time.Unix(0, c.time))
	}
	return l.directLog.Propose(ctx, cmd)
}

func (l flippingLog) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	proposeEach(ctx, l, cmds, each)
}

// The answer to a put that was damaged on its way is definite.
func TestDB_Put_DamagedOnItsWay(t *testing.T) {
	t.Parallel()
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
