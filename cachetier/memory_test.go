package cachetier

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/Focinfi/oncekv/kvstore"
)

// recordOf makes a record of size bytes.
func recordOf(key string, size int) *record {
	body := make([]byte, size)
	return &record{value: kvstore.NewValue(kvstore.Meta{Key: kvstore.Key(key), Size: int64(size)}, body), raw: body}
}

// audit compares the figures of m with what is held.
func audit(t *testing.T, m *memory) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	items, bytes, mirrored := int64(0), m.ghosts.bytes(), int64(0)
	for i := range m.shards {
		for key, h := range m.shards[i].held {
			if string(h.rec.value.Key) != key || h.bytes != heldBytes(h.rec) {
				t.Errorf("%q holds the record of %q, which counts for %d bytes and takes %d", key, h.rec.value.Key, h.bytes, heldBytes(h.rec))
			}
			items++
			bytes += h.bytes
			if h.mirrored {
				mirrored += h.bytes
			}
		}
	}
	queued := int64(0)
	for _, q := range []*queue{&m.owned.small, &m.owned.main, &m.mirrored.small, &m.mirrored.main} {
		sum := int64(0)
		for h := q.first; h != nil; h = h.next {
			queued++
			sum += h.bytes
			if h.queue != q {
				t.Errorf("%q does not know its queue", h.rec.value.Key)
			}
		}
		if sum != q.bytes {
			t.Errorf("a queue of %d bytes says %d", sum, q.bytes)
		}
	}
	if items != m.items.Load() || bytes != m.bytes.Load() || mirrored != m.mirroredBytes.Load() || queued != items {
		t.Errorf("%d records (%d in queues), %d bytes, %d mirrored are held; figures say %d, %d, %d",
			items, queued, bytes, mirrored, m.items.Load(), m.bytes.Load(), m.mirroredBytes.Load())
	}
	if bytes > m.limit {
		t.Errorf("%d bytes are held of %d", bytes, m.limit)
	}
}

func holds(m *memory, key string) bool {
	s := m.shard(xxhash.Sum64String(key))
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.held[key] != nil
}

// Readers and writers of the same few keys at the same time: whatever is found
// is that key's, and the figures are right in the end.
func TestMemory_ConcurrentUse(t *testing.T) {
	m := newMemory(1 << 20)
	var users sync.WaitGroup
	for user := range 4 {
		users.Go(func() {
			for i := range 20_000 {
				key := fmt.Sprint("k", (i*7919+user)%700)
				if rec, _ := m.get(key); rec == nil {
					m.add(recordOf(key, 1+i*31%4000), user%2 == 0, nil)
				} else if string(rec.value.Key) != key {
					t.Errorf("%q is the record of %q", key, rec.value.Key)
				}
			}
		})
	}
	users.Wait()
	audit(t, m)
	if m.evictions.Load() == 0 || m.items.Load() == 0 {
		t.Error("nothing is held, or nothing had to go: this shows nothing")
	}
}

// What counts for so many bytes takes so many. What else the process lets go of
// meanwhile, or takes, is in the measurement too, but not again and again.
func TestMemory_CountsWhatItTakes(t *testing.T) {
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
	m := newMemory(1 << 30)
	records := 16 << 20 / (size + 2000)
	inUse := func() int64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before, counted := inUse(), m.bytes.Load()
	for i := range records {
		meta := kvstore.Meta{Key: kvstore.Key(fmt.Sprintf("app/v1/%d", i)), Size: int64(size), ContentType: "text/plain"}
		rec, err := decodeRecord(meta.Key, append(encodeHeader(meta, false), make([]byte, size)...))
		if err != nil {
			t.Fatal(err)
		}
		m.add(rec, false, nil)
	}
	takes, counts = inUse()-before, m.bytes.Load()-counted
	t.Logf("%d values of %d bytes: %d bytes each, counted as %d", records, size, takes/int64(records), counts/int64(records))
	runtime.KeepAlive(m)
	return takes, counts
}

func TestAllocated_IsWhatTheAllocatorDoes(t *testing.T) {
	for n := 1; n < 40<<10; n += 1 + n>>10 {
		if got, want := allocated(int64(n)), int64(cap(append([]byte(nil), make([]byte, n)...))); got != want {
			t.Fatalf("%d bytes take %d, not %d", n, want, got)
		}
	}
}

