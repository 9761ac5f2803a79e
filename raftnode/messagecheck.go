package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"

	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// raft believes its peers: an index that no log holds, an entry that does not follow the
// one before, or a request without its one entry makes it panic, and it writes down any
// term. The peer port is open to everybody who reaches it, so what no member sends is
// dropped here, before raft sees it. What a member could have sent is believed: this
// protects neither against a majority that lies nor against a forged vote.

const (
	// indexMax is beyond every log, and far from where indexes overflow.
	indexMax = 1 << 62
	// contextBytesMax bounds the name of a read (readContextBytes), or of a vote for a
	// transfer.
	contextBytesMax = 64
	// readContextBytes name one round of reads: origin and number.
	readContextBytes = 16
	// termLeap is a rise of the term that elections of the last moment do not
	// explain. There is at most one in an election time-out.
	termLeap = 1 << 10
	// entryBytesMax is the data of the largest entry: a full one and its envelope.
	entryBytesMax = batchBytes + 64
)

// messageError is why a message is dropped.
type messageError string

func (e messageError) Error() string { return string(e) }

func badMessage(format string, args ...any) error { return messageError(fmt.Sprintf(format, args...)) }

// droppedMessages counts and logs what is dropped. It may be used from any
// goroutine.
type droppedMessages struct {
	count  atomic.Uint64
	say    *rate.Limiter
	logger *slog.Logger
}

// droppedEvery is how often a dropped message is logged. Its sender can send thousands a
// second.
const droppedEvery = 10 * time.Second

func newDroppedMessages(logger *slog.Logger) *droppedMessages {
	return &droppedMessages{say: rate.NewLimiter(rate.Every(droppedEvery), 1), logger: logger}
}

func (d *droppedMessages) add(m *raftpb.Message, why error) {
	total := d.count.Add(1)
	if d.say.Allow() {
		d.logger.Warn("dropped a message that no honest member sends", "why", why.Error(), "type", m.Type.String(), "from", ID(m.From).String(), "term", m.Term, "dropped", total)
	}
}

// checkHeader checks what needs no state: sender, receiver, and which fields the type has.
// It is cheap, so that a message is refused before it is queued.
func checkHeader(self uint64, m *raftpb.Message) error {
	if _, known := raftpb.MessageType_name[int32(m.Type)]; !known || raft.IsLocalMsg(m.Type) || m.Type == raftpb.MsgTransferLeader {
		return badMessage("messages of type %v do not travel", m.Type)
	}
	switch {
	case m.To != self:
		return badMessage("it is for %v", ID(m.To))
	case m.From == raft.None || m.From == self:
		return badMessage("it is from %v", ID(m.From))
	case max(m.Index, m.Commit, m.RejectHint, m.Snapshot.Metadata.Index) > indexMax:
		return badMessage("no log is that long")
	case len(m.Context) > contextBytesMax:
		return badMessage("its context has %d bytes", len(m.Context))
	case m.LogTerm > m.Term:
		return badMessage("it refers to an entry of term %d in term %d", m.LogTerm, m.Term)
	case m.Type != raftpb.MsgSnap && (len(m.Snapshot.Data) > 0 || m.Snapshot.Metadata.Index != 0):
		return badMessage("only %v carries a snapshot", raftpb.MsgSnap)
	}
	return checkShape(m)
}

// checkShape knows which types have a term, and how many entries.
func checkShape(m *raftpb.Message) error {
	forwarded := m.Type == raftpb.MsgProp || m.Type == raftpb.MsgReadIndex // raft sends these without a term
	if forwarded != (m.Term == 0) {
		return badMessage("messages of type %v do not have term %d", m.Type, m.Term)
	}
	ok := len(m.Entries) == 0
	switch m.Type {
	case raftpb.MsgApp:
		ok = true
	case raftpb.MsgProp:
		ok = len(m.Entries) > 0
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		ok = len(m.Entries) == 1 && len(m.Entries[0].Data) == readContextBytes
	}
	if !ok {
		return badMessage("messages of type %v do not have %d such entries", m.Type, len(m.Entries))
	}
	return nil
}

