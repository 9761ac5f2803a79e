package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// errCrash is what a step returns when the machine dies in it.
var errCrash = errors.New("crash")

// memDisk is a disk that loses what was not synced.
type memDisk struct {
	step    func() error // before and after every durable step
	durable diskState
	buffer  []func(*diskState)
	prev    raftpb.HardState
}

func (d *memDisk) save(hs raftpb.HardState, ents []raftpb.Entry, sync bool) error {
	d.buffer = append(d.buffer, func(s *diskState) {
		for _, e := range ents {
			first := s.snapshot.Metadata.Index + 1
			if e.Index < first {
				continue
			}
			s.entries = append(s.entries[:e.Index-first:e.Index-first], e)
		}
		if !raft.IsEmptyHardState(hs) {
			s.state = hs
		}
	})
	must := raft.MustSync(hs, d.prev, len(ents))
	if !raft.IsEmptyHardState(hs) {
		d.prev = hs
	}
	if !must {
		return nil
	}
	return d.sync()
}

func (d *memDisk) sync() error {
	if err := d.step(); err != nil {
		return err
	}
	for _, f := range d.buffer {
		f(&d.durable)
	}
	d.buffer = nil
	return d.step()
}

func (d *memDisk) saveSnapshot(s raftpb.Snapshot) error {
	d.buffer = append(d.buffer, func(st *diskState) {
		var rest []raftpb.Entry
		for _, e := range st.entries {
			if e.Index > s.Metadata.Index {
				rest = append(rest, e)
			}
		}
		st.snapshot, st.entries = s, rest
	})
	return d.sync()
}

func (d *memDisk) release(uint64) error { return nil }
func (d *memDisk) close() error         { return nil }

// crashNode is a member driven step by step: the production loop's code, a
// memDisk, messages in a slice.
type crashNode struct {
	id     ID
	self   identity // as its file has it
	node   *Node
	sm     *listSM
	disk   *memDisk
	out    []raftpb.Message
	inbox  []raftpb.Message
	down   int // rounds until it restarts
	tables []Member

	accesses *accesses // may be nil
	known    uint64    // level of the program, 0: as of this one
}

func (c *crashNode) send(msgs []raftpb.Message) { c.out = append(c.out, msgs...) }
func (c *crashNode) setPeer(ID, string)         {}
func (c *crashNode) stop()                      {}

// saveSelf is a durable step too.
func (c *crashNode) saveSelf(id identity) error {
	if c.accesses != nil {
		if err := c.accesses.access("save the identity"); err != nil {
			return err
		}
	}
	if err := c.disk.step(); err != nil {
		return err
	}
	c.self = id
	return c.disk.step()
}

func (c *crashNode) boot(t *testing.T) {
	t.Helper()
	if err := c.start(nil); err != nil {
		t.Fatalf("n%d does not start again: %v", c.id, err)
	}
}

// start starts the node on what its disk holds, and forces a new cluster if told so.
func (c *crashNode) start(forcing *Forcing) error {
	cfg := Config{Name: fmt.Sprintf("n%d", c.id), SnapshotLogBytes: 600, KeepLogBytes: 200, Level: c.known}
	cfg.setDefaults()
	ws := newWaiters(random64())
	p := &progress{}
	sm, disk := StateMachine(c.sm), disk(c.disk)
	if a := c.accesses; a != nil {
		sm, disk = faultySM{c.sm, a}, faultyDisk{c.disk, a}
	}
	n := &Node{cfg: cfg, sm: sm, self: c.self, saveSelf: c.saveSelf, logger: slog.New(slog.DiscardHandler),
		inbox: newInbox(), dropped: newDroppedMessages(cfg.Logger), waiters: ws, progress: p, stopped: make(chan struct{}), pulls: make(chan pullResult, 1), disk: disk, transport: c}
	n.applier = newApplier(sm, ws, p)
	n.identity.Store(&n.self)
	n.removed.Store(&map[ID]bool{})
	n.status.Store(&Status{})
	c.disk.buffer, c.disk.prev = nil, c.disk.durable.state
	st := c.disk.durable
	st.entries = append([]raftpb.Entry(nil), st.entries...)
	n.forcing = forcing
	if err := n.rebuild(context.Background(), st); err != nil {
		return err
	}
	c.node, c.inbox, c.out = n, nil, nil
	return nil
}

