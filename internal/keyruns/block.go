package keyruns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// A block holds entries in key order. An entry has three uvarints: how many bytes its key
// shares with the previous one, how many more it has, and a number; then come those bytes.
// Every restartEntries entries, one shares nothing; bisection visits these.
//
//	block  format 1 | CRC-32C 4 | entries | zeros | offset of each entry that shares nothing 2 | bytes of entries 2 | how many share nothing 2
//
// The checksum covers everything else, and where the block is: the stamp of its run 8, its own
// number 8. Numbers are big endian.
const (
	blockFormat      = 1
	blockBytes       = 2048
	blockPrefixBytes = 1 + 4
	blockSuffixBytes = 2 + 2
	restartEntries   = 16
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errBlock   = errors.New("it does not decode")
)

// blockPlace identifies a block.
type blockPlace struct{ stamp, number uint64 }

// blockSum returns a block's checksum.
func blockSum(raw []byte, at blockPlace) uint32 {
	var place [17]byte
	binary.BigEndian.PutUint64(place[:], at.stamp)
	binary.BigEndian.PutUint64(place[8:], at.number)
	place[16] = raw[0]
	return crc32.Update(crc32.Update(0, castagnoli, place[:]), castagnoli, raw[blockPrefixBytes:])
}

// block is a parsed block.
type block struct {
	entries  []byte
	restarts []byte // two bytes each
}

// openBlock checks and parses a block.
func openBlock(raw []byte, at blockPlace) (block, error) {
	if len(raw) < blockPrefixBytes+blockSuffixBytes {
		return block{}, errBlock
	}
	if got, want := blockSum(raw, at), binary.BigEndian.Uint32(raw[1:]); got != want {
		return block{}, fmt.Errorf("its checksum is %08x, its bytes have %08x", want, got)
	}
	return parseBlock(raw)
}

// parseBlock parses a block whose checksum is right.
func parseBlock(raw []byte) (block, error) {
	if raw[0] != blockFormat {
		return block{}, fmt.Errorf("it has format %d; this program knows %d", raw[0], blockFormat)
	}
	body, suffix := raw[blockPrefixBytes:len(raw)-blockSuffixBytes], raw[len(raw)-blockSuffixBytes:]
	size, n := int(binary.BigEndian.Uint16(suffix)), 2*int(binary.BigEndian.Uint16(suffix[2:]))
	if n == 0 || size+n > len(body) {
		return block{}, errBlock
	}
	return block{entries: body[:size], restarts: body[len(body)-n:]}, nil
}

// blockEntry is an encoded entry.
type blockEntry struct {
	shared int
	rest   []byte // rest of the key
	value  uint64 // never 0
}

// nextBlockEntry splits off the first entry of b.
func nextBlockEntry(b []byte) (e blockEntry, rest []byte, err error) {
	var size uint64
	if len(b) > 2 && b[0] < 0x80 && b[1] < 0x80 { // the usual case
		e.shared, size, b = int(b[0]), uint64(b[1]), b[2:]
	} else {
		shared, n := binary.Uvarint(b)
		if n <= 0 || shared > MaxKeyBytes {
			return e, nil, errBlock
		}
		var m int
		if size, m = binary.Uvarint(b[n:]); m <= 0 || size > MaxKeyBytes {
			return e, nil, errBlock
		}
		e.shared, b = int(shared), b[n+m:]
	}
	value, n := binary.Uvarint(b)
	if n <= 0 || value == 0 || size > uint64(len(b)-n) {
		return e, nil, errBlock
	}
	e.value = value
	e.rest, rest = b[n:n+int(size)], b[n+int(size):]
	return e, rest, nil
}

// restart returns the entries from the i-th restart on.
func (b *block) restart(i int) ([]byte, error) {
	at := int(binary.BigEndian.Uint16(b.restarts[2*i:]))
	if at > len(b.entries) {
		return nil, errBlock
	}
	return b.entries[at:], nil
}

// first returns the first key.
func (b *block) first() ([]byte, error) {
	e, _, err := nextBlockEntry(b.entries)
	if err == nil && e.shared != 0 {
		err = errBlock
	}
	return e.rest, err
}

