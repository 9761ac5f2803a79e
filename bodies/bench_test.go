package bodies

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkStore_Sync appends and syncs bodies, from several goroutines, while a file
// beside gets small writes and is synced after each, as a log is: how long those take is
// what small puts feel.
func BenchmarkStore_Sync(b *testing.B) {
	for _, bb := range []struct{ writers, size int }{{64, 64 << 10}, {8, MaxBytes}, {1, MaxBytes}, {0, 0}} {
		b.Run(fmt.Sprintf("%dx%dKiB", bb.writers, bb.size>>10), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			log := startLog(b)
			b.SetBytes(int64(bb.size))
			b.ResetTimer()
			if bb.writers == 0 {
				tick := time.NewTicker(logEvery)
				defer tick.Stop()
				for range b.N {
					<-tick.C
				}
			} else {
				appendAll(b, s, bb.writers, bb.size)
			}
			b.StopTimer()
			log.report(b)
		})
	}
}

func appendAll(b *testing.B, s *Store, writers, size int) {
	var done atomic.Int64
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			data := testBody(rand.New(rand.NewPCG(3, uint64(w))), size).Data
			for i := done.Add(1); i <= int64(b.N); i = done.Add(1) {
				binary.BigEndian.PutUint64(data, uint64(i))
				if _, err := s.Append(sha256.Sum256(data), data); err != nil {
					b.Error(err)
					return
				}
				if err := s.Sync(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

const logEvery = 5 * time.Millisecond

// smallLog stands for a log that small puts wait for.
type smallLog struct {
	stop chan struct{}
	done sync.WaitGroup
	took []time.Duration // owned by the goroutine until it is done
}

func startLog(b *testing.B) *smallLog {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	l := &smallLog{stop: make(chan struct{})}
	l.done.Go(func() {
		defer f.Close()
		line := make([]byte, 200)
		tick := time.NewTicker(logEvery)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			from := time.Now()
			if _, err := f.Write(line); err != nil {
				b.Error(err)
			}
			if err := syncData(f); err != nil {
				b.Error(err)
			}
			l.took = append(l.took, time.Since(from))
		}
	})
	return l
}

func (l *smallLog) report(b *testing.B) {
	close(l.stop)
	l.done.Wait()
	if len(l.took) == 0 {
		return
	}
	slices.Sort(l.took)
	ms := func(at int) float64 { return float64(l.took[at].Microseconds()) / 1000 }
	b.ReportMetric(ms(len(l.took)/2), "p50-ms")
	b.ReportMetric(ms(len(l.took)*99/100), "p99-ms")
	b.ReportMetric(ms(len(l.took)-1), "worst-ms")
	b.ReportMetric(0, "ns/op")
}