// round lets the node do what it can; errCrash if it died.
func (c *crashNode) round(tick bool, all map[ID]*crashNode) error {
	n := c.node
	if tick {
		n.core.tick()
		if n.core.now%2 == 0 {
			if err := n.checkpoint(); err != nil {
				return err
			}
		}
	}
	for _, m := range c.inbox {
		n.core.step(m)
	}
	c.inbox = nil
	n.deliver(n.inbox.take())
	for w, ok := n.core.next(); ok; w, ok = n.core.next() {
		stage := w.stage
		w.stage = nil
		if err := n.carryOut(context.Background(), w, nil, nil); err != nil {
			return err
		}
		for _, h := range n.applier.take() {
			if err := n.applier.apply(h); err != nil {
				return err
			}
			n.applier.finished(h)
		}
		for _, m := range stage {
			if err := c.stage(m, all); err != nil {
				return err
			}
		}
	}
	n.publish()
	return nil
}

// stage copies what a snapshot needs from its sender, as the pull would.
func (c *crashNode) stage(m raftpb.Message, all map[ID]*crashNode) error {
	if err := c.disk.step(); err != nil {
		return err
	}
	from := all[ID(m.From)]
	if from == nil || from.node == nil || from.node.progress.index() < m.Snapshot.Metadata.Index {
		return nil
	}
	d, err := decodeSnapshot(m.Snapshot.Data)
	if err != nil {
		return err
	}
	if err := c.sm.Stage(context.Background(), d.state, func(ctx context.Context, query string) (io.ReadCloser, error) {
		var b bytes.Buffer
		err := from.sm.Serve(ctx, query, &b)
		return io.NopCloser(&b), err
	}, nil); err != nil {
		return nil // offered again
	}
	if err := c.disk.step(); err != nil {
		return err
	}
	c.node.core.staged(m)
	return nil
}

// crashCluster runs three members round by round and lets the k-th durable
// step of all kill the member that takes it.
type crashCluster struct {
	t     *testing.T
	nodes map[ID]*crashNode
	steps int
	fatal int // the step that kills, -1: none
	ended int // members whose steps failed
	acked map[string]bool
	open  []openPut
}

type openPut struct {
	cmd string
	w   *waiter
	at  *Node
}

func newCrashCluster(t *testing.T, size, fatal int) *crashCluster {
	c := &crashCluster{t: t, nodes: map[ID]*crashNode{}, fatal: -1, acked: map[string]bool{}}
	var founders []Member
	for id := ID(1); id <= ID(size); id++ {
		founders = append(founders, Member{ID: id, Name: fmt.Sprintf("n%d", id), PeerURL: fmt.Sprintf("http://h%d:1", id), ClientURL: "http://h:1"})
	}
	tab := foundersTable(9, founders)
	metaBytes, err := tab.encode()
	if err != nil {
		t.Fatal(err)
	}
	for id := ID(1); id <= ID(size); id++ {
		n := &crashNode{id: id, self: identity{ID: id, Name: fmt.Sprintf("n%d", id), ClusterID: 9}, sm: &listSM{manual: true}, tables: founders}
		if err := n.sm.Bootstrap(1, 1, metaBytes, historyOfCluster(9)); err != nil {
			t.Fatal(err)
		}
		n.disk = &memDisk{step: c.step, durable: diskState{
			state:    raftpb.HardState{Term: 1, Commit: 1},
			snapshot: raftpb.Snapshot{Data: snapshotData{meta: metaBytes, state: []byte("0")}.encode(), Metadata: raftpb.SnapshotMetadata{Index: 1, Term: 1, ConfState: tab.conf}},
		}}
		n.boot(t)
		c.nodes[id] = n
	}
	c.fatal = fatal
	return c
}

