package kvstore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	benchBatch = 45
	benchValue = 256
)

// benchCommands makes puts of 32-byte keys and 256-byte values.
func benchCommands(from, n int) [][]byte {
	cmds := make([][]byte, n)
	value := make([]byte, benchValue)
	for i := range cmds {
		key := Key(sumOf(fmt.Append(nil, from+i)).String()[:32])
		cmds[i] = testPut(key, fmt.Sprintf("%032x", from+i), "", value, time.Unix(1_700_000_000, 0))
	}
	return cmds
}

// BenchmarkStore_Apply applies batches of 45 on bbolt files, Run committing and
// flushing beside it.
func BenchmarkStore_Apply(b *testing.B) {
	s := openDir(b, b.TempDir(), StoreConfig{})
	stop := startRun(b, s)
	defer stop()
	cmds := benchCommands(0, max(b.N, benchBatch))
	b.ReportAllocs()
	b.ResetTimer()
	index := uint64(0)
	for n := 0; n < b.N; n += benchBatch {
		index++
		if _, err := s.Apply(index, 1, cmds[n:min(n+benchBatch, b.N)], nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Commit(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
}

// BenchmarkStore_Get reads random keys in each of the places one can be.
func BenchmarkStore_Get(b *testing.B) {
	const keys = 200_000
	s := openDir(b, b.TempDir(), StoreConfig{PendingBytes: 1 << 30, CommitBytes: 1 << 30, MemtableBytes: 1 << 30})
	for from := 0; from < keys; from += 1000 {
		if _, err := s.Apply(uint64(from+1), 1, benchCommands(from, 1000), nil); err != nil {
			b.Fatal(err)
		}
	}
	names := make([]Key, keys)
	for i := range names {
		names[i] = Key(sumOf(fmt.Append(nil, i)).String()[:32])
	}
	read := func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(names[rand.IntN(keys)]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
	}
	b.Run("pending", read)
	if err := s.Commit(); err != nil {
		b.Fatal(err)
	}
	b.Run("memtable", read)
	if err := s.FlushIndex(); err != nil {
		b.Fatal(err)
	}
	b.Run("index", read)
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Get(names[rand.IntN(keys)]); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
	})
}

// createdLog answers each command at once as if it had set its key, so that what is
// measured is DB alone.
type createdLog struct{ Log }

func (createdLog) ProposeMany(_ context.Context, commands [][]byte, each func(i int, result any, err error)) {
	for i := range commands {
		each(i, createdRecord, nil)
	}
}

var createdRecord = func() *pendingRecord {
	var s Store
	cmd, err := decodeCommand(testPut("key", fmt.Sprintf("%032x", 1), "", make([]byte, benchValue), time.Unix(0, 0)))
	if err != nil {
		panic(err)
	}
	return &pendingRecord{rev: 1, record: s.newRecord(&cmd.body, 1)}
}()

// BenchmarkDB_Put puts values of 256 bytes, without a log: one by one, and many at once.
func BenchmarkDB_Put(b *testing.B) {
	s := mustOpen(b, newMemDisks(), StoreConfig{})
	db := NewDB(s, createdLog{}, DBConfig{})
	value := make([]byte, benchValue)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		body := bytes.NewReader(value)
		for b.Loop() {
			body.Reset(value)
			if r, err := db.Put(b.Context(), PutRequest{Key: "key", Body: body, Size: benchValue}); err != nil || r.Outcome != Created {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		puts := make([]SmallPut, benchBatch)
		for b.Loop() {
			for i := range puts {
				puts[i] = SmallPut{Key: "key", Value: value}
			}
			db.PutMany(b.Context(), puts, func(_ int, r PutResult, err error) {
				if err != nil || r.Outcome != Created {
					b.Fatal(r, err)
				}
			})
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchBatch), "ns/put")
	})
}
