package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/shortage"
)

// partsSM is a state machine that counts, and fails as it is told.
type partsSM struct {
	*listSM
	mu       sync.Mutex
	durables int
	stage    error
	apply    error
}

func (s *partsSM) Durable() (uint64, uint64, []byte, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durables++
	return s.listSM.Durable()
}

func (s *partsSM) Stage(context.Context, []byte, func(context.Context, string) (io.ReadCloser, error), bodies.Fetch) error {
	return s.stage
}

func (s *partsSM) Apply(index, term uint64, cmds [][]byte, meta []byte) ([]any, error) {
	if s.apply != nil {
		return nil, s.apply
	}
	return s.listSM.Apply(index, term, cmds, meta)
}

// The loop looks at the durable state now and then, not at every tick; and ends with
// what that look finds.
func TestNode_Loop_LooksAtTheStateNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCrashCluster(t, 3, -1).nodes[1].node
		sm := &partsSM{listSM: n.sm.(*listSM)}
		n.sm = sm
		ctx, cancel := context.WithTimeout(t.Context(), 50*n.cfg.Tick+n.cfg.Tick/2)
		defer cancel()
		if err := n.loop(ctx, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		if sm.durables != 50/checkpointTicks {
			t.Errorf("%d times in 50 ticks", sm.durables)
		}
		n.sm = brokenSM{}
		if err := n.loop(t.Context(), nil, nil, nil); err == nil || err.Error() != "look at the durable state: no state" {
			t.Errorf("the loop ended with %v", err)
		}
	})
}

// A checkpoint makes the log shorter, in memory and on the disk.
func TestNode_Checkpoint_ReleasesTheLog(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	c.run(15)
	n := c.nodes[1].node
	d := &releasing{disk: n.disk}
	n.disk = d
	n.core.limits.snapshotLogBytes, n.cfg.KeepLogBytes = 1, 0
	c.nodes[1].open(t, 3, 10)
	if err := c.nodes[1].round(false, nil); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].sm.sync()
	if err := n.checkpoint(); err != nil {
		t.Fatal(err)
	}
	at := n.progress.index()
	if last, err := n.core.log.Snapshot(); err != nil || last.Metadata.Index != at || n.core.log.bytes != 0 || d.released != at {
		t.Errorf("the snapshot is at %d of %d, %d bytes of log are left, and the disk has released %d", last.Metadata.Index, at, n.core.log.bytes, d.released)
	}
	d.released = 0
	if err := n.checkpoint(); err != nil || d.released != 0 {
		t.Errorf("a second one of the same state: released %d, %v", d.released, err)
	}
}

// releasing notes what of the log was released.
type releasing struct {
	disk
	released uint64
}

func (r *releasing) release(index uint64) error {
	r.released = index
	return r.disk.release(index)
}

// A system that stays short of something is told of once a minute.
func TestNode_Later_SaysSoOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCrashCluster(t, 1, -1).nodes[1].node
		log := &logLines{}
		n.logger = slog.New(slog.NewTextHandler(log, nil))
		for range 4 {
			for range 3 {
				if err := n.later(shortage.Err, "a snapshot"); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(31 * time.Second) // of the bubble
		}
		if got := log.with("has to wait"); got != 2 {
			t.Errorf("%d lines in two minutes", got)
		}
	})
}

// Each time that a leader becomes known counts, and each is published.
func TestNode_Publish_CountsLeaders(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	before := n.leads.Load()
	for i, lead := range []uint64{0, 2, 2, 0, 0, 3, 2, 2} {
		n.core.lead, n.core.now = lead, n.core.now+1
		n.core.term += uint64(i % 2)
		n.publish()
		if got := n.Status().Leader; got != ID(lead) {
			t.Errorf("step %d: the leader is %d, want %d", i, got, lead)
		}
	}
	if got := n.Figures().LeaderChanges - before; got != 3 {
		t.Errorf("%d leaders were counted, want 3", got)
	}
	st := n.Status()
	if m, ok := st.Member(3); !ok || m.Name != "n3" || st.LeaderName() != "n2" {
		t.Errorf("member 3 is %+v, and %q leads", m, st.LeaderName())
	}
	if m, ok := st.Member(9); ok {
		t.Errorf("member 9 is %+v", m)
	}
}

// What was forced is known from the table; until that is applied from the identity.
func TestNode_Publish_Forced(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	publish := func() []Forcing {
		n.seen = statusSource{}
		n.publish()
		return *n.forced.Load()
	}
	n.self.Forced = []Forcing{{Parent: 8, Cluster: 9}}
	n.forced.Store(&n.self.Forced)
	if got := publish(); len(got) != 1 {
		t.Errorf("before the entry is applied: %+v", got)
	}
	n.core.members.forced = []Forcing{{Parent: 7, Cluster: 8}, {Parent: 8, Cluster: 9}}
	if got := publish(); len(got) != 2 {
		t.Errorf("after: %+v", got)
	}
}

