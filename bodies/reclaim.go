package bodies

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/shortage"
	"github.com/Focinfi/oncekv/internal/writefault"
)

// # Reclaiming
//
// Run does, every Config.Round and not faster than Config.ReclaimRate:
//
//  1. It forgets what is dead, and flushes the table.
//  2. It punches the blocks of the file system that lie in what was forgotten. Headers
//     stay, and so do blocks that are shared with a neighbour.
//  3. It unlinks segments without any body; the newest one ends when it has none.
//  4. It gives back, in one segment that was there at the start, what a process before
//     had forgotten and not given back.
//  5. Of the ended segment of which least is left, if that is less than half, it copies
//     the rest to the newest, syncs, has the table say so, flushes it, and unlinks the file.
//
// Whoever reads meanwhile finds a segment that was dropped, and looks the body up again.
// Nothing is reclaimed inside a Pause. On a full disk nothing is reclaimed either while
// the table cannot be written; a segment is copied only when there is room.

const (
	copyBatchBytes = 8 << 20 // that are copied before they are synced
	punchDiscount  = 4       // how much less it costs to give room back than to copy
)

// Run reclaims, and keeps the table, until ctx ends; it returns nil then, and why the
// store failed otherwise.
func (s *Store) Run(ctx context.Context) error {
	until, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	others.Go(func() { s.flushWhenAsked(until, stop) })
	others.Go(func() { s.mergeWhenAsked(until, stop) })
	ticker := time.NewTicker(s.cfg.Round)
	defer ticker.Stop()
	pace := &pacer{rate: s.cfg.ReclaimRate}
	for {
		select {
		case <-until.Done():
			if ctx.Err() != nil {
				return nil
			}
			return s.Err()
		case <-ticker.C:
			if err := s.Err(); err != nil {
				return err
			}
			if err := s.sweep(until); err != nil {
				return err
			}
			if err := s.reclaim(until, pace); err != nil {
				return err
			}
		}
	}
}

// Reclaim is one round of what Run does, as fast as it goes: it forgets what nothing
// counts on, and gives its room back. An error is that of the store: while the disk is
// full nothing is forgotten durably, and nothing given back.
func (s *Store) Reclaim() error { return s.reclaim(context.Background(), &pacer{}) }

// reclaim is one round. Nothing waits for it: it has the locks for a moment only.
func (s *Store) reclaim(ctx context.Context, pace *pacer) error {
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.trimNewest(); err != nil {
		return err
	}
	s.forgetDead()
	if len(s.forgotten) > 0 {
		if err := s.flush(nil); err != nil {
			return s.Err() // nil when the disk is full: the next round tries again
		}
	}
	if err := s.punchForgotten(ctx, pace); err != nil {
		return err
	}
	s.mu.RLock()
	paused := s.paused > 0
	s.mu.RUnlock()
	if paused {
		return nil
	}
	s.endIdle()
	for _, job := range []func(context.Context, *pacer) error{s.dropEmpty, s.tidyOne, s.copyOne} {
		if err := job(ctx, pace); err != nil && ctx.Err() == nil {
			if s.Err() != nil {
				return s.Err()
			}
			s.cfg.Logger.Warn("could not free the space of values that are gone; the next round tries again", "err", err)
		}
	}
	return nil
}

// trimNewest gives back the room that the newest segment does not use for the time being.
func (s *Store) trimNewest() error {
	s.appending.Lock()
	defer s.appending.Unlock()
	if s.newest == nil {
		return nil
	}
	if err := s.newest.trim(false); err != nil {
		return s.fail(err)
	}
	return nil
}

// forgetDead forgets what nothing counts on. reclaiming is held.
func (s *Store) forgetDead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	for _, r := range s.table.idle {
		if s.paused > 0 || now.Sub(r.touched) < s.cfg.Grace || !s.durable(r) {
			continue
		}
		s.forgotten = append(s.forgotten, r.place)
		s.forget(r)
	}
	slices.SortFunc(s.forgotten, func(a, b place) int { // as they lie
		return cmp.Or(cmp.Compare(a.segment, b.segment), cmp.Compare(a.offset, b.offset))
	})
}

