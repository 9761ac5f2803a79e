package raftnode

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// ledCluster is a cluster of three with a leader that stays.
func ledCluster(t *testing.T) (*crashCluster, *crashNode) {
	t.Helper()
	c := newCrashCluster(t, 3, -1)
	for range 100 {
		leader := c.lead(t)
		if c.run(6); leader.node.core.isLeader() {
			return c, leader
		}
	}
	t.Fatal("no leader stays")
	return nil, nil
}

// A committed entry that this program cannot read ends the node, with the entry's
// index: it is neither passed over nor applied as something else.
func TestCore_UnreadableEntry_EndsTheNode(t *testing.T) {
	for what, e := range map[string]raftpb.Entry{
		"no batch":     {Data: []byte("no batch")},
		"another type": {Type: raftpb.EntryConfChangeV2},
	} {
		n := newCrashCluster(t, 1, -1).nodes[1]
		e.Index, e.Term = 2, 1
		n.disk.durable.state.Commit = 2
		n.disk.durable.entries = []raftpb.Entry{e}
		n.boot(t)
		if err := n.round(false, nil); err == nil || !strings.Contains(err.Error(), "entry 2") {
			t.Errorf("%s: %v", what, err)
		}
		if n.node.progress.index() > 1 {
			t.Errorf("%s was applied", what)
		}
	}
}

// A snapshot that cannot be read ends the node before anything of it counts.
func TestCore_UnreadableSnapshot_EndsTheNode(t *testing.T) {
	for what, data := range map[string][]byte{
		"no snapshot": []byte("no snapshot"),
		"no table":    snapshotData{meta: []byte("{"), state: []byte("0")}.encode(),
		"no cluster":  snapshotData{meta: []byte("{}"), state: []byte("0")}.encode(),
	} {
		_, f := follower(t)
		core := f.node.core
		m := raftpb.Message{Type: raftpb.MsgSnap, From: core.lead, To: uint64(f.id), Term: core.term, Snapshot: raftpb.Snapshot{Data: data, Metadata: raftpb.SnapshotMetadata{
			Index: core.savedIndex + 100, Term: core.term, ConfState: core.members.conf,
		}}}
		if core.checkMessage(&m) == nil {
			t.Errorf("%s is believed", what)
		}
		applied := f.node.progress.index()
		core.staged(m)
		if err := f.round(false, nil); err == nil {
			t.Errorf("%s is restored", what)
		}
		if f.node.progress.index() != applied || len(core.members.members) != 3 {
			t.Errorf("%s: the node goes on at entry %d with %d members", what, f.node.progress.index(), len(core.members.members))
		}
	}
}

// The disk's error ends the loop.
func TestNode_Loop_EndsWithTheDisksError(t *testing.T) {
	c := newCrashCluster(t, 1, 0)
	n := c.nodes[1].node
	if err := n.loop(t.Context(), nil, nil, nil); !errors.Is(err, errCrash) {
		t.Errorf("the loop ended with %v", err)
	}
}

// A checkpoint does not make a snapshot of members that cannot be read.
func TestNode_Checkpoint_UnreadableTable(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	c.run(15)
	n := c.nodes[1]
	n.node.core.limits.snapshotLogBytes = 1
	before := n.disk.durable.snapshot.Metadata.Index
	if _, err := n.sm.Apply(n.node.progress.index()+1, 1, nil, []byte("no table")); err != nil {
		t.Fatal(err)
	}
	n.sm.sync()
	if err := n.node.checkpoint(); err == nil || n.disk.durable.snapshot.Metadata.Index != before {
		t.Errorf("a snapshot at %d: %v", n.disk.durable.snapshot.Metadata.Index, err)
	}
}

