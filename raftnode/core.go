package raftnode

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/raft/v3/tracker"

	"github.com/Focinfi/oncekv/bodies"
)

// core is the consensus of one member: events go in (tick, step, propose, read, change),
// work comes out (save, send, apply). It has no goroutine, no clock and no randomness, so
// that a scheduler with a seed can drive the code that runs in production.
//
// One piece of work is outstanding at a time:
//
//	for each event { core.event(…) }
//	if w, ok := core.next(); ok {
//		send(w.early); save(w); send(w.late); w2 := core.done(); apply(w2)
//	}
//
// That keeps raft 3.5 safe, which counts a leader's own entries as stored before they are:
// the leader's save has returned before a follower's acknowledgement is stepped.
type core struct {
	id        ID
	log       *memlog
	rn        *raft.RawNode
	members   *table // as of the last entry handed to apply
	membersAt uint64 // index of the entry or snapshot that changed members last
	waiters   *waiters
	progress  *progress
	logger    *slog.Logger
	limits    coreLimits
	gate      gate

	now   uint64 // ticks since the start
	term  uint64
	lead  uint64
	state raft.StateType

	queue       []command
	queueBytes  int
	queueBodies int // bytes of the bodies that it refers to
	inflight    int // entries this leader proposed in its term that are not committed
	// commands that others forwarded and that are in the queue or in an uncommitted entry
	// of this term
	forwarded map[commandName]struct{}

	reads []*read // wait for a round that starts after they came
	round *readRound
	lastR uint64

	changes    map[uint64]*changeCall
	lastChange uint64

	dropped   *droppedMessages
	heard     map[uint64]uint64 // member → tick of its last message
	leadHeard uint64            // tick of the leader's last message, or of the last change of leader or term
	lackEntry uint64            // the leader says that this node has acknowledged it, and it is not in its log; see lacks
	lackHeard uint64            // tick at which the leader said so last
	inStep    uint64            // tick of the leader's last heartbeat that says no such thing
	farSince  uint64            // tick since when terms are heard of that are out of reach, see climb
	farHeard  uint64            // tick of the last of them
	mayLeap   uint64            // tick before which no term leaps, see checkTerm
	ledSince  uint64            // tick at which this node became the leader
	snapping  map[uint64]uint64 // member → tick since when it is sent a snapshot

	snaps []raftpb.Message // snapshots received, to be staged
	held  []bodies.Ref     // by what raft has, and the log does not have yet

	rd         raft.Ready
	busy       bool
	forcedAt   uint64 // entry of the log as it was at the start that forced a new cluster; zero if none did
	savedIndex uint64 // last entry known to be fsynced
	savedTerm  uint64 // term of the HardState known to be fsynced
	logEnd     uint64 // raft's log is at least that long, saved or not
	commit     uint64
	snapped    uint64 // tick at which the last snapshot of this node's own state was taken
}

// coreLimits are in ticks and bytes.
type coreLimits struct {
	electionTicks    int
	retryTicks       uint64 // propose again without an answer, then ever more rarely
	readTicks        uint64 // ask for the read index again
	snapshotTicks    uint64 // offer a snapshot again
	inflightBatches  int
	queueBytes       int
	snapshotLogBytes int
	bodyTicks        uint64 // so long the log keeps bodies that are durably applied
	promoteLag       uint64 // entries
}

// readRound is one ReadIndex request to the leader.
type readRound struct {
	ctx     []byte
	started uint64
	reads   []*read
}

// changeCall is one membership change that waits to be applied here.
type changeCall struct {
	change change
	sent   uint64
	done   chan error // capacity 1
}

// work is what the driver must do, in the order of the fields.
type work struct {
	// early may leave before or during the save.
	early []raftpb.Message
	// snapshot goes to disk before the entries: entries that follow a
	// snapshot the disk does not have could not be read again.
	snapshot raftpb.Snapshot
	state    raftpb.HardState
	entries  []raftpb.Entry
	sync     bool
	// late must wait for the save: votes and acknowledgements are promises
	// about what is on the disk.
	late []raftpb.Message
	// stage lists snapshots to pull; staged hands each back when it is ready.
	stage []raftpb.Message
}

