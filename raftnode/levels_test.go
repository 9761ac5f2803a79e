package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/internal/level"
)

// levelled makes the members of a cluster understand a level, and start again.
func (c *crashCluster) levelled(t *testing.T, known uint64) {
	t.Helper()
	for _, n := range c.nodes {
		n.known = known
		n.sm.sync()
		n.boot(t)
	}
}

// outcomeOf proposes a command at a member and runs the cluster until it has an answer.
func (c *crashCluster) outcomeOf(t *testing.T, n *crashNode, command string) outcome {
	t.Helper()
	w := n.node.waiters.addOne([]byte(command))
	n.node.inbox.addCommands(n.node.waiters.origin, w.group, 1<<20)
	for round := range 2000 {
		c.roundAll(round)
		select {
		case <-w.group.done:
			return w.group.outcomes[0]
		default:
		}
	}
	t.Fatalf("%q has no answer", command)
	return outcome{}
}

// raiseTo lets the leader raise the store's level.
func (c *crashCluster) raiseTo(t *testing.T, to uint64) {
	t.Helper()
	done := make(chan error, 1)
	core := c.lead(t).node.core
	core.startChange(change{Op: opRaise, Member: Member{ID: core.id}, Level: to}, done)
	if err := c.answer(t, done); err != nil {
		t.Fatal(err)
	}
	for round := range 100 {
		c.roundAll(round)
	}
}

// inLogs counts the commands in the logs of all members that begin with a text.
func (c *crashCluster) inLogs(t *testing.T, text string) (n int) {
	t.Helper()
	for _, m := range c.nodes {
		for _, e := range m.disk.durable.entries {
			if cmds, _, err := decodeBatch(e.Data); err == nil {
				for _, cmd := range cmds {
					if strings.HasPrefix(string(cmd.data), text) {
						n++
					}
				}
			}
		}
	}
	return n
}

// A caller learns at once that its command is above the store's level, or none at all,
// wherever it asks. Nothing of it gets into a log, and once the level has risen it does.
func TestCore_OwnCommandsAboveTheLevel_AreRefused(t *testing.T) {
	c, _ := ledCluster(t)
	c.levelled(t, 3)
	leader := c.lead(t)
	for _, n := range c.nodes {
		for _, command := range []string{"@2 above", "! garbage"} {
			out := c.outcomeOf(t, n, command)
			if !errors.Is(out.err, ErrLevel) || !errors.Is(out.err, ErrUnavailable) || errors.Is(out.err, ErrOutcomeUnknown) {
				t.Errorf("n%d: %q ends with %v", n.id, command, out.err)
			}
		}
	}
	if n := c.inLogs(t, "@") + c.inLogs(t, "!"); n > 0 {
		t.Errorf("%d of them are in logs", n)
	}
	c.raiseTo(t, 2)
	for _, n := range c.nodes {
		if out := c.outcomeOf(t, n, fmt.Sprintf("@2 of n%d", n.id)); out.err != nil {
			t.Errorf("n%d, when the store has level 2: %v", n.id, out.err)
		}
		if out := c.outcomeOf(t, n, "@3 above"); !errors.Is(out.err, ErrLevel) {
			t.Errorf("n%d: a command of level 3 ends with %v", n.id, out.err)
		}
	}
	if c.inLogs(t, "@2") == 0 || c.inLogs(t, "@3") > 0 || leader.node == nil {
		t.Error("the logs have other commands")
	}
}

