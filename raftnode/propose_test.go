package raftnode

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// proposeOne is ProposeMany of one command.
func (n *Node) proposeOne(ctx context.Context, command []byte) (result any, err error) {
	n.ProposeMany(ctx, [][]byte{command}, func(_ int, r any, e error) { result, err = r, e })
	return result, err
}

// TestNode_ProposeMany: commands of one call are applied in their order, in one
// entry, through the leader as through a follower.
func TestNode_ProposeMany(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	for _, n := range nodes {
		before := n.node.Status().Applied
		commands := make([][]byte, 500)
		for i := range commands {
			commands[i] = fmt.Appendf(nil, "%s-%03d", n.cfg.Name, i)
		}
		told, failed := 0, 0
		n.node.ProposeMany(t.Context(), commands, func(i int, result any, err error) {
			told++
			if err != nil {
				failed++
			}
		})
		if told != len(commands) || failed > 0 {
			t.Fatalf("%s: %d answers, %d errors", n.cfg.Name, told, failed)
		}
		if took := n.node.Status().Applied - before; took > 3 {
			t.Errorf("%s: %d entries for one call", n.cfg.Name, took)
		}
	}
	if leader.node.waiters.count() != 0 {
		t.Error("somebody waits still")
	}
	leader.node.ProposeMany(t.Context(), nil, func(int, any, error) { t.Error("an answer to nothing") })
	leader.node.ProposeMany(t.Context(), [][]byte{{1}, make([]byte, commandBytesMax+1)}, func(i int, _ any, err error) {
		if !errors.Is(err, ErrCommandTooLarge) {
			t.Errorf("command %d: %v", i, err)
		}
	})
}

// TestNode_ProposeMany_GivenUp: each command has the error that is true of it.
func TestNode_ProposeMany_GivenUp(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	ctx, cancel := context.WithCancelCause(t.Context())
	errs := make(chan []error)
	go func() {
		var all []error
		n.ProposeMany(ctx, [][]byte{[]byte("a"), []byte("b"), []byte("c")}, func(_ int, _ any, err error) { all = append(all, err) })
		errs <- all
	}()
	<-n.inbox.wake
	cmds := n.inbox.take().cmds
	n.waiters.claim(cmds[1:2], 1) // raft has it
	n.waiters.resolve([]command{cmds[2]}, []any{nil})
	cause := errors.New("enough")
	cancel(cause)
	all := <-errs
	if !errors.Is(all[0], ErrUnavailable) || !errors.Is(all[0], cause) || !errors.Is(all[1], ErrOutcomeUnknown) || all[2] != nil {
		t.Errorf("%v", all)
	}
	if n.waiters.count() != 0 {
		t.Error("somebody waits still")
	}
}
