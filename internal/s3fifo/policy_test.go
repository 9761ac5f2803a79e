package s3fifo

import (
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// policy is a cache bounded by bytes. Asked for a value, it says whether it had it, and may
// have it from then on.
type policy interface {
	ask(v *item) (hit bool)
}

// policies are the compared policies; each counts bytes like Cache.
var policies = []struct {
	name string
	make func(limit int64) policy
}{
	{"LRU", func(limit int64) policy { return newLists(limit, true) }},
	{"SIEVE", func(limit int64) policy { return newLists(limit, false) }},
	{"W-TinyLFU", func(limit int64) policy { return newTinyLFU(limit) }},
	{"S3-FIFO", func(limit int64) policy { return ours{New[*item](limit)} }},
}

type ours struct{ *Cache[*item] }

func (o ours) ask(v *item) bool {
	if held, _ := o.Get(v.key); held != nil {
		return true
	}
	o.Add(v, false, 0)
	return false
}

// lists is LRU, or SIEVE (Zhang et al., NSDI 2024): a hit leaves a record in place and
// marks it, and a hand that moves from the oldest to the newest evicts the first without a
// mark.
type lists struct {
	limit, bytes int64
	lru          bool
	order        *list.List // newest in front
	at           map[string]*list.Element
	hand         *list.Element
}

type listEntry struct {
	key   string
	bytes int64
	used  bool
}

func newLists(limit int64, lru bool) *lists {
	return &lists{limit: limit, lru: lru, order: list.New(), at: map[string]*list.Element{}}
}

func (l *lists) ask(v *item) bool {
	key := v.key
	if e := l.at[key]; e != nil {
		if l.lru {
			l.order.MoveToFront(e)
		}
		e.Value.(*listEntry).used = true
		return true
	}
	bytes := v.bytes + overheadBytes
	for l.bytes+bytes > l.limit {
		l.drop(l.victim())
	}
	l.at[key] = l.order.PushFront(&listEntry{key: key, bytes: bytes})
	l.bytes += bytes
	return false
}

func (l *lists) victim() *list.Element {
	if l.lru {
		return l.order.Back()
	}
	e := l.hand
	for {
		if e == nil {
			e = l.order.Back()
		}
		one := e.Value.(*listEntry)
		if !one.used {
			l.hand = e.Prev()
			return e
		}
		one.used = false
		e = e.Prev()
	}
}

func (l *lists) drop(e *list.Element) *listEntry {
	one := l.order.Remove(e).(*listEntry)
	delete(l.at, one.key)
	l.bytes -= one.bytes
	return one
}

// tinyLFU is W-TinyLFU (Einziger et al., 2017) without the adaptive window: every value
// enters an LRU of 1 % of the bytes. A value that falls out replaces the main LRU's oldest
// if it was asked for more often, by a sketch whose counts are halved now and then.
type tinyLFU struct {
	window, main *lists
	sketch       [4][]uint8
	seen         int
}

func newTinyLFU(limit int64) *tinyLFU {
	t := &tinyLFU{window: newLists(limit/100, true), main: newLists(limit-limit/100, true)}
	for i := range t.sketch {
		t.sketch[i] = make([]uint8, 1<<17)
	}
	return t
}

func (t *tinyLFU) slots(key string) [4]*uint8 {
	hash := mix(uint64(len(key)) ^ xxhash.Sum64String(key))
	var slots [4]*uint8
	for i := range slots {
		slots[i] = &t.sketch[i][hash>>(16*i)%uint64(len(t.sketch[i]))]
		hash = mix(hash + uint64(i))
	}
	return slots
}

func (t *tinyLFU) count(key string) uint8 {
	least := uint8(math.MaxUint8)
	for _, slot := range t.slots(key) {
		least = min(least, *slot)
	}
	return least
}

func (t *tinyLFU) ask(v *item) bool {
	key := v.key
	for _, slot := range t.slots(key) {
		*slot = min(*slot+1, 15)
	}
	if t.seen++; t.seen == 10*len(t.sketch[0]) {
		t.seen = 0
		for _, row := range t.sketch {
			for i := range row {
				row[i] /= 2
			}
		}
	}
	if t.main.at[key] != nil {
		return t.main.ask(v)
	}
	bytes := v.bytes + overheadBytes
	if t.window.at[key] != nil {
		return t.window.ask(v)
	}
	t.window.at[key] = t.window.order.PushFront(&listEntry{key: key, bytes: bytes})
	t.window.bytes += bytes
	for t.window.bytes > t.window.limit {
		t.compete(t.window.drop(t.window.order.Back()))
	}
	return false
}

// compete admits a value that fell out of the window into main, or drops it.
func (t *tinyLFU) compete(one *listEntry) {
	for t.main.bytes+one.bytes > t.main.limit {
		oldest := t.main.order.Back()
		if t.count(one.key) <= t.count(oldest.Value.(*listEntry).key) {
			return
		}
		t.main.drop(oldest)
	}
	t.main.at[one.key] = t.main.order.PushFront(one)
	t.main.bytes += one.bytes
}

// workload is a series of requested keys.
type workload struct {
	name string
	next func() int
}

// zipf draws 0 to n-1 by Zipf's law with exponent 1.0. math/rand's needs more than 1.
func zipf(rng *rand.Rand, n int) func() int {
	sums := make([]float64, n)
	sum := 0.
	for i := range sums {
		sum += 1 / float64(i+1)
		sums[i] = sum
	}
	return func() int {
		i, _ := slices.BinarySearch(sums, rng.Float64()*sum)
		return min(i, n-1)
	}
}

// scanning is next, interrupted by passes over keys that are asked for once.
func scanning(next func() int, from int) func() int {
	const every, length = 50_000, 20_000
	i := 0
	return func() int {
		if i++; i%every < length {
			from++
			return from
		}
		return next()
	}
}

// drifting is next with a drifting mapping of ranks to keys: the hot keys change over time.
func drifting(next func() int, n int) func() int {
	i := 0
	return func() int {
		i++
		return (next() + i/2000) % n
	}
}

func workloads(n int) []workload {
	rng := func() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
	return []workload{
		{"Zipf(1.0)", zipf(rng(), n)},
		{"Zipf(1.0) and scans", scanning(zipf(rng(), n), n)},
		{"Zipf(1.0), drifting", drifting(zipf(rng(), n), n)},
	}
}

// simulated makes values of sizes from 64 B to 64 KiB, with each size step equally likely.
type simulated map[int]*item

func (s simulated) of(i int) *item {
	if v := s[i]; v != nil {
		return v
	}
	v := &item{"app/v1/" + strconv.Itoa(i), 64<<(mix(uint64(i))%11) + 300}
	s[i] = v
	return v
}

// hitRatio returns the part of the requests that p answered itself, without the first
// fifth, in which the cache fills.
func hitRatio(p policy, w workload, values simulated, asks int) float64 {
	hits, counted := 0, 0
	for i := range asks {
		hit := p.ask(values.of(w.next()))
		if i >= asks/5 {
			counted++
			if hit {
				hits++
			}
		}
	}
	return float64(hits) / float64(counted)
}

// The hit ratio must not be worse than LRU's by more than 3 points, and must be better with
// scans. The simulation uses fixed seeds: the ratios are the same everywhere.
func TestCache_HitRatioAgainstLRU(t *testing.T) {
	t.Parallel()
	const keys, asks = 20_000, 60_000
	values := simulated{}
	for i := range workloads(keys) {
		lru := hitRatio(policies[0].make(4<<20), workloads(keys)[i], values, asks)
		got := hitRatio(policies[len(policies)-1].make(4<<20), workloads(keys)[i], values, asks)
		name := workloads(1)[i].name
		t.Logf("%s: LRU %.1f %%, ours %.1f %%", name, 100*lru, 100*got)
		if got < lru-0.03 {
			t.Errorf("%s: a hit ratio of %.3f, LRU has %.3f", name, got, lru)
		}
		if i == 1 && got < lru {
			t.Errorf("%s: a hit ratio of %.3f, LRU has %.3f: scans push out what is hot", name, got, lru)
		}
	}
}

// BenchmarkPolicies makes the table in docs/caching.md: hit ratios for a million keys, a
// gigabyte in all.
//
//	go test -run - -bench Policies -benchtime 1x ./internal/s3fifo
func BenchmarkPolicies(b *testing.B) {
	const keys, asks = 1_000_000, 2_000_000
	for i, w := range workloads(1) {
		for _, share := range []int64{1000, 100, 20} { // parts of the data
			for _, p := range policies {
				b.Run(fmt.Sprintf("%s/1÷%d/%s", w.name, share, p.name), func(b *testing.B) {
					for b.Loop() {
						values := simulated{}
						const meanBytes = 12 << 10
						ratio := hitRatio(p.make(keys*meanBytes/share), workloads(keys)[i], values, asks)
						b.ReportMetric(100*ratio, "%hits")
						b.ReportMetric(0, "ns/op")
					}
				})
			}
		}
	}
}
