package cachetier

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

// What counts for so many bytes takes so many. What else the process lets go of
// meanwhile, or takes, is in the measurement too, but not again and again.
func TestRecord_CountsWhatItTakes(t *testing.T) {
	for _, size := range []int{1, 10, 100, 1000, 10_000, 100_000} {
		for tries := 5; ; tries-- {
			takes, counts := taken(t, size)
			if float64(takes) <= 1.05*float64(counts) && float64(counts) <= 1.3*float64(takes) {
				break
			}
			if tries == 0 {
				t.Errorf("values of %d bytes take %d bytes and count as %d", size, takes, counts)
				break
			}
		}
	}
}

// taken fills a memory with some 16 MiB of records, and returns what they took
// and what they counted for.
func taken(t *testing.T, size int) (takes, counts int64) {
	m := s3fifo.New[*record](1 << 30)
	records := 16 << 20 / (size + 2000)
	inUse := func() int64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before, counted := inUse(), m.Stats().Bytes
	for i := range records {
		meta := kvstore.Meta{Key: kvstore.Key(fmt.Sprintf("app/v1/%d", i)), Size: int64(size), ContentType: "text/plain"}
		rec, err := decodeRecord(meta.Key, append(encodeHeader(meta, false), make([]byte, size)...))
		if err != nil {
			t.Fatal(err)
		}
		m.Add(rec, false, 0)
	}
	takes, counts = inUse()-before, m.Stats().Bytes-counted
	t.Logf("%d values of %d bytes: %d bytes each, counted as %d", records, size, takes/int64(records), counts/int64(records))
	runtime.KeepAlive(m)
	return takes, counts
}

func TestAllocated_IsWhatTheAllocatorDoes(t *testing.T) {
	t.Parallel()
	for n := 1; n < 40<<10; n += 1 + n>>10 {
		if got, want := allocated(int64(n)), int64(cap(append([]byte(nil), make([]byte, n)...))); got != want {
			t.Fatalf("%d bytes take %d, not %d", n, want, got)
		}
	}
}

func TestRecord_BytesTakeThePlaceOfTheHeader(t *testing.T) {
	t.Parallel()
	m := s3fifo.New[*record](64 << 20)
	meta, raw := sampleRecord(bytes.Repeat([]byte("v"), 2<<20), true)
	header, err := decodeRecord(meta.Key, raw)
	if err != nil {
		t.Fatal(err)
	}
	whole := &record{value: kvstore.NewValue(meta, make([]byte, meta.Size)), raw: raw, streamed: true}
	for _, rec := range []*record{header, whole, header} {
		m.Add(rec, false, 0)
	}
	if rec, _ := m.Get(string(meta.Key)); rec != whole {
		t.Error("a header took the place of the value's bytes")
	}
}

// bounded compares what a memory holds with its limit.
func bounded(t *testing.T, m *s3fifo.Cache[*record], limit int64) {
	t.Helper()
	if s := m.Stats(); s.Bytes > limit || s.MirroredBytes > s.Bytes || s.Items < 0 {
		t.Errorf("%+v is held, of %d bytes", s, limit)
	}
}
