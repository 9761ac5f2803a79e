package raftnode

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// follower returns a cluster of three that has put something, and a member of it
// that follows.
func follower(t *testing.T) (c *crashCluster, n *crashNode) {
	t.Helper()
	c = newCrashCluster(t, 3, -1)
	leader := c.lead(t)
	c.run(9)
	for round := range 20 {
		c.roundAll(round)
	}
	for _, n := range c.nodes {
		if n != leader && n.node.core.lead == uint64(leader.id) {
			return c, n
		}
	}
	t.Fatal("nobody follows")
	return nil, nil
}

// Every lie is told to a follower and to the leader, by everybody. All are dropped,
// but for those about what only a leader knows, told to one that does not lead.
func TestCore_Lies_AreDropped(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	onlyLeaders := []string{"an acknowledgement from nowhere", "a rejection from nowhere", "a hint from nowhere"}
	for _, n := range []*crashNode{f, leader} {
		core := n.node.core
		before := core.rn.Status()
		for _, from := range []uint64{1, 2, 3, 77} {
			if from == uint64(n.id) {
				continue
			}
			lies := core.target(from).lies()
			for _, what := range slices.Sorted(maps.Keys(lies)) {
				if n == f && slices.Contains(onlyLeaders, what) {
					continue
				}
				if core.checkMessage(ptr(lies[what])) == nil {
					t.Errorf("n%d believes n%d: %s", n.id, from, what)
				}
				core.step(lies[what])
			}
		}
		if after := core.rn.Status(); after.Term != before.Term || after.Lead != before.Lead || after.Commit != before.Commit {
			t.Errorf("n%d went from %+v to %+v", n.id, before.BasicStatus, after.BasicStatus)
		}
		if len(core.snaps) > 0 {
			t.Errorf("n%d wants to pull a snapshot", n.id)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// An append may cut the log off, in the very batch in which a heartbeat commits
// what was there before.
func TestCore_CommitAfterTheLogWasCut_IsPutOff(t *testing.T) {
	_, n := follower(t)
	core := n.node.core
	term, last, commit := core.term+1, core.savedIndex, core.commit
	at := func(i uint64) uint64 {
		term, err := core.log.Term(i)
		if err != nil {
			t.Fatal(err)
		}
		return term
	}
	var more []raftpb.Entry // that are not committed
	for i := range uint64(5) {
		more = append(more, raftpb.Entry{Index: last + 1 + i, Term: core.term})
	}
	core.step(raftpb.Message{Type: raftpb.MsgApp, From: core.lead, To: uint64(n.id), Term: core.term, Index: last, LogTerm: at(last), Commit: commit, Entries: more})
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if core.savedIndex != last+5 {
		t.Fatalf("the log ends at %d, want %d", core.savedIndex, last+5)
	}
	other := 6 - uint64(n.id) - core.lead
	core.step(raftpb.Message{Type: raftpb.MsgApp, From: other, To: uint64(n.id), Term: term, Index: last, LogTerm: at(last), Commit: commit, Entries: []raftpb.Entry{{Index: last + 1, Term: term}}})
	core.step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: other, To: uint64(n.id), Term: term, Commit: last + 5})
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if core.commit != last+1 || core.savedIndex != last+1 || core.dropped.count.Load() != 0 {
		t.Fatalf("commit %d, log to %d, %d dropped; want the log and the commit to end at %d", core.commit, core.savedIndex, core.dropped.count.Load(), last+1)
	}
}

// Who is unknown is believed only by a node that has no leader it knows.
func TestCore_UnknownSenders(t *testing.T) {
	_, n := follower(t)
	core := n.node.core
	newer := raftpb.Message{Type: raftpb.MsgHeartbeat, From: 77, To: uint64(n.id), Term: core.term + 1, Commit: 1}
	if err := core.checkMessage(&newer); err == nil || !strings.Contains(err.Error(), "not a member") {
		t.Errorf("a stranger deposes a leader that is heard of: %v", err)
	}
	for range core.limits.electionTicks { // the leader says nothing more
		core.tick()
	}
	if err := core.checkMessage(&newer); err != nil {
		t.Errorf("a node that may have missed who leads now refuses it: %v", err)
	}
	core.step(newer)
	if core.lead != 77 {
		t.Fatalf("follows %d", core.lead)
	}
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgTimeoutNow, From: 77, Term: core.term},
		{Type: raftpb.MsgVote, From: 78, Term: core.term + 1, LogTerm: core.term, Index: 100},
	} {
		m.To = uint64(n.id)
		if err := core.checkMessage(&m); err != nil {
			t.Errorf("a node that is behind refuses %v: %v", m.Type, err)
		}
	}
}