// While leadership is being handed over raft takes no proposal. Commands wait until
// it does, and count as never handed over meanwhile.
func TestCore_ProposalThatRaftRefuses_IsProposedLater(t *testing.T) {
	c, leader := ledCluster(t)
	core := leader.node.core
	to := leader.id%3 + 1
	c.nodes[to].inbox = nil
	core.transfer(to)
	refused := leader.open(t, 3, 10)
	if err := leader.round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	if len(core.queue) != 3 || core.inflight != 0 {
		t.Fatalf("%d of 3 commands wait, %d entries count as proposed", len(core.queue), core.inflight)
	}
	leader.node.waiters.giveUp(&group{waiters: refused.waiters[:1]}, ErrUnavailable, ErrOutcomeUnknown)
	if err := refused.outcomes[0].err; !errors.Is(err, ErrUnavailable) {
		t.Errorf("what raft refused ends with %v", err)
	}
	leader.out = nil // the hand-over is lost
	for round := 0; refused.left > 0; round++ {
		if round == 200 {
			t.Fatalf("%d commands have no answer", refused.left)
		}
		c.roundAll(round)
	}
	for i, out := range refused.outcomes[1:] {
		if out.err != nil {
			t.Errorf("command %d: %v", i+1, out.err)
		}
	}
}

// A received snapshot counts as handed to the applier until that has installed it: the
// next one is not pulled over it.
func TestNode_CarryOut_RemembersTheSnapshot(t *testing.T) {
	_, f := follower(t)
	n := f.node
	offer := func(index uint64) raftpb.Message {
		return raftpb.Message{Type: raftpb.MsgSnap, From: n.core.lead, To: uint64(f.id), Term: n.core.term, Snapshot: raftpb.Snapshot{
			Data:     snapshotData{meta: must(n.core.members.encode()), state: []byte("0")}.encode(),
			Metadata: raftpb.SnapshotMetadata{Index: index, Term: n.core.term, ConfState: n.core.members.conf},
		}}
	}
	at := n.core.savedIndex + 100
	if err := n.core.checkMessage(ptr(offer(at))); err != nil {
		t.Fatal(err)
	}
	n.core.staged(offer(at))
	w, _ := n.core.next()
	if err := n.carryOut(t.Context(), w, nil, nil); err != nil {
		t.Fatal(err)
	}
	if n.wantsPull(offer(at + 100)) {
		t.Error("pulls over a snapshot that waits to be installed")
	}
	n.progress.set(at)
	if !n.wantsPull(offer(at + 100)) {
		t.Error("pulls nothing when it is installed")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A pull that ends because the node stops is no failure, and nobody is told of one.
func TestNode_StartPull_ToldToStop(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	log := &logLines{}
	n.logger = slog.New(slog.NewTextHandler(log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	n.startPull(ctx, raftpb.Message{From: 2, Snapshot: raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 50, Term: 1}}}, func(err error) { t.Errorf("the node ends with %v", err) }, &wg)
	wg.Wait()
	if len(n.pulls) > 0 || log.with("gave up") > 0 {
		t.Errorf("%d answers: %q", len(n.pulls), log.lines)
	}
}

// What raft has never taken is given up when no leader is known for NoLeaderTimeout,
// and what it has taken after ProposeTimeout; a read after the first.
func TestNode_Timeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCrashCluster(t, 3, -1).nodes[1].node
		n.cfg.NoLeaderTimeout, n.cfg.ProposeTimeout = 3*time.Second, 10*time.Second
		began := time.Now()
		want := func(what string, err, kind error, after time.Duration) {
			t.Helper()
			if took := time.Since(began); !errors.Is(err, kind) || took != after {
				t.Errorf("%s: %v after %v, want %v after %v", what, err, took, kind, after)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := n.proposeOne(t.Context(), []byte("a"))
			want("a command that raft has", err, ErrOutcomeUnknown, 10*time.Second)
		}()
		synctest.Wait()
		n.waiters.claim(n.inbox.take().cmds, 1)
		go func() {
			_, err := n.proposeOne(t.Context(), []byte("b"))
			want("a command that raft has not", err, ErrUnavailable, 3*time.Second)
		}()
		go func() { want("a read", n.ReadIndex(t.Context()), ErrUnavailable, 3*time.Second) }()
		<-done
		if n.waiters.count() != 0 {
			t.Error("somebody waits still")
		}
	})
}

