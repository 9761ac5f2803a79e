package load

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
)

// Mix holds the relative frequency of each kind of request.
type Mix [kinds]uint64

// Only returns a mix of one kind.
func Only(k Kind) Mix {
	var m Mix
	m[k] = 1
	return m
}

// ParseMix reads a mix such as get=90,put=10.
func ParseMix(text string) (Mix, error) {
	var m Mix
	for part := range strings.SplitSeq(text, ",") {
		name, weight, _ := strings.Cut(part, "=")
		k, err := ParseKind(name)
		if err != nil {
			return m, fmt.Errorf("a mix is written like get=90,put=10: %w", err)
		}
		if m[k], err = strconv.ParseUint(weight, 10, 32); err != nil || m[k] == 0 {
			return m, fmt.Errorf("a mix is written like get=90,put=10: the part of %s must be a number above 0", name)
		}
	}
	return m, nil
}

// Has reports whether the mix contains the kind.
func (m Mix) Has(k Kind) bool { return m[k] > 0 }

// Several reports whether the mix contains more than one kind.
func (m Mix) Several() bool {
	n := 0
	for _, weight := range m {
		if weight > 0 {
			n++
		}
	}
	return n > 1
}

func (m Mix) draw(random *rand.Rand) Kind {
	var sum uint64
	for _, weight := range m {
		sum += weight
	}
	at := random.Uint64N(sum)
	for k, weight := range m {
		if at < weight {
			return Kind(k)
		}
		at -= weight
	}
	panic("load: a draw above the sum")
}

// Picker chooses which of n keys to read. Many goroutines call it, each with its own
// generator.
type Picker func(random *rand.Rand) uint64

// ParsePicker reads a distribution: uniform, zipf (with theta 0.99, as in YCSB), zipf:THETA or
// sequential.
func ParsePicker(text string, n uint64) (Picker, error) {
	name, argument, has := strings.Cut(text, ":")
	switch {
	case text == "uniform":
		return func(random *rand.Rand) uint64 { return random.Uint64N(n) }, nil
	case text == "sequential":
		var next atomic.Uint64
		return func(*rand.Rand) uint64 { return (next.Add(1) - 1) % n }, nil
	case name != "zipf":
		return nil, fmt.Errorf("%q is not one of uniform, zipf, zipf:0.99, sequential", text)
	}
	theta := 0.99
	if has {
		var err error
		if theta, err = strconv.ParseFloat(argument, 64); err != nil {
			return nil, fmt.Errorf("%q: theta must be a number such as 0.99", text)
		}
	}
	z, err := NewZipf(n, theta)
	if err != nil {
		return nil, err
	}
	return z.Next, nil
}

// Workload makes requests.
type Workload struct {
	Mix       Mix
	Reads     *Data  // what Get and Absent read
	Pick      Picker // which keys of Reads are read: those that are set
	Puts      *Data  // what Put and Batch set, from the first key on
	BatchKeys int    // keys of one Batch

	put atomic.Uint64 // how many keys of Puts were handed out
}

// absentFrom is the number of the first key that is never set.
const absentFrom = 1 << 63

// Next makes the next request of a goroutine with its own generator and Request.
func (w *Workload) Next(random *rand.Rand, r *Request) {
	r.Kind = w.Mix.draw(random)
	switch r.Kind {
	case Put:
		r.Item = w.Puts.Item(w.put.Add(1) - 1)
	case Get:
		r.Item = w.Reads.Item(w.Pick(random))
	case Absent:
		r.Item = Item{Key: w.Reads.Key(absentFrom | random.Uint64())}
	case Batch:
		r.Items = r.Items[:0]
		end := w.put.Add(uint64(w.BatchKeys))
		for n := end - uint64(w.BatchKeys); n < end; n++ {
			r.Items = append(r.Items, w.Puts.Item(n))
		}
	}
}