// Terms leap once in an election time-out. Those out of reach are approached when
// members insist on them, and otherwise change nothing.
func TestCore_Terms_LeapAndClimb(t *testing.T) {
	_, n := follower(t)
	core := n.node.core
	leader := core.lead
	heartbeat := func(term uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgHeartbeat, From: leader, To: uint64(n.id), Term: term, Commit: 1}
	}
	save := func() {
		t.Helper()
		if err := n.round(false, nil); err != nil {
			t.Fatal(err)
		}
	}
	core.step(*heartbeat(core.term + walscan.TermRiseMax + 1))
	if core.term > 100 {
		t.Fatalf("term %d", core.term)
	}
	core.step(*heartbeat(core.term + walscan.TermRiseMax))
	leapt := core.term
	core.step(*heartbeat(core.term + termLeap + 1))
	save()
	core.step(*heartbeat(core.term + termLeap + 1))
	if leapt < walscan.TermRiseMax || core.term != leapt {
		t.Fatalf("leapt to %d, and then to %d", leapt, core.term)
	}
	if core.step(*heartbeat(core.term + 1)); core.term != leapt+1 {
		t.Fatalf("an election after a leap is not believed: term %d", core.term)
	}
	save()
	far := core.term + 1<<40
	for ticks := 0; core.term == leapt+1; ticks++ {
		if ticks > 21*core.limits.electionTicks {
			t.Fatalf("after %d ticks still at term %d", ticks, core.term)
		}
		core.tick()
		core.step(*heartbeat(far))
		core.step(*heartbeat(1<<64 - 2))
		save()
	}
	if core.term <= leapt+1 || core.term >= far || !slices.Contains([]raft.StateType{raft.StateFollower, raft.StatePreCandidate}, core.state) {
		t.Fatalf("term %d, state %v", core.term, core.state)
	}
	if walscan.TermToward(5, 1<<64-2) != 5 || walscan.TermToward(5, 1<<33) <= 5 || walscan.TermToward(5, 6) != 6 || walscan.TermToward(9, 6) != 9 {
		t.Error("steps toward a term are wrong")
	}
}