// An only voter stands for election at once; a learner, or one of several, does not.
func TestCore_LeadAlone(t *testing.T) {
	for size, leads := range map[int]bool{1: true, 2: false} {
		n := newCrashCluster(t, size, -1).nodes[1].node
		if err := n.core.leadAlone(); err != nil || (n.core.state == raft.StateLeader) != leads || (n.core.term > 1) != leads {
			t.Errorf("one of %d: %v in term %d, %v", size, n.core.state, n.core.term, err)
		}
	}
	n := newCrashCluster(t, 1, -1).nodes[1].node
	n.core.id = 2 // beside the voter
	term := n.core.term
	if err := n.core.leadAlone(); err != nil || n.core.term != term {
		t.Errorf("beside the only voter: term %d, %v", n.core.term, err)
	}
}

// Who can be reached, who would be a majority, and who leads best.
func TestCore_Quorums(t *testing.T) {
	c, leader := ledCluster(t)
	core := leader.node.core
	self, one, two := leader.id, leader.id%3+1, (leader.id+1)%3+1
	hear := func(ids ...ID) {
		clear(core.heard)
		for _, id := range ids {
			core.heard[uint64(id)] = core.now
		}
	}
	for _, q := range []struct {
		heard       []ID
		add, remove ID
		ok          bool
		active      int
		voters      int
	}{
		{[]ID{one, two}, 0, 0, true, 3, 3},
		{[]ID{one}, 0, 0, true, 2, 3},
		{nil, 0, 0, false, 1, 3},
		{[]ID{one}, 0, two, true, 2, 2},
		{[]ID{one}, 0, one, false, 1, 2},
		{nil, 0, self, false, 0, 2},
		{[]ID{one}, 9, 0, false, 2, 4},
		{[]ID{one, 9}, 9, 0, true, 3, 4},
	} {
		hear(q.heard...)
		if ok, active, voters := core.quorumAfter(q.add, q.remove); ok != q.ok || active != q.active || voters != q.voters {
			t.Errorf("%+v: %v, %d of %d", q, ok, active, voters)
		}
	}
	hear()
	if id, ok := core.successor(); ok {
		t.Errorf("hands over to n%d, which is not heard of", id)
	}
	hear(two)
	if id, ok := core.successor(); !ok || id != two {
		t.Errorf("hands over to n%d, want n%d", id, two)
	}
	// The one that has more goes before the one that is named first.
	for _, behind := range []ID{one, two} {
		hear(one, two)
		ahead := one + two - behind
		w := leader.node.waiters.addOne([]byte("x"))
		core.propose([]command{{origin: leader.node.waiters.origin, seq: w.seq, data: w.data}})
		if err := leader.round(false, c.nodes); err != nil {
			t.Fatal(err)
		}
		core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: uint64(ahead), To: uint64(self), Term: core.term, Index: core.savedIndex})
		if id, ok := core.successor(); !ok || id != ahead {
			t.Errorf("hands over to n%d, but n%d has more", id, ahead)
		}
		core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: uint64(behind), To: uint64(self), Term: core.term, Index: core.savedIndex})
	}
	core.heard[uint64(one)] = core.now - activeTicks
	if !core.active(one) {
		t.Error("a member counts as silent too early")
	}
	core.heard[uint64(one)]--
	if core.active(one) {
		t.Error("a member that is silent counts as active")
	}
	if leader.out = nil; true {
		core.transfer(one)
		if err := leader.round(false, c.nodes); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.ContainsFunc(leader.out, func(m raftpb.Message) bool { return m.Type == raftpb.MsgTimeoutNow && m.To == uint64(one) }) {
		t.Error("a voter that has everything is not handed the lead")
	}
}

// A member that does not lead hands nothing over.
func TestCore_Transfer_OfAFollower(t *testing.T) {
	_, f := follower(t)
	f.node.core.transfer(f.id)
	if err := f.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(f.out, func(m raftpb.Message) bool { return m.Type == raftpb.MsgTransferLeader }) {
		t.Error("a follower asks the leader to hand over")
	}
}

