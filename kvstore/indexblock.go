package kvstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// The index is a row of blocks in key order, each under its last key. An entry
// of a block says how many bytes its key shares with the one before, how many
// follow, and the revision, each as a uvarint; then come the bytes that follow.
// Every indexRestart entries one shares nothing: those can be looked for by
// bisection.
//
// A block is: format 1, checksum 4, entries, offset of each entry that shares
// nothing 2, their number 2.
const (
	indexBlockFormat = 1
	indexPrefixBytes = 1 + 4
	indexRestart     = 16

	// indexBlockBytes bounds a block and its key, unless it is one entry. Two of
	// them and what bbolt adds to each fill a page of 4 KiB.
	indexBlockBytes = (4096-16)/2 - 16
)

var errIndexBlock = errors.New("it does not decode")

// indexBlock is a block taken apart.
type indexBlock struct {
	entries  []byte
	restarts []byte // two bytes each
}

// openIndexBlock checks the block that is stored under key last.
func openIndexBlock(last, raw []byte) (indexBlock, error) {
	if len(raw) < indexPrefixBytes+4 {
		return indexBlock{}, errShort
	}
	if got, want := binary.BigEndian.Uint32(raw[1:]), checksum(last, raw); got != want {
		return indexBlock{}, fmt.Errorf("its checksum is %08x, its bytes have %08x", got, want)
	}
	if raw[0] != indexBlockFormat {
		return indexBlock{}, fmt.Errorf("it has format %d; this program knows %d", raw[0], indexBlockFormat)
	}
	body := raw[indexPrefixBytes : len(raw)-2]
	n := 2 * int(binary.BigEndian.Uint16(raw[len(raw)-2:]))
	if n == 0 || n > len(body) {
		return indexBlock{}, errIndexBlock
	}
	return indexBlock{entries: body[:len(body)-n], restarts: body[len(body)-n:]}, nil
}

// openIndexBlockIn is openIndexBlock for a pair of tx.
func openIndexBlockIn(tx Tx, last, raw []byte) (indexBlock, error) {
	b, err := openIndexBlock(last, raw)
	if err != nil {
		return b, corruptIndexBlock(tx, last, raw, err)
	}
	return b, nil
}

func corruptIndexBlock(tx Tx, last, raw []byte, err error) error {
	file, off := tx.Where(raw)
	return &CorruptError{File: file, Offset: off, Detail: fmt.Sprintf("the block of keys up to %q: %v", last, err)}
}

// indexEntry is one entry as it is encoded.
type indexEntry struct {
	shared int
	rest   []byte // of the key
	rev    Revision
}

// nextIndexEntry takes the first entry off b.
func nextIndexEntry(b []byte) (e indexEntry, rest []byte, err error) {
	var size uint64
	if len(b) > 2 && b[0] < 0x80 && b[1] < 0x80 { // as nearly always; a flush does this for all keys
		e.shared, size, b = int(b[0]), uint64(b[1]), b[2:]
	} else {
		c := cursor{b: b}
		shared := c.uvarint()
		if size = c.uvarint(); shared > MaxKeyBytes || size > MaxKeyBytes || c.err != nil {
			return e, nil, errIndexBlock
		}
		e.shared, b = int(shared), c.b
	}
	rev, n := binary.Uvarint(b)
	if n <= 0 || rev == 0 || size > uint64(len(b)-n) {
		return e, nil, errIndexBlock
	}
	e.rev = Revision(rev)
	e.rest, rest = b[n:n+int(size)], b[n+int(size):]
	return e, rest, nil
}

// restart returns the entries from the i-th on that shares nothing.
func (b *indexBlock) restart(i int) ([]byte, error) {
	at := int(binary.BigEndian.Uint16(b.restarts[2*i:]))
	if at > len(b.entries) {
		return nil, errIndexBlock
	}
	return b.entries[at:], nil
}

