package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"

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

// What a pull ends with decides whether the node goes on, what it says, and what the
// loop hears.
func TestNode_StartPull_Ends(t *testing.T) {
	for _, c := range []struct {
		err   error
		fails bool
		says  string
	}{
		{nil, false, ""},
		{fmt.Errorf("%w: write", errDisk), true, ""},
		{fmt.Errorf("%w: n1", ErrDiverged), true, ""},
		{&DisputeError{reason: "nobody can tell"}, false, "does not pull"},
		{errors.New("it broke off"), false, "gave up"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newCrashCluster(t, 3, -1).nodes[1].node
			log := &logLines{}
			n.logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
			n.disputes = rate.NewLimiter(rate.Every(DisputeEvery), 1)
			n.sm = &partsSM{listSM: &listSM{}, stage: c.err}
			var failed error
			var wg sync.WaitGroup
			meta, err := n.core.members.encode()
			if err != nil {
				t.Fatal(err)
			}
			data := snapshotData{meta: meta, state: []byte("0")}.encode()
			n.startPull(t.Context(), raftpb.Message{From: 2, Snapshot: raftpb.Snapshot{Data: data, Metadata: raftpb.SnapshotMetadata{Index: 50, Term: 1}}}, func(err error) { failed = err }, &wg)
			wg.Wait()
			if (failed != nil) != c.fails || c.fails && !errors.Is(failed, c.err) {
				t.Errorf("%v ends the node with %v", c.err, failed)
			}
			switch {
			case c.fails && len(n.pulls) > 0:
				t.Errorf("%v is told to the loop", c.err)
			case !c.fails && len(n.pulls) == 0:
				t.Errorf("%v is not told to the loop", c.err)
			case !c.fails:
				if p := <-n.pulls; !errors.Is(p.err, c.err) || (p.err == nil) != (c.err == nil) || p.m.Snapshot.Metadata.Index != 50 {
					t.Errorf("%v is told to the loop as %v", c.err, p.err)
				}
			}
			if len(log.lines) > 0 != (c.says != "") || c.says != "" && log.with(c.says) != 1 {
				t.Errorf("%v is logged as %q", c.err, log.lines)
			}
		})
	}
}