// punchForgotten gives back the room of what was forgotten durably. reclaiming is held.
func (s *Store) punchForgotten(ctx context.Context, pace *pacer) error {
	for len(s.forgotten) > 0 && ctx.Err() == nil {
		at := s.forgotten[0]
		if seg := s.segment(at.segment); seg != nil {
			n, err := s.punch(seg, at)
			if err != nil {
				return err
			}
			s.freedSome(n)
			pace.spend(ctx, n/punchDiscount)
		}
		s.forgotten = s.forgotten[1:]
	}
	return nil
}

func (s *Store) punch(seg *segment, at place) (int64, error) {
	s.step("punch")
	n, err := seg.punch(at)
	if err = writefault.Mark(err); errors.Is(err, writefault.Err) {
		return 0, s.fail(err)
	}
	if err != nil {
		n = 0
	}
	if shortage.Is(err) {
		seg.tidy = false // in a later round
	}
	return n, nil // a disk that has no room for it: when the segment is copied
}

func (s *Store) segment(number uint32) *segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.segments[number]
}

func (s *Store) freedSome(n int64) {
	s.mu.Lock()
	s.freed += max(0, n)
	s.mu.Unlock()
}

// endIdle has the next body go to a segment of its own if the newest has none any more.
func (s *Store) endIdle() {
	s.appending.Lock()
	defer s.appending.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.newest != nil && s.newest.bodies == 0 && s.newest.size() > int64(segmentHeaderBytes) {
		s.setNewest(nil)
	}
}

// ended returns the segments that get nothing more and fulfil a condition, in their order.
func (s *Store) ended(condition func(*segment) bool) []*segment {
	s.appending.Lock()
	newest := s.newest
	s.appending.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*segment
	for _, seg := range s.segments {
		if seg != newest && condition(seg) {
			list = append(list, seg)
		}
	}
	slices.SortFunc(list, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	return list
}

// dropEmpty unlinks segments without any body.
func (s *Store) dropEmpty(_ context.Context, _ *pacer) error {
	list := s.ended(func(seg *segment) bool { return seg.bodies == 0 })
	if len(list) == 0 {
		return nil
	}
	failed := s.flush(nil) // the table on disk says so too
	for _, seg := range list {
		if failed == nil {
			failed = s.drop(seg)
		}
	}
	return failed
}

// drop unlinks a segment. Who is about to read in it finds it closed, looks the body up
// again, and finds it elsewhere or gone.
func (s *Store) drop(seg *segment) error {
	n, err := occupied(seg.path)
	if err != nil {
		return err
	}
	s.syncing.Lock() // nobody is syncing it, or does when it is gone
	seg.synced.Store(seg.size())
	s.syncing.Unlock()
	s.step("unlink")
	if err := os.Remove(seg.path); err != nil {
		return err
	}
	s.step("unlinked")
	s.mu.Lock()
	delete(s.segments, seg.number)
	s.freed += n
	s.mu.Unlock()
	s.files.drop(seg)
	return nil
}

// tidyOne gives back, in one segment, what a process that ended had forgotten without
// giving it back.
func (s *Store) tidyOne(ctx context.Context, pace *pacer) error {
	list := s.ended(func(seg *segment) bool { return !seg.tidy })
	if len(list) == 0 || len(s.forgotten) > 0 {
		return nil
	}
	// A row that moved in memory only is in its old place after a crash.
	if err := s.flush(nil); err != nil {
		return err
	}
	seg := list[0]
	seg.tidy = true
	before, err := occupied(seg.path)
	if err != nil {
		seg.tidy = false
		return err
	}
	err = seg.walk(func(d Digest, at place, sure bool) (bool, error) {
		here, err := s.isAt(d, at)
		if err != nil || here || !sure {
			return here, err
		}
		n, err := s.punch(seg, at)
		pace.spend(ctx, n/punchDiscount)
		return false, errors.Join(err, ctx.Err())
	})
	after, failed := occupied(seg.path)
	if err = errors.Join(err, failed); err != nil {
		seg.tidy = false
		return err
	}
	s.freedSome(before - after)
	return nil
}

// isAt reports whether the table has a body at a place.
func (s *Store) isAt(d Digest, at place) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(d)
	return r != nil && r.place == at, err
}

