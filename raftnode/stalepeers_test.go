package raftnode

import (
	"testing"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// Members that were removed do not count, whoever leads: a follower that hears of no
// leader listens to strangers, because they may have been added by entries that it
// has not applied. Who was removed it knows for ever.
func TestCore_RemovedMembers_AreNotHeard(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	removed := 6 - f.id - leader.id
	leader.node.core.proposeChange(opRemove, Member{ID: removed}, nil)
	core := f.node.core
	for round := 0; !core.members.removed[removed]; round++ {
		if round > 1000 {
			t.Fatal("the member is not removed")
		}
		c.roundAll(round)
	}
	for range core.limits.electionTicks { // the leader says nothing more
		core.tick()
	}
	before, voted := core.term, core.rn.Status().Vote
	last, err := core.log.Term(core.savedIndex)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgVote, Index: core.savedIndex + 5, LogTerm: last, Term: before + 1},
		{Type: raftpb.MsgHeartbeat, Commit: core.savedIndex, Term: before + 1},
		{Type: raftpb.MsgApp, Index: core.savedIndex, LogTerm: last, Commit: core.savedIndex, Term: before + 1},
	} {
		m.From, m.To = uint64(removed), uint64(f.id)
		core.step(m)
		if got := core.rn.Status(); got.Term != before || got.Vote != voted || got.Lead == uint64(removed) {
			t.Fatalf("%v of a removed member moves a node from term %d to term %d, its vote from %v to %v, its leader to %v", m.Type, before, got.Term, ID(voted), ID(got.Vote), ID(got.Lead))
		}
	}
}

// A read that was asked in another term is asked again: whoever led then may have
// confirmed it with acknowledgements of an old life.
func TestCore_ReadOfAnotherTerm_IsAskedAgain(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	r := newRead()
	core.read([]*read{r})
	core.startRound()
	if core.round == nil {
		t.Fatal("no round began")
	}
	ctx, term := core.round.ctx, core.term
	core.step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: core.lead, To: uint64(f.id), Term: term + 1})
	if core.term == term || core.lead == raft.None {
		t.Fatalf("term %d, leader %v", core.term, ID(core.lead))
	}
	for _, again := range []bool{false, true} { // before the next round, and in it
		if again {
			core.startRound()
		}
		core.answerRounds([]raft.ReadState{{Index: core.commit, RequestCtx: ctx}})
		select {
		case err := <-r.done:
			t.Fatalf("a read is answered by a round of another term: %v", err)
		default:
		}
		if asked := core.round != nil; asked != again || len(core.progress.waits) != 0 {
			t.Errorf("the next round runs: %v, and %d reads wait to be applied", asked, len(core.progress.waits))
		}
	}
	core.answerRounds([]raft.ReadState{{Index: 0, RequestCtx: core.round.ctx}})
	if err := <-r.done; err != nil {
		t.Errorf("asked again, it is answered with %v", err)
	}
}
