package kvstore

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
)

// Bounds of a rebuild.
const (
	rebuildKeyBytes   = 64        // about what a key takes in the memtable
	rebuildBatchBytes = 1 << 20   // of keys, that are merged while those before are written
	rebuildReadBytes  = 128 << 10 // of each run
)

// rebuildPays tells whether to bring so many keys into the index by a rebuild: flushes
// would make a run for each time they fill the memtable, and merge all of them more than
// once.
func (s *Store) rebuildPays(keys Revision) bool {
	return s.cfg.OpenScratch != nil && int64(min(keys, 1<<40))*rebuildKeyBytes > 2*s.cfg.MemtableBytes
}

// rebuildIndex brings the part of history that the index lacks, up to target, into the
// index as one run: it sorts as much as the memtable may hold at a time, keeps each such
// part in a scratch file, and merges them. It verifies what it reads. After a crash it
// starts again. The memtable must stay empty; at is what history is where the index ends.
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
	keys := int(target.rev - at.rev)
	w := &runWriter{out: bufio.NewWriterSize(scratch, 1<<20)}
	if err := s.sortHistory(w, at, target); err != nil {
		return err
	}
	if err := s.mergeRuns(scratch, w.runs, keys, target); err != nil {
		return s.failed("write index", indexError(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memtable.indexedRev = target.rev
	return nil
}

// sortHistory writes the keys that the index lacks in sorted runs, and moves at to
// target. One run is sorted and written while the next is read.
func (s *Store) sortHistory(w *runWriter, at, target *derived) error {
	var writing background
	defer writing.wait()
	told := s.progress("history is being sorted", int(target.rev-at.rev))
	first := at.rev
	g := &generation{first: at.rev + 1}
	for at.rev < target.rev {
		if err := s.err(); err != nil { // it was closed meanwhile
			return err
		}
		told(int(at.rev - first))
		keys, err := s.scanHistory(at, target.rev)
		if err != nil {
			return s.failed("scan history", err)
		}
		for _, key := range keys {
			g.append(key)
			g.bytes += int64(len(key)) + memtableOverhead
		}
		if g.bytes < s.cfg.MemtableBytes/2 && at.rev < target.rev {
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
	for key, rev := range sorted.all() {
		b = binary.AppendUvarint(b[:0], uint64(len(key)))
		b = append(b, key...)
		b = binary.AppendUvarint(b, rev)
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

// mergedKeys is some keys in order, with their revisions.
type mergedKeys struct {
	keys keyLog
	revs []uint64
}

// mergeRuns makes one run of the index of all runs, which have so many keys, up to end.
func (s *Store) mergeRuns(scratch io.ReaderAt, runs []scratchRun, keys int, end *derived) error {
	told, done := s.progress("the index is being written", keys), 0
	var left runHeap
	for _, run := range runs {
		r := newRunReader(scratch, run)
		if more, err := r.next(); err != nil {
			return err
		} else if more {
			left = append(left, r)
		}
	}
	heap.Init(&left)
	next := func() (m mergedKeys, err error) { // none at the end
		for size, more := 0, false; len(left) > 0 && size < rebuildBatchBytes; {
			r := left[0]
			m.keys.append(Key(r.key))
			m.revs = append(m.revs, uint64(r.rev))
			size += len(r.key)
			if more, err = r.next(); err != nil {
				return m, err
			}
			if more {
				heap.Fix(&left, 0)
			} else {
				heap.Pop(&left)
			}
		}
		return m, nil
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	// One batch is merged while the one before is taken. If not all can be given, that ends Add.
	all := func(yield func([]byte, uint64) bool) {
		var merging background
		defer merging.wait()
		now, err := next()
		for err == nil && len(now.revs) > 0 {
			var ahead mergedKeys
			_ = merging.start(func() (err error) {
				ahead, err = next()
				return err
			})
			for i, rev := range now.revs {
				if !yield(now.keys.bytesOf(i), rev) {
					return
				}
			}
			done += len(now.revs)
			told(done)
			err = errors.Join(merging.wait(), s.err())
			now = ahead
		}
		if err != nil {
			cancel(err)
		}
	}
	err := s.index.Add(ctx, all, keys, keyruns.Mark{Revision: uint64(end.rev), Digest: end.digest()})
	return cmp.Or(context.Cause(ctx), err)
}

// progressInterval is how often the log tells how far something is that takes long.
const progressInterval = 5 * time.Second

// progress returns a function that tells the log, now and then, how much of all is done.
func (s *Store) progress(what string, all int) func(done int) {
	told := time.Now()
	return func(done int) {
		if now := time.Now(); now.Sub(told) >= progressInterval {
			told = now
			s.logger.Info(what, "keys", done, "of", all)
		}
	}
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

// indexTail brings the part of history that neither index nor memtable has into the
// memtable, and flushes when that is full. It verifies every record and the history digest.
// at is what history is where the memtable ends.
func (s *Store) indexTail(at *derived) error {
	s.mu.RLock() // a flush may be going on
	target := s.durable.derived
	s.mu.RUnlock()
	long := target.rev-at.rev >= 1_000_000
	if long {
		s.logger.Info("indexing history", "from", at.rev, "to", target.rev)
	}
	if s.rebuildPays(target.rev - at.rev) {
		s.mu.Lock()
		s.memtable.freeze(at)
		s.mu.Unlock()
		if err := s.flushFrozen(context.Background()); err != nil {
			return err
		}
		if err := s.rebuildIndex(at, &target); err != nil {
			return err
		}
	}
	told, from := s.progress("history is being indexed", int(target.rev-at.rev)), at.rev
	for at.rev < target.rev {
		first := at.rev + 1
		keys, err := s.scanHistory(at, target.rev)
		if err != nil {
			return s.failed("scan history", err)
		}
		s.mu.Lock()
		for i, key := range keys {
			s.memtable.add(key, first+Revision(i))
		}
		s.freezeLocked(at)
		due := s.flushDueLocked()
		s.mu.Unlock()
		told(int(at.rev - from))
		if due {
			if err := s.flushFrozen(context.Background()); err != nil {
				return err
			}
		}
	}
	if err := s.checkEnd(at, &target); err != nil {
		return err
	}
	if long {
		s.logger.Info("indexed history", "revision", target.rev)
	}
	return nil
}
