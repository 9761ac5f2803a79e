package keyruns

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"runtime"

	"github.com/cespare/xxhash/v2"
)

// A filter tells, without a read, that a key is not in a run. It is a Bloom filter in lines as
// long as the processor's cache lines: all bits of a key are in one line.
const (
	filterLineBytes = 64
	filterProbes    = 7  // bits that a key sets
	filterBits      = 12 // a key, at most

	filterBatch = 256     // keys that are added at once
	mappedBytes = 1 << 20 // filters of this size and more are not on Go's heap
)

// filter is lines of filterLineBytes.
type filter []byte

// filterLines returns how many lines the filter of so many keys has.
func filterLines(keys uint64) uint64 {
	return max(1, keys*filterBits/(8*filterLineBytes))
}

// newFilter returns an empty filter. Do not use it after free.
func newFilter(lines uint64) (f filter, free func()) { return allocate(lines * filterLineBytes) }

// keyHash returns the hash by which filters know a key.
func keyHash(key []byte) uint64 { return xxhash.Sum64(key) }

// line returns the line with a key's bits.
func (f filter) line(hash uint64) []byte {
	at, _ := bits.Mul64(hash, uint64(len(f)/filterLineBytes))
	return f[at*filterLineBytes:][:filterLineBytes]
}

// probes returns filterProbes numbers of 9 bits that are independent of the line's number.
func probes(hash uint64) uint64 {
	hash ^= hash >> 32
	hash *= 0x9e3779b97f4a7c15
	return hash ^ hash>>29
}

func (f filter) add(hash uint64) {
	line := f.line(hash)
	p := probes(hash)
	for range filterProbes {
		line[p>>3&63] |= 1 << (p & 7)
		p >>= 9
	}
}

// has reports whether a key may be in the run; false is certain.
func (f filter) has(hash uint64) bool {
	line := f.line(hash)
	p := probes(hash)
	for range filterProbes {
		if line[p>>3&63]&(1<<(p&7)) == 0 {
			return false
		}
		p >>= 9
	}
	return true
}

// touch loads the lines of keys into the cache. Its loads do not wait for one another, so they
// take a fraction of the time that add or has would.
func (f filter) touch(hashes []uint64) {
	var all byte
	for _, hash := range hashes {
		all += f.line(hash)[0]
	}
	runtime.KeepAlive(all)
}

// addAll adds several keys.
func (f filter) addAll(hashes []uint64) {
	f.touch(hashes)
	for _, hash := range hashes {
		f.add(hash)
	}
}

// hasAll reports whether has is true for every one of several keys.
func (f filter) hasAll(hashes []uint64) bool {
	f.touch(hashes)
	for _, hash := range hashes {
		if !f.has(hash) {
			return false
		}
	}
	return true
}

// sum returns the checksum of a run's filter.
func (f filter) sum(stamp uint64) uint32 {
	return crc32.Update(filterSum(stamp), castagnoli, f)
}

// filterSum returns the checksum of an empty filter.
func filterSum(stamp uint64) uint32 {
	return crc32.Checksum(binary.BigEndian.AppendUint64(nil, stamp), castagnoli)
}
