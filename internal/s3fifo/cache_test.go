package s3fifo

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// item is a value of a test.
type item struct {
	key   string
	bytes int64
}

func (i *item) CacheKey() string  { return i.key }
func (i *item) CacheBytes() int64 { return i.bytes }

// audit compares the stats of c with what is held.
func audit(t *testing.T, c *Cache[*item]) {
	t.Helper()
	stats := c.Stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	items, bytes, mirrored := int64(0), c.ghosts.bytes(), int64(0)
	for i := range c.shards {
		for key, e := range c.shards[i].entries {
			if e.value.key != key || e.bytes != e.value.bytes+overheadBytes {
				t.Errorf("%q holds the value of %q, which counts for %d bytes and takes %d", key, e.value.key, e.bytes, e.value.bytes+overheadBytes)
			}
			items++
			bytes += e.bytes
			if e.mirrored {
				mirrored += e.bytes
			}
		}
	}
	queued := int64(0)
	for _, q := range []*queue[*item]{&c.own.small, &c.own.main, &c.mirrored.small, &c.mirrored.main} {
		sum := int64(0)
		for e := q.first; e != nil; e = e.next {
			queued++
			sum += e.bytes
			if e.in != q {
				t.Errorf("%q does not know its queue", e.value.key)
			}
		}
		if sum != q.bytes {
			t.Errorf("a queue of %d bytes says %d", sum, q.bytes)
		}
	}
	if items != stats.Items || bytes != stats.Bytes || mirrored != stats.MirroredBytes || queued != items {
		t.Errorf("%d values (%d in queues), %d bytes, %d mirrored are held; the stats are %+v", items, queued, bytes, mirrored, stats)
	}
	if bytes > c.limit {
		t.Errorf("%d bytes are held of %d", bytes, c.limit)
	}
}

func holds(c *Cache[*item], key string) bool {
	s := c.shard(xxhash.Sum64String(key))
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[key] != nil
}

// Concurrent reads and writes of the same few keys: every value found belongs to its key,
// and the stats are right in the end.
func TestCache_ConcurrentUse(t *testing.T) {
	t.Parallel()
	c := New[*item](1 << 20)
	var users sync.WaitGroup
	for user := range 4 {
		users.Go(func() {
			for i := range 20_000 {
				key := fmt.Sprint("k", (i*7919+user)%700)
				if v, _ := c.Get(key); v == nil {
					c.Add(&item{key, int64(1 + i*31%4000)}, user%2 == 0, 0)
				} else if v.key != key {
					t.Errorf("%q is the value of %q", key, v.key)
				}
			}
		})
	}
	users.Wait()
	audit(t, c)
	if s := c.Stats(); s.Evictions == 0 || s.Items == 0 {
		t.Error("nothing is held, or nothing had to go: this shows nothing")
	}
}

// A large value takes little room from the others, and one that is too large none.
func TestCache_LargeValuesDoNotEvictEverything(t *testing.T) {
	t.Parallel()
	c := New[*item](8 << 20)
	for i := range 1000 {
		c.Add(&item{fmt.Sprint("k", i), 4000}, false, 0)
	}
	before := c.Stats().Items
	c.Add(&item{"too large", 1 << 20}, false, 0)
	if s := c.Stats(); s.Items != before || s.Unadmitted != 1 {
		t.Errorf("%d of %d values are left after one that is too large", s.Items, before)
	}
	for i := range 20 {
		c.Add(&item{fmt.Sprint("large", i), 900 << 10}, false, 0)
	}
	audit(t, c)
	hot := New[*item](8 << 20)
	for range 3 {
		for i := range 1000 {
			if v, _ := hot.Get(fmt.Sprint("k", i)); v == nil {
				hot.Add(&item{fmt.Sprint("k", i), 4000}, false, 0)
			}
		}
	}
	for i := range 100 {
		hot.Add(&item{fmt.Sprint("large", i), 900 << 10}, false, 0)
	}
	left := 0
	for i := range 1000 {
		if holds(hot, fmt.Sprint("k", i)) {
			left++
		}
	}
	if left < 900 {
		t.Errorf("%d of 1000 values that are asked for are left after 90 MB of others", left)
	}
	audit(t, hot)
}

