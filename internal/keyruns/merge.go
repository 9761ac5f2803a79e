package keyruns

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/internal/shortage"
)

// Waits of a Run whose merge found no room, or too few open files.
const (
	retryMin = time.Second
	retryMax = time.Minute
)

// Run merges in the background, at Config.MergeRate, and faster when there are more than
// half of Config.MaxRuns runs. A merge that finds no room on the disk is tried again. It
// returns nil when ctx has ended or the index was closed, else the fatal error. Only one
// may run.
func (x *Index) Run(ctx context.Context) error {
	if err := x.setRunning(true); err != nil {
		return err
	}
	defer func() { _ = x.setRunning(false) }()
	retry := time.Duration(0)
	for {
		merged, err := x.mergeDue(ctx, x.throttle())
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return nil
		case err != nil && (x.failure() != nil || !mayPass(err)):
			return err
		case err != nil:
			retry = min(max(2*retry, retryMin), retryMax)
			x.setStuck(true)
			x.cfg.Logger.Warn("could not merge runs of the index; trying again", "wait", retry, "error", err)
		default:
			retry = 0
			x.setStuck(false)
		}
		if merged && err == nil {
			continue
		}
		if retry == 0 {
			select {
			case <-ctx.Done():
			case <-x.dead:
			case <-x.due:
			}
			continue
		}
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-x.dead:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// mayPass reports whether what failed may be done later, and nothing was lost.
func mayPass(err error) bool {
	_, corrupt := errors.AsType[*CorruptError](err)
	return !corrupt && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || shortage.Is(err))
}

func (x *Index) setRunning(running bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if running && x.running {
		return errors.New("merge runs of the index: somebody does already")
	}
	x.running, x.stuck = running, false
	x.changedLocked()
	return nil
}

func (x *Index) setStuck(stuck bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stuck != stuck {
		x.stuck = stuck
		x.changedLocked()
	}
}

// Merge does the merge that is due, if one is, as fast as it can, and tells whether one
// was. It is for who has no Run. An error that is writefault.Err, or a *CorruptError, ends
// the index; any other left everything as it was.
func (x *Index) Merge(ctx context.Context) (merged bool, err error) {
	return x.mergeDue(ctx, func(context.Context, int) error { return nil })
}

// throttle returns what a merge calls before it reads or writes so many bytes.
func (x *Index) throttle() func(ctx context.Context, bytes int) error {
	var debt time.Duration
	last := time.Now()
	return func(ctx context.Context, bytes int) error {
		now := time.Now()
		debt = max(0, debt-now.Sub(last))
		last = now
		if rate := x.rate(); rate > 0 {
			debt += time.Duration(float64(bytes) / rate * float64(time.Second))
		} else {
			debt = 0
		}
		if debt < 5*time.Millisecond { // a timer is not more exact
			return nil
		}
		timer := time.NewTimer(debt)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.dead:
		case <-ctx.Done():
		}
		return nil
	}
}

// rate is how many bytes merges may read and write in a second now; 0: any number. From
// half of the runs on it is more and more, up to eight times as many at three quarters.
func (x *Index) rate() float64 {
	s := x.current.Load()
	if s == nil {
		return 0
	}
	over := float64(len(s.runs))/float64(x.cfg.MaxRuns)*4 - 2 // 0 at half, 1 at three quarters
	switch {
	case over <= 0:
		return float64(x.cfg.MergeRate)
	case over <= 1:
		return float64(x.cfg.MergeRate) * (1 + 7*over)
	}
	return 0
}

// mergeDue does the merge that is due.
func (x *Index) mergeDue(ctx context.Context, pace func(ctx context.Context, bytes int) error) (merged bool, err error) {
	x.merging.Lock()
	defer x.merging.Unlock()
	x.removeOthers()
	x.sweep()
	return x.mergeBelow(ctx, pace, -1)
}

