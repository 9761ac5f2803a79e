package bodies

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// Store keeps bodies. All methods are safe for concurrent use.
//
// Locks are taken in the order reclaiming, appending, table.merging, table.writing, syncing, mu.
type Store struct {
	cfg      Config
	files    *openFiles
	syncFile func(*segment) error // makes the content of one durable
	fatal    atomic.Pointer[error]

	appending sync.Mutex // one append at a time
	newest    *segment   // guarded by appending; nil until the first append

	syncing sync.Mutex // one fsync of a segment at a time

	reclaiming sync.Mutex // one reclaimer at a time; guards forgotten
	forgotten  []place    // whose room was not given back yet

	mu       sync.RWMutex
	table    table
	segments map[uint32]*segment
	mark     Mark
	live     int64
	freed    int64
	paused   int // see Pause
}

// Err returns why the store can write nothing any more, nil while it can.
func (s *Store) Err() error {
	if p := s.fatal.Load(); p != nil {
		return *p
	}
	return nil
}

// Dir returns where the store is.
func (s *Store) Dir() string { return s.cfg.Dir }

func (s *Store) fail(err error) error {
	if s.fatal.CompareAndSwap(nil, &err) && !errors.Is(err, ErrClosed) {
		s.cfg.Logger.Error("values cannot be written any more", "err", err)
	}
	return s.Err()
}

// Pause keeps everything that is here, until the function that it returns is called,
// once: somebody is about to count on bodies, and does not know yet on which.
func (s *Store) Pause() (resume func()) {
	s.mu.Lock()
	s.paused++
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.paused--
		s.mu.Unlock()
	})
}

// Append keeps a body whose digest is d, unless it is here already: then added is
// false. It is durable after the next Sync. The bytes of a body that is here and that
// nothing counts on are compared with data first.
func (s *Store) Append(d Digest, data []byte) (added bool, err error) {
	if len(data) == 0 || len(data) > MaxBytes {
		return false, fmt.Errorf("a body has 1 to %d bytes, not %d", MaxBytes, len(data))
	}
	if err := s.Err(); err != nil {
		return false, err
	}
	sums := blockSums(data)
	s.appending.Lock()
	defer s.appending.Unlock()
	if err := s.makeRoom(); err != nil {
		return false, err
	}
	if here, err := s.adopt(d, data); here || err != nil {
		return false, err
	}
	at, err := s.write(d, data, sums)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return true, s.insert(d, at)
}

// write writes a frame to the newest segment; appending is held.
func (s *Store) write(d Digest, data, sums []byte) (place, error) {
	seg, err := s.segmentToAppend()
	if err != nil {
		return place{}, err
	}
	at, err := seg.append(d, data, sums)
	if errors.Is(err, writefault.Err) {
		err = s.fail(err)
	}
	return at, err
}

// adopt reports whether a body is here, and whole.
func (s *Store) adopt(d Digest, data []byte) (bool, error) {
	s.mu.Lock()
	r, err := s.find(d)
	if r == nil {
		s.mu.Unlock()
		return false, err
	}
	r.touched = s.cfg.Now()
	alive := r.count > 0 || r.holds > 0
	s.mu.Unlock()
	if alive {
		return true, nil
	}
	got, err := s.Read(d, nil)
	return err == nil && bytes.Equal(got, data), s.Err()
}

func (s *Store) segmentToAppend() (*segment, error) {
	if s.newest != nil && s.newest.size() < s.cfg.SegmentBytes {
		return s.newest, nil
	}
	s.mu.RLock()
	number := s.table.nextSegment
	s.mu.RUnlock()
	if s.newest != nil {
		if err := s.newest.trim(true); err != nil {
			return nil, s.fail(err)
		}
	}
	seg, err := createSegment(s.cfg.Dir, number, s.files)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.segments[number] = seg
	s.table.nextSegment = number + 1
	s.mu.Unlock()
	s.setNewest(seg)
	return seg, nil
}

