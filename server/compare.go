package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// compare looks for a replica whose history differs from this node's. Checksums find a
// damaged value, but not a missing record; this does.
func (d *Database) compare(ctx context.Context, m raftnode.Member, theirs api.Stats) {
	revision, differs := d.differs(m.ID, theirs)
	if differs && !d.judging.Swap(true) {
		d.running.Go(func() {
			defer d.judging.Store(false)
			if d.judge(ctx, revision) {
				d.agreed(m.ID)
			}
		})
	}
}

// comparison is the last comparison with another member: both revisions at that time, and
// whether the members have confirmed since that their histories agree.
type comparison struct {
	own, theirs uint64
	agreed      bool
}

// agreed notes that all histories agree up to the revisions compared with id. That holds
// until one of the two members goes on.
func (d *Database) agreed(id raftnode.ID) {
	d.comparing.Lock()
	defer d.comparing.Unlock()
	c := d.compared[id]
	c.agreed = true
	d.compared[id] = c
}

// differs returns a revision at which another member has, or may have, another digest than
// this node. Two members that stand still at different revisions may differ: they have
// applied the same log by then, unless one of them is cut off.
func (d *Database) differs(id raftnode.ID, theirs api.Stats) (revision uint64, differs bool) {
	own := d.store.Stats()
	now := comparison{own: uint64(own.Revision), theirs: theirs.Revision}
	d.comparing.Lock()
	last := d.compared[id]
	still := last.own == now.own && last.theirs == now.theirs
	now.agreed = still && last.agreed
	d.compared[id] = now
	d.comparing.Unlock()
	switch {
	case now.own == now.theirs:
		if theirs.Digest != own.Digest.String() {
			return now.own, true
		}
	case still && !now.agreed && min(now.own, now.theirs) > 0:
		return min(now.own, now.theirs), true
	}
	for _, c := range theirs.Checkpoints {
		at := kvstore.Revision(c.Revision)
		if at%kvstore.CheckpointRevisions != 0 {
			continue // no member of this version says so, and the check costs work
		}
		digest, err := d.store.DigestAt(at)
		if err == nil && digest.String() != c.Digest {
			return c.Revision, true
		} // else the digests agree, or this node has none yet
	}
	return 0, false
}

// judge asks all members whose history is wrong, and stops this node if it is this one's.
// It returns true if all agree.
func (d *Database) judge(ctx context.Context, revision uint64) (same bool) {
	err := d.node.JudgeHistory(ctx, revision)
	if errors.Is(err, raftnode.ErrDiverged) {
		d.stopDiverged(ctx, revision, err, lookTime)
		return false
	}
	if !errors.As(err, new(*raftnode.DisputeError)) {
		return err == nil
	}
	switch looked := d.verified.Load(); {
	case looked == 0 || revision >= looked+uint64(kvstore.CheckpointRevisions):
		// Reading the store takes long. Meanwhile another voter may come whose vote
		// decides, so neither the watch nor the next judgement waits for it.
		if !d.verifying.Swap(true) {
			d.logger.Error("this node's history differs from another member's; verifying this node's disk", "err", err)
			d.running.Go(func() {
				defer d.verifying.Store(false)
				if d.intact(ctx, revision) {
					d.verified.Store(revision)
				}
			})
		}
	case d.disputes.Allow():
		d.logger.Error("this node's disk is in order, but histories differ", "err", err)
	}
	return false
}

// lookTime is how long a node whose history is wrong searches its disk for the damage
// before it stops. It still serves in that time, and reading a large store takes hours.
const lookTime = 5 * time.Second

// stopDiverged stops this node because its history is wrong. The reason is the damage on
// its disk if it finds some within limit, else err.
func (d *Database) stopDiverged(ctx context.Context, revision uint64, err error, limit time.Duration) {
	looking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d.logger.Error("this node's history is wrong; verifying its disk before it stops", "err", err)
	if d.intact(looking, revision) || looking.Err() != nil && ctx.Err() == nil {
		d.fail(err)
	}
}

// intact reports whether this node's disk holds what it should, and stops the node if not.
// It also returns false if ctx ends first.
func (d *Database) intact(ctx context.Context, revision uint64) bool {
	fault := d.store.Verify(ctx)
	if fault != nil && ctx.Err() == nil {
		d.fail(fmt.Errorf("the histories of members differ at revision %d, and this node's disk is at fault: %w", revision, fault))
	}
	return fault == nil
}
