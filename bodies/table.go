package bodies

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// # Flushes
//
// A flush happens when Config.TableRows rows changed, 256 MiB were appended, the mark
// went 200,000 revisions on, something was forgotten, and at Checkpoint, Recount and
// Close. Run does it; whoever appends or counts does only if Run is far behind, or does
// not run yet.

// # Memory and disk
//
// Of the table there are in memory at most about Config.TableRows rows that were looked
// up, as many that nothing counts on, and twice as many that changed: about 240 bytes
// each, 30 MiB at most with 32,768. When that many changed and the disk is full, Append
// and Count return the error of the disk, and nothing is lost. Besides there is a row for
// each body that is held, 8 bytes for each 85 bodies, and some 200 bytes for each segment.
// A merge needs 64 KiB for each run, and 1 MiB. Rows that nothing counts on and that are
// not in memory, after a start say, are found by a sweep through the runs, some of them
// in each round.
//
// A row takes 48 bytes; while runs are merged, and while rows wait for that, about three
// times as much.

const (
	defaultTableRows = 32 << 10
	runsMost         = 8         // neighbours are merged while there are more
	startBytes       = 256 << 20 // of segments that a start reads, about
	startRevisions   = 200_000   // that a start counts again, about
	sweepRows        = 1 << 20   // that one round looks at for bodies that nothing counts on
	retryFlush       = time.Second
	mergePace        = 4096 // rows that a merge writes at once
)

// table says where each body is, and how many records refer to it. Its rows are in
// runs on disk; in memory are those that
//
//   - changed since the last flush, at most about twice Config.TableRows,
//   - are held or pinned, as many as whoever holds has,
//   - nothing counts on, and those that were asked for, at most about Config.TableRows each.
//
// A row in memory is newer than those in the runs, and one in a run than those in the
// older ones. Guarded by Store.mu, but for what says otherwise.
type table struct {
	rows    int // Config.TableRows
	mem     map[Digest]*row
	idle    map[Digest]*row // of mem: nothing counts on them
	cached  map[Digest]*row // of mem: the runs have them too, and nothing needs them in memory
	dirty   map[Digest]*row // of mem: the runs do not have them
	idling  int64           // bytes of the frames of rows in mem that no record refers to
	flushes uint64          // begun; a row that was changed since has this number
	runs    []*run          // the newest first; replaced, never changed
	version uint64          // of runs
	epoch   uint64          // counts in runs of an earlier one are zero

	anew            bool   // it was made anew, and Counted was not called since
	nextSegment     uint32 // no segment had that number or one above it
	uncovered       int64  // bytes of frames since the last flush
	flushedRevision uint64 // of the mark on disk
	sweptTo         Digest // where the next sweep goes on
	absent          Digest // is in none of the runs of a version, as a body is not that is about to be appended
	absentAt        uint64
	retryAt         time.Time
	failed          error // of the last flush, for want of room

	kick  chan struct{} // asks Run for a flush
	added chan struct{} // there is one more run

	writing sync.Mutex // one who writes the manifest at a time
	last    manifest   // as it is on disk; guarded by writing
	merging sync.Mutex // one merge at a time

	blocks sync.Pool // of *[runBlockBytes]byte
}

// row is what is known of a body. Guarded by Store.mu.
type row struct {
	digest  Digest
	place   place // segment 0: it was forgotten
	count   int
	holds   int
	pins    int // of those who look at several rows
	touched time.Time
	changed uint64 // the flushes that had begun when it was changed last; 0: the runs have it

	inIdle, inCached, idling bool
}

func (r *row) gone() bool { return r.place.segment == 0 }

func (t *table) init(rows int) {
	t.rows = rows
	t.mem, t.dirty, t.idle, t.cached = map[Digest]*row{}, map[Digest]*row{}, map[Digest]*row{}, map[Digest]*row{}
	t.flushes = 1
	t.epoch = 1
	t.last.nextRun = 1
	t.nextSegment = 1
	t.kick = make(chan struct{}, 1)
	t.added = make(chan struct{}, 1)
	t.blocks.New = func() any { return new([runBlockBytes]byte) }
}

// note notes that a row is not what the runs have.
func (t *table) note(r *row) {
	if r.changed == 0 {
		t.dirty[r.digest] = r
	}
	r.changed = t.flushes
}