// find returns the revision of key, 0 when the block does not have it.
func (b *indexBlock) find(key []byte) (Revision, error) {
	// The last restart whose key is not behind key: between low and high.
	low, high := 0, len(b.restarts)/2
	for low+1 < high {
		middle := int(uint(low+high) / 2)
		at, err := b.restart(middle)
		if err != nil {
			return 0, err
		}
		e, _, err := nextIndexEntry(at)
		if err != nil {
			return 0, err
		}
		if bytes.Compare(e.rest, key) <= 0 {
			low = middle
		} else {
			high = middle
		}
	}
	rest, err := b.restart(low)
	if err != nil {
		return 0, err
	}
	// The entry before is less than key and has same bytes in common with it. One
	// that shares more with the entry before is less too; one that shares less is
	// greater.
	same := 0
	for n := 0; n < indexRestart && len(rest) > 0; n++ {
		var e indexEntry
		if e, rest, err = nextIndexEntry(rest); err != nil {
			return 0, err
		}
		switch {
		case e.shared > same:
			continue
		case e.shared < same:
			return 0, nil
		}
		same += commonBytes(e.rest, key[same:])
		common := same - e.shared
		switch {
		case common == len(e.rest) && same == len(key):
			return e.rev, nil
		case common == len(e.rest):
			continue // it is a beginning of key
		case same == len(key) || e.rest[common] > key[same]:
			return 0, nil
		}
	}
	return 0, nil
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

// indexReader reads the entries of a block in order.
type indexReader struct {
	rest []byte
	key  []byte // of the entry that next read; valid until the next
	rev  Revision
	err  error
}

func (b *indexBlock) reader() indexReader { return indexReader{rest: b.entries} }

// next reads an entry; false at the end, and when there is an error.
func (r *indexReader) next() bool {
	if len(r.rest) == 0 || r.err != nil {
		return false
	}
	var e indexEntry
	if e, r.rest, r.err = nextIndexEntry(r.rest); r.err != nil {
		return false
	}
	if e.shared > len(r.key) || e.shared+len(e.rest) > MaxKeyBytes {
		r.err = errIndexBlock
		return false
	}
	r.key, r.rev = append(r.key[:e.shared], e.rest...), e.rev
	return true
}

// indexBuilder makes blocks of ascending keys.
type indexBuilder struct {
	target int                      // a block ends when it has so many bytes
	emit   func(last, block []byte) // of which it may keep block

	buf      []byte
	last     []byte
	restarts []uint16
	n        int
}

// size is what the block takes, with its key.
func (b *indexBuilder) size() int { return len(b.buf) + 2*len(b.restarts) + 2 + len(b.last) }

// add appends an entry, whose key is greater than all before.
func (b *indexBuilder) add(key []byte, rev Revision) {
	if b.n > 0 {
		// At most: nothing shared, and a restart.
		grown := b.size() - len(b.last) + len(key) + 2 + 2 + binary.MaxVarintLen64 + len(key)
		if b.size() >= b.target || grown > indexBlockBytes && b.grown(key, rev) > indexBlockBytes {
			b.flush()
		}
	}
	if b.n == 0 {
		b.buf = append(b.buf[:0], make([]byte, indexPrefixBytes)...)
		b.restarts = b.restarts[:0]
	}
	shared := 0
	if b.n%indexRestart == 0 {
		b.restarts = append(b.restarts, uint16(len(b.buf)-indexPrefixBytes))
	} else {
		shared = commonBytes(b.last, key)
	}
	b.buf = appendIndexEntry(b.buf, shared, key, rev)
	b.last = append(b.last[:0], key...)
	b.n++
}

func appendIndexEntry(b []byte, shared int, key []byte, rev Revision) []byte {
	b = binary.AppendUvarint(b, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(key)-shared))
	b = binary.AppendUvarint(b, uint64(rev))
	return append(b, key[shared:]...)
}

// grown is what size would be with one more entry.
func (b *indexBuilder) grown(key []byte, rev Revision) int {
	shared, restart := 0, 0
	if b.n%indexRestart == 0 {
		restart = 2
	} else {
		shared = commonBytes(b.last, key)
	}
	var scratch [4 * binary.MaxVarintLen64]byte
	entry := len(appendIndexEntry(scratch[:0], 0, nil, rev)) - 2 + uvarintBytes(shared) + uvarintBytes(len(key)-shared) + len(key) - shared
	return b.size() - len(b.last) + len(key) + restart + entry
}

func uvarintBytes(n int) int {
	if n < 0x80 {
		return 1
	}
	return 2 // no key is longer
}

// flush ends a block.
func (b *indexBuilder) flush() {
	if b.n == 0 {
		return
	}
	block := make([]byte, 0, len(b.buf)+2*len(b.restarts)+2)
	block = append(block, b.buf...)
	for _, at := range b.restarts {
		block = binary.BigEndian.AppendUint16(block, at)
	}
	block = binary.BigEndian.AppendUint16(block, uint16(len(b.restarts)))
	block[0] = indexBlockFormat
	binary.BigEndian.PutUint32(block[1:], checksum(b.last, block))
	b.n = 0
	b.emit(b.last, block)
}

// indexedRevision looks key up in the index, 0 when it is not there.
func indexedRevision(tx Tx, key []byte) (Revision, error) {
	last, raw := tx.Seek(BucketIndex, key)
	if last == nil {
		return 0, nil
	}
	b, err := openIndexBlockIn(tx, last, raw)
	if err != nil {
		return 0, err
	}
	rev, err := b.find(key)
	if err != nil {
		return 0, corruptIndexBlock(tx, last, raw, err)
	}
	return rev, nil
}

