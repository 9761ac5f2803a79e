package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// forward makes a member that does not lead propose a change, and returns the
// message that asks the leader for it.
func (n *crashNode) forward(t *testing.T, op changeOp, m Member, done chan error) raftpb.Message {
	t.Helper()
	n.node.core.proposeChange(op, m, done)
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(n.out, func(m raftpb.Message) bool { return m.Type == raftpb.MsgProp })
	if i < 0 {
		t.Fatal("nothing was forwarded")
	}
	return n.out[i]
}

// answer runs the cluster until a change has its answer.
func (c *crashCluster) answer(t *testing.T, done chan error) error {
	t.Helper()
	for round := range 2000 {
		c.roundAll(round)
		select {
		case err := <-done:
			return err
		default:
		}
	}
	t.Fatal("a change has no answer")
	return nil
}

// A change is forwarded again until it is applied. A copy that comes late must not
// undo what came after it.
func TestCore_LateCopyOfAChange_UndoesNothing(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	m := leader.node.core.members.members[f.id]
	first, second := m, m
	first.ClientURL, second.ClientURL = "http://first:1", "http://second:1"

	done := make(chan error, 1)
	late := f.forward(t, opUpdate, first, done)
	if err := c.answer(t, done); err != nil {
		t.Fatal(err)
	}
	leader.node.core.proposeChange(opUpdate, second, done)
	if err := c.answer(t, done); err != nil {
		t.Fatal(err)
	}
	leader.node.core.step(late)
	for round := range 30 {
		c.roundAll(round)
	}
	for _, n := range c.nodes {
		if got := n.node.core.members.members[f.id].ClientURL; got != second.ClientURL {
			t.Errorf("n%d knows n%d at %s, a URL of before", n.id, f.id, got)
		}
	}
}

// Whoever wants a change hears it when other members were there before it.
func TestCore_ChangeOfAnotherTable_IsRefused(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	m := leader.node.core.members.members[f.id]
	late, done := make(chan error, 1), make(chan error, 1)
	other := m
	other.ClientURL = "http://other:1"
	f.forward(t, opUpdate, other, late)
	f.out = nil // lost, and repeated later
	leader.node.core.proposeChange(opUpdate, m, done)
	if err := c.answer(t, done); err != nil {
		t.Fatal(err)
	}
	if err := c.answer(t, late); !errors.Is(err, errChanged) {
		t.Errorf("the change for another table: %v", err)
	}
	if len(f.node.core.changes) > 0 {
		t.Error("it goes on to be repeated")
	}
}

// Two members may be asked for the same change, as by a node that joins and tries again.
// Whoever comes second has what it wants.
func TestCore_SameChangeTwice_IsDone(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	m := Member{ID: 9, Name: "n9", PeerURL: "http://n9:1", ClientURL: "http://n9:2"}
	moved := m
	moved.ClientURL = "http://n9:3"
	for _, ch := range []change{{Op: opAdd, Member: m}, {Op: opUpdate, Member: moved}, {Op: opPromote, Member: moved}, {Op: opRemove, Member: moved}} {
		first, second := make(chan error, 1), make(chan error, 1)
		f.forward(t, ch.Op, ch.Member, second)
		f.out = nil // lost, and repeated later
		leader.node.core.proposeChange(ch.Op, ch.Member, first)
		for _, done := range []chan error{first, second} {
			if err := c.answer(t, done); err != nil {
				t.Errorf("%s: %v", ch.Op, err)
			}
		}
	}
}

// endedContext has ended, and lets the loop run whenever somebody looks.
type endedContext struct {
	context.Context
	loop func()
}

func (c endedContext) Done() <-chan struct{} { c.loop(); return c.Context.Done() }

// A membership change whose caller has left may be carried out or not, but it
// must not look carried out when it was not.
func TestNode_Change_CallerHasLeft_IsNoSuccess(t *testing.T) {
	c := newCrashCluster(t, 1, -1).nodes[1]
	for !c.node.core.isLeader() {
		if err := c.round(true, nil); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	ctx := endedContext{ended, func() { c.node.deliver(c.node.inbox.take()) }}
	for range 64 { // which of two ready channels is seen is a matter of luck
		if _, err := c.node.changeHere(ctx, changeRequest{Op: "remove", Name: "nobody"}); err == nil {
			t.Fatal("removed a member that does not exist")
		}
	}
}

// Nodes that join at the same time must not refuse one another: a refusal ends
// a joining process.
func TestNode_Add_WaitsForOtherChanges(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			m := Member{ID: ID(i + 100), Name: fmt.Sprintf("m%d", i), PeerURL: fmt.Sprintf("http://127.0.0.1:%d", i+1), ClientURL: "http://127.0.0.1:1"}
			for again := false; ; again = true {
				_, created, err := nodes[i%3].node.AddMember(context.Background(), m)
				if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) {
					continue // the machine is slow
				}
				if err != nil || !created && !again {
					t.Errorf("add %s: created %v, %v", m.Name, created, err)
				}
				return
			}
		})
	}
	wg.Wait()
}

// A change asked of a follower whose leader has just died goes to the next leader, which is
// there already or soon; nobody can have carried it out.
func TestNode_Change_DeadLeader_AsksTheNext(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	var rest []*testNode
	for _, n := range nodes {
		if n != leader {
			rest = append(rest, n)
		}
	}
	if err := leader.stop(); err != nil {
		t.Fatal(err)
	}
	m := Member{ID: 100, Name: "m", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"}
	if _, created, err := rest[0].node.AddMember(context.Background(), m); err != nil || !created {
		t.Fatalf("add: created %v, %v", created, err)
	}
}