// setNewest says which segment gets the next body, nil for one of its own; appending is held.
func (s *Store) setNewest(seg *segment) {
	s.newest = seg
	if seg != nil {
		seg.ahead.Store(max(seg.ahead.Load(), seg.size()+1)) // whoever was killed may have left room
	}
	s.files.keep(seg)
}

// Sync returns when every body whose Append returned before is durable.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	type debt struct {
		seg *segment
		to  int64
	}
	var debts []debt
	for _, seg := range s.segments {
		if to := seg.size(); to > seg.synced.Load() {
			debts = append(debts, debt{seg, to})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(debts, func(a, b debt) int { return cmp.Compare(a.seg.number, b.seg.number) })
	for _, d := range debts {
		if err := s.syncSegment(d.seg, d.to); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// syncSegment makes a segment durable up to some length. Those who wait meanwhile are
// served by one fsync.
func (s *Store) syncSegment(seg *segment, to int64) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	if seg.synced.Load() >= to {
		return nil
	}
	to = seg.size()
	if err := s.syncFile(seg); err != nil {
		return s.fail(writefault.Mark(err))
	}
	if !seg.named { // a name that is lost would lose all
		if err := s.cfg.Sync(s.cfg.Dir); err != nil {
			return s.fail(writefault.Mark(err))
		}
		seg.named = true
	}
	seg.synced.Store(to)
	return nil
}

// Has reports whether a body is here and durable. It touches it.
func (s *Store) Has(d Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _ := s.find(d) // an error is that of the store
	if r == nil || !s.durable(r) {
		return false
	}
	r.touched = s.cfg.Now()
	return true
}

// Size returns how many bytes a body has that is here and durable.
func (s *Store) Size(d Digest) (size int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _ := s.find(d) // an error is that of the store
	if r == nil || !s.durable(r) {
		return 0, false
	}
	return r.place.size, true
}

func (s *Store) durable(r *row) bool {
	seg := s.segments[r.place.segment]
	return seg != nil && r.place.offset+frameBytes(r.place.size) <= seg.synced.Load()
}

// Hold keeps a body alive until Release; false, and no hold, when it is not here and
// durable. Holds add up.
func (s *Store) Hold(d Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _ := s.find(d) // an error is that of the store
	if r == nil || !s.durable(r) {
		return false
	}
	s.change(r, 0, 1)
	return true
}

// Release gives up a hold.
func (s *Store) Release(d Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.table.mem[d]; r != nil && r.holds > 0 {
		s.change(r, 0, -1)
	}
}

// Count changes how many records refer to bodies, which are here, and moves the mark.
// The history must have the records durably before. Both are durable with the next flush
// of the table, together. An error that is no failure of the store (see Err) is that of
// a full disk: nothing is counted then.
func (s *Store) Count(changes []Change, to Mark) error {
	if err := s.makeRoom(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := make([]*row, 0, len(changes))
	defer func() {
		for _, r := range rows {
			s.unpin(r)
		}
	}()
	for _, c := range changes {
		r, err := s.find(c.Digest)
		if err != nil {
			return err
		}
		if r == nil {
			return s.notCounted(c.Digest)
		}
		s.pin(r)
		rows = append(rows, r)
	}
	for i, c := range changes {
		if rows[i].gone() || rows[i].count+c.By < 0 {
			return s.notCounted(c.Digest)
		}
		s.change(rows[i], c.By, 0)
	}
	s.mark = to
	return nil
}

func (s *Store) notCounted(d Digest) error {
	return s.fail(&DamageError{File: s.cfg.Dir, Offset: -1, Detail: fmt.Sprintf("body %s, which the history refers to, is missing", d)})
}

// Mark returns up to where records are counted.
func (s *Store) Mark() Mark {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mark
}

// Recount forgets all counts, durably; the mark is zero then. Whoever calls it counts
// again, inside one Pause.
func (s *Store) Recount() error {
	return s.flush(func() {
		s.table.epoch++ // what the runs say counts for nothing
		var held int64
		for _, r := range s.table.mem {
			if r.holds > 0 {
				held += frameBytes(r.place.size)
			}
			r.count = 0
			s.table.settle(r)
		}
		for _, seg := range s.segments {
			seg.counted = 0
		}
		s.live = held
		s.mark = Mark{}
	})
}

// Counted is called once after Open, when all that refers to bodies was found here. Until
// then a table that was made anew counts for nothing at the next start: a segment that
// is missing now, or damaged, may have been put back by then. An error that is no
// failure of the store (see Err) is that of a full disk.
func (s *Store) Counted() error {
	s.mu.Lock()
	was := s.table.anew
	s.table.anew = false
	s.mu.Unlock()
	if !was {
		return nil
	}
	return s.flush(nil)
}

// Read appends a body to buf, checked. ErrMissing: it is not here. A *DamageError is
// that of a body that something counts on.
func (s *Store) Read(d Digest, buf []byte) ([]byte, error) {
	n := len(buf)
	err := s.at(d, func(seg *segment, at place) error {
		var err error
		buf, err = seg.read(d, at, 0, at.size, buf[:n])
		return err
	})
	if err != nil {
		return buf[:n], err
	}
	return buf, nil
}

// ReadAt fills p with what is at off in a body, which must be the start of a block, as far
// as it goes. p must have room for whole blocks, or for the rest.
func (s *Store) ReadAt(d Digest, p []byte, off int) (n int, err error) {
	err = s.at(d, func(seg *segment, at place) error {
		if off < 0 || off%BlockBytes != 0 || off >= at.size {
			return fmt.Errorf("no block of a body of %d bytes begins at %d", at.size, off)
		}
		n = min(len(p), at.size-off)
		if off+n < at.size {
			n -= n % BlockBytes
		}
		_, err := seg.read(d, at, off, n, p[:0:len(p)])
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// at calls f with where a body is. Should it have moved meanwhile, f is called again.
func (s *Store) at(d Digest, f func(seg *segment, at place) error) error {
	var last place
	var failed error
	for {
		s.mu.Lock()
		r, err := s.find(d)
		var at place
		var seg *segment
		if r != nil {
			at = r.place
			seg = s.segments[at.segment]
		}
		s.mu.Unlock()
		switch {
		case err != nil:
			return err
		case r == nil:
			return fmt.Errorf("%w: %s", ErrMissing, d)
		case failed != nil && at == last:
			return failed
		}
		last = at
		if seg == nil {
			failed = missingSegment(s.cfg.Dir, at.segment)
		} else if failed = f(seg, at); failed == nil {
			return nil
		}
		if closed := s.Err(); closed != nil && errors.Is(failed, os.ErrClosed) {
			return closed
		}
	}
}

// Stats returns the figures now.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	st := Stats{LiveBytes: s.live, ReclaimedBytes: s.freed, Segments: len(s.segments)}
	paths := make([]string, 0, len(s.segments))
	var all int64
	for _, seg := range s.segments {
		st.Bodies += seg.bodies
		paths = append(paths, seg.path)
		all -= max(0, seg.ahead.Load()-seg.size()) // room that is for the next bodies
	}
	s.mu.RUnlock()
	for _, path := range paths {
		n, _ := occupied(path) // a segment that was unlinked meanwhile has none
		all += n
	}
	st.DeadBytes = max(0, all-st.LiveBytes)
	return st
}

// Close ends the store. What it knows of bodies that are durable is durable then, if
// the disk has room.
func (s *Store) Close() error {
	var err error
	if s.Err() == nil { // else who wrote was told
		if err = s.flush(nil); s.Err() == nil {
			err = nil // the next start reads a little more
		}
	}
	_ = s.fail(ErrClosed)
	s.appending.Lock()
	defer s.appending.Unlock()
	s.table.merging.Lock()
	defer s.table.merging.Unlock()
	s.table.writing.Lock()
	defer s.table.writing.Unlock()
	s.syncing.Lock()
	defer s.syncing.Unlock()
	return errors.Join(err, s.closeFiles())
}

func (s *Store) closeFiles() error {
	var err error
	for _, seg := range s.segments {
		s.files.drop(seg)
	}
	for _, r := range s.table.runs {
		err = errors.Join(err, r.file.Close())
	}
	return err
}
