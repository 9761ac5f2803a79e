package merkle

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// oracle is the tree of Go's checksum database.
type oracle struct {
	size   int64
	hashes []tlog.Hash
}

func (o *oracle) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, o.hashes[i])
	}
	return out, nil
}

func (o *oracle) append(t *testing.T, leaf Hash) {
	t.Helper()
	more, err := tlog.StoredHashesForRecordHash(o.size, tlog.Hash(leaf), o)
	if err != nil {
		t.Fatal(err)
	}
	o.hashes = append(o.hashes, more...)
	o.size++
}

func (o *oracle) head(t *testing.T) Hash {
	t.Helper()
	h, err := tlog.TreeHash(o.size, o)
	if err != nil {
		t.Fatal(err)
	}
	return Hash(h)
}

// Trees of all sizes have the heads of RFC 6962, and continue from their encoding, or from a
// copy, at any size.
func TestRange_IsTheTreeOfRFC6962(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var o oracle
		var r Range
		copied, copiedHead := r, r.Head()
		for n := range 300 + rng.IntN(2000) {
			if got, want := r.Head(), o.head(t); got != want {
				t.Fatalf("seed %d: %d leaves have the head %x, want %x", seed, n, got, want)
			}
			if r.Size() != uint64(n) {
				t.Fatalf("%d leaves are counted as %d", n, r.Size())
			}
			raw := r.AppendTo([]byte("before"))
			again, rest, err := Decode(append(raw[len("before"):], "behind"...))
			if err != nil || again != r || string(rest) != "behind" {
				t.Fatalf("%d leaves: decoded as %d leaves, %q behind them: %v", n, again.Size(), rest, err)
			}
			if rng.IntN(50) == 0 {
				if copied.Head() != copiedHead {
					t.Fatalf("a copy of %d leaves changed with the original", copied.Size())
				}
				copied, copiedHead = r, r.Head()
				r = again
			}
			data := make([]byte, rng.IntN(1200))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			leaf := Leaf(data)
			if want := tlog.RecordHash(data); leaf != Hash(want) {
				t.Fatalf("a leaf of %d bytes has the hash %x, want %x", len(data), leaf, want)
			}
			r.Append(leaf)
			o.append(t, leaf)
		}
	}
}

// Decode refuses a range that is truncated, too large, or encoded in another way.
func TestDecode_IsStrict(t *testing.T) {
	var r Range
	for i := range 1000 {
		r.Append(Leaf(fmt.Append(nil, i)))
	}
	raw := r.AppendTo(nil)
	for n := range raw {
		if _, _, err := Decode(raw[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(raw))
		}
	}
	for what, b := range map[string][]byte{
		"a size in a longer form": append([]byte{0x80 | 5, 0}, make([]byte, 2*32)...),
		"a size without an end":   bytes.Repeat([]byte{0xff}, 20),
		"one leaf too many":       append(binary.AppendUvarint(nil, SizeMax+1), make([]byte, 49*32)...),
	} {
		if _, _, err := Decode(b); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	full, _, err := Decode(append(binary.AppendUvarint(nil, SizeMax), make([]byte, 48*32)...))
	if err != nil {
		t.Fatalf("the largest tree: %v", err)
	}
	full.Head()
	defer func() {
		if recover() == nil {
			t.Error("the largest tree took one more leaf")
		}
	}()
	full.Append(Hash{})
}

func TestRange_AppendAllocatesNothing(t *testing.T) {
	var r Range
	header := make([]byte, 200)
	if n := testing.AllocsPerRun(1000, func() { r.Append(Leaf(header)) }); n > 0 {
		t.Errorf("%v allocations a leaf", n)
	}
}

func BenchmarkRange_Append(b *testing.B) {
	var r Range
	var leaf Hash
	b.ReportAllocs()
	for b.Loop() {
		r.Append(leaf)
	}
}
