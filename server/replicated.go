package server

import (
	"context"
	"errors"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// replicatedLog lets a kvstore.DB use a raftnode.Node, which does not know kvstore's
// errors.
type replicatedLog struct{ node *raftnode.Node }

func (l replicatedLog) Propose(ctx context.Context, command []byte) (any, error) {
	result, err := l.node.Propose(ctx, command)
	if err == nil {
		return result, nil
	}
	return nil, storeError(err)
}

func (l replicatedLog) ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error)) {
	l.node.ProposeMany(ctx, commands, func(i int, result any, err error) {
		if err != nil {
			result, err = nil, storeError(err)
		}
		each(i, result, err)
	})
}

func (l replicatedLog) Distribute(ctx context.Context, list []bodies.Body) error {
	if err := l.node.Distribute(ctx, list); err != nil {
		return storeError(err)
	}
	return nil
}

func (l replicatedLog) ReadIndex(ctx context.Context) error {
	if err := l.node.ReadIndex(ctx); err != nil {
		return storeError(err)
	}
	return nil
}

// storeError translates an error of raftnode for a put or a get.
func storeError(err error) error {
	switch {
	case errors.Is(err, raftnode.ErrOverloaded):
		return meaning{err, kvstore.ErrOverloaded}
	case errors.Is(err, raftnode.ErrDiskFull):
		return meaning{err, kvstore.ErrDiskReserve}
	case errors.Is(err, raftnode.ErrLevel):
		return meaning{err, kvstore.ErrLevel}
	case errors.Is(err, raftnode.ErrUnavailable), errors.Is(err, raftnode.ErrStopped), errors.Is(err, raftnode.ErrCommandTooLarge):
		return meaning{err, kvstore.ErrUnavailable}
	}
	return meaning{err, kvstore.ErrOutcomeUnknown}
}
