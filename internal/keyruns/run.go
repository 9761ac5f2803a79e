package keyruns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// A run is an immutable file of keys in byte order, each with its revision:
//
//	run     blocks | fences | filter | footer
//	blocks  of keys and revisions (block.go)
//	fences  blocks with the least key of each of those, or a prefix of it, and its number from 1
//	footer  "oncekv keyruns 1" 16 | run 8 | keys 8 | blocks 8 | fences 8 | lines of the filter 8 | stamp 8 | CRC-32C of the filter 4 | CRC-32C of all before 4
//
// A block's number is its place in the file. The stamp stands for the run's history and for
// the runs that were merged into it. The checksums of blocks and filter cover it, so a block
// of another run is damage, even one of the same number in another directory, or in a deleted
// run. Numbers are big endian.
const (
	runSuffix      = ".run"
	runMagic       = "oncekv keyruns 1"
	runFooterBytes = 16 + 6*8 + 2*4

	runWriteBytes = 1 << 20 // bytes written at once
	runSyncBytes  = 8 << 20 // bytes synced at once: a long fsync delays others
	runReadBlocks = 64      // blocks read at once by a scan
)

func runName(number uint64) string { return fmt.Sprintf("%012d%s", number, runSuffix) }

// runInfo is the list's entry for a run.
type runInfo struct {
	number uint64
	keys   uint64
	size   int64 // bytes
	sum    uint32
}

// run is an open run.
type run struct {
	runInfo
	blocks  uint64
	lines   uint64
	stamp   uint64
	path    string
	file    File
	fences  []byte   // as in the file
	tops    []uint64 // for each block of fences: first bytes of its first key, after prefix
	prefix  []byte   // common prefix of all keys of fences
	filter  filter
	free    func() // frees the filter's memory
	fsum    uint32 // the filter's checksum
	refs    atomic.Int32
	gone    atomic.Bool // no list names it
	worn    atomic.Bool // its filter in the file is damaged
	due     int         // how many of its size are merged
	merging bool        // guarded by Index.merging
}

func (r *run) fenceBlocks() uint64 { return uint64(len(r.fences) / blockBytes) }
func (r *run) filterAt() int64     { return int64(r.blocks+r.fenceBlocks()) * blockBytes }

// memory returns the run's memory in bytes.
func (r *run) memory() int64 { return int64(len(r.fences) + 8*len(r.tops) + len(r.filter)) }

func (r *run) corrupt(at int64, format string, args ...any) error {
	return &CorruptError{File: r.path, Offset: at, Detail: fmt.Sprintf(format, args...)}
}

// corruptBlock returns the error for a damaged block.
func (r *run) corruptBlock(number uint64, err error) error {
	return r.corrupt(int64(number)*blockBytes, "block %d: %v", number, err)
}

// readAt reads len(b) bytes.
func (r *run) readAt(b []byte, at int64) error {
	n, err := r.file.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return r.corrupt(at+int64(n), "the file ends there")
	}
	return fmt.Errorf("read a run of the index: %w", err)
}

func (r *run) footer() []byte {
	b := append(make([]byte, 0, runFooterBytes), runMagic...)
	for _, v := range []uint64{r.number, r.keys, r.blocks, r.fenceBlocks(), r.lines, r.stamp} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, r.fsum)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// openRun opens a run of the list. It reads fences and filter. If the filter is damaged, it