func (c *crashCluster) step() error {
	c.steps++
	if c.steps-1 == c.fatal {
		return errCrash
	}
	return nil
}

// run takes 400 rounds with a put every few, then heals and compares.
func (c *crashCluster) run(puts int) {
	put := 0
	deadline := time.Now().Add(patience)
	for round := 0; ; round++ {
		if time.Now().After(deadline) {
			c.t.Fatalf("fatal step %d: %d of %d puts acknowledged", c.fatal, len(c.acked), puts)
		}
		if round%3 == 0 && put < puts {
			put += c.put(round, fmt.Sprintf("put-%d-%032d", put, put))
		}
		c.roundAll(round)
		if len(c.acked) == puts && c.settled(puts) {
			return
		}
	}
}

// addOne registers a call of one command.
func (ws *waiters) addOne(data []byte) *waiter { return &ws.add([][]byte{data}).waiters[0] }

func (c *crashCluster) put(round int, cmd string) int {
	n := c.nodes[ID(round/3%len(c.nodes)+1)]
	if n.node == nil {
		return 0
	}
	w := n.node.waiters.addOne([]byte(cmd))
	n.node.inbox.addCommands(n.node.waiters.origin, w.group, 1<<20)
	c.open = append(c.open, openPut{cmd, w, n.node})
	return 1
}

func (c *crashCluster) roundAll(round int) {
	for id := ID(1); id <= ID(len(c.nodes)); id++ {
		n := c.nodes[id]
		if n.node == nil {
			if n.down--; n.down <= 0 {
				switch err := n.start(nil); {
				case errors.Is(err, errCrash) && n.accesses != nil:
					c.ended++
					n.down = 25
				case err != nil:
					c.t.Fatalf("n%d does not start again: %v", n.id, err)
				}
			}
			continue
		}
		if round%7 == int(id) { // history is committed now and then
			if err := c.step(); err == nil {
				n.sm.sync()
				err = c.step()
				if err != nil {
					c.ended++
					c.kill(n)
					continue
				}
			} else {
				c.ended++
				c.kill(n)
				continue
			}
		}
		err := n.round(true, c.nodes)
		for _, m := range n.out {
			if to := c.nodes[ID(m.To)]; to != nil && to.node != nil {
				to.inbox = append(to.inbox, m)
			}
		}
		n.out = nil
		if err != nil {
			if !errors.Is(err, errCrash) {
				c.t.Fatalf("fatal step %d: n%d: %v", c.fatal, id, err)
			}
			c.ended++
			c.kill(n)
		}
	}
	rest := c.open[:0]
	for _, p := range c.open {
		select {
		case <-p.w.group.done:
			if out := p.w.group.outcomes[0]; out.err != nil {
				c.t.Fatalf("%s: %v", p.cmd, out.err)
			}
			c.acked[p.cmd] = true
		default:
			rest = append(rest, p)
		}
	}
	c.open = rest
}

// kill loses everything of a member that was not durable. Whoever waited on
// it asks another.
func (c *crashCluster) kill(n *crashNode) {
	n.sm.crash()
	dead := n.node
	n.node, n.inbox, n.out, n.down = nil, nil, nil, 25
	for i, p := range c.open {
		if p.at != dead {
			continue
		}
		for _, other := range c.nodes {
			if other.node != nil {
				w := other.node.waiters.addOne([]byte(p.cmd))
				other.node.inbox.addCommands(other.node.waiters.origin, w.group, 1<<20)
				c.open[i] = openPut{p.cmd, w, other.node}
				break
			}
		}
		if c.open[i].at == dead { // a cluster of one: ask itself when it is back
			n.boot(c.t)
			n.down = 0
			w := n.node.waiters.addOne([]byte(p.cmd))
			n.node.inbox.addCommands(n.node.waiters.origin, w.group, 1<<20)
			c.open[i] = openPut{p.cmd, w, n.node}
		}
	}
}