// handoff lists what the driver hands to the state machine after a save.
type handoff struct {
	install raftpb.Snapshot // first, unless empty
	items   []applyItem
	peers   []peerChange // for the transport, at once
	removed bool         // this node is no longer a member
}

// bytes is what the items take.
func (h *handoff) bytes() (n int) {
	for _, it := range h.items {
		n += it.bytes
	}
	return n
}

// applyItem is one committed entry.
type applyItem struct {
	index, term uint64
	commands    []command
	meta        []byte    // the member table, if this entry changed it
	history     historyID // that begins with this entry; zero if none does
	bytes       int
}

// peerChange adds, updates or (empty URL) removes a member in the transport.
type peerChange struct {
	id  ID
	url string
}

func newCore(id ID, log *memlog, members *table, applied uint64, ws *waiters, p *progress, dropped *droppedMessages, limits coreLimits, g gate, logger *slog.Logger) (*core, error) {
	log.conf = members.conf
	rn, err := raft.NewRawNode(&raft.Config{
		ID:              uint64(id),
		ElectionTick:    limits.electionTicks,
		HeartbeatTick:   1,
		Storage:         log,
		Applied:         applied,
		MaxSizePerMsg:   1 << 20,
		MaxInflightMsgs: 64, // times 1 MiB bounds what one slow member can hold
		// A proposal beyond this is dropped by raft and stays in our queue.
		MaxUncommittedEntriesSize: 32 << 20,
		MaxCommittedSizePerReady:  8 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		Logger:                    raftLogger{logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	hs, _, err := log.InitialState()
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c := &core{
		id: id, log: log, rn: rn, members: members, waiters: ws, progress: p, limits: limits, gate: g, logger: logger,
		term: hs.Term, forwarded: map[commandName]struct{}{}, changes: map[uint64]*changeCall{}, heard: map[uint64]uint64{}, snapping: map[uint64]uint64{},
		dropped: dropped, savedIndex: last, savedTerm: hs.Term, logEnd: last, commit: hs.Commit,
	}
	c.refresh()
	return c, nil
}

// leadAlone makes an only voter stand for election at once.
func (c *core) leadAlone() error {
	if v := c.members.conf.Voters; len(v) != 1 || v[0] != uint64(c.id) {
		return nil
	}
	if err := c.rn.Campaign(); err != nil {
		return fmt.Errorf("stand for election: %w", err)
	}
	c.refresh()
	return nil
}

// isLeader reports whether this node leads, as far as it knows.
func (c *core) isLeader() bool { return c.state == raft.StateLeader }

// deposed reports whether this node leads a cluster that it was removed from. raft goes on
// and takes one remaining voter for itself: it would answer reads without asking that
// voter, which may lead already.
func (c *core) deposed() bool {
	_, member := c.members.members[c.id]
	return !member && c.isLeader()
}

// refresh notices a change of leader or term. What was handed to the old leader may be
// lost, so it is proposed again, once for each change: applying a put twice is harmless.
// Other members propose again what they forwarded.
func (c *core) refresh() {
	st := c.rn.BasicStatus()
	changed := st.Term != c.term || st.Lead != c.lead
	if st.Term > c.term && st.Term-c.term > termLeap {
		c.mayLeap = c.now + uint64(c.limits.electionTicks)
	}
	c.term, c.lead, c.state = st.Term, st.Lead, st.RaftState
	if !changed {
		return
	}
	c.inflight = 0
	clear(c.forwarded)
	c.forget()
	c.leadHeard = c.now
	clear(c.snapping)
	if c.isLeader() {
		// A member counts as reachable once it has answered this leader.
		clear(c.heard)
		c.ledSince = c.now
	}
	if c.lead != raft.None {
		c.propose(c.waiters.handedOver())
	}
	c.abandonRound()
}

// tick moves the clock.
func (c *core) tick() {
	c.now++
	c.rn.Tick()
	c.refresh()
	// What a leader has proposed is in its log as long as it leads. Proposing it again
	// because disks are slow would make them slower.
	if !c.isLeader() {
		c.propose(c.waiters.overdue(c.now, c.limits.retryTicks))
	}
	if c.round != nil && c.now-c.round.started >= c.limits.readTicks {
		c.abandonRound()
	}
	if c.lead == raft.None || c.lacks() {
		c.forget() // else flush looks at each command
	}
	c.reads = wanted(c.reads)
	c.progress.forget()
	c.retryChanges()
	if c.isLeader() {
		c.retrySnapshots()
		c.promoteLearners()
	}
}

// forget drops from the queue what no caller waits for: without a leader nothing else
// empties it.
func (c *core) forget() {
	c.queue = c.waiters.wanted(c.queue)
	c.queueBytes, c.queueBodies = 0, 0
	for _, cmd := range c.queue {
		c.queueBytes += cmd.size()
		c.queueBodies += cmd.body
	}
}

// step takes a message that claims to be another member's.
func (c *core) step(m raftpb.Message) {
	if c.members.removed[ID(m.From)] {
		return
	}
	if err := c.checkMessage(&m); err != nil {
		c.dropped.add(&m, err)
		c.climb(&m)
		return
	}
	c.hear(m.From)
	switch {
	case m.Type == raftpb.MsgSnap && m.Term >= c.term:
		// raft cannot take a snapshot back, so its data is verified first.
		c.snaps = append(c.snaps, m)
		return
	case m.Type == raftpb.MsgProp && c.isLeader():
		if m.Entries = c.absorb(m); len(m.Entries) == 0 {
			return
		}
	case m.Type == raftpb.MsgReadIndex && c.deposed():
		return
	case m.Type == raftpb.MsgHeartbeat:
		// An append since the last save may have shortened the log. The next heartbeat
		// commits the rest.
		m.Commit = min(m.Commit, c.logEnd)
		if m.From == c.lead {
			c.inStep = c.now
		}
	case m.Type == raftpb.MsgApp && len(m.Entries) > 0:
		if !c.holdAppended(&m) {
			return // the leader sends it again
		}
		c.logEnd = min(c.logEnd, m.Entries[len(m.Entries)-1].Index)
	}
	c.stepRaft(m)
}

// holdAppended holds the bodies of entries that are about to be appended. It returns false,
// and holds none of them, if one is not durable here: what is acknowledged is complete.
// raft ignores the entries of a message that begins before the commit index.
func (c *core) holdAppended(m *raftpb.Message) bool {
	before := len(c.held)
	if m.Index < c.commit {
		return true
	}
	for i := range m.Entries {
		for _, ref := range c.log.refs.of(&m.Entries[i]) {
			if !c.hold(ref) {
				c.log.refs.release(c.held[before:])
				c.held = c.held[:before]
				return false
			}
		}
	}
	return true
}

// hold keeps a body until the log holds it, after the save of its entry.
func (c *core) hold(ref bodies.Ref) bool {
	if !c.log.refs.store.Hold(ref.Digest) {
		return false
	}
	c.held = append(c.held, ref)
	return true
}

// letGo releases what hold has kept, once the log has all that raft has.
func (c *core) letGo() {
	c.log.refs.release(c.held)
	c.held = c.held[:0]
}

// holdQueued holds the bodies of commands that a leader is about to propose, and returns
// the commands that lack none. The caller of one that does distributes its body again.
func (c *core) holdQueued(cmds []command) []command {
	lacks := func(cmd command) bool {
		ref, ok := c.log.refs.ofCommand(cmd.data)
		return ok && !c.hold(ref)
	}
	first := slices.IndexFunc(cmds, lacks)
	if first < 0 {
		return cmds
	}
	complete := slices.Clone(cmds[:first])
	for i, cmd := range cmds[first:] {
		if i > 0 && !lacks(cmd) {
			complete = append(complete, cmd)
			continue
		}
		delete(c.forwarded, cmd.name())
		c.waiters.refuse(cmd, errBodyMissing)
	}
	return complete
}

// hear notes a sign of life of a member or the leader.
func (c *core) hear(from uint64) {
	if _, member := c.members.members[ID(from)]; member {
		c.heard[from] = c.now
	}
	if from == c.lead {
		c.leadHeard = c.now
	}
}

// lacks reports whether the leader says that this node has acknowledged entries that its
// log does not have: the data directory is an older copy. The leader may send them again;
// until then this node acts as if it had no leader, because it could neither confirm a read
// nor answer a put. The message may be forged, so it counts only while it is repeated and
// no heartbeat contradicts it.
func (c *core) lacks() bool {
	return c.lackEntry > c.savedIndex && c.now-c.lackHeard < uint64(c.limits.electionTicks) && c.now-c.inStep > heartbeatsMissed
}

// heartbeatsMissed is how many ticks a heartbeat may be late. A leader sends one per tick.
const heartbeatsMissed = 3

// absorb puts the commands that another member forwarded into the leader's next entry:
// fewer entries, fewer fsyncs. It drops copies of what is not committed yet, because
// members repeat what may have been lost, and commands that the gate refuses. It returns
// the other entries.
func (c *core) absorb(m raftpb.Message) (rest []raftpb.Entry) {
	if c.queueBytes > c.limits.queueBytes {
		return nil // dropped: whoever forwarded it proposes it again
	}
	var cmds []command
	var refusal error
	for _, e := range m.Entries {
		if e.Type != raftpb.EntryNormal {
			rest = append(rest, e)
			continue
		}
		batch, _, err := decodeBatch(e.Data)
		if err != nil {
			return nil // checkMessage has looked at it: never
		}
		for _, cmd := range batch {
			if err := c.admit(&cmd); err != nil {
				refusal = err
				continue
			}
			if _, known := c.forwarded[cmd.name()]; !known {
				c.forwarded[cmd.name()] = struct{}{}
				cmds = append(cmds, cmd)
			}
		}
	}
	if refusal != nil {
		c.dropped.add(&m, refusal)
	}
	c.enqueue(cmds)
	return rest
}

func (c *core) stepRaft(m raftpb.Message) {
	err := c.rn.Step(m)
	if err != nil && !errors.Is(err, raft.ErrProposalDropped) && !errors.Is(err, raft.ErrStepPeerNotFound) {
		c.logger.Debug("raft refused a message", "type", m.Type.String(), "from", ID(m.From).String(), "err", err)
	}
	c.refresh()
}

// staged gives raft a snapshot whose data is verified.
func (c *core) staged(m raftpb.Message) {
	c.logEnd = min(c.logEnd, m.Snapshot.Metadata.Index)
	c.stepRaft(m)
}

// propose queues commands of this node's callers. Those that the gate refuses are answered.
func (c *core) propose(cmds []command) {
	admitted := cmds[:0]
	for _, cmd := range cmds {
		if err := c.admit(&cmd); err != nil {
			c.waiters.refuse(cmd, err)
			continue
		}
		admitted = append(admitted, cmd)
	}
	c.enqueue(admitted)
}

func (c *core) enqueue(cmds []command) {
	for _, cmd := range cmds {
		if ref, ok := c.log.refs.ofCommand(cmd.data); ok {
			cmd.body = ref.Size
		}
		c.queue = append(c.queue, cmd)
		c.queueBytes += cmd.size()
		c.queueBodies += cmd.body
	}
}

// flush turns the queue into entries. A leader keeps one entry in flight: what comes
// meanwhile shares the next one, so batches grow with the load and an idle store adds no
// delay. Only full entries may overlap; allowing more made batches smaller and puts slower.
func (c *core) flush() {
	for len(c.queue) > 0 && c.lead != raft.None && !c.lacks() {
		full := c.queueBytes >= batchBytes || c.queueBodies >= batchBodyBytes
		if c.isLeader() && c.inflight > 0 && (!full || c.inflight >= c.limits.inflightBatches) {
			return
		}
		n, bytes, bodyBytes := c.nextBatch()
		cmds := c.queue[:n]
		if c.isLeader() {
			cmds = c.holdQueued(cmds)
		}
		if batch := c.waiters.claim(cmds, c.now); len(batch) > 0 {
			if err := c.rn.Propose(encodeBatch(batch)); err != nil {
				c.waiters.unclaim(batch)
				return // dropped: stays queued, tried again after the next event
			}
			if c.isLeader() {
				c.inflight++
			}
		}
		clear(c.queue[:n])
		c.queue = c.queue[n:]
		c.queueBytes -= bytes
		c.queueBodies -= bodyBytes
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
}

// nextBatch counts the queued commands that fit one entry, at least one.
func (c *core) nextBatch() (n, bytes, bodyBytes int) {
	for n < len(c.queue) && n < batchCount {
		size, body := c.queue[n].size(), c.queue[n].body
		if n > 0 && (bytes+size > batchBytes || bodyBytes+body > batchBodyBytes) {
			break
		}
		bytes += size
		bodyBytes += body
		n++
	}
	return n, bytes, bodyBytes
}

// read queues a ReadIndex call.
func (c *core) read(r []*read) { c.reads = append(c.reads, r...) }

// startRound asks the leader for its commit index on behalf of all calls that have come so
// far. A call never joins a round that began before it.
func (c *core) startRound() {
	if c.round != nil || len(c.reads) == 0 || c.lead == raft.None || c.deposed() || c.lacks() {
		return
	}
	c.lastR++
	ctx := binary.BigEndian.AppendUint64(make([]byte, 0, readContextBytes), c.waiters.origin)
	ctx = binary.BigEndian.AppendUint64(ctx, c.lastR)
	c.round = &readRound{ctx: ctx, started: c.now, reads: c.reads}
	c.reads = nil
	c.rn.ReadIndex(ctx) // may be dropped without a word: tick asks again, under a new name
}

// abandonRound puts the calls of the running round back. They are asked again under a new
// name, so that a late answer to the old one counts for nothing.
func (c *core) abandonRound() {
	if c.round != nil {
		c.reads = append(c.round.reads, c.reads...)
		c.round = nil
	}
}

// answerRounds lets the calls of a confirmed round wait for apply. A leader that was paused
// may confirm with acknowledgements of an earlier term (etcd issue 20418); refresh has
// abandoned the round by then.
func (c *core) answerRounds(states []raft.ReadState) {
	for _, s := range states {
		if c.round == nil || string(s.RequestCtx) != string(c.round.ctx) {
			continue
		}
		c.progress.wait(s.Index, c.round.reads)
		c.round = nil
	}
}

// next returns the next piece of work. done must follow before next is called again.
func (c *core) next() (work, bool) {
	if c.busy {
		panic("raftnode: next called while work is outstanding")
	}
	c.flush()
	c.startRound()
	var w work
	w.stage, c.snaps = c.snaps, nil
	if !c.rn.HasReady() {
		c.letGo()
		return w, len(w.stage) > 0
	}
	c.rd, c.busy = c.rn.Ready(), true
	rd := c.rd
	c.refresh()
	c.answerRounds(rd.ReadStates)
	w.snapshot, w.state, w.entries, w.sync = rd.Snapshot, rd.HardState, rd.Entries, rd.MustSync
	if !raft.IsEmptyHardState(rd.HardState) {
		c.commit = rd.HardState.Commit
	}
	msgs := c.outgoing(rd.Messages)
	// A leader's messages may leave before its own save if they promise nothing about it:
	// same term as on disk, and no commit index that counts entries only this node has (a
	// single voter commits by itself, so it always saves first).
	if c.isLeader() && c.term == c.savedTerm && c.commit <= c.savedIndex && raft.IsEmptySnap(rd.Snapshot) {
		w.early = msgs
	} else {
		w.late = msgs
	}
	return w, true
}

// outgoing drops what must not or need not be sent.
func (c *core) outgoing(msgs []raftpb.Message) []raftpb.Message {
	acked := false
	for i := len(msgs) - 1; i >= 0; i-- {
		switch m := &msgs[i]; {
		case m.From == m.To:
			// raft forwards what is for the leader in its sender's name, to a member that
			// leads by now itself.
			m.To = raft.None
		case m.Type == raftpb.MsgAppResp && !m.Reject:
			// Only the newest acknowledgement says anything.
			if acked {
				m.To = raft.None
			}
			acked = true
		case m.Type == raftpb.MsgSnap:
			if !slices.Contains(members(m.Snapshot.Metadata.ConfState), m.To) {
				// The member would refuse a snapshot that is older than itself. A newer one
				// follows within a second or so.
				c.rn.ReportSnapshot(m.To, raft.SnapshotFailure)
				m.To = raft.None
				continue
			}
			if _, ok := c.snapping[m.To]; !ok {
				c.snapping[m.To] = c.now
			}
		}
	}
	return slices.DeleteFunc(msgs, func(m raftpb.Message) bool { return m.To == raft.None })
}

// done is called when the work's save has returned. The entries that it hands off are on
// this node's disk and may be applied.
func (c *core) done() (handoff, error) {
	var h handoff
	if !c.busy {
		return h, nil // the work had only snapshots to stage
	}
	rd := c.rd
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := c.restore(rd.Snapshot, &h); err != nil {
			return h, err
		}
	}
	if _, err := c.log.add(rd.Entries, 0, c.now); err != nil {
		return h, err
	}
	c.letGo()
	if n := len(rd.Entries); n > 0 {
		c.savedIndex = rd.Entries[n-1].Index
	}
	c.logEnd = c.savedIndex
	if !raft.IsEmptyHardState(rd.HardState) {
		c.savedTerm = rd.HardState.Term
		if err := c.log.SetHardState(rd.HardState); err != nil {
			return h, err
		}
	}
	for _, e := range rd.CommittedEntries {
		if err := c.commitEntry(e, &h); err != nil {
			return h, err
		}
	}
	c.rn.Advance(rd)
	c.rd, c.busy = raft.Ready{}, false
	c.refresh()
	return h, nil
}

// restore makes a snapshot the state of log and member table.
func (c *core) restore(s raftpb.Snapshot, h *handoff) error {
	data, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	if err := c.log.restore(s); err != nil {
		return err
	}
	h.install = s
	t := data.members
	for id, m := range t.members {
		if old, ok := c.members.members[id]; !ok || old.PeerURL != m.PeerURL {
			h.peers = append(h.peers, peerChange{id, m.PeerURL})
		}
	}
	for id := range c.members.members {
		if _, ok := t.members[id]; !ok {
			h.peers = append(h.peers, peerChange{id: id})
		}
	}
	slices.SortFunc(h.peers, func(a, b peerChange) int { return cmp.Compare(a.id, b.id) })
	c.members, c.membersAt = t, s.Metadata.Index
	c.savedIndex = s.Metadata.Index // the log before it is gone
	return nil
}

// commitEntry turns a committed entry into an item to apply. A membership change takes
// effect here, before Advance and so before this node tells that it has the entry.
func (c *core) commitEntry(e raftpb.Entry, h *handoff) error {
	if err := checkKnown(&e, c.gate.known); err != nil {
		return err
	}
	item := applyItem{index: e.Index, term: e.Term, bytes: c.log.logged[e.Index-c.log.first].size}
	switch e.Type {
	case raftpb.EntryNormal:
		if len(e.Data) == 0 {
			break
		}
		cmds, need, err := decodeBatch(e.Data)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if need <= c.members.level { // else no honest leader wrote it: nobody carries it out
			item.commands = cmds
		}
		if c.isLeader() && e.Term == c.term {
			c.inflight = max(0, c.inflight-1)
			for _, cmd := range cmds {
				delete(c.forwarded, cmd.name())
			}
		}
	case raftpb.EntryConfChange:
		if err := c.commitChange(e, &item, h); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entry %d has type %v, which this program never writes", e.Index, e.Type)
	}
	h.items = append(h.items, item)
	return nil
}

// commitChange validates and applies a membership change.
func (c *core) commitChange(e raftpb.Entry, item *applyItem, h *handoff) error {
	ch, cc, err := decodeChange(e.Data)
	if err == nil {
		err = c.members.check(ch)
	}
	if err == nil && ch.Op == opRemove && ch.Member.ID == c.id && e.Index < c.forcedAt {
		err = refuse("this node has forced a new cluster since")
	}
	if err != nil {
		// raft must hear of every conf change entry; node 0 means "none".
		c.rn.ApplyConfChange(raftpb.ConfChange{NodeID: raft.None})
		if errors.Is(err, errChanged) && c.members.shows(ch) {
			err = nil // a copy of it was first, or somebody who wanted the same
		}
		c.answerChange(ch, err)
		return nil
	}
	if ch.Op == opRaise && ch.Level > c.gate.known {
		return later(fmt.Sprintf("the rest of the log, from entry %d on,", e.Index), ch.Level, c.gate.known)
	}
	conf, err := c.applyConf(ch, cc, h)
	if err != nil {
		return err
	}
	c.members.apply(ch, conf)
	c.membersAt = e.Index
	if item.meta, err = c.members.encode(); err != nil {
		return err
	}
	if ch.Op == opForce {
		item.history = ch.Forcing.History
	}
	pc := peerChange{id: ch.Member.ID}
	if m, ok := c.members.members[ch.Member.ID]; ok {
		pc.url = m.PeerURL
	} else if pc.id == c.id {
		h.removed = true
	}
	h.peers = append(h.peers, pc)
	c.answerChange(ch, nil)
	if ch.Op == opRaise {
		c.logger.Info("the store's level has risen", "level", ch.Level, "index", e.Index)
		return nil
	}
	c.logger.Info("membership changed", "op", string(ch.Op), "member", ch.Member.Name, "id", ch.Member.ID.String(), "index", e.Index)
	return nil
}

func (c *core) answerChange(ch change, err error) {
	if ch.Origin != c.waiters.origin {
		return
	}
	if call := c.changes[ch.Seq]; call != nil {
		delete(c.changes, ch.Seq)
		if call.done != nil {
			call.done <- err
		}
	}
}

// proposeChange proposes a membership change of the table as it is, and again until it is
// applied: raft silently replaces a conf change by an empty entry while another one is
// pending.
func (c *core) proposeChange(op changeOp, m Member, done chan error) uint64 {
	return c.startChange(change{Op: op, Member: m}, done)
}

func (c *core) startChange(ch change, done chan error) uint64 {
	c.lastChange++
	ch.Origin, ch.Seq, ch.Number = c.waiters.origin, c.lastChange, c.members.changed+1
	call := &changeCall{change: ch, done: done}
	c.changes[c.lastChange] = call
	c.sendChange(call)
	return c.lastChange
}

func (c *core) sendChange(call *changeCall) {
	call.sent = c.now
	cc, err := call.change.confChange()
	if err == nil {
		err = c.rn.ProposeConfChange(cc)
	}
	if err != nil {
		c.logger.Debug("membership change not proposed yet", "err", err)
	}
}

func (c *core) retryChanges() {
	for _, seq := range slices.Sorted(maps.Keys(c.changes)) {
		call := c.changes[seq]
		if !c.isLeader() && call.done == nil {
			delete(c.changes, seq) // the new leader looks after its learners itself
			continue
		}
		if c.now-call.sent >= c.limits.retryTicks {
			c.sendChange(call)
		}
	}
}

// activeTicks is how long after its last message a member counts as reachable. It answers a
// heartbeat in every tick.
const activeTicks = 5

// knowsReachable reports whether this leader has led long enough to know who can be
// reached.
func (c *core) knowsReachable() bool { return c.isLeader() && c.now-c.ledSince >= activeTicks }

// active reports whether a member was heard of lately.
func (c *core) active(id ID) bool {
	at, heard := c.heard[uint64(id)]
	return id == c.id || heard && c.now-at <= activeTicks
}

// quorumAfter reports whether the voters would still have an active majority if one were
// added or removed.
func (c *core) quorumAfter(add, remove ID) (ok bool, active, voters int) {
	for _, v := range append(slices.Clone(c.members.conf.Voters), uint64(add)) {
		if id := ID(v); id != 0 && id != remove {
			voters++
			if c.active(id) {
				active++
			}
		}
	}
	return active > voters/2, active, voters
}

// match returns how far a member's log agrees with the leader's.
func (c *core) match(id ID) (match uint64, state tracker.StateType) {
	c.rn.WithProgress(func(x uint64, _ raft.ProgressType, pr tracker.Progress) {
		if x == uint64(id) {
			match, state = pr.Match, pr.State
		}
	})
	return match, state
}

// caughtUp reports whether a learner could vote without slowing the cluster.
func (c *core) caughtUp(id ID) bool {
	match, _ := c.match(id)
	return c.active(id) && match > 0 && match+c.limits.promoteLag >= c.commit
}

// promoteLearners makes a voter of the first learner that asked for it and has caught up.
func (c *core) promoteLearners() {
	if len(c.changes) > 0 {
		return
	}
	for _, m := range c.members.list() {
		if !m.Learner || !m.Promote || !c.caughtUp(m.ID) {
			continue
		}
		if ok, _, _ := c.quorumAfter(m.ID, 0); ok {
			c.proposeChange(opPromote, m, nil)
			return
		}
	}
}

// retrySnapshots offers a snapshot again to members that have not acknowledged theirs. raft
// is never told that one has arrived: the receiver's acknowledgement, after it has
// installed everything, says so.
func (c *core) retrySnapshots() {
	for _, id := range slices.Sorted(maps.Keys(c.snapping)) {
		_, state := c.match(ID(id))
		if state != tracker.StateSnapshot {
			delete(c.snapping, id)
		} else if c.now-c.snapping[id] >= c.limits.snapshotTicks {
			delete(c.snapping, id)
			c.rn.ReportSnapshot(id, raft.SnapshotFailure)
		}
	}
}

// transfer asks raft to make a voter the leader.
func (c *core) transfer(to ID) {
	if c.isLeader() {
		c.rn.TransferLeader(uint64(to))
	}
}

// successor is the voter that is nearest to the leader's log and active.
func (c *core) successor() (ID, bool) {
	var best ID
	var most uint64
	for _, v := range c.members.conf.Voters {
		if ID(v) == c.id || !c.active(ID(v)) {
			continue
		}
		if match, _ := c.match(ID(v)); best == 0 || match > most {
			best, most = ID(v), match
		}
	}
	return best, best != 0
}

// checkpoint reports whether the durable state at index is worth a snapshot: the log since
// the last one is long, or has held bodies for long, or the last one lacks a member.
func (c *core) checkpoint(index uint64) (bool, error) {
	last, err := c.log.Snapshot()
	if err != nil {
		return false, fmt.Errorf("look up the last snapshot: %w", err)
	}
	at := last.Metadata.Index
	if index <= at {
		return false, nil
	}
	if c.log.bytesUpTo(at, index) >= c.limits.snapshotLogBytes {
		return true, nil
	}
	// The same snapshot serves all entries until now, so one in bodyTicks is enough.
	if c.now-c.snapped >= c.limits.bodyTicks && c.heldLong(index) > at {
		return true, nil
	}
	return c.isLeader() && !slices.Equal(members(last.Metadata.ConfState), members(c.members.conf)), nil
}

// heldLong returns the last entry up to one that has held bodies for bodyTicks, zero if
// there is none.
func (c *core) heldLong(upTo uint64) uint64 {
	if c.now < c.limits.bodyTicks {
		return 0
	}
	return c.log.lastHolding(upTo, c.now-c.limits.bodyTicks)
}

// letBodiesGo drops the entries that have held bodies for bodyTicks, and those before them,
// as far as a snapshot has them. Otherwise a store that is not written to any more would
// keep bodies that it does not need. Members that are behind pull.
func (c *core) letBodiesGo() error {
	last, err := c.log.Snapshot()
	if err != nil {
		return fmt.Errorf("look up the last snapshot: %w", err)
	}
	return c.log.compact(c.heldLong(last.Metadata.Index))
}

func members(cs raftpb.ConfState) []uint64 {
	return slices.Sorted(slices.Values(slices.Concat(cs.Voters, cs.Learners)))
}

// applyConf tells raft and the transport of a change. A forcing is several changes, because
// raft takes one at a time.
func (c *core) applyConf(ch change, cc raftpb.ConfChange, h *handoff) (raftpb.ConfState, error) {
	conf := c.rn.ApplyConfChange(cc)
	if ch.Op != opForce {
		return *conf, nil
	}
	var parts []change
	if m := c.members.members[ch.Member.ID]; m.Learner {
		parts = append(parts, change{Op: opPromote, Member: m})
	}
	for _, m := range c.members.list() {
		if m.ID != ch.Member.ID {
			parts = append(parts, change{Op: opRemove, Member: m})
			h.peers = append(h.peers, peerChange{id: m.ID})
		}
	}
	for _, part := range parts {
		cc, err := part.confChange()
		if err != nil {
			return *conf, err
		}
		conf = c.rn.ApplyConfChange(cc)
	}
	return *conf, nil
}