// Whoever forwards commands that nobody can carry out, alone or among others, or beside
// a change of members, gets none of them into the log; the others are taken.
func TestCore_ForwardedCommandsAboveTheLevel_AreDropped(t *testing.T) {
	c, leader := ledCluster(t)
	core := leader.node.core
	from := uint64(leader.id%3 + 1)
	batch := encodeBatch([]command{{origin: 1, seq: 1, data: []byte("@2 above"), level: 1}, {origin: 1, seq: 2, data: []byte("good")}, {origin: 1, seq: 3, data: []byte("! garbage")}})
	m := core.members.members[ID(from)]
	m.ClientURL = "http://moved:1"
	cc, err := change{Op: opUpdate, Member: m, Number: core.members.changed + 1}.confChange()
	if err != nil {
		t.Fatal(err)
	}
	data, err := cc.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	core.step(raftpb.Message{Type: raftpb.MsgProp, From: from, To: uint64(leader.id), Entries: []raftpb.Entry{{Data: batch}, {Type: raftpb.EntryConfChange, Data: data}}})
	if len(core.forwarded) != 1 {
		t.Errorf("%d commands are remembered", len(core.forwarded))
	}
	for round := range 100 {
		c.roundAll(round)
	}
	for _, n := range c.nodes {
		if slices.ContainsFunc(n.sm.list(), func(b []byte) bool { return b[0] == '@' || b[0] == '!' }) {
			t.Errorf("n%d has applied what nobody can carry out", n.id)
		}
		if !slices.ContainsFunc(n.sm.list(), func(b []byte) bool { return string(b) == "good" }) || n.node.core.members.members[m.ID].ClientURL != m.ClientURL {
			t.Errorf("n%d lacks what came with it", n.id)
		}
	}
	if n := c.inLogs(t, "@") + c.inLogs(t, "!"); n > 0 {
		t.Errorf("%d of them are in logs", n)
	}
}

// rounds lets a member that is alone go on for some ticks.
func (n *crashNode) rounds(ticks int) (err error) {
	for ; err == nil && ticks > 0; ticks-- {
		err = n.round(true, nil)
	}
	return err
}

// changeEntry is the log entry of a change, whether this program knows it or not.
func changeEntry(ch change, id ID) raftpb.Entry {
	return raftpb.Entry{Type: raftpb.EntryConfChange, Data: changeData(ch, uint64(id))}
}

// laterEntries are those that only a later version can carry out, to the only member of
// a cluster; with the level that they need, 0 if it is not told.
func laterEntries() map[string]struct {
	e    raftpb.Entry
	need uint64
} {
	batch := encodeBatch([]command{{origin: 1, seq: 1, data: []byte("x"), level: 2}})
	return map[string]struct {
		e    raftpb.Entry
		need uint64
	}{
		"commands of level 2":    {raftpb.Entry{Data: batch}, 2},
		"commands laid out anew": {raftpb.Entry{Data: append([]byte{envelopeVersion + 1}, batch[1:]...)}, 0},
		"an operation":           {changeEntry(change{Op: "paint", Number: 1}, 1), 0},
		"a rise":                 {changeEntry(change{Op: opRaise, Level: 2, Number: 1}, 1), 2},
	}
}

// What only a later version can carry out stops the node once it is committed, be that
// at the start or later. Nothing of it or after it is applied, and the log stays as it is.
func TestCore_CommittedLater_StopsTheNode(t *testing.T) {
	for what, l := range laterEntries() {
		for _, commit := range []uint64{1, 2, 3, 4} {
			n := newCrashCluster(t, 1, -1).nodes[1]
			n.known = 1
			good := func(s string) []byte { return encodeBatch([]command{{origin: 1, seq: 1, data: []byte(s)}}) }
			n.disk.durable.entries = []raftpb.Entry{{Data: good("before")}, l.e, {Data: good("after")}}
			for i := range n.disk.durable.entries {
				e := &n.disk.durable.entries[i]
				e.Index, e.Term = uint64(i)+2, 1
			}
			n.disk.durable.state.Commit = commit
			before := slices.Clone(n.disk.durable.entries)
			err := n.start(nil)
			if atStart := commit >= 3; (err != nil) != atStart {
				t.Errorf("%s, commit %d: the start ends with %v", what, commit, err)
			}
			if err == nil {
				err = n.rounds(100)
			}
			var later *level.LaterError
			if !errors.As(err, &later) || later.Level != l.need || later.Known != 1 || errors.Is(err, errDisk) {
				t.Errorf("%s, commit %d: %v", what, commit, err)
			}
			if list := n.sm.list(); len(list) > 1 || len(list) == 1 && string(list[0]) != "before" {
				t.Errorf("%s, commit %d: applied %q", what, commit, list)
			}
			for i, e := range before {
				if at := n.disk.durable.entries[i]; at.Index != e.Index || string(at.Data) != string(e.Data) {
					t.Errorf("%s, commit %d: the log has changed at entry %d", what, commit, e.Index)
				}
			}
			if l.need == 0 {
				continue
			}
			n.known = 2
			n.sm.crash()
			n.boot(t)
			if err := n.rounds(100); err != nil {
				t.Errorf("%s, commit %d: a later version does not go on: %v", what, commit, err)
			}
			if list := n.sm.list(); string(list[0]) != "before" || string(list[len(list)-1]) != "after" {
				t.Errorf("%s, commit %d: a later version has %q", what, commit, list)
			}
		}
	}
}