// ascendIndex calls fn for the entries from key from on, in order, until it
// returns false. key is valid only inside fn.
func ascendIndex(tx Tx, from []byte, fn func(key []byte, rev Revision) (more bool)) error {
	var failed error
	tx.Ascend(BucketIndex, from, func(last, raw []byte) bool {
		b, err := openIndexBlockIn(tx, last, raw)
		if err != nil {
			failed = err
			return false
		}
		r := b.reader()
		for r.next() {
			if bytes.Compare(r.key, from) >= 0 && !fn(r.key, r.rev) {
				return false
			}
		}
		if r.err != nil {
			failed = corruptIndexBlock(tx, last, raw, r.err)
		}
		return failed == nil
	})
	return failed
}

// Bounds of one transaction of a flush besides StoreConfig.IndexSliceKeys.
const (
	mergeGroupBlocks = 512  // neighbouring blocks that are made anew together
	mergeSliceBlocks = 4096 // blocks
)

// storedBlock is a block as it is stored.
type storedBlock struct{ last, raw []byte }

// mergeIndex brings the first of run into the index, and returns how many: as
// many as one transaction should. Only blocks that get something are touched.
// They are made anew together with those beside them that are too: when a flush
// brings something for every block, that keeps the blocks full.
func mergeIndex(tx Tx, run sortedRun) (int, error) {
	done, blocks := 0, 0
	for done < run.len() && blocks < mergeSliceBlocks {
		old, n := touchedBlocks(tx, run.slice(done, run.len()))
		if err := mergeGroup(tx, old, run.slice(done, done+n)); err != nil {
			return 0, err
		}
		done += n
		blocks += len(old) + 1
	}
	return done, nil
}

// touchedBlocks returns neighbouring blocks that get the first n of run, each
// at least one; what is behind the last block counts as its.
func touchedBlocks(tx Tx, run sortedRun) (old []storedBlock, n int) {
	ended := true
	tx.Ascend(BucketIndex, run.key(0), func(last, raw []byte) bool {
		first := n
		for n < run.len() && bytes.Compare(run.key(n), last) <= 0 {
			n++
		}
		if n == first {
			ended = false
			return false
		}
		old = append(old, storedBlock{last, raw})
		ended = n == run.len() || len(old) < mergeGroupBlocks
		return n < run.len() && len(old) < mergeGroupBlocks
	})
	if ended {
		n = run.len()
	}
	return old, n
}

// mergeGroup writes run and the blocks old, whose keys it belongs between, as
// new blocks.
func mergeGroup(tx Tx, old []storedBlock, run sortedRun) error {
	var made []storedBlock
	b := indexBuilder{target: indexBlockBytes, emit: func(last, block []byte) {
		made = append(made, storedBlock{append([]byte(nil), last...), block})
	}}
	if err := mergeEntries(tx, &b, old, run); err != nil {
		return err
	}
	made, err := evenOut(made)
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := tx.Delete(BucketIndex, o.last); err != nil {
			return err
		}
	}
	for _, m := range made {
		if err := tx.Put(BucketIndex, m.last, m.raw); err != nil {
			return err
		}
	}
	return nil
}

// evenOut makes the last two blocks equal if the last is a small rest, as when
// one entry more made two of one. Else there would be many of those in the end.
func evenOut(made []storedBlock) ([]storedBlock, error) {
	n := len(made)
	if n < 2 || len(made[n-1].raw) >= indexBlockBytes/2 {
		return made, nil
	}
	pair := made[n-2:]
	made = made[: n-2 : n-2]
	b := indexBuilder{target: (len(pair[0].raw) + len(pair[1].raw)) / 2}
	b.emit = func(last, block []byte) {
		made = append(made, storedBlock{append([]byte(nil), last...), block})
		b.target = indexBlockBytes // all the rest is one
	}
	for _, p := range pair {
		block, err := openIndexBlock(p.last, p.raw)
		if err != nil {
			return nil, err
		}
		r := block.reader()
		for r.next() {
			b.add(r.key, r.rev)
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	b.flush() // which adds to made
	return made, nil
}

// mergeEntries adds the entries of old and of run to b, in order. A key may be
// in both, when a flush was interrupted: it has the same revision in both.
func mergeEntries(tx Tx, b *indexBuilder, old []storedBlock, run sortedRun) error {
	n := 0
	var next []byte // the key of run that comes next, nil at the end
	advance := func(to int) {
		if n, next = to, nil; n < run.len() {
			next = run.key(n)
		}
	}
	advance(0)
	var r indexReader
	for _, o := range old {
		block, err := openIndexBlockIn(tx, o.last, o.raw)
		if err != nil {
			return err
		}
		r.rest, r.key = block.entries, r.key[:0]
		for r.next() {
			order := -1
			for next != nil {
				if order = bytes.Compare(next, r.key); order >= 0 {
					break
				}
				b.add(next, run.rev(n))
				advance(n + 1)
			}
			if next != nil && order == 0 {
				continue
			}
			b.add(r.key, r.rev)
		}
		if r.err != nil {
			return corruptIndexBlock(tx, o.last, o.raw, r.err)
		}
	}
	for ; next != nil; advance(n + 1) {
		b.add(next, run.rev(n))
	}
	b.flush()
	return nil
}
