package raftnode

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/shortage"
)

// Distribute returns nil when all of the bodies are durable here, at the leader and at a
// majority of the voters. Commands that refer to them must be proposed soon, because bodies
// that nothing refers to are forgotten. It sends them to all members. Their bytes must not
// be modified any more: slow members get them after it has returned.
//
// Errors are definite: nothing was proposed. ErrOverloaded and ErrDiskFull say why; all
// others are ErrUnavailable or ErrStopped. It takes no longer than a proposal.
func (n *Node) Distribute(ctx context.Context, list []bodies.Body) error {
	store := n.cfg.Bodies
	switch {
	case len(list) == 0:
		return nil
	case store == nil:
		return unavailableError("this node keeps no bodies")
	case n.applier.backlog() > n.cfg.QueueBytes:
		return ErrOverloaded
	}
	known := make([]bool, len(list))
	for i, b := range list {
		added, err := store.Append(b.Digest, b.Data)
		if err != nil {
			return appendError(err)
		}
		known[i] = !added
	}
	d := n.pushes.start(list, known)
	err := n.spread(ctx, d)
	n.pushes.end(d, err == nil)
	return err
}

// appendError is what a body that could not be kept here means for its put.
func appendError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case shortage.Is(err):
		return fmt.Errorf("%w: %w", ErrOverloaded, shortage.Explain(err))
	}
	return fmt.Errorf("%w: the value could not be kept: %w", ErrUnavailable, err)
}

// spread makes the bodies durable here, and waits until enough members have them.
func (n *Node) spread(ctx context.Context, d *distribution) error {
	began := time.Now()
	store := n.cfg.Bodies
	if err := store.Sync(ctx); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", ErrUnavailable, context.Cause(ctx))
		}
		return appendError(err)
	}
	for _, b := range d.list {
		if !store.Hold(b.Digest) {
			return errBodyMissing
		}
		defer store.Release(b.Digest) // and it stays for a while
	}
	// The leader and the members may change without a word to this call.
	look := time.NewTicker(n.cfg.Tick)
	defer look.Stop()
	timeout := time.NewTimer(n.cfg.NoLeaderTimeout - time.Since(began))
	defer timeout.Stop()
	extended := false
	for {
		st := n.status.Load()
		if enough, err := n.pushes.judge(d, st, n.self.ID); enough || err != nil {
			return err
		}
		select {
		case <-d.changed:
		case <-look.C:
		case <-n.stopped:
			return ErrStopped
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ErrUnavailable, context.Cause(ctx))
		case <-timeout.C:
			switch {
			case st.Leader == 0:
				return ErrUnavailable
			case extended:
				return unavailableError("a majority of the voters did not confirm in time that it has the value")
			}
			extended = true
			timeout.Reset(n.cfg.ProposeTimeout - n.cfg.NoLeaderTimeout)
		}
	}
}