// One large value takes little room from the others, one that is too large none.
func TestMemory_LargeRecordsDoNotEvictEverything(t *testing.T) {
	m := newMemory(8 << 20)
	for i := range 1000 {
		m.add(recordOf(fmt.Sprint("k", i), 4000), false, nil)
	}
	before := m.items.Load()
	m.add(recordOf("too large", 1<<20), false, nil)
	if m.items.Load() != before || m.unadmitted.Load() != 1 {
		t.Errorf("%d of %d records are left after one that is too large", m.items.Load(), before)
	}
	for i := range 20 {
		m.add(recordOf(fmt.Sprint("large", i), 900<<10), false, nil)
	}
	audit(t, m)
	hot := newMemory(8 << 20)
	for range 3 {
		for i := range 1000 {
			if rec, _ := hot.get(fmt.Sprint("k", i)); rec == nil {
				hot.add(recordOf(fmt.Sprint("k", i), 4000), false, nil)
			}
		}
	}
	for i := range 100 {
		hot.add(recordOf(fmt.Sprint("large", i), 900<<10), false, nil)
	}
	left := 0
	for i := range 1000 {
		if holds(hot, fmt.Sprint("k", i)) {
			left++
		}
	}
	if left < 900 {
		t.Errorf("%d of 1000 records that are asked for are left after 90 MB of others", left)
	}
	audit(t, hot)
}

// With memory to spare a record of another owner is held at once; without, only
// when it is asked for again, and no more than a quarter of the memory is spent
// on such records however often they are.
func TestMemory_MirrorsByRate(t *testing.T) {
	m := newMemory(1 << 20)
	m.add(recordOf("foreign", 1000), true, nil)
	if _, mirrored := m.get("foreign"); !mirrored {
		t.Fatal("with memory to spare, a record of another owner is not held")
	}
	for i := range 2000 {
		m.add(recordOf(fmt.Sprint("own", i), 1000), false, nil)
	}
	m.add(recordOf("foreign-2", 1000), true, nil)
	if holds(m, "foreign-2") {
		t.Error("with memory scarce, a record of another owner is held though it was asked for once")
	}
	m.add(recordOf("foreign-2", 1000), true, nil)
	if !holds(m, "foreign-2") {
		t.Error("a record of another owner that was asked for again is not held")
	}
	audit(t, m)
	for i := range 20_000 {
		for key, mirrored := range map[string]bool{fmt.Sprint("often", i%200): true, fmt.Sprint("own", i%2000): false} {
			if rec, _ := m.get(key); rec == nil {
				m.add(recordOf(key, 1000), mirrored, nil)
			}
		}
	}
	audit(t, m)
	if got := m.mirroredBytes.Load(); got > m.limit/mirrorShare+4000 || got < m.limit/10 {
		t.Errorf("%d bytes of %d are mirrored", got, m.limit)
	}
}

func TestMemory_BytesTakeThePlaceOfTheHeader(t *testing.T) {
	m := newMemory(64 << 20)
	meta, raw := sampleRecord(bytes.Repeat([]byte("v"), 2<<20), true)
	header, err := decodeRecord(meta.Key, raw)
	if err != nil {
		t.Fatal(err)
	}
	whole := &record{value: kvstore.NewValue(meta, make([]byte, meta.Size)), raw: raw, streamed: true}
	for _, rec := range []*record{header, whole, header} {
		m.add(rec, false, nil)
		audit(t, m)
	}
	if rec, _ := m.get(string(meta.Key)); rec != whole {
		t.Error("a header took the place of the value's bytes")
	}
	m.close()
	if rec, _ := m.get(string(meta.Key)); rec != nil || m.bytes.Load() != 0 {
		t.Error("something is held after the end")
	}
	m.add(whole, false, nil)
	if rec, _ := m.get(string(meta.Key)); rec != nil {
		t.Error("something is taken in after the end")
	}
}

func TestGhosts_AreTheLastOnes(t *testing.T) {
	g := newGhosts(16 << 20)
	for i := range uint64(1000) {
		g.add(mix(i))
	}
	if !g.has(mix(999), 500) || !g.has(mix(600), 500) || g.has(mix(400), 500) || g.has(mix(1000), 500) {
		t.Error("not the last 500 of 1000")
	}
	g.now = 1<<32 - 1
	g.add(mix(1))
	if !g.has(mix(1), 10) || g.has(mix(999), 1000) {
		t.Error("what was there before the count began again is still there, or what came with it is not")
	}
}

// BenchmarkMemory_Hit is what finding a record costs, on all processors at once:
// every one asks for the same key, or each for its own.
func BenchmarkMemory_Hit(b *testing.B) {
	m := newMemory(64 << 20)
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprint("app/v1/main-", i)
		m.add(recordOf(keys[i], 1000), false, nil)
	}
	for name, spread := range map[string]int{"one key": 1, "many keys": len(keys)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if rec, _ := m.get(keys[i%spread]); rec == nil {
						b.Error("not held")
					}
				}
			})
		})
	}
}