// settle puts a row where it belongs after it was changed. Others may leave memory,
// this one only when it was forgotten and the runs say so.
func (t *table) settle(r *row) {
	needed := r.holds > 0 || r.pins > 0
	idle := r.count == 0 && !needed && !r.gone()
	if idle != r.inIdle {
		if r.inIdle = idle; idle {
			t.evict(t.idle)
			t.idle[r.digest] = r
		} else {
			delete(t.idle, r.digest)
		}
	}
	cached := r.changed == 0 && r.count > 0 && !needed && !r.gone()
	if cached != r.inCached {
		if r.inCached = cached; cached {
			t.evict(t.cached)
			t.cached[r.digest] = r
		} else {
			delete(t.cached, r.digest)
		}
	}
	if idling := r.count == 0 && !r.gone(); idling != r.idling {
		if r.idling = idling; idling {
			t.idling += frameBytes(r.place.size)
		} else {
			t.idling -= frameBytes(r.place.size)
		}
	}
	if r.gone() && r.changed == 0 && !needed {
		delete(t.mem, r.digest)
	}
}

// evict makes room for one more row in a part of mem, if that has too many which the
// runs have too.
func (t *table) evict(part map[Digest]*row) {
	tries := 4
	for d, r := range part {
		if len(part) < t.rows || tries == 0 {
			return
		}
		tries--
		if r.changed != 0 {
			continue
		}
		if r.idling {
			t.idling -= frameBytes(r.place.size)
		}
		delete(part, d)
		delete(t.mem, d)
	}
}

// find returns the row of a body, nil when it is not here. mu is held, but is given up
// for a while when the row is not in memory: a row that was found before may be another
// one then, unless it is pinned.
func (s *Store) find(d Digest) (*row, error) {
	t := &s.table
	for {
		if r := t.mem[d]; r != nil {
			if r.gone() {
				return nil, nil
			}
			return r, nil
		}
		if len(t.runs) == 0 || t.absent == d && t.absentAt == t.version {
			return nil, nil
		}
		runs, version := t.runs, t.version
		s.mu.Unlock()
		got, epoch, err := s.lookup(runs, d)
		s.mu.Lock()
		if t.version != version {
			continue // it may have been changed and flushed meanwhile
		}
		if err != nil {
			return nil, s.tableFailed(err)
		}
		if t.mem[d] != nil {
			continue
		}
		if got.gone() {
			t.absent, t.absentAt = d, version
			return nil, nil
		}
		r := &row{digest: d, place: got.place, touched: s.cfg.Now()}
		if epoch == t.epoch {
			r.count = got.count
		}
		t.mem[d] = r
		t.settle(r)
		return r, nil
	}
}

// lookup looks for a row in runs, the newest first. One that is not there is gone.
func (s *Store) lookup(runs []*run, d Digest) (row stored, epoch uint64, err error) {
	buf := s.table.blocks.Get().(*[runBlockBytes]byte)
	defer s.table.blocks.Put(buf)
	for _, r := range runs {
		row, ok, err := r.find(d, buf[:])
		if ok || err != nil {
			return row, r.epoch, err
		}
	}
	return stored{}, 0, nil
}

// tableFailed ends the store because its table cannot be read. Damaged, the table is
// put aside: it follows from the segments.
func (s *Store) tableFailed(err error) error {
	if closed := s.Err(); closed != nil {
		return closed
	}
	if errors.As(err, new(*DamageError)) {
		if err := os.Remove(filepath.Join(s.cfg.Dir, manifestName)); err != nil {
			s.cfg.Logger.Error("could not remove the table of values: remove it before the next start, which rebuilds it", "err", err)
		}
		err = fmt.Errorf("%w; the table was removed: start the node again, and the table is rebuilt from the segments", err)
	}
	return s.fail(err)
}

