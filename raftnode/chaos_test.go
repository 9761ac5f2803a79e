package raftnode

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// chaos is a cluster in which everything that may happen does: messages are
// lost, repeated, delayed and reordered, members lose their power at any
// durable step or are cut off, leadership is transferred, members are added,
// promoted and removed, snapshots are pulled while entries are applied.
//
// A seed fixes all of that but raft's own election time-outs, so a failure may
// take several runs to come back.
type chaos struct {
	t     *testing.T
	seed  uint64
	r     *rand.Rand
	calm  bool // no new faults
	nodes map[ID]*crashNode
	gone  map[ID]bool // removed and stopped
	wire  []raftpb.Message
	group map[ID]int // members of different groups cannot talk

	next  int        // number of the next command
	order []string   // the one order of all commands, as first applied anywhere
	seen  map[ID]int // how much of order a member is known to hold
	acked []string
	// answers has the place in order that the acknowledged ones were told;
	// whoever told it may be dead, and nobody else have applied it yet.
	answers map[string]int
	puts    []openPut
	reads   []openRead
}

// openRead is a ReadIndex that waits; acked is what it must see.
type openRead struct {
	r     *read
	node  *crashNode
	life  *Node
	acked int
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), gone: map[ID]bool{}, group: map[ID]int{}, answers: map[string]int{}, seen: map[ID]int{}}
	c.nodes = newCrashCluster(t, []int{1, 2, 3, 3, 5}[c.r.IntN(5)], -1).nodes
	for _, n := range c.nodes {
		c.adopt(n)
	}
	return c
}

func (c *chaos) adopt(n *crashNode) {
	n.disk.step = func() error {
		if c.chance(0.002) {
			return errCrash
		}
		return nil
	}
	n.slow = func() bool { return c.chance(0.9) }
}

func (c *chaos) chance(p float64) bool { return !c.calm && c.r.Float64() < p }

func (c *chaos) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("seed %d: %s", c.seed, fmt.Sprintf(format, args...))
}