// A node whose store has a higher level than it knows does not start: be the level in its
// state, in a snapshot that it was about to install, or in what a forcing would commit.
func TestNode_StoreOfALaterLevel_IsRefused(t *testing.T) {
	c, _ := ledCluster(t)
	c.levelled(t, 2)
	c.raiseTo(t, 2)
	n := c.nodes[1]
	n.sm.sync()
	n.known = 1
	index := n.sm.durable.Index
	if err := n.start(nil); !isLater(err) || !strings.Contains(err.Error(), "(level 2)") || n.sm.durable.Index != index {
		t.Errorf("the state has level 2: %v", err)
	}
	if err := n.start(forceFrom(ForceOnce, 10)); !isLater(err) {
		t.Errorf("a new cluster is forced of it: %v", err)
	}
	n.known = 2
	n.boot(t)
	if n.node.core.members.level != 2 {
		t.Errorf("the store has level %d", n.node.core.members.level)
	}

	n = newCrashCluster(t, 3, -1).nodes[1]
	n.known = 1
	tab, err := decodeTable(n.sm.durable.Meta)
	if err != nil {
		t.Fatal(err)
	}
	tab.level = 2
	meta, err := tab.encode()
	if err != nil {
		t.Fatal(err)
	}
	n.disk.durable.snapshot = raftpb.Snapshot{Data: snapshotData{meta: meta, state: []byte("0")}.encode(), Metadata: raftpb.SnapshotMetadata{Index: 9, Term: 1, ConfState: tab.conf}}
	if err := n.start(nil); !isLater(err) || n.sm.durable.Index != 1 {
		t.Errorf("a snapshot has level 2: %v", err)
	}

	n = newCrashCluster(t, 3, -1).nodes[1]
	n.known = 1
	n.disk.durable.entries = []raftpb.Entry{{Index: 2, Term: 1, Type: raftpb.EntryConfChange, Data: laterEntries()["a rise"].e.Data}}
	if err := n.start(forceFrom(ForceOnce, 10)); !isLater(err) || len(n.disk.durable.entries) != 1 {
		t.Errorf("a rise that nobody has carried out is forced: %v", err)
	}
}

// A known command above the store's level, which no honest leader writes, is carried out
// by nobody, and what comes after it by everybody.
func TestCore_KnownCommandAboveTheLevel_IsCarriedOutByNobody(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1]
	n.known = 3
	n.disk.durable.entries = []raftpb.Entry{
		{Index: 2, Term: 1, Data: encodeBatch([]command{{origin: 1, seq: 1, data: []byte("above"), level: 2}})},
		{Index: 3, Term: 1, Data: encodeBatch([]command{{origin: 1, seq: 2, data: []byte("after")}})},
	}
	n.disk.durable.state.Commit = 3
	n.boot(t)
	if err := n.round(false, nil); err != nil {
		t.Fatal(err)
	}
	if list := n.sm.list(); len(list) != 1 || string(list[0]) != "after" {
		t.Errorf("applied %q", list)
	}
}

// A rise that was judged on other members is refused: the new one was not asked.
func TestCore_RaiseOfAnotherTable_IsRefused(t *testing.T) {
	c, _ := ledCluster(t)
	c.levelled(t, 2)
	leader := c.lead(t)
	core := leader.node.core
	late := change{Op: opRaise, Member: Member{ID: leader.id}, Level: 2, Number: core.members.changed + 1}
	done := make(chan error, 1)
	core.proposeChange(opAdd, Member{ID: 9, Name: "n9", PeerURL: "http://n9:1", ClientURL: "http://n9:2"}, done)
	if err := c.answer(t, done); err != nil {
		t.Fatal(err)
	}
	call := &changeCall{change: late, done: done}
	call.change.Origin, call.change.Seq = leader.node.waiters.origin, 1000
	core.changes[1000] = call
	core.sendChange(call)
	if err := c.answer(t, done); !errors.Is(err, errChanged) || core.members.level != 1 {
		t.Errorf("%v, and the store has level %d", err, core.members.level)
	}
}

