package kvstore

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// Scratch is a file for data that nobody misses after a crash.
type Scratch interface {
	io.Writer
	io.ReaderAt
	// Close drops the file.
	Close() error
}

// Bounds of a rebuild.
const (
	rebuildKeyBytes   = 64        // about what a key takes in the overlay
	rebuildBatchBytes = 4 << 20   // of keys, for each index transaction
	rebuildReadBytes  = 128 << 10 // of each run
)

// rebuildPays tells whether so many keys are brought into the index by a rebuild:
// when they would fill the overlay again and again. Each of those flushes would
// write the index once more.
func (s *Store) rebuildPays(keys Revision) bool {
	return s.cfg.OpenScratch != nil && int64(min(keys, 1<<40))*rebuildKeyBytes > 2*s.cfg.OverlayBytes
}

// rebuildIndex brings the part of history that the index lacks into the index,
// up to target, in key order: it sorts as much as the overlay may hold at a
// time, keeps each such run in a scratch file, and merges them all. It verifies
// what it reads. The mark that makes the keys count is written last, so that
// after a crash it is all done again. The overlay must be empty and stay so; at is
// what history is where the index ends.
func (s *Store) rebuildIndex(at, target *derived) (err error) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	scratch, err := s.cfg.OpenScratch()
	if err != nil {
		return s.failed("sort the index", err)
	}
	defer func() {
		if cerr := scratch.Close(); err == nil {
			err = s.failed("sort the index", cerr)
		}
	}()
	w := &runWriter{out: bufio.NewWriterSize(scratch, 1<<20)}
	if err := s.sortHistory(w, at, target); err != nil {
		return err
	}
	if err := s.mergeRuns(scratch, w.runs, mark{target.rev, target.digest()}); err != nil {
		return s.failed("write index", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overlay.indexedRev = target.rev
	return nil
}

// sortHistory writes the keys that the index lacks in sorted runs, and moves at to
// target. One run is sorted and written while the next is read.
func (s *Store) sortHistory(w *runWriter, at, target *derived) error {
	var writing background
	defer writing.wait()
	g := &generation{first: at.rev + 1}
	for at.rev < target.rev {
		if err := s.err(); err != nil { // it was closed meanwhile
			return err
		}
		keys, err := s.scanHistory(at, target.rev)
		if err != nil {
			return s.failed("scan history", err)
		}
		for _, key := range keys {
			g.append(key)
			g.bytes += int64(len(key)) + overlayOverhead
		}
		if g.bytes < s.cfg.OverlayBytes/2 && at.rev < target.rev {
			continue
		}
		run := g
		if err := writing.start(func() error { return w.write(run) }); err != nil {
			return s.failed("sort the index", err)
		}
		g = &generation{first: at.rev + 1}
	}
	if err := s.checkEnd(at, target); err != nil {
		return err
	}
	return s.failed("sort the index", errors.Join(writing.wait(), w.out.Flush()))
}

// scratchRun is a sorted run in a scratch file.
type scratchRun struct {
	offset, bytes int64
	sum           uint32
}

// runWriter writes runs one behind the other: the length of each key, the key,
// its revision.
type runWriter struct {
	out  *bufio.Writer
	end  int64
	runs []scratchRun
}

func (w *runWriter) write(g *generation) error {
	sorted := sortGenerations([]*generation{g})
	run := scratchRun{offset: w.end}
	var b []byte
	for i := range sorted.len() {
		key := sorted.key(i)
		b = binary.AppendUvarint(b[:0], uint64(len(key)))
		b = append(b, key...)
		b = binary.AppendUvarint(b, uint64(sorted.rev(i)))
		run.sum = crc32.Update(run.sum, castagnoli, b)
		run.bytes += int64(len(b))
		if _, err := w.out.Write(b); err != nil {
			return err
		}
	}
	w.end += run.bytes
	w.runs = append(w.runs, run)
	return nil
}

// runReader reads a run. It checks the run's checksum at its end.
type runReader struct {
	in   *bufio.Reader
	left int64
	sum  uint32
	want uint32
	buf  []byte // the entry that next read, as it is in the file
	key  []byte // part of buf
	rev  Revision
}

func newRunReader(scratch io.ReaderAt, r scratchRun) *runReader {
	return &runReader{in: bufio.NewReaderSize(io.NewSectionReader(scratch, r.offset, r.bytes), rebuildReadBytes), left: r.bytes, want: r.sum}
}

// next reads an entry; false at the end.
func (r *runReader) next() (bool, error) {
	if r.left == 0 {
		if r.sum != r.want {
			return false, fmt.Errorf("a sorted run has checksum %08x in the scratch file, %08x was written", r.sum, r.want)
		}
		return false, nil
	}
	size, err := binary.ReadUvarint(r.in)
	if err != nil || size > MaxKeyBytes {
		return false, fmt.Errorf("a sorted run in the scratch file is damaged: a key of %d bytes (%v)", size, err)
	}
	r.buf = binary.AppendUvarint(r.buf[:0], size)
	start := len(r.buf)
	r.buf = append(r.buf, make([]byte, size)...)
	if _, err := io.ReadFull(r.in, r.buf[start:]); err != nil {
		return false, fmt.Errorf("read a sorted run: %w", err)
	}
	rev, err := binary.ReadUvarint(r.in)
	if err != nil {
		return false, fmt.Errorf("read a sorted run: %w", err)
	}
	r.buf = binary.AppendUvarint(r.buf, rev)
	r.key, r.rev = r.buf[start:start+int(size)], Revision(rev)
	r.sum = crc32.Update(r.sum, castagnoli, r.buf)
	r.left -= int64(len(r.buf))
	return true, nil
}

// runHeap is runs by their next key.
type runHeap []*runReader

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return bytes.Compare(h[i].key, h[j].key) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)        { *h = append(*h, x.(*runReader)) }
func (h *runHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// mergeRuns brings all runs into the index, and then the mark. One batch is
// written while the next is merged.
func (s *Store) mergeRuns(scratch io.ReaderAt, runs []scratchRun, end mark) error {
	var h runHeap
	for _, run := range runs {
		r := newRunReader(scratch, run)
		if more, err := r.next(); err != nil {
			return err
		} else if more {
			h = append(h, r)
		}
	}
	heap.Init(&h)
	var writing background
	defer writing.wait()
	for len(h) > 0 {
		if err := s.err(); err != nil {
			return err
		}
		batch, err := nextBatch(&h)
		if err != nil {
			return err
		}
		if err := writing.start(func() error { return s.writeSorted(batch, end) }); err != nil {
			return err
		}
	}
	if err := writing.wait(); err != nil {
		return err
	}
	return s.index.Update(func(tx Tx) error { return writeIndexed(tx, keyIndexed, end) })
}

// nextBatch takes keys from the runs, in order.
func nextBatch(h *runHeap) (sortedRun, error) {
	g := &generation{}
	run := sortedRun{generations: []*generation{g}}
	for len(*h) > 0 && g.bytes < rebuildBatchBytes {
		r := (*h)[0]
		g.append(Key(r.key))
		g.bytes += int64(len(r.key))
		run.revs = append(run.revs, r.rev)
		more, err := r.next()
		if err != nil {
			return run, err
		}
		if more {
			heap.Fix(h, 0)
		} else {
			heap.Pop(h)
		}
	}
	for i := range run.revs {
		run.places = append(run.places, runPlace{at: uint32(i)})
	}
	return run, nil
}

// writeSorted brings run, a part of the keys up to end, into the index.
func (s *Store) writeSorted(run sortedRun, end mark) error {
	for run.len() > 0 {
		if err := s.index.Update(func(tx Tx) error {
			n, err := mergeIndex(tx, run)
			if err != nil {
				return err
			}
			run = run.slice(n, run.len())
			return writeIndexed(tx, keyIndexing, end)
		}); err != nil {
			return err
		}
	}
	return nil
}

// background runs one function at a time beside its owner, who must wait for
// the last one.
type background struct {
	wg  sync.WaitGroup
	err error // of the first that failed
}

// start waits for what runs and then starts fn, unless something has failed.
func (b *background) start(fn func() error) error {
	if err := b.wait(); err != nil {
		return err
	}
	b.wg.Go(func() { b.err = fn() })
	return nil
}

// wait returns when nothing runs.
func (b *background) wait() error {
	b.wg.Wait()
	return b.err
}
