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

// How long Run waits after a merge found no room, or too few open files.
const (
	retryMin = time.Second
	retryMax = time.Minute
)

// Run merges in the background, at Config.MergeRate, and faster when there are more than half
// of Config.MaxRuns runs. It retries a merge that finds no room on the disk. It returns nil
// when ctx ends or the index is closed, else the fatal error. Only one Run may be running.
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

// mayPass reports whether a retry may succeed and nothing was lost.
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

// Merge does the due merge, if any, as fast as it can, and reports whether there was one. It
// is for programs without a Run. An error that is writefault.Err, or a *CorruptError, ends the
// index; any other error leaves everything as it was.
func (x *Index) Merge(ctx context.Context) (merged bool, err error) {
	return x.mergeDue(ctx, func(context.Context, int) error { return nil })
}

// throttle returns the function that a merge calls before it reads or writes so many bytes.
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

// rate returns how many bytes a second merges may read and write now; 0: no limit. From half
// of MaxRuns it rises, to eight times at three quarters; beyond that there is no limit.
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

// mergeDue does the due merge.
func (x *Index) mergeDue(ctx context.Context, pace func(ctx context.Context, bytes int) error) (merged bool, err error) {
	x.merging.Lock()
	defer x.merging.Unlock()
	x.removeOthers()
	x.sweep()
	return x.mergeBelow(ctx, pace, -1)
}

// mergeBelow does the due merge among those of at most most bytes; -1: among all. x.merging is
// held.
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

// merge makes one run of several. Meanwhile it yields to smaller merges: otherwise these would
// wait for the largest, and runs pile up.
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

// pick chooses the runs of the next merge, of at most most bytes unless that is -1:
//
//   - a run whose filter is damaged on disk;
//   - Config.Factor runs of similar size, or fewer, as Config.Spread says, and all smaller ones;
//   - the smallest, if there are more than three quarters of Config.MaxRuns.
//
// It skips runs that are being merged. nil: nothing is due.
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
