package raftnode

import (
	"errors"
	"slices"
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

// Each change is for one table, and none but a forcing is for any.
func TestTable_Check_Numbers(t *testing.T) {
	m := Member{ID: 1, Name: "a", PeerURL: "http://a:1", ClientURL: "http://a:2"}
	tab := foundersTable(9, []Member{m})
	raw, err := tab.encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"cluster_id":"0000000000000009","conf":{"voters":[1]},"members":[{"id":"0000000000000001","name":"a","peer_url":"http://a:1","client_url":"http://a:2"}],"level":1}`; string(raw) != want {
		t.Errorf("the table of a new cluster is %s", raw)
	}
	for _, ch := range []change{{Op: opUpdate, Member: m}, {Op: opUpdate, Member: m, Number: 2}, {Op: opRaise, Member: m, Level: 2}} {
		if err := tab.check(ch); !errors.Is(err, errChanged) {
			t.Errorf("%+v for the first table: %v", ch, err)
		}
	}
	numbered := change{Op: opUpdate, Member: m, Number: 1}
	if err := tab.check(numbered); err != nil {
		t.Fatal(err)
	}
	tab.apply(numbered, tab.conf)
	if err := tab.check(numbered); !errors.Is(err, errChanged) {
		t.Errorf("the same change again: %v", err)
	}
	if err := tab.check(change{Op: opForce, Member: m, Forcing: &Forcing{Parent: 9, Cluster: 10, History: historyOfCluster(10)}}); err != nil {
		t.Errorf("a forcing: %v", err)
	}
	if raw, err = tab.encode(); err != nil {
		t.Fatal(err)
	}
	again, err := decodeTable(raw)
	if err != nil || again.changed != 1 {
		t.Errorf("read back: number %d, %v", again.changed, err)
	}
}