// insert notes that the newest frame of a body is at some place; what counts on it
// stays. Those of a segment are inserted in their order, one at a time. mu is held; see
// find.
func (s *Store) insert(d Digest, at place) error {
	t := &s.table
	r, err := s.find(d)
	if err != nil {
		return err
	}
	seg := s.segments[at.segment]
	n := frameBytes(at.size)
	if end := at.offset + n; end > seg.covered {
		seg.covered = end
		t.uncovered += n
	}
	if r == nil {
		if r = t.mem[d]; r == nil {
			r = &row{digest: d}
			t.mem[d] = r
		}
	} else {
		old := s.segments[r.place.segment]
		old.bodies--
		old.bytes -= n
		if r.count > 0 {
			old.counted -= n
		}
	}
	seg.bodies++
	seg.bytes += n
	if r.count > 0 {
		seg.counted += n
	}
	r.place = at
	r.touched = s.cfg.Now()
	t.note(r)
	t.settle(r)
	return nil
}

// change changes how much counts on a body. mu is held.
func (s *Store) change(r *row, count, holds int) {
	t := &s.table
	was, counted := r.count > 0 || r.holds > 0, r.count > 0
	r.count += count
	r.holds += holds
	is := r.count > 0 || r.holds > 0
	r.touched = s.cfg.Now()
	n := frameBytes(r.place.size)
	switch {
	case is && !was:
		s.live += n
	case was && !is:
		s.live -= n
	}
	switch {
	case r.count > 0 && !counted:
		s.segments[r.place.segment].counted += n
	case counted && r.count == 0:
		s.segments[r.place.segment].counted -= n
	}
	if count != 0 {
		t.note(r)
	}
	t.settle(r)
}

// forget forgets a body that nothing counts on. Its room may be given back after the
// next flush. mu is held.
func (s *Store) forget(r *row) {
	seg := s.segments[r.place.segment]
	seg.bodies--
	seg.bytes -= frameBytes(r.place.size)
	s.table.idling -= frameBytes(r.place.size)
	r.idling = false
	r.place = place{}
	s.table.note(r)
	s.table.settle(r)
}

// pin keeps a row in memory until unpin. mu is held.
func (s *Store) pin(r *row) {
	r.pins++
	s.table.settle(r)
}

func (s *Store) unpin(r *row) {
	r.pins--
	s.table.settle(r)
}

// Checkpoint makes durable what the store knows of its bodies, as far as it goes: what a
// start has to read and count again begins here. An error that is no failure of the
// store (see Err) is that of a full disk.
func (s *Store) Checkpoint(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.flush(nil)
}

