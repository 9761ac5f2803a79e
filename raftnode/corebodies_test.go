package raftnode

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
)

// keepsBodies gives a node that is driven by hand a store of bodies that forgets at once
// what nothing holds.
func (c *crashNode) keepsBodies(t *testing.T) *bodies.Store {
	t.Helper()
	store, err := bodies.Open(bodies.Config{Dir: t.TempDir(), Grace: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	c.node.cfg.Bodies = store
	c.node.core.log.refs = references{store, c.sm.Body}
	return store
}

func keepBody(t *testing.T, store *bodies.Store, b bodies.Body) {
	t.Helper()
	_, err := store.Append(b.Digest, b.Data)
	if err = errors.Join(err, store.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// An entry is not acknowledged, or saved, before its body is durable here; from then on
// the body stays.
func TestCore_Append_NeedsItsBodies(t *testing.T) {
	c := newCrashCluster(t, 3, -1)
	n := c.nodes[2]
	store := n.keepsBodies(t)
	core := n.node.core
	core.step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 1, To: 2, Term: 2})
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	b, other := randomBody(1, 1000), randomBody(2, 1000)
	m := raftpb.Message{Type: raftpb.MsgApp, From: 1, To: 2, Term: 2, Index: 1, LogTerm: 1, Entries: []raftpb.Entry{
		{Index: 2, Term: 2, Data: encodeBatch([]command{{origin: 7, seq: 1, data: []byte(referTo(other))}, {origin: 7, seq: 2, data: []byte(referTo(b))}})},
	}}
	acked := func() (index uint64) {
		t.Helper()
		n.out = nil
		core.step(m)
		if err := n.round(false, nil); err != nil {
			t.Fatal(err)
		}
		for _, m := range n.out {
			if m.Type == raftpb.MsgAppResp && !m.Reject {
				index = m.Index
			}
		}
		if len(core.held) != 0 {
			t.Errorf("the core still holds %v", core.held)
		}
		if err := store.Reclaim(); err != nil {
			t.Fatal(err)
		}
		return index
	}
	keepBody(t, store, other)
	if got := acked(); got != 0 || core.savedIndex != 1 || store.Has(other.Digest) {
		t.Errorf("without a body entry %d is acknowledged, and the log ends at %d", got, core.savedIndex)
	}
	keepBody(t, store, other)
	if _, err := store.Append(b.Digest, b.Data); err != nil {
		t.Fatal(err)
	}
	if got := acked(); got != 0 {
		t.Errorf("with a body that is not synced entry %d is acknowledged", got)
	}
	keepBody(t, store, other)
	keepBody(t, store, b)
	if got := acked(); got != 2 || !store.Has(b.Digest) || !store.Has(other.Digest) {
		t.Errorf("with its bodies entry %d is acknowledged, and they are here: %v", got, store.Has(b.Digest))
	}
	// What is replaced lets go.
	m.Term, m.Entries = 3, []raftpb.Entry{{Index: 2, Term: 3}}
	if got := acked(); got != 2 || store.Has(b.Digest) {
		t.Errorf("entry %d is replaced, and its body is here: %v", got, store.Has(b.Digest))
	}
}

// A leader proposes nothing whose body is not here, and goes on with the rest: its own
// callers hear of it, others propose theirs again.
func TestCore_Flush_NeedsItsBodies(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	n := c.nodes[1]
	store := n.keepsBodies(t)
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	core := n.node.core
	b, gone := randomBody(1, 1000), randomBody(2, 1000)
	keepBody(t, store, b)
	g := n.node.waiters.add([][]byte{[]byte(referTo(gone)), []byte(referTo(b)), []byte("plain")})
	var cmds []command
	for i := range g.waiters {
		cmds = append(cmds, command{origin: n.node.waiters.origin, seq: g.waiters[i].seq, data: g.waiters[i].data})
	}
	core.propose(cmds)
	foreign := command{origin: 7, seq: 1, data: []byte(referTo(gone))}
	core.forwarded[foreign.name()] = struct{}{}
	core.enqueue([]command{foreign})
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(g.outcomes[0].err, errBodyMissing) || g.outcomes[1].err != nil || g.outcomes[2].err != nil || g.left != 0 {
		t.Errorf("outcomes %+v", g.outcomes)
	}
	if list := n.sm.list(); len(list) != 2 || string(list[0]) != referTo(b) {
		t.Errorf("%q was applied", list)
	}
	if len(core.forwarded) != 0 || len(core.queue) != 0 || core.queueBytes != 0 || core.queueBodies != 0 || len(core.held) != 0 {
		t.Errorf("left over: %v, %v, %v", core.forwarded, core.queue, core.held)
	}
	if err := store.Reclaim(); err != nil || !store.Has(b.Digest) {
		t.Errorf("the log does not hold the body: %v", err)
	}
}

// Bodies fill entries as commands do.
func TestCore_NextBatch_CountsBodies(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	n := c.nodes[1]
	n.keepsBodies(t)
	core := n.node.core
	var cmds []command
	for i := range 10 {
		cmds = append(cmds, command{origin: 7, seq: uint64(i), data: fmt.Appendf(nil, "body %s %d ", randomBody(1, 1).Digest, 1<<20)})
	}
	core.enqueue(cmds)
	if got, _, bytes := core.nextBatch(); got != 4 || bytes != batchBodyBytes || core.queueBodies != 10<<20 {
		t.Errorf("an entry has %d commands with %d bytes of %d", got, bytes, core.queueBodies)
	}
}