// upgraded starts a node again with a program that knows another level.
func (n *testNode) upgraded(t *testing.T, known uint64) {
	t.Helper()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.cfg.Level = known
	n.start()
}

// A rolling upgrade raises the store's level when the last member runs the later version,
// and not before. A downgrade is refused after that, as is a member that knows less, and
// both are fine with the later version.
func TestNode_RollingUpgrade_RaisesTheLevel(t *testing.T) {
	nodes := newTestCluster(t, 3, func(c *Config) { c.Level = 1 })
	for _, n := range nodes[:2] {
		n.upgraded(t, 2)
	}
	leads := func() *testNode {
		for _, n := range nodes {
			if n.node.Leads() {
				return n
			}
		}
		return nil
	}
	eventually(t, "an upgraded node leads", func() bool {
		if l := leads(); l == nil || l == nodes[2] {
			_ = nodes[0].node.TransferLeader(t.Context(), nodes[0].cfg.Name)
			return false
		}
		return true
	})
	if missing := leads().node.raise(t.Context(), leads().node.status.Load()); len(missing) != 1 || !strings.Contains(missing[0], nodes[2].cfg.Name+" (knows level 1)") {
		t.Errorf("in the way is %q", missing)
	}
	if _, err := leads().node.proposeOne(t.Context(), []byte("@2 early")); !errors.Is(err, ErrLevel) {
		t.Errorf("a command of level 2 ends with %v", err)
	}
	nodes[2].upgraded(t, 3)
	for _, n := range nodes {
		eventually(t, n.cfg.Name+" has a store of level 2", func() bool { return n.node.Status().Level == 2 })
	}
	if st := nodes[2].node.Status(); st.Known != 3 {
		t.Errorf("it says that it knows level %d", st.Known)
	}
	mustPropose(t, nodes[1], "@2 now")

	stranger := Member{ID: 77, Name: "n77", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1", Level: 1}
	if _, _, err := nodes[0].node.AddMember(t.Context(), stranger); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "knows up to level 1") {
		t.Errorf("a member that knows level 1 is added: %v", err)
	}

	n := nodes[1]
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	had := n.sm.durable.clone()
	n.cfg.Level = 1
	n.start()
	<-n.node.Stopped()
	if err := n.stop(); !isLater(err) {
		t.Errorf("a downgrade ends with %v", err)
	}
	if now := n.sm.durable; now.Index != had.Index || len(now.List) != len(had.List) {
		t.Errorf("it went from entry %d to %d", had.Index, now.Index)
	}
	n.cfg.Level = 2
	n.start()
	mustPropose(t, n, "@2 again")
}