func (c *chaos) ids() []ID {
	var ids []ID
	for id := range c.nodes {
		if !c.gone[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (c *chaos) anyNode() *crashNode {
	ids := c.ids()
	return c.nodes[ids[c.r.IntN(len(ids))]]
}

func (c *chaos) step() {
	if c.chance(0.01) {
		for id := range c.nodes {
			c.group[id] = c.r.IntN(2)
		}
	} else if c.calm || c.chance(0.03) {
		clear(c.group)
	}
	if c.chance(0.3) {
		c.put(fmt.Sprintf("cmd-%d-%032d", c.next, c.next))
		c.next++
	}
	if c.chance(0.2) {
		if n := c.anyNode(); n.node != nil {
			r := newRead()
			n.node.inbox.addRead(r)
			c.reads = append(c.reads, openRead{r, n, n.node, len(c.acked)})
		}
	}
	if c.chance(0.02) {
		c.change()
	}
	c.deliver()
	for _, id := range c.ids() {
		c.run(c.nodes[id])
	}
	c.check()
}

// run lets one member take a step.
func (c *chaos) run(n *crashNode) {
	if n.node == nil {
		if n.down--; n.down <= 0 || c.calm {
			n.pull = nil
			n.boot(c.t)
		}
		return
	}
	if c.chance(0.1) {
		return // paused
	}
	if c.calm || c.chance(0.1) {
		n.sm.sync()
	}
	err := n.round(c.calm || c.chance(0.5), c.nodes)
	if err == nil && c.chance(0.0005) {
		err = errCrash
	}
	c.wire = append(c.wire, n.out...)
	n.out = nil
	switch life := n.node; {
	case errors.Is(err, errCrash):
		n.sm.crash()
		n.node, n.inbox, n.down = nil, nil, c.r.IntN(60)
		c.seen[n.id] = 0
	case err != nil:
		c.fatalf("n%d: %v", n.id, err)
	case life.leaveAt != 0 && life.core.now >= life.leaveAt:
		n.node, c.gone[n.id] = nil, true
	}
}

// deliver moves some of the messages on the wire, in no order.
func (c *chaos) deliver() {
	if !c.calm {
		c.r.Shuffle(len(c.wire), func(i, j int) { c.wire[i], c.wire[j] = c.wire[j], c.wire[i] })
	}
	var rest []raftpb.Message
	for _, m := range c.wire {
		to := c.nodes[ID(m.To)]
		if to == nil || to.node == nil || c.group[ID(m.From)] != c.group[ID(m.To)] || c.chance(0.05) {
			continue
		}
		if c.chance(0.25) {
			rest = append(rest, m)
			continue
		}
		if c.chance(0.05) {
			rest = append(rest, m)
		}
		to.inbox = append(to.inbox, m)
	}
	c.wire = rest
}

func (c *chaos) put(cmd string) {
	n := c.anyNode()
	if n.node == nil {
		return
	}
	w := n.node.waiters.add([]byte(cmd))
	n.node.inbox.addCommand(command{origin: n.node.waiters.origin, seq: w.seq, data: w.data}, 1<<20)
	c.puts = append(c.puts, openPut{cmd, w, n.node})
}

// change asks whoever believes to lead for a change of members or leadership,
// as the callers of decide do.
func (c *chaos) change() {
	n := c.anyNode()
	if n.node == nil || !n.node.core.isLeader() {
		return
	}
	core := n.node.core
	all := core.members.list()
	m := all[c.r.IntN(len(all))]
	switch kind := c.r.IntN(4); {
	case kind == 0:
		core.transfer(m.ID)
	case len(core.changes) > 0:
	case kind == 1 && len(all) > 1 && m.ID != n.id:
		if ok, _, _ := core.quorumAfter(0, m.ID); ok && core.members.check(change{Op: opRemove, Member: m}) == nil {
			core.proposeChange(opRemove, m, make(chan error, 1))
		}
	case len(all) < 5:
		id := ID(len(c.nodes) + 1)
		m := Member{ID: id, Name: fmt.Sprintf("n%d", id), PeerURL: fmt.Sprintf("http://h%d:1", id), ClientURL: "http://h:1", Promote: c.r.IntN(4) > 0}
		joiner := &crashNode{id: id, sm: &listSM{manual: true}, disk: &memDisk{}}
		c.adopt(joiner)
		joiner.boot(c.t)
		c.nodes[id] = joiner
		core.proposeChange(opAdd, m, make(chan error, 1))
	}
}

// check compares what every member holds with the one order, and every answer
// with what it promises.
func (c *chaos) check() {
	for id, n := range c.nodes {
		list := n.sm.list()
		for i := min(c.seen[id], len(list)); i < len(list); i++ {
			cmd := string(list[i])
			if i == len(c.order) {
				c.order = append(c.order, cmd)
			}
			if c.order[i] != cmd {
				c.fatalf("n%d holds %q at %d, others %q", id, cmd, i, c.order[i])
			}
		}
		c.seen[id] = len(list)
	}
	c.puts = slices.DeleteFunc(c.puts, func(p openPut) bool {
		select {
		case out := <-p.w.done:
			if out.err != nil {
				c.fatalf("%s was answered %v", p.cmd, out.err)
			}
			c.acked = append(c.acked, p.cmd)
			c.answers[p.cmd] = out.result.(int) - 1
			return true
		default:
			return false
		}
	})
	c.reads = slices.DeleteFunc(c.reads, func(r openRead) bool {
		select {
		case err := <-r.r.done:
			if err == nil && r.node.node == r.life {
				have := len(r.node.sm.list())
				for _, cmd := range c.acked[:r.acked] {
					if c.answers[cmd] >= have {
						c.fatalf("a read on n%d misses %s, acknowledged before it began", r.node.id, cmd)
					}
				}
			}
			return true
		default:
			return r.node.node != r.life
		}
	})
}

// settle ends all faults and waits until every member holds everything that was
// acknowledged.
func (c *chaos) settle() {
	c.calm = true
	for range 2000 {
		c.step()
		if !c.settled() {
			continue
		}
		for cmd, at := range c.answers {
			if at >= len(c.order) || c.order[at] != cmd {
				c.fatalf("%s was acknowledged at %d and is not there", cmd, at)
			}
		}
		return
	}
	for _, id := range c.ids() {
		if n := c.nodes[id].node; n != nil {
			c.t.Logf("n%d %v lead %v term %d commit %d applied %d of %d; %d members %v; queue %d, changes %d, snapping %v", id, n.core.state, ID(n.core.lead), n.core.term, n.core.commit,
				n.progress.index(), n.core.savedIndex, len(n.core.members.members), n.core.members.conf, len(n.core.queue), len(n.core.changes), n.core.snapping)
		}
	}
	c.fatalf("not settled: %d commands, %d acknowledged, %d puts and %d reads open", len(c.order), len(c.acked), len(c.puts), len(c.reads))
}

func (c *chaos) settled() bool {
	var leader *crashNode
	for _, id := range c.ids() {
		n := c.nodes[id]
		if n.node != nil && n.node.core.isLeader() && (leader == nil || n.node.core.term > leader.node.core.term) {
			leader = n
		}
	}
	if leader == nil {
		return false
	}
	for id := range leader.node.core.members.members {
		if len(c.nodes[id].sm.list()) < len(c.order) {
			return false
		}
	}
	for _, p := range c.puts { // of members that still belong and live
		for id := range leader.node.core.members.members {
			if c.nodes[id].node == p.at {
				return false
			}
		}
	}
	return true
}

func TestCore_Chaos(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() {
		seeds = 10
	}
	commands, acked, members := 0, 0, 0
	for seed := range seeds {
		c := newChaos(t, seed)
		for range 1500 {
			c.step()
		}
		c.settle()
		commands, acked, members = commands+c.next, acked+len(c.acked), members+len(c.nodes)
	}
	t.Logf("%d commands, %d acknowledged, %d members", commands, acked, members)
}