// copyOne copies what is left of the segment of which least is left, if that is less
// than half, and unlinks it.
func (s *Store) copyOne(ctx context.Context, pace *pacer) error {
	var seg *segment
	for _, g := range s.ended(func(g *segment) bool { return !g.stuck && g.bytes < g.size()/2 }) {
		if seg == nil || g.bytes < seg.bytes {
			seg = g
		}
	}
	if seg == nil {
		return nil
	}
	c := &copier{store: s, pace: pace, buf: make([]byte, 0, MaxBytes)}
	err := seg.walk(func(d Digest, at place, _ bool) (bool, error) { return c.copy(ctx, d, at) })
	if err = errors.Join(err, c.move(ctx)); err != nil {
		return err
	}
	if err := s.flush(nil); err != nil {
		return err
	}
	s.mu.RLock()
	left := seg.bodies
	s.mu.RUnlock()
	if left > 0 { // bodies that the walk does not find
		s.cfg.Logger.Error("a segment of values is damaged: bodies in it cannot be found, and its space is not freed", "file", seg.path, "bodies", left)
		seg.stuck = true
		return nil
	}
	if err := s.punchForgotten(ctx, pace); err != nil { // before the files are gone
		return err
	}
	return s.drop(seg)
}

// copier copies bodies to the newest segment. Its store's reclaiming is held.
type copier struct {
	store *Store
	pace  *pacer
	buf   []byte
	bytes int64 // of moves
	moves []move
}

// move is a body of which there are two frames; the table has the old one.
type move struct {
	digest   Digest
	from, to place
}

// copy copies a body if the table has it at a place.
func (c *copier) copy(ctx context.Context, d Digest, from place) (here bool, err error) {
	s := c.store
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if here, err = s.isAt(d, from); err != nil || !here {
		return here, err
	}
	data, err := s.segment(from.segment).read(d, from, 0, from.size, c.buf[:0])
	if errors.As(err, new(*DamageError)) {
		return true, s.damaged(d, from, err)
	}
	if err != nil {
		return true, err
	}
	s.step("copy")
	s.appending.Lock()
	to, err := s.write(d, data, blockSums(data))
	s.appending.Unlock()
	if err != nil {
		return true, err
	}
	c.moves = append(c.moves, move{d, from, to})
	c.bytes += frameBytes(from.size)
	c.pace.spend(ctx, frameBytes(from.size))
	if c.bytes < copyBatchBytes {
		return true, nil
	}
	return true, c.move(ctx)
}

// move makes the copies durable, and has the table say where they are. That becomes
// durable with the next flush; until then the old frames stay.
func (c *copier) move(ctx context.Context) error {
	s := c.store
	if len(c.moves) == 0 {
		return nil
	}
	s.step("move")
	err := s.Sync(context.WithoutCancel(ctx))
	for _, m := range c.moves {
		moved := false
		if err == nil {
			moved, err = s.moveRow(m)
		}
		if !moved { // nobody needs the copy, and the table never had it
			s.forgotten = append(s.forgotten, m.to)
		}
	}
	c.moves, c.bytes = nil, 0
	return err
}

func (s *Store) moveRow(m move) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(m.digest)
	if r == nil || r.place != m.from {
		return false, err
	}
	touched := r.touched
	if err := s.insert(m.digest, m.to); err != nil {
		return false, err
	}
	r.touched = touched
	return true, nil
}

// damaged says what the damage of a body at a place means: nothing if it is not there
// any more, or nothing counts on it; then it is forgotten. reclaiming is held.
func (s *Store) damaged(d Digest, at place, damage error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(d)
	if r == nil || r.place != at {
		return err
	}
	if r.count > 0 || r.holds > 0 {
		return s.fail(damage)
	}
	if s.paused > 0 { // somebody is about to say whether it is needed
		return damage
	}
	s.cfg.Logger.Warn("a value that nothing needs is damaged and was dropped", "err", damage)
	s.forgotten = append(s.forgotten, at)
	s.forget(r)
	return nil
}

// step is called before whatever is not seen by Config.Sync.
func (s *Store) step(name string) {
	if s.cfg.step != nil {
		s.cfg.step(name)
	}
}
