package keyruns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// testConfig merges early.
func testConfig(files Files) Config {
	return Config{Files: files, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), MaxRuns: 8, Factor: 3}
}

func openIndex(t testing.TB, cfg Config) *Index {
	t.Helper()
	x, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

// inOrder yields keys and revisions in byte order.
func inOrder(keys map[string]uint64) iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if !yield([]byte(k), keys[k]) {
				return
			}
		}
	}
}

// testMark returns the mark at a revision.
func testMark(revision uint64) Mark {
	m := Mark{Revision: revision}
	binary.BigEndian.PutUint64(m.Digest[3:], revision*31+7)
	return m
}

func add(t testing.TB, x *Index, keys map[string]uint64, revision uint64) {
	t.Helper()
	if err := x.Add(t.Context(), inOrder(keys), len(keys), testMark(revision)); err != nil {
		t.Fatal(err)
	}
}

// checkHas compares what an index finds and lists with want, and verifies the index.
func checkHas(t testing.TB, x *Index, want map[string]uint64, absent ...string) {
	t.Helper()
	for key, revision := range want {
		if got, err := x.Find([]byte(key)); err != nil || got != revision {
			t.Fatalf("%q: revision %d, %v; want %d", key, got, err, revision)
		}
	}
	for _, key := range absent {
		if got, err := x.Find([]byte(key)); err != nil || got != want[key] {
			t.Fatalf("%q: revision %d, %v; want %d", key, got, err, want[key])
		}
	}
	sorted := slices.Sorted(maps.Keys(want))
	for _, from := range []int{0, len(sorted) / 2, len(sorted) - 1} {
		var rest []string
		start := []byte(nil)
		if len(sorted) > 0 {
			rest = sorted[from:]
			if from > 0 {
				start = []byte(rest[0])
			}
		}
		if err := x.Ascend(start, func(key []byte, revision uint64) bool {
			if len(rest) == 0 || string(key) != rest[0] || revision != want[rest[0]] {
				t.Fatalf("%q with revision %d is listed in place of %.1q", key, revision, rest)
			}
			rest = rest[1:]
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if len(rest) > 0 {
			t.Fatalf("%d keys are not listed", len(rest))
		}
	}
	if err := x.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// keyMakers make keys of many shapes: with long common prefixes, with none, as prefixes of
// others, and of the maximal length.
var keyMakers = []func(r *rand.Rand) string{
	func(r *rand.Rand) string { return fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()) },
	func(r *rand.Rand) string { return strings.Repeat("ab", r.IntN(40)) + fmt.Sprint(r.IntN(50)) },
	func(r *rand.Rand) string {
		return fmt.Sprintf("app/v%d.%d.%d/main.js", r.IntN(4), r.IntN(30), r.IntN(30))
	},
	func(r *rand.Rand) string {
		return strings.Repeat("x", MaxKeyBytes-8) + fmt.Sprintf("%08d", r.IntN(1e7))
	},
	func(r *rand.Rand) string {
		return strings.Repeat(string(rune('a'+r.IntN(3))), 1+r.IntN(MaxKeyBytes))
	},
	func(r *rand.Rand) string { return string(bytes.Repeat([]byte{0xff}, 1+r.IntN(20))) },
	func(r *rand.Rand) string { return string(bytes.Repeat([]byte{0}, 1+r.IntN(20))) },
	func(r *rand.Rand) string {
		return "same8byt" + strings.Repeat("\x00", r.IntN(9)) + fmt.Sprint(r.IntN(99))
	},
}

// Whatever is added, merged, opened again or lost in a crash, an index has what a map has.
func TestIndex_MatchesModel(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		files := NewMemFiles()
		cfg := testConfig(files)
		cfg.Spread = r.Float64
		x := openIndex(t, cfg)
		want := map[string]uint64{}
		revision := uint64(0)
		for range 40 {
			switch r.IntN(10) {
			default:
				keys := map[string]uint64{}
				for range r.IntN(1 << r.IntN(12)) {
					key := keyMakers[r.IntN(len(keyMakers))](r)
					if want[key] == 0 && keys[key] == 0 {
						revision++
						keys[key] = revision << r.IntN(40)
					}
				}
				add(t, x, keys, revision)
				maps.Copy(want, keys)
			case 7, 8:
				if _, err := x.Merge(t.Context()); err != nil {
					t.Fatal(err)
				}
			case 9:
				if r.IntN(2) == 0 {
					if err := x.Close(); err != nil {
						t.Fatal(err)
					}
				}
				files = files.Reopen(r.Uint64N(3))
				cfg.Files = files
				x = openIndex(t, cfg)
			}
			if got := x.Mark(); revision > 0 && got != testMark(revision) {
				t.Fatalf("seed %d: mark %v", seed, got.Revision)
			}
		}
		var absent []string
		for range 2000 {
			absent = append(absent, keyMakers[r.IntN(len(keyMakers))](r))
		}
		checkHas(t, x, want, absent...)
		names, err := files.List()
		if err != nil || len(names) != x.Stats().Runs+1 {
			t.Fatalf("seed %d: %d runs, and %q, %v", seed, x.Stats().Runs, names, err)
		}
	}
}

// The same on a disk.
func TestIndex_OnDisk(t *testing.T) {
	dir := t.TempDir() + "/index"
	cfg := testConfig(OSFiles(dir))
	x := openIndex(t, cfg)
	r := rand.New(rand.NewPCG(1, 2))
	want := map[string]uint64{}
	for batch := range uint64(10) {
		keys := map[string]uint64{}
		for range 500 {
			keys[keyMakers[0](r)] = batch + 1
		}
		add(t, x, keys, batch+1)
		maps.Copy(want, keys)
		for {
			merged, err := x.Merge(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !merged {
				break
			}
		}
	}
	checkHas(t, x, want, "absent")
	if s := x.Stats(); s.Merges == 0 || s.Keys != 5000 || s.Runs > 6 || s.FilterBits > filterBits || s.FilterBits < filterBits-2 {
		t.Errorf("%+v", s)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := x.Find([]byte("a")); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	x = openIndex(t, cfg)
	checkHas(t, x, want, "absent")
	names, err := cfg.Files.List()
	if err != nil || len(names) != x.Stats().Runs+1 {
		t.Fatalf("%d runs, and %q, %v", x.Stats().Runs, names, err)
	}
}

// A refused addition changes nothing.
func TestIndex_Add_Refuses(t *testing.T) {
	x := openIndex(t, testConfig(NewMemFiles()))
	add(t, x, map[string]uint64{"a": 1}, 1)
	seq := func(keys ...string) iter.Seq2[[]byte, uint64] {
		return func(yield func([]byte, uint64) bool) {
			for _, k := range keys {
				if !yield([]byte(k), uint64(len(k)%7)) {
					return
				}
			}
		}
	}
	for what, tt := range map[string]struct {
		keys iter.Seq2[[]byte, uint64]
		n    int
	}{
		"one less":     {seq("b"), 2},
		"one more":     {seq("b", "c"), 1},
		"none":         {seq("b"), 0},
		"order":        {seq("c", "b"), 2},
		"twice":        {seq("b", "b"), 2},
		"empty":        {seq(""), 1},
		"too long":     {seq(strings.Repeat("x", MaxKeyBytes+1)), 1},
		"no revisions": {seq("1234567"), 1},
	} {
		if err := x.Add(t.Context(), tt.keys, tt.n, testMark(2)); err == nil {
			t.Errorf("%s: it is added", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Add(ctx, seq("b"), 1, testMark(2)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if x.Mark() != testMark(1) {
		t.Error("the mark moved")
	}
	checkHas(t, x, map[string]uint64{"a": 1}, "b", "c")
	add(t, x, nil, 3)
	if x.Mark() != testMark(3) {
		t.Error("the mark did not move")
	}
}
