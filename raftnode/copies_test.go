package raftnode

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// stall runs the cluster for some ticks in which no entry reaches anybody, as if
// all disks or links were slow: heartbeats and what is forwarded come through.
func (c *crashCluster) stall(t *testing.T, ticks int) {
	t.Helper()
	for range ticks {
		for id := ID(1); id <= ID(len(c.nodes)); id++ {
			n := c.nodes[id]
			if err := n.round(true, c.nodes); err != nil {
				t.Fatal(err)
			}
			for _, m := range n.out {
				if m.Type != raftpb.MsgApp {
					c.nodes[ID(m.To)].inbox = append(c.nodes[ID(m.To)].inbox, m)
				}
			}
			n.out = nil
		}
	}
}

// open registers commands of a node with so many bytes each, and queues them.
func (n *crashNode) open(t *testing.T, count, size int) *group {
	t.Helper()
	commands := make([][]byte, count)
	for i := range commands {
		commands[i] = append(fmt.Appendf(nil, "n%d-%04d-", n.id, i), bytes.Repeat([]byte("x"), size)...)
	}
	g := n.node.waiters.add(commands)
	if !n.node.inbox.addCommands(n.node.waiters.origin, g, 64<<20) {
		t.Fatal("not queued")
	}
	return g
}

// logBytes counts the commands in the entries of the saved log from an index on.
func (n *crashNode) logBytes(t *testing.T, from uint64) (total int) {
	t.Helper()
	for _, e := range n.disk.durable.entries {
		if e.Index >= from && e.Type == raftpb.EntryNormal {
			total += len(e.Data)
		}
	}
	return total
}

// keepLog makes no member take a snapshot, so that its log can be counted.
func (c *crashCluster) keepLog() {
	for _, n := range c.nodes {
		n.node.core.limits.snapshotLogBytes = 1 << 30
	}
}

// While no majority stores anything, a follower cannot know whether the leader has
// what it forwarded. It must not fill queue and log with copies.
func TestCore_StalledQuorum_NoCopiesOfForwardedCommands(t *testing.T) {
	c, f := follower(t)
	c.keepLog()
	leader := c.nodes[ID(f.node.core.lead)]
	from := leader.node.core.savedIndex + 1
	const count, size = 64, 64 << 10
	g := f.open(t, count, size)
	most := 0
	for range 200 {
		c.stall(t, 1)
		most = max(most, leader.node.core.queueBytes+leader.logBytes(t, from))
	}
	if !leader.node.core.isLeader() {
		t.Fatal("the leader changed: this proves nothing")
	}
	if limit := count*size + 64<<10; most > limit {
		t.Errorf("the leader held %d bytes of %d", most, count*size)
	}
	for round := 0; g.left > 0; round++ {
		c.roundAll(round)
	}
	for round := range 50 {
		c.roundAll(round)
	}
	if got, limit := leader.logBytes(t, from), count*size+64<<10; got > limit {
		t.Errorf("%d bytes went to the log for %d", got, count*size)
	}
	for _, n := range c.nodes {
		if left := len(n.node.core.forwarded); left > 0 {
			t.Errorf("n%d still remembers %d commands", n.id, left)
		}
	}
}

// What the leader dropped as a copy was never dropped as the first one: a lost
// message is made good, and so is a leader that is gone.
func TestCore_LostForward_IsRepeated(t *testing.T) {
	c, f := follower(t)
	g := f.open(t, 3, 10)
	if err := f.round(false, c.nodes); err != nil {
		t.Fatal(err)
	}
	lost := slices.ContainsFunc(f.out, func(m raftpb.Message) bool { return m.Type == raftpb.MsgProp })
	f.out = nil // the wire drops it without a word
	if !lost {
		t.Fatal("nothing was forwarded")
	}
	for round := range 15 {
		c.roundAll(round)
	}
	if g.left > 0 {
		t.Errorf("%d commands have no answer after 15 ticks", g.left)
	}
}

// A leader that loses its place while others' commands wait in it forgets them
// all: when it leads again, they are new to it.
func TestCore_NewTerm_ForwardedCommandsAreNoCopies(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	g := f.open(t, 64, 64<<10)
	c.stall(t, 5)
	if len(leader.node.core.forwarded) == 0 {
		t.Fatal("nothing was forwarded")
	}
	for range 60 { // alone, it steps down
		if err := leader.round(true, c.nodes); err != nil {
			t.Fatal(err)
		}
		leader.out = nil
	}
	if core := leader.node.core; core.isLeader() || len(core.forwarded) > 0 || len(core.queue) > 0 {
		t.Fatalf("leads %v, remembers %d commands, queues %d", core.isLeader(), len(core.forwarded), len(core.queue))
	}
	for round := 0; g.left > 0; round++ {
		if round == 2000 {
			t.Fatalf("%d commands have no answer", g.left)
		}
		c.roundAll(round)
	}
}