// checkMessage returns nil for a message that a member could have sent, and else why it could
// not.
func (c *core) checkMessage(m *raftpb.Message) error {
	if err := checkHeader(uint64(c.id), m); err != nil {
		return err
	}
	if err := c.checkSender(m); err != nil {
		return err
	}
	if err := c.checkTerm(m); err != nil {
		return err
	}
	switch m.Type {
	case raftpb.MsgApp:
		return checkAppend(m)
	case raftpb.MsgProp:
		return checkProposal(m)
	case raftpb.MsgSnap:
		return c.checkSnapshot(m)
	case raftpb.MsgHeartbeat:
		// A leader tells a member to commit only what that member has
		// acknowledged, after its fsync, in the leader's term.
		if m.Term >= c.term && m.Commit > c.savedIndex {
			if _, member := c.members.members[ID(m.From)]; member {
				c.lackEntry, c.lackHeard = m.Commit, c.now
			}
			return badMessage("it commits entry %d, but this node's log ends at %d; unless the message is forged, the data directory is an old copy and this node must be replaced", m.Commit, c.savedIndex)
		}
	case raftpb.MsgAppResp:
		// A leader has saved what it has sent by the time the answer is looked at.
		if c.isLeader() && m.Term == c.term && (m.Index > c.savedIndex || m.Reject && m.RejectHint > m.Index) {
			return badMessage("it acknowledges entry %d, but the leader's log ends at %d", max(m.Index, m.RejectHint), c.savedIndex)
		}
	}
	return nil
}

// checkSender refuses senders that are no members, while this node is not behind.
//
// A node that is behind may not know its leader, a candidate, or a new member: they were
// added in entries that it has not applied. So only a node that a leader it knows keeps up
// to date refuses strangers. While such a leader is heard there is hardly another: it would
// have needed a majority, which would have deposed the first. Only when leadership is
// handed over to a member that this node does not know yet, it drops what the new leader
// sends, for an election time-out.
func (c *core) checkSender(m *raftpb.Message) error {
	if _, known := c.members.members[ID(m.From)]; known || m.From == c.lead || !c.led() {
		return nil
	}
	return badMessage("%v is not a member", ID(m.From))
}

// led reports whether a member that this node knows leads, and was heard within an election
// time-out. A leader itself knows everybody once it has committed an entry of its term.
func (c *core) led() bool {
	if _, member := c.members.members[ID(c.lead)]; !member {
		return false
	}
	if c.isLeader() {
		term, err := c.log.Term(c.commit)
		return err == nil && term == c.term
	}
	return c.now-c.leadHeard < uint64(c.limits.electionTicks)
}

// checkTerm refuses terms that the check of the log would refuse at the next start, and
// those that contradict what raft guarantees.
//
// Terms that rise a little at a time are believed. They may leap once in an election
// time-out: the others hear of it and follow before the next leap, so nobody is left behind
// by more than one. At that pace termMax is ten thousand years away.
func (c *core) checkTerm(m *raftpb.Message) error {
	if !walscan.TermMayFollow(c.savedTerm, m.Term) {
		return badMessage("term %d is too far beyond term %d", m.Term, c.savedTerm)
	}
	if m.Term > c.term && m.Term-c.term > termLeap && c.now < c.mayLeap {
		return badMessage("term %d is far beyond term %d, which was far from the one before", m.Term, c.term)
	}
	switch m.Type {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap, raftpb.MsgReadIndexResp, raftpb.MsgTimeoutNow:
		if m.Term == c.term && c.lead != raft.None && m.From != c.lead {
			return badMessage("it leads term %d, but so does %v", m.Term, ID(c.lead))
		}
	}
	switch {
	case m.Type == raftpb.MsgTimeoutNow && m.Term > c.term:
		return badMessage("it hands over term %d to a node that is at term %d", m.Term, c.term)
	case m.Type == raftpb.MsgVoteResp && !m.Reject && m.Term > c.term,
		m.Type == raftpb.MsgPreVoteResp && !m.Reject && m.Term > c.term+1:
		return badMessage("it answers in term %d what was never asked in it", m.Term)
	case (m.Type == raftpb.MsgVote || m.Type == raftpb.MsgPreVote) && m.LogTerm >= m.Term:
		return badMessage("it asks for votes in term %d, but its log has entries of that term", m.Term)
	}
	return nil
}

// climb takes a step towards a term that this node may not take, once members have insisted
// on it for some election time-outs, or for many if this node has a leader. Otherwise
// members whose terms were driven apart while they were separated would never agree again.
// A node that has just joined knows nobody and believes anybody who insists.
func (c *core) climb(m *raftpb.Message) {
	_, member := c.members.members[ID(m.From)]
	member = member || len(c.members.members) == 0
	term := walscan.TermToward(c.savedTerm, m.Term)
	if !member || checkHeader(uint64(c.id), m) != nil || walscan.TermMayFollow(c.savedTerm, m.Term) || term <= c.term {
		return
	}
	timeout := uint64(c.limits.electionTicks)
	if c.now-c.farHeard > 2*timeout { // who calls elections in vain is heard of so often
		c.farSince = c.now
	}
	c.farHeard = c.now
	patience := 3 * timeout
	if c.lead != raft.None {
		patience = 20 * timeout
	}
	if c.now-c.farSince < patience {
		return
	}
	c.farSince = c.now
	// The term begins without a leader, so it promises nothing.
	c.stepRaft(raftpb.Message{Type: raftpb.MsgTransferLeader, From: m.From, To: m.To, Term: term})
}