// A pull asks who sent the snapshot first, then the others, and never the node itself.
// Who has just joined knows only whom it was told of.
func TestNode_SnapshotSources(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	ids := func(members []Member) (ids []ID) {
		for _, m := range members {
			ids = append(ids, m.ID)
		}
		return ids
	}
	for first, want := range map[ID][]ID{2: {2, 3}, 3: {3, 2}, 9: {2, 3}} {
		if got := ids(n.sources(n.knownMembers(), first)); !slices.Equal(got, want) {
			t.Errorf("of n%d: %v", first, got)
		}
	}
	n.status.Store(&Status{})
	n.identity.Store(&identity{ID: 1, Peers: []Member{{ID: 1}, {ID: 7}, {ID: 8}}})
	if got := ids(n.sources(n.knownMembers(), 8)); !slices.Equal(got, []ID{8, 7}) {
		t.Errorf("when no member is known: %v", got)
	}
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

// What the loop hears from pulls: one that brought everything is handed to raft.
func TestNode_Loop_HearsOfPulls(t *testing.T) {
	for _, pullErr := range []error{nil, errors.New("nobody has it")} {
		_, f := follower(t)
		n, c := f.node, f.node.core
		at := c.savedIndex + 100
		m := raftpb.Message{Type: raftpb.MsgSnap, From: c.lead, To: uint64(f.id), Term: c.term, Snapshot: raftpb.Snapshot{
			Data:     snapshotData{meta: must(c.members.encode()), state: []byte("0")}.encode(),
			Metadata: raftpb.SnapshotMetadata{Index: at, Term: c.term, ConfState: c.members.conf},
		}}
		n.pulling = true
		n.pulls <- pullResult{m, pullErr}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.loop(ctx, nil, nil, nil) }()
		eventually(t, "the loop hears of the pull", func() bool { return len(n.pulls) == 0 })
		if err := n.call(ctx, func(*core) {}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n.pulling || (c.savedIndex == at) != (pullErr == nil) {
			t.Errorf("%v: still pulling: %v; the log begins at %d", pullErr, n.pulling, c.savedIndex)
		}
	}
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
			time.Sleep(31 * time.Second) // of the bubble
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

// Whether a directory belongs to a cluster.
func TestBelongs(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "n1", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"}
	if is, err := Belongs(cfg.Dir); is || err != nil {
		t.Errorf("an empty one: %v, %v", is, err)
	}
	n, err := Open(cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	if is, err := Belongs(cfg.Dir); is || err != nil {
		t.Errorf("one that was opened: %v, %v", is, err)
	}
	if err := n.adopt(9, nil, nil); err != nil {
		t.Fatal(err)
	}
	if is, err := Belongs(cfg.Dir); !is || err != nil {
		t.Errorf("one that has joined: %v, %v", is, err)
	}
	if is, err := Belongs(cfg.Dir + "\x00"); is || err == nil {
		t.Errorf("one that cannot be read: %v, %v", is, err)
	}
}

// What a node tells of itself: the list that it would form a cluster of only as long as
// it has none and forms one, the founders only if they founded the cluster it has.
func TestNode_ServeIdentity(t *testing.T) {
	founders := testFounders(1)
	list := []Peer{{"n1", "http://n1:1"}}
	for what, c := range map[string]struct {
		id                identity
		join              bool
		initial, founders bool
	}{
		"it forms":       {identity{ID: 1}, false, true, false},
		"it joins":       {identity{ID: 1}, true, false, false},
		"it has founded": {identity{ID: 1, ClusterID: 9, Founders: founders}, false, false, true},
		"it has joined":  {identity{ID: 1, ClusterID: 9}, true, false, false},
		"it has forced":  {identity{ID: 1, ClusterID: 9, Founders: founders, Forced: []Forcing{{Parent: 8, Cluster: 9}}}, false, false, false},
	} {
		n := newCrashCluster(t, 1, -1).nodes[1].node
		n.cfg.InitialCluster = list
		if c.join {
			n.cfg.Join = func(context.Context, Member) ([]Member, error) { return nil, nil }
		}
		n.identity.Store(&c.id)
		n.forced.Store(&c.id.Forced)
		w := httptest.NewRecorder()
		n.serveIdentity(w, httptest.NewRequest("GET", nodehttp.IdentityPath, nil))
		var a introduction
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		if len(a.Initial) > 0 != c.initial || len(a.Founders) > 0 != c.founders || a.ClusterID != c.id.ClusterID || len(a.Forced) != len(c.id.Forced) {
			t.Errorf("%s: %+v", what, a)
		}
	}
}

// Memory that a body gives back is there for its address again, and no more than that.
func TestBodyBudget(t *testing.T) {
	b := newBodyBudget(40)
	for _, step := range []struct {
		take, give int
		ok         bool
	}{{10, 0, true}, {1, 0, false}, {0, 4, true}, {5, 0, false}, {4, 0, true}, {1, 0, false}, {0, 10, true}, {10, 0, true}, {0, 10, true}} {
		if step.take > 0 && b.take("h", step.take) != step.ok {
			t.Errorf("%+v: %v", step, b.of)
		}
		b.give("h", step.give)
	}
	if len(b.of) != 0 || b.used != 0 {
		t.Errorf("%d bytes, of %v", b.used, b.of)
	}
}

// A read has its answer as soon as what it waits for is applied, and not before.
func TestProgress_Wait(t *testing.T) {
	p := &progress{}
	reads := make([]*read, 6)
	for i := range reads {
		reads[i] = newRead()
		p.wait(uint64(i), reads[i:i+1])
	}
	answered := func(want int) {
		t.Helper()
		for i, r := range reads {
			if (len(r.done) == 1) != (i < want) {
				t.Errorf("at entry %d read %d has %d answers", p.index(), i, len(r.done))
			}
		}
	}
	answered(1)
	p.set(3)
	answered(4)
	p.set(4)
	answered(5)
	p.failAll()
	answered(6)
	if err := <-reads[5].done; !errors.Is(err, ErrStopped) {
		t.Errorf("what was never applied is answered with %v", err)
	}
	for _, r := range reads[:5] {
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	}
}

// An inbox wakes the loop for what it takes, and only for that.
func TestInbox_Wakes(t *testing.T) {
	for what, add := range map[string]func(in *inbox){
		"a message":  func(in *inbox) { in.addMessage(raftpb.Message{}, 1<<10) },
		"a command":  func(in *inbox) { in.addCommands(1, newWaiters(1).add([][]byte{nil}), 1<<10) },
		"a read":     func(in *inbox) { in.addRead(newRead()) },
		"a call":     func(in *inbox) { in.addCall(nil) },
		"a lost one": func(in *inbox) { in.addLost(1) },
	} {
		in := newInbox()
		if add(in); len(in.wake) != 1 {
			t.Errorf("%s does not wake the loop", what)
		}
	}
	in := newInbox()
	in.addMessage(raftpb.Message{}, 1)
	in.addCommands(1, newWaiters(1).add([][]byte{nil}), 1)
	if len(in.wake) != 0 {
		t.Error("what was dropped wakes the loop")
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

// A snapshot that the node has already is not pulled, and raft says so; one that it
// lacks is pulled, one at a time.
func TestNode_CarryOut_Pulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f := follower(t)
		n := f.node
		n.sm = &partsSM{listSM: &listSM{}}
		offer := func(index uint64) raftpb.Message {
			return raftpb.Message{Type: raftpb.MsgSnap, From: n.core.lead, To: uint64(f.id), Term: n.core.term, Snapshot: raftpb.Snapshot{
				Data:     snapshotData{meta: must(n.core.members.encode()), state: []byte("0")}.encode(),
				Metadata: raftpb.SnapshotMetadata{Index: index, Term: n.core.term, ConfState: n.core.members.conf},
			}}
		}
		fail := func(err error) { t.Error(err) }
		var wg sync.WaitGroup
		carryOut := func(index ...uint64) {
			t.Helper()
			for _, i := range index {
				n.core.snaps = append(n.core.snaps, offer(i))
			}
			w, _ := n.core.next()
			if err := n.carryOut(t.Context(), w, fail, &wg); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
		}
		carryOut(n.core.commit)
		if n.pulling || len(n.pulls) != 0 {
			t.Error("it pulls what it has")
		}
		at := n.core.commit + 100
		carryOut(at, at+1)
		if !n.pulling || len(n.pulls) != 1 || (<-n.pulls).m.Snapshot.Metadata.Index != at {
			t.Error("it does not pull what was offered first")
		}
	})
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

// When a node stops, who waits for what raft has had hears that nobody knows; who waits
// for what it has not, that nothing happened.
func TestWaiters_FailAll(t *testing.T) {
	ws := newWaiters(7)
	g := ws.add([][]byte{[]byte("a"), []byte("b")})
	ws.claim([]command{{origin: 7, seq: g.waiters[0].seq}}, 1)
	ws.failAll()
	if g.left != 0 || ws.count() != 0 || g.outcomes[0].err != ErrOutcomeUnknown || g.outcomes[1].err != ErrStopped {
		t.Errorf("%+v", g.outcomes)
	}
}
