package bodies

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"sort"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// A run is a file of rows of the table, sorted by their digests, that never changes:
//
//	run     blocks | fence of each block | footer
//	block   rows in it 2 | rows | zeros | CRC-32C of that, the run's number and the block's; 4096 bytes
//	row     SHA-256 32 | segment 4 | offset 4 | size 4 | count 4
//	fence   the first 8 bytes of the block's first digest
//	footer  "oncekv table 1\n\x00" 16 | number 4 | epoch 8 | rows 8 | blocks 4 | CRC-32C of the fences and of that
//
// A row with segment 0 says that the body is not here any more. Numbers are big endian.
const (
	runSuffix      = ".table"
	runMagic       = "oncekv table 1\n\x00"
	rowBytes       = 32 + 4 + 4 + 4 + 4
	runBlockBytes  = 4096
	rowsPerBlock   = (runBlockBytes - 2 - 4) / rowBytes
	fenceBytes     = 8
	runFooterBytes = len(runMagic) + 4 + 8 + 8 + 4 + 4
	runReadBlocks  = 16      // that a merge reads at once
	runWriteBytes  = 1 << 20 // that are written at once
	runSyncBytes   = 8 << 20 // that are made durable at once: a long fsync keeps others waiting
)

// stored is a row as a run has it.
type stored struct {
	digest Digest
	place  place // segment 0: the body is not here any more
	count  int
}

func (r stored) gone() bool { return r.place.segment == 0 }

func (r stored) append(b []byte) []byte {
	b = append(b, r.digest[:]...)
	b = binary.BigEndian.AppendUint32(b, r.place.segment)
	b = binary.BigEndian.AppendUint32(b, uint32(r.place.offset))
	b = binary.BigEndian.AppendUint32(b, uint32(r.place.size))
	return binary.BigEndian.AppendUint32(b, uint32(r.count))
}

func parseRow(b []byte) stored {
	return stored{
		digest: Digest(b[:32]),
		place: place{
			segment: binary.BigEndian.Uint32(b[32:]),
			offset:  int64(binary.BigEndian.Uint32(b[36:])),
			size:    int(binary.BigEndian.Uint32(b[40:])),
		},
		count: int(binary.BigEndian.Uint32(b[44:])),
	}
}

// fits reports whether a row can say where a frame is.
func (p place) fits() bool { return p.offset >= 0 && p.offset <= math.MaxUint32 }

func fence(d Digest) uint64 { return binary.BigEndian.Uint64(d[:]) }

// runInfo is what the manifest says of a run.
type runInfo struct {
	number uint32
	epoch  uint64 // the counts are of that one, and are zero in a later one
	rows   uint64
	blocks uint32
	sum    uint32 // the checksum of fences and footer
}

// run is one file. Its methods are safe for concurrent use.
type run struct {
	runInfo
	path   string
	file   *os.File
	fences []uint64
}

func runPath(dir string, number uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", number, runSuffix))
}

// footer returns the fences and the footer.
func (i *runInfo) footer(fences []uint64) []byte {
	b := make([]byte, 0, len(fences)*fenceBytes+runFooterBytes)
	for _, f := range fences {
		b = binary.BigEndian.AppendUint64(b, f)
	}
	b = append(b, runMagic...)
	b = binary.BigEndian.AppendUint32(b, i.number)
	b = binary.BigEndian.AppendUint64(b, i.epoch)
	b = binary.BigEndian.AppendUint64(b, i.rows)
	b = binary.BigEndian.AppendUint32(b, i.blocks)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// openRun opens the run that a manifest lists. Of the file it reads the end only.
func openRun(dir string, info runInfo) (*run, error) {
	path := runPath(dir, info.number)
	damaged := func(what string) error { return &DamageError{File: path, Offset: -1, Detail: what} }
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged("it is missing")
	}
	if err != nil {
		return nil, err
	}
	r := &run{runInfo: info, path: path, file: f}
	end, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	at := int64(info.blocks) * runBlockBytes
	tail := make([]byte, int64(info.blocks)*fenceBytes+int64(runFooterBytes))
	if end.Size() != at+int64(len(tail)) {
		return nil, errors.Join(damaged(fmt.Sprintf("it has %d bytes, not %d", end.Size(), at+int64(len(tail)))), f.Close())
	}
	if _, err := f.ReadAt(tail, at); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.fences = make([]uint64, info.blocks)
	for i := range r.fences {
		r.fences[i] = binary.BigEndian.Uint64(tail[i*fenceBytes:])
	}
	if want := info.footer(r.fences); !bytes.Equal(want, tail) || binary.BigEndian.Uint32(want[len(want)-4:]) != info.sum {
		return nil, errors.Join(damaged("its end is not what the manifest says"), f.Close())
	}
	return r, nil
}