// flush writes the rows that changed to a run, and the manifest. When it returns nil,
// all that was changed before is durable. prepare, if any, is called with mu held right
// before.
func (s *Store) flush(prepare func()) error {
	t := &s.table
	t.writing.Lock()
	defer t.writing.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	err := s.writeTable(prepare)
	if errors.Is(err, writefault.Err) {
		err = s.fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && t.failed == nil && s.Err() == nil {
		s.cfg.Logger.Warn("could not write the table of values; the store continues and tries again", "err", err)
	}
	t.failed, t.retryAt = err, s.cfg.Now().Add(retryFlush)
	return err
}

// writeTable is flush; writing is held.
func (s *Store) writeTable(prepare func()) error {
	t := &s.table
	s.mu.Lock()
	if prepare != nil {
		prepare()
	}
	rows := make([]stored, 0, len(t.dirty))
	for d, r := range t.dirty {
		rows = append(rows, stored{d, r.place, r.count})
	}
	flush, uncovered, runs := t.flushes, t.uncovered, t.runs
	t.flushes++
	m := manifest{anew: t.anew, epoch: t.epoch, mark: s.mark, nextRun: t.last.nextRun, nextSegment: t.nextSegment, runs: t.last.runs}
	type debt struct {
		seg *segment
		to  int64
	}
	var debts []debt
	for n, seg := range s.segments {
		m.segments = append(m.segments, segmentInfo{n, seg.figures})
		if seg.synced.Load() < seg.covered {
			debts = append(debts, debt{seg, seg.covered})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(m.segments, func(a, b segmentInfo) int { return int(int64(a.number) - int64(b.number)) })
	if len(rows) == 0 && bytes.Equal(m.encode(), t.last.encode()) {
		return nil
	}
	slices.SortFunc(debts, func(a, b debt) int { return cmp.Compare(a.seg.number, b.seg.number) })
	for _, d := range debts {
		if err := s.syncSegment(d.seg, d.to); err != nil {
			return err
		}
	}
	if len(rows) > 0 {
		added, err := s.writeRun(m.nextRun, m.epoch, rows)
		t.last.nextRun++ // also when it failed: what is left of it is no other's
		if err != nil {
			return err
		}
		m.nextRun = t.last.nextRun
		m.runs = append([]runInfo{added.runInfo}, m.runs...)
		runs = append([]*run{added}, runs...)
	}
	if err := writeManifest(s.cfg.Dir, &m, s.cfg.Sync); err != nil {
		if len(rows) > 0 {
			runs[0].discard()
		}
		return err
	}
	t.last = m
	s.mu.Lock()
	t.runs = runs
	t.version++
	t.uncovered -= uncovered
	t.flushedRevision = m.mark.Revision
	s.mu.Unlock()
	ask(t.added)
	for batch := range slices.Chunk(rows, 1024) {
		s.mu.Lock()
		for _, w := range batch {
			if r := t.dirty[w.digest]; r != nil && r.changed <= flush {
				r.changed = 0
				delete(t.dirty, r.digest)
				t.settle(r)
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// writeRun writes rows, in any order, to a run, durably.
func (s *Store) writeRun(number uint32, epoch uint64, rows []stored) (*run, error) {
	slices.SortFunc(rows, func(a, b stored) int { return bytes.Compare(a.digest[:], b.digest[:]) })
	w, err := createRun(s.cfg.Dir, number, epoch, s.cfg.Sync)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if err := w.add(r); err != nil {
			w.discard()
			return nil, err
		}
	}
	return s.finishRun(w)
}

func (s *Store) finishRun(w *runWriter) (*run, error) {
	r, err := w.finish()
	if err == nil {
		err = writefault.Mark(s.cfg.Sync(s.cfg.Dir))
	}
	if err != nil {
		w.discard()
		return nil, err
	}
	return r, nil
}

// mergeRuns merges runs while there are neighbours of similar size, or too many. What
// nobody needs any more is left out: older rows, and of the oldest run those that say
// that a body is gone. What it writes it takes from pace. An error that is no failure of the store (see Err) is that of a
// full disk, or of ctx.
func (s *Store) mergeRuns(ctx context.Context, pace *pacer) error {
	s.table.merging.Lock()
	defer s.table.merging.Unlock()
	for ctx.Err() == nil {
		if err := s.Err(); err != nil {
			return err
		}
		merged, err := s.mergeSome(ctx, pace)
		if errors.Is(err, writefault.Err) {
			return s.fail(err)
		}
		if err != nil || !merged {
			return err
		}
	}
	return nil
}

// mergeSome merges once; merging is held.
func (s *Store) mergeSome(ctx context.Context, pace *pacer) (merged bool, err error) {
	t := &s.table
	t.writing.Lock()
	s.mu.Lock()
	runs := t.runs
	s.mu.Unlock()
	sizes := make([]uint64, len(runs))
	for i, r := range runs {
		sizes[i] = r.rows
	}
	from, to := runsToMerge(sizes, runsMost)
	number, epoch := t.last.nextRun, t.last.epoch
	if from < to {
		t.last.nextRun++
	}
	t.writing.Unlock()
	if from == to {
		return false, nil
	}
	olds := runs[from:to]
	made, err := s.writeMerged(ctx, pace, number, epoch, olds, to == len(runs))
	if err != nil {
		return false, err
	}

	t.writing.Lock()
	defer t.writing.Unlock()
	s.mu.Lock()
	runs = t.runs // newer ones may have come
	s.mu.Unlock()
	at := slices.Index(runs, olds[0])
	list := slices.Clone(runs[:at])
	if made.rows > 0 {
		list = append(list, made)
	}
	list = append(list, runs[at+len(olds):]...)
	m := t.last
	m.runs = nil
	for _, r := range list {
		m.runs = append(m.runs, r.runInfo)
	}
	if err := writeManifest(s.cfg.Dir, &m, s.cfg.Sync); err != nil {
		made.discard()
		return false, err
	}
	t.last = m
	s.mu.Lock()
	t.runs = list
	t.version++
	s.mu.Unlock()
	for _, r := range olds {
		r.discard()
	}
	if made.rows == 0 {
		made.discard()
	}
	return true, nil
}

// writeMerged writes what runs say as one. A body that is gone needs no row when no
// older run is left.
func (s *Store) writeMerged(ctx context.Context, pace *pacer, number uint32, epoch uint64, runs []*run, all bool) (*run, error) {
	in, err := newRunsReader(runs, Digest{}, epoch)
	if err != nil {
		return nil, s.tableFailed(err)
	}
	w, err := createRun(s.cfg.Dir, number, epoch, s.cfg.Sync)
	if err != nil {
		return nil, err
	}
	for i := 0; ; i++ {
		r, ok, err := in.next()
		if err != nil {
			err = s.tableFailed(err)
		} else if i%mergePace == 0 {
			pace.spend(ctx, int64(min(i, mergePace))*rowBytes)
			err = errors.Join(ctx.Err(), s.Err())
		}
		if err == nil && ok && !(all && r.gone()) {
			err = w.add(r)
		}
		if err != nil {
			w.discard()
			return nil, err
		}
		if !ok {
			return s.finishRun(w)
		}
	}
}

func ask(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // somebody asked already
	}
}

// flushWhenAsked is for a goroutine of Run. It stops Run when the store fails.
func (s *Store) flushWhenAsked(ctx context.Context, stop func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.table.kick:
			if err := s.flush(nil); err != nil && s.Err() != nil {
				stop()
			}
		}
	}
}

// mergeWhenAsked is for a goroutine of Run. It stops Run when the store fails. A merge
// for which the disk has no room is tried again after the next flush.
func (s *Store) mergeWhenAsked(ctx context.Context, stop func()) {
	pace := &pacer{rate: s.cfg.ReclaimRate}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.table.added:
			if err := s.mergeRuns(ctx, pace); err != nil && s.Err() != nil {
				stop()
			}
		}
	}
}

// makeRoom keeps what is in memory only within bounds: it asks Run for a flush, or
// flushes itself when Run does not do it. An error says that no more rows may come.
func (s *Store) makeRoom() error {
	t := &s.table
	s.mu.Lock()
	var lag uint64
	if s.mark.Revision > t.flushedRevision {
		lag = s.mark.Revision - t.flushedRevision
	}
	dirty, uncovered, runs := len(t.dirty), t.uncovered, len(t.runs)
	wait := t.failed != nil && s.cfg.Now().Before(t.retryAt)
	failed := t.failed
	s.mu.Unlock()
	if dirty < t.rows && uncovered < startBytes && lag < startRevisions {
		return nil
	}
	ask(t.kick)
	if dirty < t.rows*3/2 && uncovered < 2*startBytes && lag < 2*startRevisions {
		return nil
	}
	if !wait {
		failed = s.flush(nil)
		if failed == nil && runs > 2*runsMost {
			failed = s.mergeRuns(context.Background(), &pacer{}) // ends when the store does
		}
	}
	if failed != nil && (s.Err() != nil || dirty >= 2*t.rows) {
		return failed
	}
	return nil
}

// sweep looks for bodies that no record refers to among the rows that are on disk only,
// a part at a time, and brings them to memory, where the reclaimer sees them.
func (s *Store) sweep(ctx context.Context) error {
	t := &s.table
	s.mu.Lock()
	unknown := -t.idling
	for _, seg := range s.segments {
		unknown += seg.bytes - seg.counted
	}
	room := t.rows - len(t.idle)
	runs, epoch, from, paused := t.runs, t.epoch, t.sweptTo, s.paused > 0
	s.mu.Unlock()
	if unknown <= 0 || room < t.rows/2 || paused || len(runs) == 0 {
		return nil
	}
	in, err := newRunsReader(runs, from, epoch)
	var list []Digest
	for i := 0; err == nil && i < sweepRows && len(list) < room; i++ {
		var r stored
		var ok bool
		if r, ok, err = in.next(); err != nil || ctx.Err() != nil {
			break
		}
		if from = r.digest; !ok {
			from = Digest{} // from the start, next time
			break
		}
		if r.count == 0 && !r.gone() {
			list = append(list, r.digest)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if errors.Is(err, os.ErrClosed) { // they were merged meanwhile
			return nil
		}
		return s.tableFailed(err)
	}
	t.sweptTo = from
	for _, d := range list {
		if _, err := s.find(d); err != nil {
			return err
		}
	}
	return nil
}
