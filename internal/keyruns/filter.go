package keyruns

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"runtime"

	"github.com/cespare/xxhash/v2"
)

// A filter tells that a key is not in a run, without reading it. It is a Bloom filter in
// lines, each as long as a line of the processor's cache: all bits of a key are in one.
const (
	filterLineBytes = 64
	filterProbes    = 7  // bits that a key sets
	filterBits      = 12 // a key, at most

	filterBatch = 256     // keys that are added at once
	mappedBytes = 1 << 20 // what is as large is allocated apart from Go's heap
)

// filter is lines of filterLineBytes.
type filter []byte

// filterLines is how many lines a filter of so many keys has.
func filterLines(keys uint64) uint64 {
	return max(1, keys*filterBits/(8*filterLineBytes))
}

// newFilter returns a filter without keys. It must not be used after free.
func newFilter(lines uint64) (f filter, free func()) { return allocate(lines * filterLineBytes) }

// keyHash is what filters know of a key.
func keyHash(key []byte) uint64 { return xxhash.Sum64(key) }

// line is where the bits of a key are.
func (f filter) line(hash uint64) []byte {
	at, _ := bits.Mul64(hash, uint64(len(f)/filterLineBytes))
	return f[at*filterLineBytes:][:filterLineBytes]
}

// probes are filterProbes numbers of 9 bits, which do not depend on where the line is.
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

// has reports whether a key may be in the run; false: it is not.
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

// touch brings the lines of keys into the cache. None of its loads waits for another, and
// so it takes a part of the time that add or has would wait for them.
func (f filter) touch(hashes []uint64) {
	var all byte
	for _, hash := range hashes {
		all += f.line(hash)[0]
	}
	runtime.KeepAlive(all)
}

// addAll is add for some keys.
func (f filter) addAll(hashes []uint64) {
	f.touch(hashes)
	for _, hash := range hashes {
		f.add(hash)
	}
}

// hasAll reports whether has is true for all of some keys.
func (f filter) hasAll(hashes []uint64) bool {
	f.touch(hashes)
	for _, hash := range hashes {
		if !f.has(hash) {
			return false
		}
	}
	return true
}

// sum is the checksum of the filter of a run.
func (f filter) sum(stamp uint64) uint32 {
	return crc32.Update(filterSum(stamp), castagnoli, f)
}

// filterSum is the checksum of no bytes.
func filterSum(stamp uint64) uint32 {
	return crc32.Checksum(binary.BigEndian.AppendUint64(nil, stamp), castagnoli)
}
