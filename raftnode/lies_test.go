package raftnode

import (
	"bytes"
	"encoding/json"
	"math"
	"sync"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// target is what a liar knows of the node it lies to: everything.
type target struct {
	self, from         uint64
	term, last, commit uint64
	conf               raftpb.ConfState
	cluster            ID
}

func (c *core) target(from uint64) target {
	return target{uint64(c.id), from, c.term, c.savedIndex, c.commit, c.members.conf, c.members.cluster}
}

var hugeEntry = sync.OnceValue(func() []byte { return make([]byte, entryBytesMax+1) })

// changeData is the entry of a change that a liar makes up.
func changeData(ch change, id uint64) []byte {
	ch.Member.ID = ID(id)
	context, _ := json.Marshal(ch)
	raw, _ := (&raftpb.ConfChange{Type: raftpb.ConfChangeUpdateNode, NodeID: id, Context: context}).Marshal()
	return raw
}

// lies are messages that no honest member sends, each with what is wrong with it.
// Some are harmless to some nodes in some states.
func (v target) lies() map[string]raftpb.Message {
	far, later := v.last+1000, v.term+1000 // the node may have gone on when it arrives
	huge := hugeEntry()
	batch := encodeBatch([]command{{origin: 1, seq: 1, data: []byte("x")}})
	entry := func(index, term uint64, typ raftpb.EntryType, data []byte) []raftpb.Entry {
		return []raftpb.Entry{{Index: index, Term: term, Type: typ, Data: data}}
	}
	add := func(edit func(*raftpb.Message)) raftpb.Message {
		m := raftpb.Message{Type: raftpb.MsgApp, Term: later, Index: v.last, LogTerm: v.term, Entries: entry(v.last+1, later, raftpb.EntryNormal, batch), Commit: v.commit}
		edit(&m)
		return m
	}
	snap := func(edit func(*raftpb.SnapshotMetadata, *table)) raftpb.Message {
		t := foundersTable(v.cluster, []Member{{ID: ID(v.self), Name: "a", PeerURL: "http://a:1", ClientURL: "http://a:2"}, {ID: ID(v.from), Name: "b", PeerURL: "http://b:1", ClientURL: "http://b:2"}})
		at := raftpb.SnapshotMetadata{Index: far, Term: v.term, ConfState: raftpb.ConfState{Voters: t.conf.Voters}}
		edit(&at, t)
		raw, _ := t.encode()
		return raftpb.Message{Type: raftpb.MsgSnap, Term: later, Snapshot: raftpb.Snapshot{Metadata: at, Data: snapshotData{meta: raw, state: []byte("0")}.encode()}}
	}
	all := map[string]raftpb.Message{
		"the last term but one":        {Type: raftpb.MsgHeartbeat, Term: math.MaxUint64 - 1},
		"the last term":                {Type: raftpb.MsgVote, Term: math.MaxUint64, LogTerm: v.term, Index: far},
		"a term of the far future":     {Type: raftpb.MsgHeartbeat, Term: v.term + 1<<40},
		"an acknowledgement from then": {Type: raftpb.MsgAppResp, Term: v.term + 1<<40},
		"a vote refused then":          {Type: raftpb.MsgVoteResp, Term: v.term + 1<<40, Reject: true},
		"a pre-vote from then":         {Type: raftpb.MsgPreVote, Term: v.term + 1<<40, LogTerm: v.term, Index: far},
		"a commit beyond the log":      {Type: raftpb.MsgHeartbeat, Term: later, Commit: far},
		"a commit beyond all logs":     {Type: raftpb.MsgHeartbeat, Term: later, Commit: math.MaxUint64},
		"a heartbeat without a term":   {Type: raftpb.MsgHeartbeat, Commit: far},
		"a huge context":               {Type: raftpb.MsgHeartbeat, Term: later, Context: make([]byte, 1000)},
		"another leader of the term":   {Type: raftpb.MsgHeartbeat, Term: v.term, Commit: far},
		"an append beyond the log": add(func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Commit = far, 0, far
			m.Entries[0].Index = far + 1
		}),
		"an empty append beyond the log": add(func(m *raftpb.Message) { m.Index, m.LogTerm, m.Commit, m.Entries = far, 0, far, nil }),
		"an append at no index":          add(func(m *raftpb.Message) { m.Index, m.LogTerm, m.Entries[0].Index = 0, 0, 1 }),
		"an append of no term":           add(func(m *raftpb.Message) { m.Term, m.LogTerm = 0, 0 }),
		"an index that overflows":        add(func(m *raftpb.Message) { m.Index, m.Entries[0].Index = math.MaxUint64, 0 }),
		"entries with a gap":             add(func(m *raftpb.Message) { m.Entries[0].Index = far }),
		"an entry of the far future":     add(func(m *raftpb.Message) { m.Entries[0].Term = math.MaxUint64 - 1 }),
		"an entry above its message":     add(func(m *raftpb.Message) { m.Entries[0].Term = later + 1 }),
		"entries of falling terms": add(func(m *raftpb.Message) {
			m.Entries = append(m.Entries, raftpb.Entry{Index: v.last + 2, Term: v.term, Data: batch})
		}),
		"an entry that is no batch":       add(func(m *raftpb.Message) { m.Entries[0].Data = []byte("what?") }),
		"an entry of another type":        add(func(m *raftpb.Message) { m.Entries[0].Type = 7 }),
		"an entry for joint consensus":    add(func(m *raftpb.Message) { m.Entries[0].Type = raftpb.EntryConfChangeV2 }),
		"a change that does not decode":   add(func(m *raftpb.Message) { m.Entries[0].Type, m.Entries[0].Data = raftpb.EntryConfChange, []byte{0xff} }),
		"an entry that is too large":      add(func(m *raftpb.Message) { m.Entries[0].Data = huge }),
		"a log newer than its message":    add(func(m *raftpb.Message) { m.LogTerm = later + 1 }),
		"an acknowledgement from nowhere": {Type: raftpb.MsgAppResp, Term: v.term, Index: far},
		"a rejection from nowhere":        {Type: raftpb.MsgAppResp, Term: v.term, Index: far, Reject: true, RejectHint: far},
		"a hint from nowhere":             {Type: raftpb.MsgAppResp, Term: v.term, Index: v.last, Reject: true, RejectHint: math.MaxUint64},
		"no proposal":                     {Type: raftpb.MsgProp},
		"a proposal with a term":          {Type: raftpb.MsgProp, Term: later, Entries: entry(0, 0, raftpb.EntryNormal, batch)},
		"a proposal that is no batch":     {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryNormal, []byte("what?"))},
		"a proposal of nothing":           {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryNormal, nil)},
		"a proposed change in pieces":     {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryConfChange, []byte{0xff})},
		"proposed joint consensus":        {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryConfChangeV2, nil)},
		"a change with what is no batch": {Type: raftpb.MsgProp, Entries: append(
			entry(0, 0, raftpb.EntryConfChange, []byte{0x08, 1, 0x10, 0, 0x18, 77}), raftpb.Entry{Data: []byte("what?")})},
		"proposed commands of later":       {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryNormal, append([]byte{envelopeVersion + 1}, batch[1:]...))},
		"proposed commands of version 0":   {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryNormal, append([]byte{0}, batch[1:]...))},
		"a proposed change of later":       {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryConfChange, changeData(change{Op: "paint", Number: 1}, v.self))},
		"a proposed change of nothing":     {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryConfChange, changeData(change{}, v.self))},
		"a proposed rise":                  {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryConfChange, changeData(change{Op: opRaise, Level: 99, Number: 1}, v.self))},
		"a proposal that is too large":     {Type: raftpb.MsgProp, Entries: entry(0, 0, raftpb.EntryNormal, huge)},
		"a read of nothing":                {Type: raftpb.MsgReadIndex},
		"a read with a term":               {Type: raftpb.MsgReadIndex, Term: later, Entries: entry(0, 0, raftpb.EntryNormal, make([]byte, readContextBytes))},
		"a read with a huge name":          {Type: raftpb.MsgReadIndex, Entries: entry(0, 0, raftpb.EntryNormal, bytes.Repeat([]byte("x"), 10_000))},
		"an answer to no read":             {Type: raftpb.MsgReadIndexResp, Term: later, Index: far},
		"an answer beyond all logs":        {Type: raftpb.MsgReadIndexResp, Term: v.term, Index: math.MaxUint64, Entries: entry(0, 0, raftpb.EntryNormal, make([]byte, readContextBytes))},
		"a transfer":                       {Type: raftpb.MsgTransferLeader, Term: v.term},
		"a transfer without a term":        {Type: raftpb.MsgTransferLeader},
		"a hand-over from the future":      {Type: raftpb.MsgTimeoutNow, Term: later},
		"a vote that was not asked for":    {Type: raftpb.MsgVoteResp, Term: later},
		"a pre-vote likewise":              {Type: raftpb.MsgPreVoteResp, Term: later},
		"a log of the term it asks for":    {Type: raftpb.MsgVote, Term: later, LogTerm: later, Index: far},
		"a local message: election":        {Type: raftpb.MsgHup},
		"a local message: heartbeats":      {Type: raftpb.MsgBeat},
		"a local message: unreachable":     {Type: raftpb.MsgUnreachable},
		"a local message: snapshot failed": {Type: raftpb.MsgSnapStatus, Reject: true},
		"a local message: quorum":          {Type: raftpb.MsgCheckQuorum},
		"a type that does not exist":       {Type: 77, Term: later},
		"a snapshot of nothing":            {Type: raftpb.MsgSnap, Term: later},
		"a snapshot that does not decode":  {Type: raftpb.MsgSnap, Term: later, Snapshot: raftpb.Snapshot{Data: []byte("what?"), Metadata: raftpb.SnapshotMetadata{Index: far, Term: v.term, ConfState: v.conf}}},
		"a snapshot of term 0":             snap(func(at *raftpb.SnapshotMetadata, _ *table) { at.Term = 0 }),
		"a snapshot of the far future":     snap(func(at *raftpb.SnapshotMetadata, _ *table) { at.Term = later + 1 }),
		"a snapshot beyond all logs":       snap(func(at *raftpb.SnapshotMetadata, _ *table) { at.Index = math.MaxUint64 }),
		"a snapshot of another cluster":    snap(func(_ *raftpb.SnapshotMetadata, t *table) { t.cluster++ }),
		"a snapshot without voters":        snap(func(at *raftpb.SnapshotMetadata, _ *table) { at.ConfState = raftpb.ConfState{} }),
		"a snapshot with a voter twice": snap(func(at *raftpb.SnapshotMetadata, t *table) {
			at.ConfState.Voters = append(at.ConfState.Voters, v.self)
			t.conf = at.ConfState
		}),
		"a snapshot of joint consensus":    snap(func(at *raftpb.SnapshotMetadata, _ *table) { at.ConfState.VotersOutgoing = []uint64{v.self} }),
		"a snapshot with two opinions":     snap(func(_ *raftpb.SnapshotMetadata, t *table) { t.conf.Voters = t.conf.Voters[:1] }),
		"a snapshot with an unknown voter": snap(func(_ *raftpb.SnapshotMetadata, t *table) { delete(t.members, ID(v.from)) }),
		"a snapshot with a bad URL": snap(func(_ *raftpb.SnapshotMetadata, t *table) {
			m := t.members[ID(v.from)]
			m.PeerURL = "http://no port"
			t.members[m.ID] = m
		}),
		"a heartbeat with a snapshot": {Type: raftpb.MsgHeartbeat, Term: later, Snapshot: raftpb.Snapshot{Data: make([]byte, 1000)}},
	}
	for name, m := range all {
		m.From, m.To = v.from, v.self
		all[name] = m
	}
	all["a message to another"] = raftpb.Message{Type: raftpb.MsgHeartbeat, From: v.from, To: v.self + 1, Term: later}
	all["a message from oneself"] = raftpb.Message{Type: raftpb.MsgHeartbeat, From: v.self, To: v.self, Term: later}
	all["a message from nobody"] = raftpb.Message{Type: raftpb.MsgHeartbeat, To: v.self, Term: later}
	return all
}