// With memory to spare, a mirrored value is held at once. Otherwise it is held only when it
// is asked for again, and mirrored values get at most a quarter of the memory, however
// often they are used.
func TestCache_MirrorsByRate(t *testing.T) {
	t.Parallel()
	c := New[*item](1 << 20)
	c.Add(&item{"foreign", 1000}, true, 0)
	if _, mirrored := c.Get("foreign"); !mirrored {
		t.Fatal("with memory to spare, a mirrored value is not held")
	}
	for i := range 2000 {
		c.Add(&item{fmt.Sprint("own", i), 1000}, false, 0)
	}
	c.Add(&item{"foreign-2", 1000}, true, 0)
	if holds(c, "foreign-2") {
		t.Error("with memory scarce, a mirrored value is held though it was asked for once")
	}
	c.Add(&item{"foreign-2", 1000}, true, 0)
	if !holds(c, "foreign-2") {
		t.Error("a mirrored value that was asked for again is not held")
	}
	audit(t, c)
	for i := range 20_000 {
		for key, mirrored := range map[string]bool{fmt.Sprint("often", i%200): true, fmt.Sprint("own", i%2000): false} {
			if v, _ := c.Get(key); v == nil {
				c.Add(&item{key, 1000}, mirrored, 0)
			}
		}
	}
	audit(t, c)
	if got := c.Stats().MirroredBytes; got > c.limit/mirrorShare+4000 || got < c.limit/10 {
		t.Errorf("%d bytes of %d are mirrored", got, c.limit)
	}
}

// Of two values of one key, the one with more bytes is held.
func TestCache_MoreTakesThePlaceOfLess(t *testing.T) {
	t.Parallel()
	c := New[*item](64 << 20)
	less, more := &item{"key", 100}, &item{"key", 2 << 20}
	for _, v := range []*item{less, more, less, {"key", 2 << 20}} {
		c.Add(v, false, 0)
		audit(t, c)
	}
	if v, _ := c.Get("key"); v != more {
		t.Errorf("%+v is held", v)
	}
}

// A value of another generation is not held, and nothing is held after Close.
func TestCache_Generations(t *testing.T) {
	t.Parallel()
	c := New[*item](1 << 20)
	c.Add(&item{"before", 100}, false, 0)
	next, dropped := c.Begin()
	if v, _ := c.Get("before"); v != nil || dropped != 1 {
		t.Errorf("%+v is held after a new generation began, which dropped %d", v, dropped)
	}
	c.Add(&item{"late", 100}, false, 0)
	c.Add(&item{"new", 100}, false, next)
	if holds(c, "late") || !holds(c, "new") {
		t.Error("held is not what is of the generation")
	}
	audit(t, c)
	c.Close()
	for _, generation := range []uint64{0, next, next + 1} {
		c.Add(&item{"closed", 100}, false, generation)
	}
	if s := c.Stats(); s.Items != 0 || s.Bytes != 0 || holds(c, "new") || holds(c, "closed") {
		t.Errorf("something is held after the end: %+v", s)
	}
}

func TestGhosts_AreTheLastOnes(t *testing.T) {
	t.Parallel()
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

// mix spreads the bits of a number (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// BenchmarkCache_Get finds a value, on all processors at once: all ask for the same key, or
// each for its own.
func BenchmarkCache_Get(b *testing.B) {
	c := New[*item](64 << 20)
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprint("app/v1/main-", i)
		c.Add(&item{keys[i], 1000}, false, 0)
	}
	for name, spread := range map[string]int{"one key": 1, "many keys": len(keys)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if v, _ := c.Get(keys[i%spread]); v == nil {
						b.Error("not held")
					}
				}
			})
		})
	}
}