// Who has joined, heard of a term, and then of one that is out of reach, knows nobody
// yet. It comes along all the same.
func TestCore_TermOutOfReach_IsClimbedByWhoJustJoined(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1]
	n.sm.now, n.sm.durable, n.disk.durable = listState{}, listState{}, diskState{state: raftpb.HardState{Term: 2}}
	n.boot(t)
	core := n.node.core
	far := uint64(2 + walscan.TermRiseMax + 5)
	for ticks := 0; core.term < far; ticks++ {
		if ticks > 21*core.limits.electionTicks {
			t.Fatalf("after %d ticks still at term %d", ticks, core.term)
		}
		core.tick()
		core.step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: far})
		if err := n.round(false, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A batch that checkBatch accepts is one that decodeBatch reads, and the other way.
func TestCheckBatch_IsDecodeBatch(t *testing.T) {
	t.Parallel()
	whole := encodeBatch([]command{{origin: 1, seq: 300, data: []byte("abc")}, {origin: 2, seq: 1}})
	for i := range whole {
		for _, b := range [][]byte{whole[:i], append(slices.Clone(whole), 0), func() []byte { b := slices.Clone(whole); b[i] ^= 0xff; return b }()} {
			_, _, err := decodeBatch(b)
			if got := checkBatch(b); fmt.Sprint(got) != fmt.Sprint(err) {
				t.Fatalf("%x: %v, and %v when it is decoded", b, got, err)
			}
		}
	}
	if checkBatch(whole) != nil {
		t.Error("a batch is refused")
	}
}

// What a member sent to the one that led before it does not go back to it: it would
// be refused there, as the message of a liar.
func TestCore_NothingIsForwardedToItsSender(t *testing.T) {
	c := newCrashCluster(t, 3, -1)
	leader := c.lead(t)
	eventually(t, "a follower knows its leader", func() bool {
		c.roundAll(0)
		return c.nodes[leader.id%3+1].node.core.lead == uint64(leader.id)
	})
	follower := c.nodes[leader.id%3+1].node.core
	from, to := uint64(leader.id), uint64(follower.id)
	batch := encodeBatch([]command{{origin: 1, seq: 1, data: []byte("x")}})
	follower.step(raftpb.Message{Type: raftpb.MsgProp, From: from, To: to, Entries: []raftpb.Entry{{Data: batch}}})
	follower.step(raftpb.Message{Type: raftpb.MsgReadIndex, From: from, To: to, Entries: []raftpb.Entry{{Data: make([]byte, readContextBytes)}}})
	w, _ := follower.next()
	for _, m := range append(w.early, w.late...) {
		if err := leader.node.core.checkMessage(&m); err != nil {
			t.Errorf("%v: %v", m.Type, err)
		}
	}
	if n := follower.dropped.count.Load(); n != 0 {
		t.Errorf("%d messages were refused", n)
	}
}

// Who has an older copy of its data directory hears that others count on entries that it
// does not have. It is not in step, asks nothing of the leader, and says why. A forged
// message makes no difference to a node whose leader says otherwise.
func TestCore_LackOfAcknowledgedEntries(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	beat := raftpb.Message{Type: raftpb.MsgHeartbeat, From: core.lead, To: uint64(f.id), Term: core.term}
	honest, beyond := beat, beat
	honest.Commit, beyond.Commit = core.commit, core.savedIndex+5
	ticks := func(n int, beats ...raftpb.Message) {
		t.Helper()
		for range n {
			core.tick()
			for _, m := range beats {
				core.step(m)
			}
			f.out = nil
			if err := f.round(false, nil); err != nil {
				t.Fatal(err)
			}
			f.node.publish()
		}
	}
	asks := func() bool {
		return slices.ContainsFunc(f.out, func(m raftpb.Message) bool {
			return m.Type == raftpb.MsgReadIndex || m.Type == raftpb.MsgProp
		})
	}
	ticks(30, honest, beyond)
	if f.node.Status().Lacks {
		t.Error("a forged message counts more than the leader's")
	}
	ticks(5, beyond)
	if !f.node.Status().Lacks {
		t.Fatal("it believes to be in step")
	}
	w := f.node.waiters.addOne([]byte("put"))
	core.propose([]command{{origin: f.node.waiters.origin, seq: w.seq, data: w.data}})
	core.read([]*read{newRead()})
	if ticks(1, beyond); asks() {
		t.Errorf("it asks something of the leader: %v", f.out)
	}
	if ticks(1, honest); f.node.Status().Lacks || !asks() {
		t.Errorf("it goes on to be out of step: lacks %v, sends %v", f.node.Status().Lacks, f.out)
	}
	ticks(5, beyond)
	ticks(2 * core.limits.electionTicks)
	if f.node.Status().Lacks {
		t.Error("it believes a message of long ago")
	}
}

// A leader knows everybody only once an entry of its own term is committed: until then
// a stranger may be a member that it has not heard of.
func TestCore_NewLeader_HearsStrangers(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	stranger := raftpb.Message{Type: raftpb.MsgAppResp, From: 77, To: uint64(f.id)}
	old := core.lead
	core.step(raftpb.Message{Type: raftpb.MsgTimeoutNow, From: old, To: uint64(f.id), Term: core.term})
	core.step(raftpb.Message{Type: raftpb.MsgVoteResp, From: old, To: uint64(f.id), Term: core.term})
	if !core.isLeader() {
		t.Fatalf("it is %v", core.state)
	}
	stranger.Term = core.term
	if err := core.checkSender(&stranger); err != nil {
		t.Errorf("before an entry of its term is committed: %v", err)
	}
	if err := f.round(false, nil); err != nil {
		t.Fatal(err)
	}
	core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: old, To: uint64(f.id), Term: core.term, Index: core.savedIndex})
	if err := f.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if err := core.checkSender(&stranger); err == nil {
		t.Error("a stranger is a stranger after that")
	}
}

// A term that is out of reach is approached late by a node that has a leader.
func TestCore_Climb_WithALeader_IsSlow(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	timeout := core.limits.electionTicks
	beat := raftpb.Message{Type: raftpb.MsgHeartbeat, From: core.lead, To: uint64(f.id), Term: core.term, Commit: core.commit}
	far := beat
	far.Term = core.term + 1<<40
	term := core.term
	for tick := range 22 * timeout {
		core.tick()
		core.step(beat)
		core.step(far)
		if climbed := core.term > term; climbed {
			if tick < 19*timeout {
				t.Errorf("climbs after %d ticks, with a leader", tick)
			}
			return
		}
	}
	t.Error("never climbs")
}