// A learner that asked for it becomes a voter when it has caught up, if there is a
// majority with it, and no other change is on its way.
func TestCore_PromoteLearners(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	n := c.nodes[1]
	eventually(t, "n1 leads", func() bool {
		if err := n.round(true, c.nodes); err != nil {
			t.Fatal(err)
		}
		return n.node.core.isLeader()
	})
	core := n.node.core
	core.proposeChange(opAdd, Member{ID: 2, Name: "n2", PeerURL: "http://h2:1", ClientURL: "http://h2:1", Promote: true}, nil)
	round := func() {
		t.Helper()
		n.out = nil
		if err := n.round(false, nil); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if !core.members.members[2].Learner {
		t.Fatalf("members %v", core.members.list())
	}
	heard := func(match uint64) {
		core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: core.term, Index: match})
	}
	promoted := func() bool { return len(core.changes) > 0 || !core.members.members[2].Learner }
	core.promoteLearners()
	if promoted() {
		t.Fatal("a learner that was never heard of votes")
	}
	heard(core.commit)
	core.commit += core.limits.promoteLag + 1
	core.promoteLearners()
	core.commit -= core.limits.promoteLag + 1
	if promoted() {
		t.Fatal("a learner that is behind votes")
	}
	core.changes[77] = &changeCall{sent: core.now}
	core.promoteLearners()
	if len(core.changes) != 1 {
		t.Fatal("two changes at a time")
	}
	delete(core.changes, 77)
	m := core.members.members[2]
	m.Promote = false
	core.members.members[2] = m
	core.promoteLearners()
	if promoted() {
		t.Fatal("a learner that did not ask votes")
	}
	m.Promote = true
	core.members.members[2] = m
	core.promoteLearners()
	round()
	if core.members.members[2].Learner || len(core.members.conf.Voters) != 2 {
		t.Fatalf("members %v", core.members.list())
	}
	if stored, err := decodeTable(n.sm.now.Meta); err != nil || len(stored.conf.Voters) != 2 {
		t.Errorf("the state machine was told of %+v, %v", stored, err)
	}
}

// A learner that has caught up waits while the voters that are heard of would be no
// majority with it.
func TestCore_PromoteLearners_WithoutAQuorum(t *testing.T) {
	c, leader := ledCluster(t)
	core := leader.node.core
	done := make(chan error, 1)
	core.proposeChange(opAdd, Member{ID: 9, Name: "n9", PeerURL: "http://h9:1", ClientURL: "http://h9:1", Promote: true}, done)
	if err := c.answer(t, done); err != nil {
		t.Fatal(err)
	}
	core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: 9, To: uint64(leader.id), Term: core.term, Index: core.commit})
	clear(core.heard)
	core.heard[9] = core.now
	core.promoteLearners()
	if len(core.changes) > 0 {
		t.Error("a learner becomes a voter, although most voters are not heard of")
	}
}

// A change that has no answer is sent again, and not before it is time; one that
// nobody waits for only by a leader.
func TestCore_RetryChanges(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	sent := func() (n int) {
		t.Helper()
		f.out = nil
		if err := f.round(false, nil); err != nil {
			t.Fatal(err)
		}
		for _, m := range f.out {
			if m.Type == raftpb.MsgProp {
				n++
			}
		}
		return n
	}
	m := core.members.members[f.id]
	core.proposeChange(opUpdate, m, make(chan error, 1))
	core.proposeChange(opUpdate, m, nil)
	if got := sent(); got != 2 {
		t.Fatalf("%d changes sent, want 2", got)
	}
	for tick := uint64(1); tick <= 2*core.limits.retryTicks; tick++ {
		core.now++
		core.retryChanges()
		want := 0
		if tick%core.limits.retryTicks == 0 {
			want = 1
		}
		if got := sent(); got != want || len(core.changes) != 1 {
			t.Errorf("tick %d: %d changes sent, want %d; %d wait", tick, got, want, len(core.changes))
		}
	}
}

