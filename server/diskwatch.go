package server

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// diskInterval is short because a fast disk fills by a hundred megabytes in a
// second; a look costs a microsecond.
const diskInterval = 100 * time.Millisecond

// diskWatch watches the free space of a data directory. Owned by run; the results are
// atomics.
type diskWatch struct {
	dir     *dataDir
	reserve int64
	logger  *slog.Logger
	free    atomic.Int64
	isLow   atomic.Bool
}

func newDiskWatch(dir *dataDir, reserve int64, logger *slog.Logger) *diskWatch {
	d := &diskWatch{dir: dir, reserve: reserve, logger: logger}
	d.look()
	return d
}

func (d *diskWatch) run(ctx context.Context) {
	ticker := time.NewTicker(diskInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			d.look()
		}
	}
}

func (d *diskWatch) look() {
	free, err := d.dir.freeBytes()
	if err != nil {
		d.logger.Warn("could not read the free space of the disk", "err", err)
		return
	}
	d.free.Store(free)
	low := free < d.reserve
	if d.isLow.Swap(low) != low {
		d.logger.Warn("free space crossed the disk reserve", "below", low, "free_bytes", free, "reserve_bytes", d.reserve)
	}
}

func (d *diskWatch) low() bool { return d.isLow.Load() }
