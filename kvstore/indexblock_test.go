package kvstore

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// mergeKeys brings keys into an index in one flush of slices of n keys.
func mergeKeys(t testing.TB, e Engine, first Revision, keys []Key, n int) {
	t.Helper()
	o := newOverlay()
	for i, k := range keys {
		o.add(k, first+Revision(i))
		if i%1000 == 999 {
			o.freeze(&derived{})
		}
	}
	o.freeze(&derived{})
	for run := sortGenerations(o.frozen); run.len() > 0; {
		if err := e.Update(func(tx Tx) error {
			done, err := mergeIndex(tx, run.slice(0, min(n, run.len())))
			run = run.slice(done, run.len())
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// checkIndex compares what the index finds, and what it lists, with want.
func checkIndex(t *testing.T, e Engine, want map[Key]Revision, absent []Key) {
	t.Helper()
	if err := e.View(func(tx Tx) error {
		for key, rev := range want {
			if got, err := indexedRevision(tx, []byte(key)); err != nil || got != rev {
				t.Fatalf("%q: revision %d, %v; want %d", key, got, err, rev)
			}
		}
		for _, key := range absent {
			if got, err := indexedRevision(tx, []byte(key)); err != nil || got != want[key] {
				t.Fatalf("%q: revision %d, %v; want %d", key, got, err, want[key])
			}
		}
		sorted := slices.Sorted(maps.Keys(want))
		for _, from := range []int{0, len(sorted) / 2, len(sorted) - 1} {
			rest := sorted[from:]
			if err := ascendIndex(tx, []byte(rest[0]), func(key []byte, rev Revision) bool {
				if Key(key) != rest[0] || rev != want[rest[0]] {
					t.Fatalf("%q with revision %d is listed in place of %q with %d", key, rev, rest[0], want[rest[0]])
				}
				rest = rest[1:]
				return len(rest) > 0
			}); err != nil {
				t.Fatal(err)
			}
			if len(rest) > 0 {
				t.Fatalf("%d keys are not listed", len(rest))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// keyMakers make keys of many shapes: some share much, some nothing, some are a
// beginning of others, some as long as a key may be.
var keyMakers = []func(r *rand.Rand) Key{
	func(r *rand.Rand) Key { return Key(fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())) },
	func(r *rand.Rand) Key { return Key(strings.Repeat("ab", r.IntN(40)) + fmt.Sprint(r.IntN(50))) },
	func(r *rand.Rand) Key {
		return Key(fmt.Sprintf("app/v%d.%d.%d/main.js", r.IntN(4), r.IntN(30), r.IntN(30)))
	},
	func(r *rand.Rand) Key {
		return Key(strings.Repeat("x", MaxKeyBytes-8) + fmt.Sprintf("%08d", r.IntN(1e7)))
	},
	func(r *rand.Rand) Key { return Key(strings.Repeat(string(rune('a'+r.IntN(3))), 1+r.IntN(MaxKeyBytes))) },
	func(r *rand.Rand) Key { return Key(bytes.Repeat([]byte{0xff}, 1+r.IntN(20))) },
}

func TestIndex_Merge_MatchesModel(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 3))
		e := NewMemEngine()
		want := make(map[Key]Revision)
		rev := Revision(0)
		for range 12 {
			var keys, absent []Key
			for range 1 + r.IntN(1500) {
				key := keyMakers[r.IntN(len(keyMakers))](r)
				if want[key] == 0 {
					rev++
					want[key] = rev
					keys = append(keys, key)
				}
				absent = append(absent, keyMakers[r.IntN(len(keyMakers))](r))
			}
			first := rev - Revision(len(keys)) + 1
			if r.IntN(3) == 0 { // a flush that a crash interrupted comes again
				mergeKeys(t, e, first, keys[:r.IntN(len(keys)+1)], 50)
			}
			mergeKeys(t, e, first, keys, 1+r.IntN(3000))
			checkIndex(t, e, want, absent)
		}
	}
}

// Blocks stay full when flushes bring something for all of them, and are at
// least half full when they bring little.
func TestIndex_Merge_KeepsBlocksFull(t *testing.T) {
	for _, c := range []struct {
		flushes, keys int
		fill          float64
	}{{4, 20_000, 0.9}, {400, 100, 0.6}} {
		r := rand.New(rand.NewPCG(1, 4))
		e := NewMemEngine()
		for flush := range c.flushes {
			keys := make([]Key, c.keys)
			for i := range keys {
				keys[i] = keyMakers[0](r)
			}
			mergeKeys(t, e, Revision(1+flush*c.keys), keys, 20_000)
		}
		blocks, size := 0, 0
		if err := e.View(func(tx Tx) error {
			tx.Ascend(BucketIndex, nil, func(last, raw []byte) bool {
				if len(last)+len(raw) > indexBlockBytes {
					t.Errorf("a block of %d bytes", len(last)+len(raw))
				}
				blocks++
				size += len(last) + len(raw)
				return true
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if fill := float64(size) / float64(blocks) / indexBlockBytes; fill < c.fill {
			t.Errorf("%d flushes of %d keys: blocks are filled to %.2f", c.flushes, c.keys, fill)
		}
	}
}

// testIndexBlock makes one block.
func testIndexBlock(t testing.TB, keys ...string) (last, block []byte) {
	t.Helper()
	b := indexBuilder{target: 1 << 20, emit: func(l, raw []byte) { last, block = bytes.Clone(l), raw }}
	for i, k := range keys {
		b.add([]byte(k), Revision(1+i*1000))
	}
	b.flush()
	return last, block
}

// A builder knows before it adds a key how large that makes the block: else blocks
// would not fit their pages, or not fill them.
func TestIndexBuilder_KnowsHowItGrows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 6))
	var keys []Key
	for i := range 2000 {
		keys = append(keys, keyMakers[i%len(keyMakers)](r))
	}
	slices.Sort(keys)
	ended := false
	w := indexBuilder{target: indexBlockBytes, emit: func(_, _ []byte) { ended = true }}
	for _, k := range slices.Compact(keys) {
		ended = w.n == 0
		rev := Revision(r.Uint64() >> r.IntN(64))
		will := w.grown([]byte(k), rev)
		if w.add([]byte(k), rev); !ended && w.size() != will {
			t.Fatalf("entry %d of a block makes it %d bytes long, not %d", w.n, w.size(), will)
		}
	}
}

// putIndexBlock writes a block of these keys, in order, with these revisions.
func putIndexBlock(tx Tx, keys []string, revs []Revision) (err error) {
	w := indexBuilder{target: 1 << 20, emit: func(last, block []byte) { err = tx.Put(BucketIndex, last, block) }}
	for i, k := range keys {
		w.add([]byte(k), revs[i])
	}
	w.flush()
	return err
}

func TestIndexBlock_EveryBitCounts(t *testing.T) {
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("key/%04d", i*i))
	}
	last, block := testIndexBlock(t, keys...)
	if _, err := openIndexBlock(last, block); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(block) {
		damaged := bytes.Clone(block)
		damaged[bit/8] ^= 1 << (bit % 8)
		if _, err := openIndexBlock(last, damaged); err == nil {
			t.Fatalf("bit %d of byte %d does not count", bit%8, bit/8)
		}
	}
	for n := range block {
		if _, err := openIndexBlock(last, block[:n]); err == nil {
			t.Fatalf("%d of %d bytes are accepted", n, len(block))
		}
	}
	if _, err := openIndexBlock([]byte("key/"), block); err == nil {
		t.Fatal("a block is accepted under another key")
	}
}

// FuzzIndexBlock: what lies in the index under a right checksum may be anything;
// it decodes or is refused, and bisection finds what going through finds.
func FuzzIndexBlock(f *testing.F) {
	last, block := testIndexBlock(f, "a", "ab", "abc", "b", "ba", "c/1", "c/2")
	f.Add(last, block, []byte("ab"))
	last, block = testIndexBlock(f, strings.Fields(strings.Repeat("x ", 1))...)
	f.Add(last, block, []byte("y"))
	f.Add([]byte("k"), []byte{1, 0, 0, 0, 0, 5, 1, 1, 'a', 0, 0, 0, 1}, []byte("a"))
	f.Fuzz(func(t *testing.T, last, raw, key []byte) {
		if len(raw) < indexPrefixBytes {
			return
		}
		raw = bytes.Clone(raw)
		raw[0] = indexBlockFormat
		sum := checksum(last, raw)
		raw[1], raw[2], raw[3], raw[4] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		b, err := openIndexBlock(last, raw)
		if err != nil {
			return
		}
		_, _ = b.find(key)
		var keys []string
		var revs []Revision
		r := b.reader()
		for r.next() {
			keys, revs = append(keys, string(r.key)), append(revs, r.rev)
		}
		if r.err != nil || !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
			return
		}
		var again []byte
		w := indexBuilder{target: 1 << 20, emit: func(_, block []byte) { again = block }}
		for i, k := range keys {
			w.add([]byte(k), revs[i])
			if again != nil {
				return // more than one block holds
			}
		}
		if w.flush(); len(keys) == 0 {
			return
		}
		b, err = openIndexBlock([]byte(keys[len(keys)-1]), again)
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range keys {
			if rev, err := b.find([]byte(k)); err != nil || rev != revs[i] {
				t.Fatalf("%q: %d, %v; want %d", k, rev, err, revs[i])
			}
		}
		want := Revision(0)
		if i, found := slices.BinarySearch(keys, string(key)); found {
			want = revs[i]
		}
		if rev, err := b.find(key); err != nil || rev != want {
			t.Fatalf("%q: %d, %v; want %d", key, rev, err, want)
		}
	})
}

// BenchmarkIndex_Merge makes an index of half a million keys anew.
func BenchmarkIndex_Merge(b *testing.B) {
	const keys = 500_000
	r := rand.New(rand.NewPCG(1, 5))
	e := NewMemEngine()
	all := make([]Key, keys)
	for i := range all {
		all[i] = keyMakers[0](r)
	}
	mergeKeys(b, e, 1, all, keys)
	o := newOverlay()
	for i := range keys / 20 {
		o.add(keyMakers[0](r), Revision(keys+i))
	}
	run := sortGenerations([]*generation{o.active})
	for b.Loop() {
		if err := e.View(func(tx Tx) error {
			var old []storedBlock
			tx.Ascend(BucketIndex, nil, func(last, raw []byte) bool { old = append(old, storedBlock{last, raw}); return true })
			w := indexBuilder{target: indexBlockBytes, emit: func(_, _ []byte) {}}
			return mergeEntries(tx, &w, old, run)
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
}