// Whoever becomes the leader knows nothing yet of who can be reached, and hands nobody
// a refusal because of that.
func TestCore_NewLeader_IsNotSettled(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	before := len(core.heard)
	core.step(raftpb.Message{Type: raftpb.MsgTimeoutNow, From: core.lead, To: uint64(f.id), Term: core.term})
	if before == 0 || len(core.heard) < before {
		t.Errorf("a candidate forgets whom it has heard of: %d of %d", len(core.heard), before)
	}
	for _, from := range []uint64{1, 2, 3} {
		if from != uint64(f.id) {
			core.step(raftpb.Message{Type: raftpb.MsgVoteResp, From: from, To: uint64(f.id), Term: core.term})
			break
		}
	}
	if !core.isLeader() {
		t.Fatalf("it is %v", core.state)
	}
	for ticks := range uint64(activeTicks) {
		if len(core.heard) > 1 || core.knowsReachable() {
			t.Errorf("after %d ticks it has heard of %v, and is settled: %v", ticks, core.heard, core.knowsReachable())
		}
		core.tick()
	}
	if !core.knowsReachable() {
		t.Error("it is never settled")
	}
}

// What a member had forwarded to one leader it forwards to the next as soon as it knows
// that one, also when it hears of nothing in between.
func TestCore_NewLeader_IsForwardedWhatTheOldOneHad(t *testing.T) {
	c, f := follower(t)
	core := f.node.core
	f.open(t, 3, 10)
	if err := f.round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	f.out = nil // lost
	next := 6 - uint64(f.id) - core.lead
	core.step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: next, To: uint64(f.id), Term: core.term + 1})
	if err := f.round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.out, func(m raftpb.Message) bool { return m.Type == raftpb.MsgProp && m.To == next }) {
		t.Errorf("the next leader gets %v", f.out)
	}
}

// A read that has no answer is asked again under another name, and not before it is
// time. Nobody else is asked meanwhile.
func TestCore_Read_IsAskedAgain(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	beat := raftpb.Message{Type: raftpb.MsgHeartbeat, From: core.lead, To: uint64(f.id), Term: core.term, Commit: core.commit}
	names := map[string]uint64{}
	ask := func() {
		t.Helper()
		f.out = nil
		core.step(beat)
		if err := f.round(false, nil); err != nil {
			t.Fatal(err)
		}
		for _, m := range f.out {
			if m.Type == raftpb.MsgReadIndex {
				names[string(m.Entries[0].Data)] = core.now
			}
		}
	}
	began := core.now
	core.read([]*read{newRead()})
	ask()
	for range 3 * core.limits.readTicks {
		core.tick()
		ask()
	}
	var at []uint64
	for _, tick := range names {
		at = append(at, tick-began)
	}
	slices.Sort(at)
	if want := []uint64{0, core.limits.readTicks, 2 * core.limits.readTicks, 3 * core.limits.readTicks}; !slices.Equal(at, want) {
		t.Errorf("asked at ticks %v, want %v", at, want)
	}
}