func (r *run) blockSum(b []byte, block uint32) uint32 {
	var where [8]byte
	binary.BigEndian.PutUint32(where[:], r.number)
	binary.BigEndian.PutUint32(where[4:], block)
	return crc32.Update(crc32.Checksum(b[:runBlockBytes-4], castagnoli), castagnoli, where[:])
}

// readBlocks reads and checks blocks into buf, which has room for them.
func (r *run) readBlocks(first, n int, buf []byte) error {
	at := int64(first) * runBlockBytes
	if _, err := r.file.ReadAt(buf[:n*runBlockBytes], at); err != nil {
		if err == io.EOF {
			err = &DamageError{File: r.path, Offset: at, Detail: "the file ends inside the table"}
		}
		return err
	}
	for i := range n {
		b := buf[i*runBlockBytes:][:runBlockBytes]
		if binary.BigEndian.Uint32(b[runBlockBytes-4:]) != r.blockSum(b, uint32(first+i)) || int(binary.BigEndian.Uint16(b)) > rowsPerBlock {
			return &DamageError{File: r.path, Offset: at + int64(i*runBlockBytes), Detail: fmt.Sprintf("block %d of the table does not have its checksum", first+i)}
		}
	}
	return nil
}

func rowsIn(block []byte) int { return int(binary.BigEndian.Uint16(block)) }

func rowAt(block []byte, i int) []byte { return block[2+i*rowBytes:][:rowBytes] }

// find looks for a row. buf has room for a block.
func (r *run) find(d Digest, buf []byte) (row stored, ok bool, err error) {
	key := fence(d)
	after := sort.Search(len(r.fences), func(i int) bool { return r.fences[i] > key })
	for b := after - 1; b >= 0; b-- {
		if err := r.readBlocks(b, 1, buf); err != nil {
			return row, false, err
		}
		n := rowsIn(buf)
		i := sort.Search(n, func(i int) bool { return bytes.Compare(rowAt(buf, i)[:32], d[:]) >= 0 })
		if i < n && Digest(rowAt(buf, i)[:32]) == d {
			return parseRow(rowAt(buf, i)), true, nil
		}
		if r.fences[b] != key { // else the block before may have the same first bytes
			break
		}
	}
	return row, false, nil
}

// runWriter writes a run.
type runWriter struct {
	run
	sync    func(path string) error
	buf     []byte // whole blocks, and the one that is being filled
	inBlock int
	written int64
	synced  int64
}

// createRun begins a run. What the file had is no run of anybody.
func createRun(dir string, number uint32, epoch uint64, sync func(path string) error) (*runWriter, error) {
	path := runPath(dir, number)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, writefault.Mark(err)
	}
	return &runWriter{run: run{runInfo: runInfo{number: number, epoch: epoch}, path: path, file: f}, sync: sync}, nil
}

// add adds a row, whose digest is above all before.
func (w *runWriter) add(r stored) error {
	if !r.place.fits() {
		return fmt.Errorf("no row of the table can say that a body is at offset %d", r.place.offset)
	}
	if w.inBlock == rowsPerBlock {
		if err := w.endBlock(); err != nil {
			return err
		}
	}
	if w.inBlock == 0 {
		w.fences = append(w.fences, fence(r.digest))
		w.buf = append(w.buf, 0, 0)
	}
	w.buf = r.append(w.buf)
	w.inBlock++
	w.rows++
	return nil
}

func (w *runWriter) endBlock() error {
	start := len(w.buf) - 2 - w.inBlock*rowBytes
	w.buf = append(w.buf, make([]byte, start+runBlockBytes-len(w.buf))...)
	b := w.buf[start:]
	binary.BigEndian.PutUint16(b, uint16(w.inBlock))
	binary.BigEndian.PutUint32(b[runBlockBytes-4:], w.blockSum(b, w.blocks))
	w.blocks++
	w.inBlock = 0
	if len(w.buf) < runWriteBytes {
		return nil
	}
	return w.flush()
}

func (w *runWriter) flush() error {
	if _, err := w.file.WriteAt(w.buf, w.written); err != nil {
		return writefault.Mark(err)
	}
	w.written += int64(len(w.buf))
	w.buf = w.buf[:0]
	if w.written-w.synced < runSyncBytes {
		return nil
	}
	w.synced = w.written
	return writefault.Mark(w.sync(w.path))
}

