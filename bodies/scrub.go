package bodies

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
)

// # Damage
//
// A segment that is missing, too short, or has another beginning is a *DamageError of
// Open if the table has bodies of it. A body that does not check, at the place where the
// table still has it, is one of Read, and of Scrub, which reads all there is; if nothing
// counts on it, it is forgotten instead. A copy that finds damage ends the store, and
// leaves the file.

const scrubRows = 64 << 10 // of the runs, whose bodies are read in the order in which they lie

// Scrub reads every body that the table had when it began, at most rate bytes a second
// (0: as fast as it goes), and checks it: the checksum of each block, and the SHA-256. A
// body that is damaged or missing and that something counts on is a *DamageError; one
// that nothing counts on is forgotten. Bodies that go or move meanwhile are no errors.
// progress, if any, is told after each body how many bytes of how many are done. Use one
// at a time.
func (s *Store) Scrub(ctx context.Context, rate int64, progress func(done, total int64)) error {
	sc := &scrubber{store: s, pace: &pacer{rate: rate}, progress: progress}
	err := sc.run(ctx)
	if closed := s.Err(); err != nil && errors.Is(closed, ErrClosed) {
		return closed
	}
	return err
}

type scrubber struct {
	store       *Store
	pace        *pacer
	progress    func(done, total int64)
	done, total int64
	buf         []byte
}

func (sc *scrubber) run(ctx context.Context) error {
	s := sc.store
	s.mu.RLock()
	for _, seg := range s.segments {
		sc.total += seg.bytes
	}
	s.mu.RUnlock()
	if err := sc.headers(); err != nil {
		return err
	}
	seen := map[Digest]bool{}
	list := s.rowsInMemory(seen)
	for from, more := (Digest{}), true; ; {
		if err := sc.bodies(ctx, list); err != nil || !more {
			return err
		}
		var err error
		if list, from, more, err = s.rowsOnDisk(from, seen); err != nil {
			return err
		}
	}
}

// headers checks the headers of segments.
func (sc *scrubber) headers() error {
	s := sc.store
	s.mu.RLock()
	var list []*segment
	for _, seg := range s.segments {
		list = append(list, seg)
	}
	s.mu.RUnlock()
	for _, seg := range list {
		if seg.checkHeader() == nil {
			continue
		}
		if err := sc.headerAgain(seg); err != nil {
			return err
		}
	}
	return nil
}

// headerAgain checks a header while no segment goes.
func (sc *scrubber) headerAgain(seg *segment) error {
	s := sc.store
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	if s.segment(seg.number) != seg {
		return nil
	}
	return seg.checkHeader()
}

// bodies reads bodies in the order in which they lie.
func (sc *scrubber) bodies(ctx context.Context, list []stored) error {
	slices.SortFunc(list, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.place.segment, b.place.segment), cmp.Compare(a.place.offset, b.place.offset))
	})
	for _, r := range list {
		if err := sc.body(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (sc *scrubber) body(ctx context.Context, r stored) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := sc.read(r.digest)
	if errors.As(err, new(*DamageError)) {
		err = sc.readAgain(r.digest)
	}
	if err != nil && !errors.Is(err, ErrMissing) {
		return err
	}
	n := frameBytes(r.place.size)
	sc.pace.spend(ctx, n)
	sc.done = min(sc.done+n, sc.total)
	if sc.progress != nil {
		sc.progress(sc.done, sc.total)
	}
	return nil
}

func (sc *scrubber) read(d Digest) error {
	return sc.store.at(d, func(seg *segment, at place) (err error) {
		if sc.buf, err = seg.read(d, at, 0, at.size, sc.buf[:0]); err != nil {
			return err
		}
		if got := Digest(sha256.Sum256(sc.buf)); got != d {
			return seg.damage(at.offset, fmt.Sprintf("body %s has the SHA-256 %s", d, got))
		}
		return nil
	})
}

// readAgain reads a body that was found damaged while nothing moves.
func (sc *scrubber) readAgain(d Digest) error {
	s := sc.store
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	s.mu.Lock()
	r, err := s.find(d)
	if r == nil {
		s.mu.Unlock()
		return err
	}
	at := r.place
	s.mu.Unlock()
	if err = sc.read(d); errors.As(err, new(*DamageError)) {
		return s.damaged(d, at, err)
	}
	return err
}

// rowsInMemory returns the rows in memory, also those that say that a body is gone, and
// notes them in seen.
func (s *Store) rowsInMemory(seen map[Digest]bool) []stored {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []stored
	for d, r := range s.table.mem {
		seen[d] = true
		if !r.gone() {
			list = append(list, stored{d, r.place, r.count})
		}
	}
	return list
}

// rowsOnDisk returns some of the rows in the runs from a digest on, but for those in
// seen, and where it goes on, if it does.
func (s *Store) rowsOnDisk(from Digest, seen map[Digest]bool) (list []stored, next Digest, more bool, err error) {
	for {
		s.mu.RLock()
		runs, epoch := s.table.runs, s.table.epoch
		s.mu.RUnlock()
		list, next, more, err = readRows(runs, epoch, from, seen)
		if err == nil {
			return list, next, more, nil
		}
		if s.Err() == nil && errors.Is(err, os.ErrClosed) {
			continue // they were merged meanwhile
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, from, false, s.tableFailed(err)
	}
}

func readRows(runs []*run, epoch uint64, from Digest, seen map[Digest]bool) (list []stored, next Digest, more bool, err error) {
	in, err := newRunsReader(runs, from, epoch)
	if err != nil {
		return nil, from, false, err
	}
	for range scrubRows {
		r, ok, err := in.next()
		if err != nil || !ok {
			return list, next, false, err
		}
		if !r.gone() && !seen[r.digest] {
			list = append(list, r)
		}
		next = r.digest.next()
	}
	return list, next, true, nil
}

// next returns the digest that follows; the first follows the last.
func (d Digest) next() Digest {
	for i := len(d) - 1; i >= 0; i-- {
		if d[i]++; d[i] != 0 {
			break
		}
	}
	return d
}