// A state machine that fails ends the node with its error, and the loop with it.
func TestNode_Supervise_EndsWithTheStateMachinesError(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	sm := &partsSM{listSM: n.sm.(*listSM), apply: errors.New("no room")}
	n.sm, n.client, n.cfg.Tick = sm, nodehttp.NewClient(nodehttp.Options{}), time.Millisecond
	n.applier = newApplier(sm, n.waiters, n.progress)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.supervise(ctx, nil); !errors.Is(err, sm.apply) {
		t.Errorf("ended with %v", err)
	}
	sm.apply = nil
	n = newCrashCluster(t, 1, -1).nodes[1].node
	n.client = nodehttp.NewClient(nodehttp.Options{})
	ctx, stop := context.WithCancelCause(t.Context())
	stop(nil)
	if err := n.supervise(ctx, nil); err != nil {
		t.Errorf("told to stop: %v", err)
	}
	n = newCrashCluster(t, 1, -1).nodes[1].node
	n.client = nodehttp.NewClient(nodehttp.Options{})
	cause := errors.New("the pull failed")
	ctx, stop = context.WithCancelCause(t.Context())
	stop(cause)
	if err := n.supervise(ctx, nil); !errors.Is(err, cause) {
		t.Errorf("ended because of %v: %v", cause, err)
	}
}

// What answers that this node's cluster has ended ends the loop.
func TestNode_Loop_HearsOfTheEnd(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	n.endings = make(chan *Forcing, 1)
	n.endings <- &Forcing{By: "n2", Cluster: 10}
	if err := n.loop(t.Context(), nil, nil, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("the loop ended with %v", err)
	}
}

// What the mail brings reaches the core, each in its place.
func TestNode_Deliver(t *testing.T) {
	_, f := follower(t)
	n, lead := f.node, f.node.core.lead
	heard := n.core.now + 1
	n.core.now = heard
	r := newRead()
	called := false
	n.deliver(mail{
		msgs:  []raftpb.Message{{Type: raftpb.MsgHeartbeat, From: lead, To: uint64(f.id), Term: n.core.term, Commit: n.core.commit}},
		cmds:  []command{{origin: 99, seq: 1}},
		reads: []*read{r},
		calls: []func(*core){func(c *core) { called = c == n.core }},
	})
	if n.core.heard[lead] != heard || len(n.core.queue) != 1 || len(n.core.reads) != 1 || n.core.reads[0] != r || !called {
		t.Errorf("heard at %d, %d commands, %d reads, called: %v", n.core.heard[lead], len(n.core.queue), len(n.core.reads), called)
	}
}

// A node leaves when it was removed, and not before.
func TestNode_CarryOut_LeavesWhenRemoved(t *testing.T) {
	c := newCrashCluster(t, 2, -1)
	leader := c.lead(t)
	for round := range 20 {
		c.roundAll(round)
	}
	for _, n := range c.nodes {
		if n.node.released != nil {
			t.Fatalf("n%d leaves, and nobody has removed it", n.id)
		}
	}
	leader.node.core.proposeChange(opRemove, leader.node.core.members.members[leader.id], nil)
	for round := 0; leader.node.released == nil; round++ {
		if round == 200 {
			t.Fatal("the removed node does not leave")
		}
		c.roundAll(round)
	}
}

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

// What a node says of its own part.
func TestNode_Publish_Roles(t *testing.T) {
	c, f := follower(t)
	role := func(n *Node) Role {
		n.seen = statusSource{}
		n.publish()
		return n.Status().Role
	}
	if got := role(f.node); got != RoleFollower {
		t.Errorf("a follower calls itself %s", got)
	}
	if got := role(c.nodes[ID(f.node.core.lead)].node); got != RoleLeader {
		t.Errorf("the leader calls itself %s", got)
	}
	m := f.node.core.members.members[f.id]
	m.Learner = true
	f.node.core.members.members[f.id] = m
	if got := role(f.node); got != RoleLearner {
		t.Errorf("a learner calls itself %s", got)
	}
	clear(f.node.core.members.members)
	if got := role(f.node); got != RoleLearner {
		t.Errorf("a node that has just joined calls itself %s", got)
	}
}

// A system that is short of something is waited for. A disk that fails is not.
func TestNode_Later_ForgivesShortageOnly(t *testing.T) {
	_, f := follower(t)
	for _, c := range []struct {
		err      error
		forgiven bool
	}{{nil, true}, {fmt.Errorf("open: %w", shortage.Err), true}, {fmt.Errorf("%w: write", errDisk), false}, {syscall.EIO, false}} {
		if err := f.node.later(c.err, "a snapshot"); (err == nil) != c.forgiven {
			t.Errorf("%v becomes %v", c.err, err)
		}
	}
}