// A leader has one entry on its way, and gathers what comes meanwhile in the next.
func TestCore_Flush_OneEntryAtATime(t *testing.T) {
	c, leader := ledCluster(t)
	core := leader.node.core
	last := core.savedIndex
	for range 5 {
		leader.open(t, 2, 10)
		if err := leader.round(false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if core.savedIndex != last+1 || len(core.queue) != 8 || core.inflight != 1 {
		t.Errorf("%d entries, %d commands wait, %d on their way", core.savedIndex-last, len(core.queue), core.inflight)
	}
	for round := range 10 {
		c.roundAll(round)
	}
	if core.savedIndex != last+2 || len(core.queue) != 0 || core.inflight != 0 {
		t.Errorf("later: %d entries, %d commands wait, %d on their way", core.savedIndex-last, len(core.queue), core.inflight)
	}
}

// Who is silent about a snapshot is offered one again, after some time and not before.
func TestCore_Snapshot_IsOfferedAgain(t *testing.T) {
	_, leader := ledCluster(t)
	core := leader.node.core
	behind, other := leader.id%3+1, (leader.id+1)%3+1
	// One puts that one member does not get, and a log that begins behind them.
	for i := range 10 {
		leader.open(t, 1, 10+i)
		if err := leader.round(false, nil); err != nil {
			t.Fatal(err)
		}
		core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: uint64(other), To: uint64(leader.id), Term: core.term, Index: core.savedIndex})
	}
	if err := leader.round(false, nil); err != nil {
		t.Fatal(err)
	}
	leader.sm.sync()
	core.limits.snapshotLogBytes, leader.node.cfg.KeepLogBytes = 1, 0
	if err := leader.node.checkpoint(); err != nil {
		t.Fatal(err)
	}
	var at []uint64
	began := core.now
	for core.now < began+3*core.limits.snapshotTicks {
		core.tick()
		for _, from := range []ID{behind, other} {
			core.step(raftpb.Message{Type: raftpb.MsgHeartbeatResp, From: uint64(from), To: uint64(leader.id), Term: core.term})
		}
		if core.now == began+1 { // what it was sent is not there
			core.step(raftpb.Message{Type: raftpb.MsgAppResp, From: uint64(behind), To: uint64(leader.id), Term: core.term, Index: core.savedIndex, Reject: true, RejectHint: 1, LogTerm: 1})
		}
		leader.out = nil
		if err := leader.round(false, nil); err != nil {
			t.Fatal(err)
		}
		for _, m := range leader.out {
			if m.Type == raftpb.MsgSnap {
				at = append(at, core.now-began)
			}
		}
	}
	if len(at) < 2 || len(at) > 3 {
		t.Fatalf("offered at ticks %v", at)
	}
	for i := range at[1:] {
		if pause := at[i+1] - at[i]; pause < core.limits.snapshotTicks || pause > core.limits.snapshotTicks+2 {
			t.Errorf("offered at ticks %v", at)
		}
	}
}

// Commands wait for a leader, and are proposed when there is one.
func TestCore_CommandsWaitForALeader(t *testing.T) {
	c := newCrashCluster(t, 3, -1)
	n := c.nodes[1]
	g := n.open(t, 3, 10)
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if len(n.node.core.queue) != 3 {
		t.Fatalf("%d of 3 commands wait", len(n.node.core.queue))
	}
	for round := 0; g.left > 0; round++ {
		if round == 2000 {
			t.Fatalf("%d of 3 commands have no answer", g.left)
		}
		c.roundAll(round)
	}
}

// Without a leader nothing but the clock empties the queues. What was given up
// must not gather there: reads would grow without bound, and commands would
// turn "no leader" into "overloaded".
func TestCore_NoLeader_ForgetsWhatWasGivenUp(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	for i := range 100 {
		w := n.waiters.addOne([]byte("x"))
		n.core.propose([]command{{origin: n.waiters.origin, seq: w.seq, data: w.data}, {origin: 99, seq: uint64(i), data: w.data}})
		r, late := newRead(), newRead()
		n.core.read([]*read{r})
		n.progress.wait(1000, []*read{late})
		if i > 0 { // the first ones stay
			n.waiters.giveUp(w.group, ErrUnavailable, ErrOutcomeUnknown)
			r.left.Store(true)
			late.left.Store(true)
		}
	}
	n.core.tick()
	if len(n.core.queue) != 1 || n.core.queueBytes != n.core.queue[0].size() {
		t.Errorf("%d commands of %d bytes are queued, want 1", len(n.core.queue), n.core.queueBytes)
	}
	if len(n.core.reads) != 1 || len(n.progress.waits) != 1 {
		t.Errorf("%d reads wait for a leader and %d for apply, want 1 each", len(n.core.reads), len(n.progress.waits))
	}
}