// checkAppend accepts entries that follow one another, and the one before them, in index
// and term. No log begins before index 1, which is in a snapshot; raft takes entry n of
// term 0 for one that every log has.
func checkAppend(m *raftpb.Message) error {
	if m.Index == 0 || m.LogTerm == 0 {
		return badMessage("it appends to entry %d of term %d", m.Index, m.LogTerm)
	}
	index, term := m.Index, m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Index != index+1 || e.Term < term || e.Term > m.Term {
			return badMessage("entry %d of term %d cannot follow entry %d of term %d in term %d", e.Index, e.Term, index, term, m.Term)
		}
		if err := checkEntry(e, len(e.Data) == 0); err != nil { // a new leader begins with an empty entry
			return err
		}
		index, term = e.Index, e.Term
	}
	return nil
}

// checkProposal accepts what a member whose store has this one's level may forward: not
// what this program cannot read, and no raise, which the leader proposes itself. A leader
// appends the entries as they are if a membership change is among them.
func checkProposal(m *raftpb.Message) error {
	for i := range m.Entries {
		e := &m.Entries[i]
		if err := checkEntry(e, false); err != nil {
			return err
		}
		if e.Type == raftpb.EntryNormal {
			if _, _, _, err := batchHead(e.Data); err != nil {
				return badMessage("%v", err)
			}
		} else if ch, _, err := decodeChange(e.Data); err != nil {
			return badMessage("%v", err)
		} else if ch.Op == opRaise {
			return badMessage("only the leader raises the store's level")
		}
	}
	return nil
}

// checkEntry refuses what commitEntry or raft could not read once it is committed. What
// only a later version can read may be in the log: it stops the node once committed.
func checkEntry(e *raftpb.Entry, empty bool) error {
	if len(e.Data) > entryBytesMax {
		return badMessage("an entry has %d bytes", len(e.Data))
	}
	var err error
	switch e.Type {
	case raftpb.EntryNormal:
		if !empty {
			err = checkBatch(e.Data)
		}
		if errors.Is(err, errLaterEnvelope) {
			err = nil
		}
	case raftpb.EntryConfChange:
		var cc raftpb.ConfChange
		if err = cc.Unmarshal(e.Data); err == nil && cc.NodeID == 0 {
			err = fmt.Errorf("a membership change names nobody")
		}
		if isForcing(e) { // who joins a forced cluster begins with a later snapshot
			err = fmt.Errorf("a new cluster is forced by the node that stays, and no other")
		}
	default:
		err = fmt.Errorf("no entry has type %v", e.Type)
	}
	if err != nil {
		return badMessage("%v", err)
	}
	return nil
}

// checkSnapshot refuses a snapshot that could not be restored: raft cannot take it back,
// and panics on members that contradict one another.
func (c *core) checkSnapshot(m *raftpb.Message) error {
	at := m.Snapshot.Metadata
	if at.Index == 0 || at.Term == 0 || at.Term > m.Term {
		return badMessage("a snapshot at entry %d of term %d in term %d", at.Index, at.Term, m.Term)
	}
	d, err := decodeSnapshot(m.Snapshot.Data)
	if err != nil {
		return badMessage("%v", err)
	}
	if d.members.cluster != c.members.cluster {
		return badMessage("a snapshot of cluster %v", d.members.cluster)
	}
	return d.members.checkConf(at.ConfState)
}

// checkConf tells whether a snapshot's ConfState is that of the table, and one
// that raft and the transport can use.
func (t *table) checkConf(cs raftpb.ConfState) error {
	if len(cs.VotersOutgoing)+len(cs.LearnersNext) > 0 || cs.AutoLeave || len(cs.Voters) == 0 {
		return badMessage("a snapshot with members %v", cs)
	}
	ids := members(cs)
	if len(slices.Compact(slices.Clone(ids))) != len(ids) || len(ids) != len(t.members) ||
		cs.Equivalent(t.conf) != nil {
		return badMessage("the members of a snapshot contradict one another")
	}
	for _, id := range ids {
		m, ok := t.members[ID(id)]
		if !ok || m.Learner != slices.Contains(cs.Learners, id) || t.removed[ID(id)] {
			return badMessage("the members of a snapshot contradict one another")
		}
		if _, err := types.NewURLs([]string{m.PeerURL}); err != nil {
			return badMessage("a snapshot with a member at %q: %v", m.PeerURL, err)
		}
	}
	return nil
}
