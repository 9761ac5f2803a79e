package raftnode

import (
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
)

// ageing is a node that is driven by hand, whose log is never too long, and what it does
// with the bodies in it.
type ageing struct {
	*crashNode
	t     *testing.T
	store *bodies.Store
	seed  uint64
}

func newAgeing(t *testing.T) *ageing {
	n := newCrashCluster(t, 1, -1).nodes[1]
	store := n.keepsBodies(t)
	n.node.core.limits.snapshotLogBytes, n.node.cfg.KeepLogBytes = 1<<30, 1<<30
	a := &ageing{crashNode: n, t: t, store: store}
	a.ticks(1)
	return a
}

// put makes a command that refers to a body an entry, and the state durable.
func (a *ageing) put() bodies.Body {
	a.t.Helper()
	a.seed++
	b := randomBody(a.seed, 1000)
	keepBody(a.t, a.store, b)
	a.propose(referTo(b))
	return b
}

func (a *ageing) propose(cmd string) {
	a.t.Helper()
	a.node.inbox.addCommands(a.node.waiters.origin, a.node.waiters.add([][]byte{[]byte(cmd)}), 1<<20)
	if err := a.round(false, nil); err != nil {
		a.t.Fatal(err)
	}
	a.sm.sync()
}

func (a *ageing) ticks(n uint64) {
	a.t.Helper()
	for range n {
		if err := a.round(true, nil); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *ageing) has(b bodies.Body) bool {
	a.t.Helper()
	if err := a.store.Reclaim(); err != nil {
		a.t.Fatal(err)
	}
	return a.store.Has(b.Digest)
}

func (a *ageing) snapshot() uint64 { return a.disk.durable.snapshot.Metadata.Index }

// When nothing more is written the log lets bodies go that the state has durably, once
// they are old, and the entries up to there; what came later stays, and so does what is
// not durable.
func TestNode_Checkpoint_LetsOldBodiesGo(t *testing.T) {
	a := newAgeing(t)
	core := a.node.core
	age := core.limits.bodyTicks
	if age != 150 {
		t.Errorf("bodies are old after %d ticks", age)
	}
	first := a.put()
	refers := core.savedIndex
	a.propose("plain")
	a.ticks(age - 50)
	young := a.put()
	a.propose("plain, too")
	if a.ticks(45); !a.has(first) || a.snapshot() != 1 {
		t.Errorf("after %d ticks the body is here: %v, and the snapshot at %d", age-5, a.has(first), a.snapshot())
	}
	a.ticks(10)
	if at := core.savedIndex; a.has(first) || !a.has(young) || core.log.first != refers+1 || a.snapshot() != at {
		t.Errorf("the old body is here: %v, and the young one: %v; the log begins at %d, not %d; the snapshot is at %d, not %d", a.has(first), a.has(young), core.log.first, refers+1, a.snapshot(), at)
	}
	// The snapshot serves the young one as well, without another.
	at := a.snapshot()
	a.propose("later")
	if a.ticks(age); a.has(young) || core.log.bodies != 0 || a.snapshot() != at || core.log.first != at {
		t.Errorf("the body is here: %v; the log begins at %d, and the snapshot is at %d, not %d", a.has(young), core.log.first, a.snapshot(), at)
	}
	// Without bodies there is no need for another one.
	if a.ticks(5 * age); a.snapshot() != at || core.log.first != at {
		t.Errorf("a snapshot was taken at %d, or the log begins at %d", a.snapshot(), core.log.first)
	}
	// What is not durable stays.
	a.sm.setManual(true)
	lost := randomBody(99, 1000)
	keepBody(t, a.store, lost)
	a.node.inbox.addCommands(a.node.waiters.origin, a.node.waiters.add([][]byte{[]byte(referTo(lost))}), 1<<20)
	if a.ticks(3 * age); !a.has(lost) || a.snapshot() != at {
		t.Errorf("the state does not have it durably, and it is here: %v", a.has(lost))
	}
	a.sm.sync()
	if a.ticks(2); a.has(lost) {
		t.Error("it is durable, and still here")
	}
}

// However many bodies come: no more than one snapshot in the time for which they stay.
func TestNode_Checkpoint_OldBodiesCostFewSnapshots(t *testing.T) {
	a := newAgeing(t)
	age := a.node.core.limits.bodyTicks
	taken, last := uint64(0), a.snapshot()
	const lag = 12
	var durable []listState // of a state that is made durable late
	for range 2 * age {
		a.put()
		durable = append(durable, a.sm.durable)
		if len(durable) > lag {
			a.sm.durable, durable = durable[0], durable[1:]
		} else {
			a.sm.durable = durable[0]
		}
		a.ticks(5)
		if at := a.snapshot(); at != last {
			taken, last = taken+1, at
		}
	}
	if taken < 5 || taken > 10 {
		t.Errorf("%d snapshots in %d ticks", taken, 10*age)
	}
	if n := uint64(a.node.core.log.bodies); n > 3*age/5 {
		t.Errorf("the log holds %d bodies", n)
	}
}

// The last entry that holds bodies and is old enough is found wherever it is.
func TestMemlog_LastHolding(t *testing.T) {
	t.Parallel()
	store, err := bodies.Open(bodies.Config{Dir: t.TempDir(), Grace: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l := newMemlog(references{store, (&listSM{}).Body})
	if got := l.lastHolding(9, 9); got != 0 {
		t.Errorf("in an empty log it is %d", got)
	}
	b := randomBody(1, 1000)
	keepBody(t, store, b)
	for i, cmd := range []string{"plain", referTo(b), "plain", referTo(b), "plain"} {
		e := raftpb.Entry{Index: uint64(i + 1), Term: 1, Data: encodeBatch([]command{{origin: 1, seq: uint64(i), data: []byte(cmd)}})}
		if _, err := l.add([]raftpb.Entry{e}, 0, uint64(10*i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ upTo, by, want uint64 }{
		{9, 99, 4}, {4, 99, 4}, {3, 99, 2}, {2, 99, 2}, {1, 99, 0}, {0, 99, 0}, {9, 30, 4}, {9, 29, 2}, {9, 10, 2}, {9, 9, 0},
	} {
		if got := l.lastHolding(c.upTo, c.by); got != c.want {
			t.Errorf("up to entry %d, by tick %d: %d, not %d", c.upTo, c.by, got, c.want)
		}
	}
	if err := l.compact(4); err != nil || l.lastHolding(9, 99) != 0 || l.lastHolding(3, 99) != 0 || l.bodies != 0 {
		t.Errorf("after they were compacted: %d, %d bodies, %v", l.lastHolding(9, 99), l.bodies, err)
	}
}

// In a quiet cluster no member keeps what nobody needs any more, and who was away
// meanwhile pulls.
func TestNode_OldBodiesGo(t *testing.T) {
	nodes := newBodyCluster(t, 3, func(n *testNode) {
		n.values.Grace = time.Nanosecond
		n.cfg.bodyTicks = 20
	})
	leader := leaderOf(t, nodes)
	away := others(nodes, leader)[0]
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	running := others(nodes, away)
	gone, kept := randomBody(1, 30_000), randomBody(2, 30_000)
	for _, b := range []bodies.Body{gone, kept} {
		mustDistribute(t, leader, b)
		mustPropose(t, leader, referTo(b))
	}
	sameLists(t, running, 2)
	for _, n := range running {
		if !n.cfg.Bodies.Hold(kept.Digest) {
			t.Fatalf("%s does not have the body", n.cfg.Name)
		}
		n.sm.mu.Lock()
		n.sm.now.List[0] = []byte("it was dropped since")
		n.sm.mu.Unlock()
		n.sm.sync()
	}
	for _, n := range running {
		eventually(t, n.cfg.Name+" lets the body go", func() bool {
			if err := n.cfg.Bodies.Reclaim(); err != nil {
				t.Fatal(err)
			}
			return !n.has(gone)
		})
	}
	away.start()
	sameLists(t, nodes, 2)
	if away.sm.stages == 0 {
		t.Error("the member that was away did not pull")
	}
	if away.has(gone) || !away.has(kept) {
		t.Error("the member that was away has the wrong bodies")
	}
	fresh := randomBody(3, 30_000)
	mustDistribute(t, away, fresh)
	mustPropose(t, away, referTo(fresh))
	sameLists(t, nodes, 3)
}