// A leader that waits long for a quorum must not fill its log with copies of
// what waits.
func TestCore_SlowQuorum_ProposesOnce(t *testing.T) {
	c := newCrashCluster(t, 3, -1)
	leader := c.lead(t)
	core := leader.node.core
	before, _ := core.log.LastIndex()
	for i := range 2 { // an entry each
		w := leader.node.waiters.addOne(bytes.Repeat([]byte{byte(i)}, batchBytes))
		core.propose([]command{{origin: leader.node.waiters.origin, seq: w.seq, data: w.data}})
	}
	for range 60 { // followers answer heartbeats, their disks store nothing
		if err := leader.round(true, c.nodes); err != nil {
			t.Fatal(err)
		}
		for id := range c.nodes {
			if id != leader.id {
				leader.inbox = append(leader.inbox, raftpb.Message{Type: raftpb.MsgHeartbeatResp, From: uint64(id), To: uint64(leader.id), Term: core.term})
			}
		}
	}
	if !core.isLeader() {
		t.Fatal("leadership was lost")
	}
	if last, _ := core.log.LastIndex(); last != before+2 {
		t.Fatalf("%d entries for two commands", last-before)
	}
}

// lead runs the cluster until a member leads and has committed in its term.
func (c *crashCluster) lead(t *testing.T) *crashNode {
	t.Helper()
	for round := range 10_000 {
		c.roundAll(round)
		for _, n := range c.nodes {
			if n.node.core.isLeader() && n.node.core.commit > 1 {
				return n
			}
		}
	}
	t.Fatal("nobody leads")
	return nil
}

// A leader can be removed without having handed over, when it has inherited
// the change from another leader. The voter that is left may lead by the time
// somebody reads here.
func TestCore_RemovedLeader_AnswersNoRead(t *testing.T) {
	c := newCrashCluster(t, 2, -1)
	old := c.lead(t)
	core := old.node.core
	for round := range 20 {
		c.roundAll(round)
	}
	core.proposeChange(opRemove, core.members.members[old.id], nil)
	for round := 0; old.node.released == nil; round++ {
		c.roundAll(round)
	}
	if !core.isLeader() {
		t.Fatal("leads no more")
	}
	r := newRead()
	core.read([]*read{r})
	core.step(raftpb.Message{Type: raftpb.MsgReadIndex, From: uint64(3 - old.id), To: uint64(old.id), Entries: []raftpb.Entry{{Data: []byte("x")}}})
	if err := old.round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.done:
		t.Fatalf("answered a read by itself: %v", err)
	default:
	}
	if slices.ContainsFunc(old.out, func(m raftpb.Message) bool { return m.Type == raftpb.MsgReadIndexResp }) {
		t.Fatal("answered another's read by itself")
	}
}

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

// A snapshot may change who belongs to the cluster. The transport is told of those
// who came, moved or left, and of nobody else.
func TestCore_RestoredSnapshot_TellsTheTransport(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	var stays, moves, leaves ID
	for _, m := range core.members.list() {
		switch {
		case m.ID == f.id:
		case stays == 0:
			stays = m.ID
		default:
			moves = m.ID
		}
	}
	leaves = 9
	core.members.members[leaves] = Member{ID: leaves, Name: "n9", PeerURL: "http://h9:1"}
	next := foundersTable(core.members.cluster, []Member{
		core.members.members[f.id], core.members.members[stays],
		{ID: moves, Name: "moved", PeerURL: "http://elsewhere:1", ClientURL: "http://h:1"},
		{ID: 12, Name: "n12", PeerURL: "http://h12:1", ClientURL: "http://h:1"},
	})
	meta, err := next.encode()
	if err != nil {
		t.Fatal(err)
	}
	var h handoff
	if err := core.restore(raftpb.Snapshot{
		Data:     snapshotData{meta: meta, state: []byte("0")}.encode(),
		Metadata: raftpb.SnapshotMetadata{Index: core.commit + 10, Term: core.term, ConfState: next.conf},
	}, &h); err != nil {
		t.Fatal(err)
	}
	want := []peerChange{{moves, "http://elsewhere:1"}, {leaves, ""}, {12, "http://h12:1"}}
	slices.SortFunc(h.peers, func(a, b peerChange) int { return int(a.id) - int(b.id) })
	if !slices.Equal(h.peers, want) {
		t.Errorf("the transport is told %v, want %v", h.peers, want)
	}
	if len(core.members.members) != 4 || core.savedIndex != h.install.Metadata.Index {
		t.Errorf("%d members, the log ends at %d", len(core.members.members), core.savedIndex)
	}
}