// rebuilds it and marks the run as worn.
func openRun(files Files, info runInfo) (*run, error) {
	name := runName(info.number)
	r := &run{runInfo: info, path: files.Path(name), free: func() {}}
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, r.corrupt(-1, "it is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("open a run of the index: %w", err)
	}
	r.file = f
	if err := r.load(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// close releases what a run holds. Nobody may use the run any more.
func (r *run) close() error {
	r.filter = nil
	r.free()
	return r.file.Close()
}

func (r *run) load() error {
	size, err := r.file.Size()
	if err != nil {
		return fmt.Errorf("open a run of the index: %w", err)
	}
	at := size - int64(runFooterBytes)
	if size != r.size || at < 0 {
		return r.corrupt(min(size, r.size), "it has %d bytes, not %d", size, r.size)
	}
	footer := make([]byte, runFooterBytes)
	if err := r.readAt(footer, at); err != nil {
		return err
	}
	u64 := func(i int) uint64 { return binary.BigEndian.Uint64(footer[len(runMagic)+8*i:]) }
	r.blocks, r.lines, r.stamp, r.fsum = u64(2), u64(4), u64(5), binary.BigEndian.Uint32(footer[runFooterBytes-8:])
	fences := u64(3)
	if sum := crc32.Checksum(footer[:runFooterBytes-4], castagnoli); sum != binary.BigEndian.Uint32(footer[runFooterBytes-4:]) || sum != r.sum {
		return r.corrupt(at, "its end is not what the list says")
	}
	most := uint64(size)
	if string(footer[:len(runMagic)]) != runMagic || u64(0) != r.number || u64(1) != r.keys || r.keys == 0 ||
		r.blocks > most || fences > most || r.lines > most || r.blocks == 0 || fences == 0 || r.lines == 0 ||
		r.blocks*blockBytes+fences*blockBytes+r.lines*filterLineBytes+runFooterBytes != most {
		return r.corrupt(at, "its end does not fit its length")
	}
	r.fences = make([]byte, fences*blockBytes)
	if err := r.readAt(r.fences, int64(r.blocks)*blockBytes); err != nil {
		return err
	}
	for i := range fences {
		if _, err := openBlock(r.fences[i*blockBytes:][:blockBytes], blockPlace{r.stamp, r.blocks + i}); err != nil {
			return r.corruptBlock(r.blocks+i, err)
		}
	}
	if err := r.makeTops(); err != nil {
		return err
	}
	r.filter, r.free = newFilter(r.lines)
	if err := r.readAt(r.filter, r.filterAt()); err != nil {
		return err
	}
	if r.filter.sum(r.stamp) == r.fsum {
		return nil
	}
	r.worn.Store(true)
	return r.refill()
}

// refill rebuilds the filter.
func (r *run) refill() error {
	clear(r.filter)
	rd := newRunReader(r, runReadBlocks, nil)
	for {
		ok, err := rd.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		r.filter.add(keyHash(rd.key()))
	}
	if sum := r.filter.sum(r.stamp); sum != r.fsum {
		return r.corrupt(r.filterAt(), "the rebuilt filter has checksum %08x, but %08x was written", sum, r.fsum)
	}
	return nil
}

// makeTops extracts the first keys of the fences.
func (r *run) makeTops() error {
	n := r.fenceBlocks()
	first := func(i uint64) ([]byte, error) {
		b, err := r.fence(i)
		if err != nil {
			return nil, err
		}
		key, err := b.first()
		if err != nil {
			return nil, r.corruptBlock(r.blocks+i, err)
		}
		return key, nil
	}
	least, err := first(0)
	if err != nil {
		return err
	}
	most, err := first(n - 1)
	if err != nil {
		return err
	}
	r.prefix = bytes.Clone(least[:commonBytes(least, most)])
	r.tops = make([]uint64, n)
	var before []byte
	for i := range r.tops {
		key, err := first(uint64(i))
		if err != nil {
			return err
		}
		if bytes.Compare(before, key) >= 0 || !bytes.HasPrefix(key, r.prefix) {
			return r.corruptBlock(r.blocks+uint64(i), errors.New("it is not in order"))
		}
		r.tops[i], before = topOf(key[len(r.prefix):]), key
	}
	return nil
}

// topOf returns the first bytes of a key as a number. If two keys have different numbers, the
// numbers order the keys.
func topOf(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// fence returns a block of fences.
func (r *run) fence(i uint64) (block, error) {
	b, err := parseBlock(r.fences[i*blockBytes:][:blockBytes])
	if err != nil {
		return b, r.corruptBlock(r.blocks+i, err)
	}
	return b, nil
}

// locate returns the number, from 1, of the only block that may have key; 0: none.
func (r *run) locate(key []byte) (uint64, error) {
	n := len(r.tops) // the block of fences is before that one
	if common := commonBytes(key, r.prefix); common < len(r.prefix) {
		if common == len(key) || key[common] < r.prefix[common] {
			return 0, nil
		}
	} else {
		top := topOf(key[common:])
		n = sort.Search(n, func(i int) bool { return r.tops[i] > top })
		low := sort.Search(n, func(i int) bool { return r.tops[i] >= top })
		// If the first bytes are equal, the whole key decides.
		var failed error
		n = low + sort.Search(n-low, func(i int) bool {
			b, err := r.fence(uint64(low + i))
			if err != nil {
				failed = err
				return true
			}
			first, err := b.first()
			if err != nil {
				failed = r.corruptBlock(r.blocks+uint64(low+i), err)
			}
			return bytes.Compare(first, key) > 0
		})
		if failed != nil {
			return 0, failed
		}
	}
	if n == 0 {
		return 0, nil
	}
	at := uint64(n - 1)
	b, err := r.fence(at)
	if err != nil {
		return 0, err
	}
	number, _, err := b.find(key)
	if err == nil && number > r.blocks {
		err = errBlock
	}
	if err != nil {
		return 0, r.corruptBlock(r.blocks+at, err)
	}
	return number, nil
}

// find returns the revision of a key, 0 if the run does not have it. buf has room for a block.
func (r *run) find(key, buf []byte) (uint64, error) {
	number, err := r.locate(key)
	if number == 0 || err != nil {
		return 0, err
	}
	number--
	if err := r.readAt(buf[:blockBytes], int64(number)*blockBytes); err != nil {
		return 0, err
	}
	b, err := openBlock(buf[:blockBytes], blockPlace{r.stamp, number})
	if err != nil {
		return 0, r.corruptBlock(number, err)
	}
	revision, exact, err := b.find(key)
	if err != nil {
		return 0, r.corruptBlock(number, err)
	}
	if !exact {
		return 0, nil
	}
	return revision, nil
}

// check reads the whole run and checks every block, that the fences lead to every key, and
// that the filter has it. It calls pace before each read.
func (r *run) check(pace func(bytes int) error) error {
	rd := newRunReader(r, runReadBlocks, pace)
	var last []byte
	var keys, block uint64
	var hashes []uint64 // of the block
	lead := func(key []byte, number uint64) error {
		if to, err := r.locate(key); err != nil || to != number {
			return errors.Join(err, r.corruptBlock(number-1, fmt.Errorf("the fences lead to block %d for its key %q", int64(to)-1, key)))
		}
		return nil
	}
	for {
		ok, err := rd.next()
		if err != nil {
			return err
		}
		if !ok || rd.number() != block { // rd.number() is from 1
			if block > 0 {
				if err := lead(last, block); err != nil {
					return err
				}
				if !r.filter.hasAll(hashes) {
					return r.corrupt(r.filterAt(), "the filter does not have every key of block %d", block-1)
				}
				hashes = hashes[:0]
			}
			if !ok {
				break
			}
			block = rd.number()
			if err := lead(rd.key(), block); err != nil {
				return err
			}
		}
		if keys > 0 && bytes.Compare(last, rd.key()) >= 0 {
			return r.corruptBlock(block-1, fmt.Errorf("%q comes behind %q", rd.key(), last))
		}
		hashes = append(hashes, keyHash(rd.key()))
		last = append(last[:0], rd.key()...)
		keys++
	}
	if keys != r.keys {
		return r.corrupt(-1, "it has %d keys, not %d", keys, r.keys)
	}
	return nil
}

// runReader reads a run in order.
type runReader struct {
	run    *run
	pace   func(bytes int) error // nil: none
	most   int                   // blocks at once
	buf    []byte
	first  uint64 // the first block in buf
	have   int    // blocks in buf
	at     int    // the block after the current one
	blocks blockReader
	ahead  int    // blocks to read next, which grows
	top    uint64 // of key
}

// newRunReader returns a reader before the first key.
func newRunReader(r *run, most int, pace func(bytes int) error) *runReader {
	return &runReader{run: r, most: most, pace: pace, ahead: most}
}

func (rd *runReader) key() []byte      { return rd.blocks.key }
func (rd *runReader) revision() uint64 { return rd.blocks.value }

// number returns the number, from 1, of the current key's block.
func (rd *runReader) number() uint64 { return rd.first + uint64(rd.at) }

// before reports whether rd's key is less than other's.
func (rd *runReader) before(other *runReader) bool {
	if rd.top != other.top { // the usual case
		return rd.top < other.top
	}
	return bytes.Compare(rd.key(), other.key()) < 0
}

// next moves to the next key; it returns false after the last.
func (rd *runReader) next() (bool, error) {
	for !rd.blocks.next() {
		if rd.blocks.err != nil {
			return false, rd.run.corruptBlock(rd.number()-1, rd.blocks.err)
		}
		if rd.at == rd.have {
			if ok, err := rd.fill(); !ok || err != nil {
				return false, err
			}
		}
		number := rd.first + uint64(rd.at)
		b, err := openBlock(rd.buf[rd.at*blockBytes:][:blockBytes], blockPlace{rd.run.stamp, number})
		if err != nil {
			return false, rd.run.corruptBlock(number, err)
		}
		rd.at++
		rd.blocks.reset(b)
	}
	rd.top = topOf(rd.blocks.key)
	return true, nil
}

// fill reads more blocks; it returns false if there are none.
func (rd *runReader) fill() (bool, error) {
	first := rd.first + uint64(rd.have)
	n := int(min(uint64(rd.ahead), rd.run.blocks-first))
	if n == 0 {
		return false, nil
	}
	rd.ahead = min(2*rd.ahead, rd.most)
	if rd.pace != nil {
		if err := rd.pace(n * blockBytes); err != nil {
			return false, err
		}
	}
	rd.buf = slices.Grow(rd.buf[:0], n*blockBytes)[:n*blockBytes]
	if err := rd.run.readAt(rd.buf, int64(first)*blockBytes); err != nil {
		return false, err
	}
	rd.first, rd.have, rd.at = first, n, 0
	return true, nil
}

// seek moves to the first key that is not less than from; it returns false if there is none.
func (rd *runReader) seek(from []byte) (bool, error) {
	number, err := rd.run.locate(from)
	if err != nil {
		return false, err
	}
	rd.first, rd.have, rd.at, rd.ahead = max(number, 1)-1, 0, 0, 2
	rd.blocks.reset(block{})
	for {
		ok, err := rd.next()
		if !ok || err != nil || bytes.Compare(rd.key(), from) >= 0 {
			return ok, err
		}
	}
}

// runsReader reads several runs as one: a heap by the next key.
type runsReader []*runReader

// push adds a reader that is at a key.
func (h *runsReader) push(rd *runReader) {
	*h = append(*h, rd)
	for i := len(*h) - 1; i > 0; {
		up := (i - 1) / 2
		if !(*h)[i].before((*h)[up]) {
			return
		}
		(*h)[up], (*h)[i] = (*h)[i], (*h)[up]
		i = up
	}
}

// advance moves on from the first key.
func (h *runsReader) advance() error {
	ok, err := (*h)[0].next()
	if err != nil {
		return err
	}
	if !ok {
		last := len(*h) - 1
		(*h)[0] = (*h)[last]
		*h = (*h)[:last]
	}
	for i := 0; ; {
		least := i
		for _, down := range []int{2*i + 1, 2*i + 2} {
			if down < len(*h) && (*h)[down].before((*h)[least]) {
				least = down
			}
		}
		if least == i {
			return nil
		}
		(*h)[least], (*h)[i] = (*h)[i], (*h)[least]
		i = least
	}
}

// runWriter writes a run.
type runWriter struct {
	run
	files  Files
	pace   func(bytes int) error // called before it writes
	data   blockBuilder
	fence  blockBuilder
	out    []byte   // whole blocks not written yet
	synced int64    // of size
	hashes []uint64 // hashes of the last keys, not in the filter yet
}

// stampOfAdded returns the stamp of a run with the keys between two marks.
func stampOfAdded(number uint64, from, to Mark) uint64 {
	b := binary.BigEndian.AppendUint64([]byte("added"), number)
	for _, mark := range []Mark{from, to} {
		b = append(binary.BigEndian.AppendUint64(b, mark.Revision), mark.Digest[:]...)
	}
	return xxhash.Sum64(b)
}

// stampOfMerged returns the stamp of a run merged from others.
func stampOfMerged(number uint64, group []*run) uint64 {
	b := binary.BigEndian.AppendUint64([]byte("merged"), number)
	for _, r := range group {
		b = binary.BigEndian.AppendUint64(b, r.stamp)
	}
	return xxhash.Sum64(b)
}

// createRun starts a run of so many keys. Any old content of the file belongs to no run in
// use.
func createRun(files Files, number, stamp, keys uint64, pace func(bytes int) error) (*runWriter, error) {
	name := runName(number)
	f, err := files.Create(name)
	if err != nil {
		return nil, writefault.Mark(err)
	}
	w := &runWriter{files: files, pace: pace}
	w.number, w.stamp, w.path, w.file, w.lines = number, stamp, files.Path(name), f, filterLines(keys)
	w.filter, w.free = newFilter(w.lines)
	return w, nil
}

// add adds a key, which must be greater than all before.
func (w *runWriter) add(key []byte, revision uint64) error {
	switch {
	case len(key) == 0 || len(key) > MaxKeyBytes:
		return fmt.Errorf("a key of %d bytes cannot be indexed; it has 1 to %d", len(key), MaxKeyBytes)
	case revision == 0:
		return fmt.Errorf("key %q has no revision", key)
	case w.keys > 0 && bytes.Compare(w.data.last, key) >= 0:
		return fmt.Errorf("key %q does not come behind %q", key, w.data.last)
	}
	if !w.data.fits(key, revision) {
		if err := w.endBlock(); err != nil {
			return err
		}
	}
	if w.data.n == 0 {
		w.addFence(key)
	}
	w.data.add(key, revision)
	if w.hashes = append(w.hashes, keyHash(key)); len(w.hashes) == filterBatch {
		w.filter.addAll(w.hashes)
		w.hashes = w.hashes[:0]
	}
	w.keys++
	return nil
}

// addFence adds the fence of the block that begins with key: the shortest prefix that tells it
// from all keys before.
func (w *runWriter) addFence(key []byte) {
	if w.keys > 0 {
		key = key[:commonBytes(w.data.last, key)+1]
	}
	if !w.fence.fits(key, w.blocks+1) {
		w.endFences()
	}
	w.fence.add(key, w.blocks+1)
}

// endFences ends a block of fences. Its checksum is computed once its place is known.
func (w *runWriter) endFences() {
	w.fences = w.fence.finish(w.fences, blockPlace{})
}

func (w *runWriter) endBlock() error {
	w.out = w.data.finish(w.out, blockPlace{w.stamp, w.blocks})
	w.blocks++
	if len(w.out) < runWriteBytes {
		return nil
	}
	err := w.write(w.out)
	w.out = w.out[:0]
	return err
}

// write appends to the file and syncs it now and then.
func (w *runWriter) write(b []byte) error {
	for len(b) > 0 {
		part := b[:min(len(b), runWriteBytes)]
		b = b[len(part):]
		if err := w.pace(len(part)); err != nil {
			return err
		}
		if _, err := w.file.Write(part); err != nil {
			return writefault.Mark(err)
		}
		w.size += int64(len(part))
		if w.size-w.synced >= runSyncBytes {
			if err := w.sync(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *runWriter) sync() error {
	w.synced = w.size
	return writefault.Mark(w.file.Sync())
}

// finish ends the run, makes it durable except for its name, reads it again and checks it.
func (w *runWriter) finish() (*run, error) {
	if err := w.endBlock(); err != nil {
		return nil, err
	}
	w.filter.addAll(w.hashes)
	w.endFences()
	for i := range w.fenceBlocks() {
		raw := w.fences[i*blockBytes:][:blockBytes]
		binary.BigEndian.PutUint32(raw[1:], blockSum(raw, blockPlace{w.stamp, w.blocks + i}))
	}
	w.fences = slices.Clip(w.fences)
	w.fsum = w.filter.sum(w.stamp)
	footer := w.footer()
	w.sum = binary.BigEndian.Uint32(footer[len(footer)-4:])
	for _, part := range [][]byte{w.out, w.fences, w.filter, footer} {
		if err := w.write(part); err != nil {
			return nil, err
		}
	}
	if err := w.sync(); err != nil {
		return nil, err
	}
	r := &run{runInfo: w.runInfo, blocks: w.blocks, lines: w.lines, stamp: w.stamp, path: w.path, file: w.file, fences: w.fences, filter: w.filter, free: w.free, fsum: w.fsum}
	if err := r.makeTops(); err != nil {
		return nil, err
	}
	return r, r.check(w.pace)
}

// discard closes an unused run, and removes it unless a list may name it. The next Open of the
// index removes the rest.
func (w *runWriter) discard(remove bool) {
	_ = w.close()
	if remove {
		_ = w.files.Remove(runName(w.number))
	}
}
