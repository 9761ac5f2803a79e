package raftnode

import (
	"context"

	"github.com/Focinfi/oncekv/bodies"
)

// Distribute returns nil when every one of the bodies is durable here, at the leader
// and at a majority of the voters: then commands that refer to them may be proposed.
// Errors are definite: nothing was proposed.
func (n *Node) Distribute(ctx context.Context, list []bodies.Body) error {
	for _, b := range list {
		if _, err := n.cfg.Bodies.Append(b.Digest, b.Data); err != nil {
			return err
		}
	}
	return n.cfg.Bodies.Sync(ctx)
}
