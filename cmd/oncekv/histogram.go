package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are never wider than 1/64 of what
// they hold, so percentiles are right to 1.6 %, in constant memory. The zero
// value is empty.
type histogram struct {
	buckets [64 * histogramSteps]uint64
	count   uint64
	sum     time.Duration
	max     time.Duration
}

// histogramSteps is the number of buckets from one power of two to the next.
const (
	histogramBits  = 6
	histogramSteps = 1 << histogramBits
)

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.buckets[bucketOf(uint64(d))]++
	h.count++
	h.sum += d
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// percentile is the duration that p of 100 were not above, as the upper end of
// its bucket; 0 if there are none.
func (h *histogram) percentile(p float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := uint64(p/100*float64(h.count) + 0.5)
	rank = min(max(rank, 1), h.count)
	var seen uint64
	for i, n := range h.buckets {
		if seen += n; seen >= rank {
			return min(time.Duration(bucketEnd(i)), h.max)
		}
	}
	return h.max
}

func (h *histogram) mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return h.sum / time.Duration(h.count)
}

// bucketOf: below 128 each value has its own bucket; above, the leading bit
// gives the group and the six bits behind it the step.
func bucketOf(v uint64) int {
	if v < 2*histogramSteps {
		return int(v)
	}
	shift := bits.Len64(v) - histogramBits - 1
	return shift<<histogramBits + int(v>>shift)
}

// bucketEnd is the largest value of a bucket.
func bucketEnd(i int) uint64 {
	if i < 2*histogramSteps {
		return uint64(i)
	}
	shift := i>>histogramBits - 1
	return (uint64(i-shift<<histogramBits)+1)<<shift - 1
}
