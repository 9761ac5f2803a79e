package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// A bug in the loop must end the process, as everywhere else: a Run that
// returned nil would leave a node that serves and never does anything.
func TestNode_BugInTheLoop_IsNotSwallowed(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	n.inbox.addCall(func(*core) { panic("a bug") })
	defer func() {
		if p := recover(); p != "a bug" {
			t.Fatalf("recovered %v, want the bug", p)
		}
	}()
	err := n.loop(context.Background(), nil, nil, nil)
	t.Fatalf("the loop ended with %v", err)
}

// A call that gives up while its command is on the way into raft must not
// answer that nothing happened.
func TestWaiters_GiveUpDuringHandover_IsUnknown(t *testing.T) {
	ws := newWaiters(7)
	w := ws.addOne([]byte("x"))
	queue := []command{{origin: 7, seq: w.seq, data: w.data}}
	if got := ws.claim(queue, 1); len(got) != 1 {
		t.Fatalf("claimed %d commands, want 1", len(got))
	}
	if ws.giveUp(w.group, ErrUnavailable, ErrOutcomeUnknown); w.group.outcomes[0].err != ErrOutcomeUnknown {
		t.Fatal("dropped as never handed over, but raft gets it now")
	}
	if got := ws.claim(queue, 2); len(got) != 0 {
		t.Fatal("handed over although nobody waits")
	}
	// What raft refused was never handed over.
	w = ws.addOne([]byte("y"))
	ws.unclaim(ws.claim([]command{{origin: 7, seq: w.seq, data: w.data}}, 3))
	if ws.giveUp(w.group, ErrUnavailable, ErrOutcomeUnknown); w.group.outcomes[0].err != ErrUnavailable {
		t.Fatal("refused by raft, but counts as handed over")
	}
}

// A commit index that was raised at the start must be on disk before a
// snapshot that relies on it: the WAL counts no snapshot beyond the last commit
// index it holds, and the log before the snapshot is purged.
func TestNode_SnapshotAfterRaisedCommit_IsFoundAgain(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	old := c.nodes[1]
	founding := old.disk.durable.snapshot
	dir := t.TempDir()
	d, err := createDisk(dir, 1, founding, syncPath, old.node.logger)
	if err != nil {
		t.Fatal(err)
	}
	// Entries 2 and 3 are synced and applied; the commit index that says so
	// comes alone, is not synced, and is lost.
	entries := []raftpb.Entry{{Term: 1, Index: 2}, {Term: 1, Index: 3}}
	if err := d.save(raftpb.HardState{Term: 1, Commit: 1}, entries, true); err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i <= 3; i++ {
		if _, err := old.sm.Apply(i, 1, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	old.sm.sync()
	if err := d.close(); err != nil {
		t.Fatal(err)
	}

	d, st, err := openDisk(dir, 1, syncPath, old.node.logger)
	if err != nil {
		t.Fatal(err)
	}
	n := old.node
	n.disk = d
	if err := n.rebuild(context.Background(), st); err != nil {
		t.Fatal(err)
	}
	n.core.limits.snapshotLogBytes = 1
	if err := n.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}

	d, st, err = openDisk(dir, 1, syncPath, n.logger)
	if err != nil {
		t.Fatalf("does not start again: %v", err)
	}
	defer d.close()
	if st.snapshot.Metadata.Index != 3 {
		t.Fatalf("starts from the snapshot at %d, want 3", st.snapshot.Metadata.Index)
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

// A leader whose state machine is slow must not take from others what it
// refuses its own clients: nothing else bounds what waits to be applied.
func TestNode_Receive_ApplyBacklog_RefusesForwarded(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	n.applier.put(handoff{items: []applyItem{{index: 5, bytes: n.cfg.QueueBytes + 1}}})
	for typ, term := range map[raftpb.MessageType]uint64{raftpb.MsgApp: 1, raftpb.MsgProp: 0} {
		if err := n.receive(raftpb.Message{Type: typ, From: 2, To: 1, Term: term, Entries: []raftpb.Entry{{Data: []byte("x")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.inbox.take().msgs; len(got) != 0 {
		t.Fatalf("took %v", got)
	}
}

// A change asked of a follower whose leader has just died goes to the next
// leader; nobody can have carried it out.
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
	if st := rest[0].node.Status(); st.Leader != leader.node.ID() {
		t.Skip("the next leader is there already")
	}
	m := Member{ID: 100, Name: "m", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"}
	if _, created, err := rest[0].node.AddMember(context.Background(), m); err != nil || !created {
		t.Fatalf("add: created %v, %v", created, err)
	}
}

// A node that joins must not take over the cluster ID of a stranger that uses
// a member's old address: the ID is on disk for ever.
func TestNode_Join_StrangerAtAMembersAddress(t *testing.T) {
	serve := func(a introduction) Member {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, a) }))
		t.Cleanup(s.Close)
		return Member{ID: a.ID, Name: a.Name, PeerURL: s.URL, ClientURL: s.URL}
	}
	gone, there := serve(introduction{Name: "n1", ID: 77, ClusterID: 70}), serve(introduction{Name: "n2", ID: 2, ClusterID: 9})
	gone.ID = 1
	n := newTestNode(t, "n3")
	n.cfg.Join = func(context.Context, Member) ([]Member, error) { return []Member{gone, there}, nil }
	node, err := Open(n.cfg, n.sm)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.join(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := node.self.ClusterID; got != 9 {
		t.Fatalf("joined cluster %v, want 9", got)
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

// A node whose log holds its own removal must not remove all others and then,
// removed itself, tell people to empty the last copy of the data.
func TestNode_ForceNewCluster_OwnRemovalInTheLog(t *testing.T) {
	for commit := uint64(1); commit <= 2; commit++ {
		n := newCrashCluster(t, 3, -1).nodes[1]
		cc, err := change{Op: opRemove, Member: n.node.core.members.members[1], Number: 1}.confChange()
		if err != nil {
			t.Fatal(err)
		}
		data, err := cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		n.disk.durable.state.Commit = commit
		n.disk.durable.entries = []raftpb.Entry{{Type: raftpb.EntryConfChange, Term: 1, Index: 2, Data: data}, {Term: 1, Index: 3}}
		st := n.disk.durable
		st.entries = slices.Clone(st.entries)
		n.node.forcing = forceFrom(ForceOnce, 10)
		err = n.node.rebuild(context.Background(), st)
		if commit == 2 {
			if _, refused := errors.AsType[*ForceError](err); !refused || len(n.disk.durable.entries) != 2 {
				t.Fatalf("forced a new cluster of a removed node: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		// After the next power cut it is still the only member, and leads.
		n.sm.crash()
		n.boot(t)
		for range 100 {
			if err := n.round(true, nil); err != nil {
				t.Fatal(err)
			}
		}
		if c := n.node.core; !c.isLeader() || len(c.members.members) != 1 || n.node.released != nil {
			t.Fatalf("members %v, state %v, leaves: %v", c.members.list(), c.state, n.node.released != nil)
		}
	}
}

// There is one staging area: a snapshot must not be pulled into it while the one
// before waits there to be installed.
func TestNode_SnapshotWaitsForTheOneBefore(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	offer := func(index uint64) raftpb.Message {
		return raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Snapshot: raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: index, Term: 1}}}
	}
	n.installed = 50 // handed to the applier, which stands at 1
	if n.wantsPull(offer(60)) {
		t.Fatal("pulls what overwrites a staged snapshot")
	}
	n.progress.set(50)
	if !n.wantsPull(offer(60)) || n.wantsPull(offer(61)) {
		t.Fatal("one pull at a time, once the one before is installed")
	}
}
