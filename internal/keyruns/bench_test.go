package keyruns

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// hexKey computes one of a seed's random keys of 32 bytes. Benchmarks compute their keys
// again, because reading a stored key would take longer than the lookup.
func hexKey(seed, i int) (key [32]byte) {
	const digits = "0123456789abcdef"
	for half := range uint64(2) {
		x := (uint64(seed)<<40 | uint64(i)<<1 | half) * 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
		for j := range 16 {
			key[16*half+uint64(j)] = digits[x>>(4*j)&15]
		}
	}
	return key
}

// hexKeys returns the first n keys of a seed in order.
func hexKeys(seed, n int) [][32]byte {
	keys := make([][32]byte, n)
	for i := range keys {
		keys[i] = hexKey(seed, i)
	}
	slices.SortFunc(keys, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	return keys
}

func ofKeys(keys [][32]byte) iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		for i := range keys {
			if !yield(keys[i][:], uint64(i)+1) {
				return
			}
		}
	}
}

// benchIndex has some runs of n keys each on a disk.
func benchIndex(b *testing.B, runs, n int) *Index {
	b.Helper()
	x := openIndex(b, Config{Files: OSFiles(b.TempDir() + "/index"), MaxRuns: 100})
	for seed := range runs {
		if err := x.Add(b.Context(), ofKeys(hexKeys(seed, n)), n, testMark(1)); err != nil {
			b.Fatal(err)
		}
	}
	return x
}

func BenchmarkFind(b *testing.B) {
	const runs, n = 10, 500_000
	x := benchIndex(b, runs, n)
	r := rand.New(rand.NewPCG(4, 4))
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			key := hexKey(r.IntN(runs), r.IntN(n))
			if rev, err := x.Find(key[:]); rev == 0 || err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		before := x.Stats().FalsePositives
		for b.Loop() {
			key := hexKey(runs, r.IntN(n))
			if rev, err := x.Find(key[:]); rev != 0 || err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(x.Stats().FalsePositives-before)/float64(b.N), "reads/op")
	})
}

func BenchmarkAdd(b *testing.B) {
	const n = 500_000
	keys := hexKeys(1, n)
	x := openIndex(b, Config{Files: OSFiles(b.TempDir() + "/index"), MaxRuns: 100})
	for b.Loop() {
		if err := x.Add(b.Context(), ofKeys(keys), n, testMark(1)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/key")
	b.ReportMetric(float64(x.Stats().AddedBytes)/float64(x.Stats().Added), "bytes/key")
}

func BenchmarkMerge(b *testing.B) {
	const runs, n = 8, 500_000
	for b.Loop() {
		b.StopTimer()
		x := benchIndex(b, runs, n)
		b.StartTimer()
		if merged, err := x.Merge(b.Context()); !merged || err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = x.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(runs*n), "ns/key")
}

// BenchmarkFilter shows how often a filter is wrong, by the number of keys.
func BenchmarkFilter(b *testing.B) {
	for _, n := range []uint64{1000, 500_000, 30_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, free := newFilter(filterLines(n))
			defer free()
			r := rand.New(rand.NewPCG(1, n))
			for range n {
				f.add(r.Uint64())
			}
			wrong := 0
			for b.Loop() {
				if f.has(r.Uint64()) {
					wrong++
				}
			}
			b.ReportMetric(100*float64(wrong)/float64(b.N), "%")
			b.ReportMetric(float64(8*len(f))/float64(n), "bits/key")
		})
	}
}

// It also shows the memory for each key: filters and fences.
func BenchmarkOpen(b *testing.B) {
	const n = 4_000_000
	files := OSFiles(b.TempDir() + "/index")
	x := openIndex(b, Config{Files: files})
	keys := hexKeys(1, n)
	if err := x.Add(b.Context(), ofKeys(keys), n, testMark(1)); err != nil {
		b.Fatal(err)
	}
	_ = x.Close()
	keys = nil
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		x = openIndex(b, Config{Files: files})
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(8*float64(x.Stats().MemoryBytes)/n, "bits/key")
		b.ReportMetric(8*float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/n, "heapbits/key")
		_ = x.Close()
		b.StartTimer()
	}
}