// settled reports whether all members hold the same list of all puts.
func (c *crashCluster) settled(puts int) bool {
	var first [][]byte
	for _, n := range c.nodes {
		if n.node == nil {
			return false
		}
		list := n.sm.list()
		if len(list) < puts {
			return false
		}
		if len(list) > puts {
			c.t.Fatalf("n%d has %d commands, only %d were put", n.id, len(list), puts)
		}
		if first == nil {
			first = list
		}
		for i := range list {
			if string(list[i]) != string(first[i]) {
				c.t.Fatalf("fatal step %d: members differ at %d: %q and %q", c.fatal, i, list[i], first[i])
			}
		}
	}
	return true
}

// Each durable step (WAL sync, snapshot record, history commit, staging) is
// once the last thing before a member loses its power: before it takes effect
// and after it did.
func TestCore_CrashAtEveryStep(t *testing.T) {
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			for fatal := 0; ; fatal++ {
				c := newCrashCluster(t, size, fatal)
				c.run(40)
				if c.steps > fatal && c.ended != 1 {
					t.Errorf("step %d failed, and that ended %d members, want 1", fatal, c.ended)
				}
				if c.steps <= fatal {
					t.Logf("%d steps", c.steps)
					return
				}
			}
		})
	}
}

// A single voter commits its own entry at once. If it sent the commit index
// before its disk has the entry, a learner could apply what a crash undoes.
func TestCore_SingleVoter_SavesBeforeItSends(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	n := c.nodes[1].node
	for !n.core.isLeader() {
		if err := c.nodes[1].round(true, c.nodes); err != nil {
			t.Fatal(err)
		}
	}
	n.core.proposeChange(opAdd, Member{ID: 2, Name: "n2", PeerURL: "http://h2:1", ClientURL: "http://h2:1"}, nil)
	if err := c.nodes[1].round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	// The learner acknowledges everything so far, so that it is replicated to.
	n.core.stepRaft(raftpb.Message{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: n.core.term, Index: n.core.commit})
	if err := c.nodes[1].round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	w := n.waiters.addOne([]byte("x"))
	n.core.propose([]command{{origin: n.waiters.origin, seq: w.seq, data: w.data}})
	got, ok := n.core.next()
	if !ok || len(got.entries) == 0 {
		t.Fatalf("no entry to save: %+v", got)
	}
	if len(got.early) != 0 {
		t.Fatalf("sends before the save: %v", got.early)
	}
	found := false
	for _, m := range got.late {
		found = found || m.To == 2 && m.Type == raftpb.MsgApp
	}
	if !found {
		t.Fatalf("does not send the entry after the save: %v", got.late)
	}
}

// A leader of several voters sends its entries while its own disk works.
func TestCore_Leader_SendsBeforeItsSave(t *testing.T) {
	c := newCrashCluster(t, 3, -1)
	var leader *crashNode
	for round := 0; leader == nil; round++ {
		c.roundAll(round)
		for _, n := range c.nodes {
			if n.node.core.isLeader() && n.node.core.commit > 1 {
				leader = n
			}
		}
	}
	for round := range 20 { // until all followers are replicated to
		c.roundAll(round)
	}
	n := leader.node
	if !n.core.isLeader() {
		t.Skip("leadership moved")
	}
	w := n.waiters.addOne([]byte("x"))
	n.core.propose([]command{{origin: n.waiters.origin, seq: w.seq, data: w.data}})
	got, _ := n.core.next()
	if len(got.entries) == 0 || len(got.early) < 2 || len(got.late) != 0 {
		t.Fatalf("entries %d, early %d, late %d; want the appends to leave early", len(got.entries), len(got.early), len(got.late))
	}
}