// Nothing that a peer forwards or posts about levels stops anybody, or gets into the log.
func TestNode_ForwardedGarbage_StopsNobody(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	wantAlive(t, nodes, "nothing")
	batch := func(commands ...string) []raftpb.Entry {
		var cmds []command
		for i, c := range commands {
			cmds = append(cmds, command{origin: 1, seq: uint64(i), data: []byte(c)})
		}
		return []raftpb.Entry{{Data: encodeBatch(cmds)}}
	}
	over := encodeBatch([]command{{origin: 1, seq: 1, data: []byte("x"), level: 99}})
	update := changeEntry(change{Op: opUpdate, Member: nodes[0].node.Status().Members[0], Number: 1}, nodes[0].node.Status().Members[0].ID)
	for what, entries := range map[string][]raftpb.Entry{
		"commands of a later level":     batch("@9 later"),
		"commands that are none":        batch("!", "!!"),
		"both among others":             batch("@9 later", "x", "!"),
		"an entry of a later level":     {{Data: over}},
		"an entry of a later version":   {{Data: append([]byte{envelopeVersion + 1}, over[1:]...)}},
		"a change that is unknown":      {changeEntry(change{Op: "paint", Number: 1}, nodes[0].node.ID())},
		"a change of nothing":           {changeEntry(change{}, nodes[0].node.ID())},
		"a rise":                        {changeEntry(change{Op: opRaise, Level: 9, Number: 1}, nodes[0].node.ID())},
		"a change and what is later":    append(batch("@9 later"), update),
		"a change, and one unknown":     {update, changeEntry(change{Op: "paint", Number: 2}, nodes[0].node.ID())},
		"a change without a number":     {changeEntry(change{Op: opUpdate, Member: nodes[0].node.Status().Members[0]}, nodes[0].node.Status().Members[0].ID)},
		"a change that is not JSON":     {{Type: raftpb.EntryConfChange, Data: []byte{0x08, 1, 0x10, 2, 0x18, 77, 0x22, 1, '{'}}},
		"a change of another operation": {changeEntry(change{Op: opRemove, Number: 1}, nodes[0].node.ID())},
	} {
		for _, n := range nodes {
			for _, m := range n.node.Status().Members {
				if m.ID != n.node.ID() {
					post(t, n, raftpb.Message{Type: raftpb.MsgProp, From: uint64(m.ID), To: uint64(n.node.ID()), Entries: entries})
				}
			}
		}
		wantAlive(t, nodes, what)
	}
	for _, n := range nodes {
		if st := n.node.Status(); st.Level != 1 || len(st.Members) != 3 {
			t.Errorf("%s has level %d and %d members", n.cfg.Name, st.Level, len(st.Members))
		}
		if slices.ContainsFunc(n.sm.list(), func(b []byte) bool { return b[0] == '@' || b[0] == '!' }) {
			t.Errorf("%s has applied what nobody can carry out", n.cfg.Name)
		}
	}
	wantRestart(t, nodes)
}

// A snapshot of a later level stops a node only if a member that it knows says so too.
func TestNode_SnapshotOfALaterLevel(t *testing.T) {
	for _, c := range []struct {
		of    uint64 // the other member's store
		later bool
	}{{1, false}, {2, true}} {
		nodes := newTestCluster(t, 1, func(cfg *Config) { cfg.Level = c.of })
		eventually(t, "the store has its level", func() bool { return nodes[0].node.Status().Level == c.of })
		st := nodes[0].node.Status()
		behind := newTestNode(t, "n2")
		behind.cfg.Level = 1
		behind.cfg.Join = func(context.Context, Member) ([]Member, error) { return nil, nil }
		n, err := Open(behind.cfg, behind.sm)
		if err != nil {
			t.Fatal(err)
		}
		n.self.ClusterID, n.self.Peers = st.ClusterID, st.Members
		if err := n.keepSelf(); err != nil {
			t.Fatal(err)
		}
		tab := foundersTable(st.ClusterID, st.Members)
		offer := func(level uint64) raftpb.Snapshot {
			tab.level = level
			meta, err := tab.encode()
			if err != nil {
				t.Fatal(err)
			}
			return raftpb.Snapshot{Data: snapshotData{meta: meta, state: []byte("0")}.encode()}
		}
		if err := n.checkSnapshotLevel(t.Context(), offer(1)); err != nil {
			t.Errorf("a snapshot of level 1: %v", err)
		}
		if err := n.checkSnapshotLevel(t.Context(), offer(2)); err == nil || isLater(err) != c.later {
			t.Errorf("a snapshot of level 2, where the store has %d: %v", c.of, err)
		}
		n.client.CloseIdleConnections()
	}
}

// What a node says of levels to whoever asks it at its peer URL.
func TestNode_Introduction_TellsLevels(t *testing.T) {
	nodes := newTestCluster(t, 1, func(c *Config) { c.Level = 5 })
	n := nodes[0].node
	eventually(t, "the store has level 5", func() bool { return n.Status().Level == 5 })
	a, err := n.introductionOf(t.Context(), nodes[0].cfg.PeerURL, "")
	if err != nil || a.Level != 5 || a.StoreLevel != 5 {
		t.Errorf("level %d, store %d, %v", a.Level, a.StoreLevel, err)
	}
	n.client.CloseIdleConnections()
}
