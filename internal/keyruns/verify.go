package keyruns

import (
	"bytes"
	"context"
	"errors"
)

// Verify reads everything and checks each block, that the fences lead to each key, and that
// the filters have it. It calls pace, if that is not nil, before it reads so many bytes. It
// returns the first damage, a *CorruptError, or the error of pace or ctx. A filter that is
// damaged only on disk is not an error: Verify logs it, and a merge replaces the run.
func (x *Index) Verify(ctx context.Context, pace func(ctx context.Context, bytes int) error) error {
	step := func(bytes int) error {
		if err := errors.Join(ctx.Err(), x.failure()); err != nil || pace == nil {
			return err
		}
		return pace(ctx, bytes)
	}
	if err := x.verifyList(); err != nil {
		return err
	}
	s, err := x.acquire()
	if err != nil {
		return err
	}
	defer x.release(s)
	for _, r := range s.runs {
		if err := x.verifyRun(r, step); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) verifyList() error {
	x.listing.Lock()
	defer x.listing.Unlock()
	s, err := x.acquire()
	if err != nil {
		return err
	}
	defer x.release(s)
	l, err := readList(x.cfg.Files)
	if err != nil {
		return err
	}
	same := l.mark == s.mark && len(l.runs) == len(s.runs)
	for i := range l.runs {
		same = same && l.runs[i] == s.runs[i].runInfo
	}
	if !same {
		return &CorruptError{File: x.cfg.Files.Path(listName), Offset: -1, Detail: "it is not the list that was written"}
	}
	return nil
}

// verifyRun checks a run: its file, its memory, and that both agree.
func (x *Index) verifyRun(r *run, step func(bytes int) error) error {
	if err := r.check(step); err != nil {
		return err
	}
	if sum := r.filter.sum(r.stamp); sum != r.fsum {
		return r.corrupt(r.filterAt(), "the filter in memory has checksum %08x, not %08x", sum, r.fsum)
	}
	damaged, err := r.reload(step)
	if err != nil {
		return err
	}
	if damaged && r.worn.CompareAndSwap(false, true) {
		x.cfg.Logger.Warn("a filter of the index is damaged on the disk; a merge will replace its run", "file", r.path, "offset", r.filterAt(), "keys", r.keys)
		x.signal()
	}
	return nil
}

// reload compares a run's memory with its file, and reports whether the filter is damaged
// there.
func (r *run) reload(step func(bytes int) error) (filterDamaged bool, err error) {
	buf := make([]byte, runReadBlocks*blockBytes)
	compare := func(want []byte, at int64, differs func(at int64, got []byte) error) error {
		for len(want) > 0 {
			part := buf[:min(len(want), len(buf))]
			if err := step(len(part)); err != nil {
				return err
			}
			if err := r.readAt(part, at); err != nil {
				return err
			}
			if !bytes.Equal(part, want[:len(part)]) {
				if err := differs(at, part); err != nil {
					return err
				}
			}
			want, at = want[len(part):], at+int64(len(part))
		}
		return nil
	}
	if err := compare(r.fences, int64(r.blocks)*blockBytes, func(at int64, got []byte) error {
		for i := 0; i < len(got); i += blockBytes {
			number := uint64(at)/blockBytes + uint64(i/blockBytes)
			if _, err := openBlock(got[i:][:blockBytes], blockPlace{r.stamp, number}); err != nil {
				return r.corruptBlock(number, err)
			}
		}
		return r.corrupt(at, "its fences are not those in memory")
	}); err != nil {
		return false, err
	}
	if err := compare(r.filter, r.filterAt(), func(int64, []byte) error {
		filterDamaged = true
		return nil
	}); err != nil {
		return false, err
	}
	footer := r.footer()
	return filterDamaged, compare(footer, r.size-int64(len(footer)), func(at int64, _ []byte) error {
		return r.corrupt(at, "its end is not what was written")
	})
}