// mergeBelow does the merge that is due of those of at most so many bytes; -1: of all.
// x.merging is held.
func (x *Index) mergeBelow(ctx context.Context, pace func(ctx context.Context, bytes int) error, most int64) (merged bool, err error) {
	if err := errors.Join(ctx.Err(), x.failure()); err != nil {
		return false, err
	}
	s, err := x.acquire()
	if err != nil {
		return false, err
	}
	defer func() {
		x.release(s)
		x.sweep()
	}()
	group := x.pick(s.runs, most)
	if group == nil {
		return false, nil
	}
	for _, r := range group {
		r.merging = true
	}
	x.mergesNow.Add(1)
	defer func() {
		x.mergesNow.Add(-1)
		for _, r := range group {
			r.merging = false
		}
	}()
	return true, x.merge(ctx, pace, group)
}

// merge makes one run of some. While it goes on it gives way to smaller merges: else those
// would wait for the largest, and runs pile up.
func (x *Index) merge(ctx context.Context, pace func(ctx context.Context, bytes int) error, group []*run) error {
	began := time.Now()
	var keys uint64
	var size int64
	for _, r := range group {
		keys += r.keys
		size += r.size
	}
	step := func(bytes int) error {
		if err := errors.Join(ctx.Err(), x.failure(), pace(ctx, bytes)); err != nil {
			return err
		}
		_, err := x.mergeBelow(ctx, pace, size/2)
		return err
	}
	number := x.number()
	w, err := createRun(x.cfg.Files, number, stampOfMerged(number, group), keys, step)
	if err != nil {
		return x.ended("merge runs of the index", err)
	}
	r, err := mergeInto(w, group, step)
	if err == nil {
		err = x.replace(group, r, func(m Mark) Mark { return m })
	}
	if err != nil {
		err = x.ended("merge runs of the index", err)
		w.discard(x.failure() == nil)
		return err
	}
	x.merges.Add(1)
	x.mergedBytes.Add(r.size)
	x.cfg.Logger.Debug("merged runs of the index", "runs", len(group), "keys", r.keys, "bytes", r.size, "took", time.Since(began))
	return nil
}

func mergeInto(w *runWriter, group []*run, step func(bytes int) error) (*run, error) {
	var h runsReader
	for _, r := range group {
		rd := newRunReader(r, runReadBlocks, step)
		ok, err := rd.next()
		if err != nil {
			return nil, err
		}
		if ok {
			h.push(rd)
		}
	}
	for len(h) > 0 {
		rd := h[0]
		if w.keys > 0 && bytes.Equal(w.data.last, rd.key()) {
			return nil, rd.run.corruptBlock(rd.number()-1, fmt.Errorf("%q is in another run too", rd.key()))
		}
		if err := w.add(rd.key(), rd.revision()); err != nil {
			return nil, rd.run.corruptBlock(rd.number()-1, err)
		}
		if err := h.advance(); err != nil {
			return nil, err
		}
	}
	return w.finish()
}

// pick chooses the runs of the next merge, of at most so many bytes, if that is not -1:
//
//   - one whose filter in the file is damaged;
//   - Config.Factor of similar size, or fewer, as Config.Spread says, and all that are smaller;
//   - the smallest when there are more than three quarters of Config.MaxRuns.
//
// Runs that are being merged stay out. nil: nothing is due.
func (x *Index) pick(runs []*run, most int64) []*run {
	var free []*run
	for _, r := range runs {
		if !r.merging {
			free = append(free, r)
		}
	}
	fits := func(group []*run) bool {
		var size int64
		for _, r := range group {
			size += r.size
		}
		return most < 0 || size <= most
	}
	for _, r := range free {
		if r.worn.Load() && fits([]*run{r}) {
			return []*run{r}
		}
	}
	slices.SortFunc(free, func(a, b *run) int {
		return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.number, b.number))
	})
	for from := 0; from < len(free); {
		to, oldest := from, free[from]
		for to < len(free) && free[to].size <= free[from].size*int64(max(x.cfg.Factor/2, 2)) {
			if free[to].number < oldest.number {
				oldest = free[to]
			}
			to++
		}
		if to-from >= oldest.due && fits(free[:to]) {
			return free[:to]
		}
		from = to
	}
	if n := min(x.cfg.Factor, len(free)); n >= 2 && len(runs) > x.cfg.MaxRuns*3/4 && fits(free[:n]) {
		return free[:n]
	}
	return nil
}