// finish ends the run, and makes it durable, but for its name.
func (w *runWriter) finish() (*run, error) {
	if w.inBlock > 0 {
		if err := w.endBlock(); err != nil {
			return nil, err
		}
	}
	end := w.footer(w.fences)
	w.sum = binary.BigEndian.Uint32(end[len(end)-4:])
	w.buf = append(w.buf, end...)
	if err := w.flush(); err != nil {
		return nil, err
	}
	if w.synced < w.written {
		if err := w.sync(w.path); err != nil {
			return nil, writefault.Mark(err)
		}
	}
	r := w.run
	return &r, nil
}

// discard closes and removes a run that is not needed: what is left of it, if
// anything, goes when the store is opened again.
func (r *run) discard() {
	_ = r.file.Close()
	_ = os.Remove(r.path)
}

// runReader reads a run from its start, or from a digest on.
type runReader struct {
	run   *run
	buf   []byte
	next  int // the block that comes after those in buf
	have  int // blocks in buf
	block int // in buf
	i     int // the row in it
	row   stored
	ok    bool
}

// newRunReader is at the first row that is not below a digest.
func newRunReader(r *run, from Digest) (*runReader, error) {
	key := fence(from)
	first := sort.Search(len(r.fences), func(i int) bool { return r.fences[i] >= key })
	rd := &runReader{run: r, buf: make([]byte, runReadBlocks*runBlockBytes), next: max(first-1, 0)}
	for {
		if err := rd.advance(); err != nil {
			return nil, err
		}
		if !rd.ok || bytes.Compare(rd.row.digest[:], from[:]) >= 0 {
			return rd, nil
		}
	}
}

// advance goes to the next row; ok is false behind the last.
func (rd *runReader) advance() error {
	for {
		if rd.block < rd.have {
			b := rd.buf[rd.block*runBlockBytes:][:runBlockBytes]
			if rd.i < rowsIn(b) {
				rd.row, rd.ok = parseRow(rowAt(b, rd.i)), true
				rd.i++
				return nil
			}
			rd.block, rd.i = rd.block+1, 0
			continue
		}
		n := min(runReadBlocks, int(rd.run.blocks)-rd.next)
		if n <= 0 {
			rd.ok = false
			return nil
		}
		if err := rd.run.readBlocks(rd.next, n, rd.buf); err != nil {
			return err
		}
		rd.next, rd.have, rd.block, rd.i = rd.next+n, n, 0, 0
	}
}

// runsReader reads several runs, the newest first, as one: of the rows of a digest the
// newest is there, and its count as it is in an epoch.
type runsReader struct {
	epoch   uint64
	readers []*runReader
}

func newRunsReader(runs []*run, from Digest, epoch uint64) (*runsReader, error) {
	m := &runsReader{epoch: epoch}
	for _, r := range runs {
		rd, err := newRunReader(r, from)
		if err != nil {
			return nil, err
		}
		m.readers = append(m.readers, rd)
	}
	return m, nil
}

// next returns the next row; ok is false behind the last.
func (m *runsReader) next() (row stored, ok bool, err error) {
	var best *runReader
	for _, rd := range m.readers {
		if rd.ok && (best == nil || bytes.Compare(rd.row.digest[:], best.row.digest[:]) < 0) {
			best = rd
		}
	}
	if best == nil {
		return row, false, nil
	}
	row = best.row
	if best.run.epoch != m.epoch {
		row.count = 0
	}
	for _, rd := range m.readers {
		if rd.ok && rd.row.digest == row.digest {
			if err := rd.advance(); err != nil {
				return row, false, err
			}
		}
	}
	return row, true, nil
}

// runsToMerge returns which neighbours of a list, the newest first, are merged next:
// those of similar size, and the smallest when there are too many. Equal numbers: none.
func runsToMerge(rows []uint64, most int) (from, to int) {
	for i := range rows {
		sum, j := rows[i], i+1
		for j < len(rows) && rows[j] <= 2*sum {
			sum += rows[j]
			j++
		}
		if j-i >= 4 {
			return i, j
		}
	}
	if len(rows) <= most {
		return 0, 0
	}
	least := uint64(math.MaxUint64)
	for i := 0; i+2 <= len(rows); i++ {
		if sum := rows[i] + rows[i+1]; sum < least {
			least, from, to = sum, i, i+2
		}
	}
	return from, to
}