// find returns the value of the last key that is not greater than key, and whether it equals
// key; 0 if all are greater.
func (b *block) find(key []byte) (value uint64, exact bool, err error) {
	// Find the last restart whose key is not greater than key; it is between low and high.
	low, high := 0, len(b.restarts)/2
	for low+1 < high {
		middle := int(uint(low+high) / 2)
		at, err := b.restart(middle)
		if err != nil {
			return 0, false, err
		}
		e, _, err := nextBlockEntry(at)
		if err != nil {
			return 0, false, err
		}
		if bytes.Compare(e.rest, key) <= 0 {
			low = middle
		} else {
			high = middle
		}
	}
	rest, err := b.restart(low)
	if err != nil {
		return 0, false, err
	}
	// The previous entry is less than key and shares same bytes with it. An entry that shares
	// more with the previous one is less too; one that shares less is greater.
	same := 0
	for n := 0; n < restartEntries && len(rest) > 0; n++ {
		var e blockEntry
		if e, rest, err = nextBlockEntry(rest); err != nil {
			return 0, false, err
		}
		switch {
		case e.shared > same:
			value = e.value
			continue
		case e.shared < same:
			return value, false, nil
		}
		same += commonBytes(e.rest, key[same:])
		common := same - e.shared
		switch {
		case common == len(e.rest) && same == len(key):
			return e.value, true, nil
		case common == len(e.rest): // it is a prefix of key
		case same == len(key) || e.rest[common] > key[same]:
			return value, false, nil
		}
		value = e.value
	}
	return value, false, nil
}

func commonBytes(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// blockReader reads the entries of a block in order.
type blockReader struct {
	rest  []byte
	key   []byte // of the entry that next has read; valid until the next call
	value uint64
	err   error
}

// reset starts with another block.
func (r *blockReader) reset(b block) { r.rest, r.key, r.err = b.entries, r.key[:0], nil }

// next reads an entry; it returns false at the end and on an error.
func (r *blockReader) next() bool {
	if len(r.rest) == 0 || r.err != nil {
		return false
	}
	var e blockEntry
	if e, r.rest, r.err = nextBlockEntry(r.rest); r.err != nil {
		return false
	}
	if e.shared > len(r.key) || e.shared+len(e.rest) > MaxKeyBytes {
		r.err = errBlock
		return false
	}
	r.key, r.value = append(r.key[:e.shared], e.rest...), e.value
	return true
}

// blockBuilder makes a block of ascending keys.
type blockBuilder struct {
	buf      []byte
	last     []byte
	restarts []uint16
	n        int // entries
}

// fits reports whether the block has room for one more entry. The first always fits.
func (b *blockBuilder) fits(key []byte, value uint64) bool {
	if b.n == 0 {
		return true
	}
	size := len(b.buf) + 2*len(b.restarts) + blockSuffixBytes
	if size+2+2+2+binary.MaxVarintLen64+len(key) <= blockBytes { // the usual case
		return true
	}
	shared := 0
	if b.n%restartEntries == 0 {
		size += 2
	} else {
		shared = commonBytes(b.last, key)
	}
	rest := len(key) - shared
	return size+uvarintBytes(uint64(shared))+uvarintBytes(uint64(rest))+uvarintBytes(value)+rest <= blockBytes
}

func uvarintBytes(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// add appends an entry that fits. Its key must be greater than all before.
func (b *blockBuilder) add(key []byte, value uint64) {
	if b.n == 0 {
		b.buf = append(b.buf[:0], make([]byte, blockPrefixBytes)...)
		b.restarts = b.restarts[:0]
	}
	shared := 0
	if b.n%restartEntries == 0 {
		b.restarts = append(b.restarts, uint16(len(b.buf)-blockPrefixBytes))
	} else {
		shared = commonBytes(b.last, key)
	}
	b.buf = binary.AppendUvarint(b.buf, uint64(shared))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(key)-shared))
	b.buf = binary.AppendUvarint(b.buf, value)
	b.buf = append(b.buf, key[shared:]...)
	b.last = append(b.last[:0], key...)
	b.n++
}

// finish appends the block to out and starts another.
func (b *blockBuilder) finish(out []byte, at blockPlace) []byte {
	start := len(out)
	out = append(out, b.buf...)
	out = append(out, make([]byte, blockBytes-len(b.buf)-2*len(b.restarts)-blockSuffixBytes)...)
	for _, at := range b.restarts {
		out = binary.BigEndian.AppendUint16(out, at)
	}
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.buf)-blockPrefixBytes))
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.restarts)))
	raw := out[start:]
	raw[0] = blockFormat
	binary.BigEndian.PutUint32(raw[1:], blockSum(raw, at))
	b.n = 0
	return out
}
