package raftnode

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// gate is what this program knows, to decide what may go into the log.
type gate struct {
	known uint64                               // the highest level
	of    func(command []byte) (uint64, error) // that a command needs, see StateMachine.Level
}

// admit notes the level that a command needs, or returns an ErrLevel if the store's is
// lower or the command is none.
func (c *core) admit(cmd *command) error {
	need, err := c.gate.of(cmd.data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLevel, err)
	}
	if need > c.members.level {
		return fmt.Errorf("%w: it needs level %d, and the store has %d; that rises by itself once every member runs a version that knows it", ErrLevel, need, c.members.level)
	}
	cmd.level = need
	return nil
}

// checkKnown returns a *level.LaterError for a committed entry that only a later version
// can carry out.
func checkKnown(e *raftpb.Entry, known uint64) error {
	var need uint64
	var err error
	switch {
	case e.Type == raftpb.EntryConfChange:
		_, _, err = decodeChange(e.Data)
	case len(e.Data) > 0:
		need, _, _, err = batchHead(e.Data)
	}
	if need > known || errors.Is(err, errLaterEnvelope) || errors.Is(err, errUnknownOp) {
		return later(fmt.Sprintf("log entry %d", e.Index), need, known)
	}
	return nil
}
