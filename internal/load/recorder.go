package load

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of histograms in microseconds, and their digits.
const (
	histogramMax    = int64(time.Hour / time.Microsecond)
	histogramDigits = 3
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, histogramMax, histogramDigits)
}

// shardsMax bounds the memory of a recorder, whose histograms take 150 kB each.
const shardsMax = 8

// kindUnknown is the kind of a request that was never made.
const kindUnknown = kinds

// recorder collects the measurements of all callers. They record into a few shards, so that
// they seldom contend; the collector empties the shards every interval and adds them up.
type recorder struct {
	shards []*shard

	// Owned by the collector, and by Run after it.
	begun    time.Time // start of the current interval
	before   time.Time // start of the interval before
	from     time.Time
	total    *window
	overTime []Interval
}

func newRecorder(callers int, from time.Time) *recorder {
	r := &recorder{from: from, begun: from, total: newWindow(), overTime: []Interval{}}
	for range min(callers, shardsMax) {
		r.shards = append(r.shards, &shard{window: newWindow(), spare: newWindow()})
	}
	return r
}

// shard returns the i-th caller's shard.
func (r *recorder) shard(i int) *shard { return r.shards[i%len(r.shards)] }

// window holds the measurements of some time.
type window struct {
	all        *hdrhistogram.Histogram // latency of all kinds
	service    *hdrhistogram.Histogram // from when it was sent
	kinds      [kinds]kindWindow
	errors     uint64
	unfinished uint64
	byKind     map[string]*ErrorCount
}

type kindWindow struct {
	latency  *hdrhistogram.Histogram // nil until there is one
	answered uint64
	tally    Tally
}

func newWindow() *window {
	return &window{all: newHistogram(), service: newHistogram(), byKind: map[string]*ErrorCount{}}
}

func (w *window) answered() uint64 { return uint64(w.service.TotalCount()) }

// merge adds o and empties it.
func (w *window) merge(o *window) {
	w.all.Merge(o.all)
	w.service.Merge(o.service)
	o.all.Reset()
	o.service.Reset()
	for k := range o.kinds {
		into, from := &w.kinds[k], &o.kinds[k]
		if from.latency != nil {
			into.histogram().Merge(from.latency)
			from.latency.Reset()
		}
		into.answered += from.answered
		into.tally.add(&from.tally)
		from.answered, from.tally = 0, Tally{}
	}
	w.errors += o.errors
	w.unfinished += o.unfinished
	for _, e := range o.byKind {
		w.countErrors(*e)
	}
	o.errors, o.unfinished = 0, 0
	clear(o.byKind)
}

func (k *kindWindow) histogram() *hdrhistogram.Histogram {
	if k.latency == nil {
		k.latency = newHistogram()
	}
	return k.latency
}

func (w *window) countErrors(e ErrorCount) {
	sum := w.byKind[e.Kind]
	if sum == nil {
		w.byKind[e.Kind] = &e
		return
	}
	sum.Count += e.Count
	sum.MaxMS = max(sum.MaxMS, e.MaxMS)
}

func (w *window) tally() Tally {
	var sum Tally
	for k := range w.kinds {
		sum.add(&w.kinds[k].tally)
	}
	return sum
}

// shard is guarded by mu.
type shard struct {
	mu     sync.Mutex
	window *window
	spare  *window // owned by the collector: empty, for the next exchange
}

// sample is one request with its answer.
type sample struct {
	kind             Kind
	latency, service time.Duration
	tally            *Tally
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	h.RecordValue(min(max(d.Microseconds(), 0), histogramMax)) // fails above the maximum only
}

func (s *shard) answered(x sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.window.kinds[x.kind]
	record(s.window.all, x.latency)
	record(s.window.service, x.service)
	record(k.histogram(), x.latency)
	k.answered++
	k.tally.add(x.tally)
}

func (s *shard) failed(x sample, err error) {
	e := ErrorCount{Kind: "other", Count: 1, MaxMS: milliseconds(x.latency), First: err.Error()}
	var failure *Failure
	if errors.As(err, &failure) {
		e.Kind = failure.Kind
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window.kinds[x.kind].tally.add(x.tally) // a batch may have got half of its answers
	s.window.errors++
	s.window.countErrors(e)
}

// unfinished counts a request that had waited for d when the measurement ended.
func (s *shard) unfinished(k Kind, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record(s.window.all, d)
	if k != kindUnknown {
		record(s.window.kinds[k].histogram(), d)
	}
	s.window.unfinished++
}

// take returns what was recorded since the last call; the caller must empty it.
func (s *shard) take() *window {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.window
	s.window, s.spare = s.spare, full
	return full
}

// startCollector starts collecting intervals. stop collects the last one.
func (r *run) startCollector() (stop func()) {
	done := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() { r.collect(done) })
	return func() {
		close(done)
		collector.Wait()
	}
}

func (r *run) collect(done <-chan struct{}) {
	begin := time.NewTimer(time.Until(r.from))
	defer begin.Stop()
	select {
	case <-begin.C:
	case <-done:
		r.lastInterval()
		return
	}
	tick := time.NewTicker(r.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.endInterval(time.Now())
		case <-done:
			r.lastInterval()
			return
		}
	}
}

// lastInterval ends the last interval. If that is short, it becomes part of the one before:
// its rate would be random.
func (r *run) lastInterval() {
	now, rec := time.Now(), r.recorder
	if len(rec.overTime) == 0 || now.Sub(rec.begun) >= r.Interval/2 {
		r.endInterval(now)
		return
	}
	rest := rec.take()
	if rest.Requests+rest.Errors == 0 {
		return
	}
	last := &rec.overTime[len(rec.overTime)-1]
	length, before := now.Sub(rec.before).Seconds(), rec.begun.Sub(rec.before).Seconds()
	last.Seconds = now.Sub(rec.from).Seconds()
	last.Requests += rest.Requests
	last.Errors += rest.Errors
	last.PerSecond = float64(last.Requests) / length
	last.KeysPerSecond = (last.KeysPerSecond*before + rest.KeysPerSecond) / length
	last.Latency.Max = max(last.Latency.Max, rest.Latency.Max)
}

func (r *run) endInterval(now time.Time) {
	rec := r.recorder
	length := now.Sub(rec.begun).Seconds()
	i := rec.take()
	if length <= 0 {
		return // it ended in the warm-up
	}
	rec.before, rec.begun = rec.begun, now
	i.Seconds = now.Sub(rec.from).Seconds()
	i.PerSecond = float64(i.Requests) / length
	i.KeysPerSecond /= length
	rec.overTime = append(rec.overTime, i)
	if r.Progress != nil {
		r.Progress(i)
	}
}

// take adds the shards to the sums, and returns their counts, not yet divided by time.
func (r *recorder) take() Interval {
	sum := newWindow()
	for _, s := range r.shards {
		sum.merge(s.take())
	}
	tally := sum.tally()
	i := Interval{Requests: sum.answered(), KeysPerSecond: float64(tally.keys()), Errors: sum.errors, Latency: latencyOf(sum.all)}
	r.total.merge(sum)
	return i
}

// errorCounts returns the errors, the most frequent first.
func (w *window) errorCounts() []ErrorCount {
	all := []ErrorCount{}
	for _, e := range w.byKind {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}
