package raftnode

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"math"
	"slices"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// teeDisk writes what a memDisk is given to real files too.
type teeDisk struct {
	*memDisk
	files *walDisk
}

func (d teeDisk) save(hs raftpb.HardState, entries []raftpb.Entry, sync bool) error {
	return errors.Join(d.memDisk.save(hs, entries, sync), d.files.save(hs, entries, sync))
}

func (d teeDisk) saveSnapshot(s raftpb.Snapshot) error {
	return errors.Join(d.memDisk.saveSnapshot(s), d.files.saveSnapshot(s))
}

// fuzzReader turns the bytes of a fuzzer into choices; zeros follow them.
type fuzzReader struct{ b []byte }

func (r *fuzzReader) byte() byte {
	if len(r.b) == 0 {
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// near returns a number around one of those that mean something, or any.
func (r *fuzzReader) near(means ...uint64) uint64 {
	pick, off := r.byte(), uint64(int64(int8(r.byte())))
	switch n := int(pick) % (len(means) + 4); {
	case n < len(means):
		return means[n] + off%4
	case n == len(means):
		return 0
	case n == len(means)+1:
		return math.MaxUint64 - off%3
	case n == len(means)+2:
		return means[0] + 1<<(r.byte()%64)
	default:
		var all [8]byte
		for i := range all {
			all[i] = r.byte()
		}
		return binary.LittleEndian.Uint64(all[:])
	}
}

func (r *fuzzReader) data(t *table) []byte {
	switch r.byte() % 8 {
	case 0, 1, 2:
		return encodeBatch([]command{{origin: 1, seq: 1, data: []byte{'x', r.byte()}}})
	case 3:
		return nil
	case 4:
		return make([]byte, readContextBytes)
	case 5:
		op := []changeOp{opAdd, opUpdate, opPromote, opRemove}[r.byte()%4]
		id := ID(r.byte() % 8)
		cc, err := change{Op: op, Member: Member{ID: id, Name: "m" + id.String(), PeerURL: "http://m:1", ClientURL: "http://m:2"}, Number: t.changed + 1}.confChange()
		if err != nil {
			return nil
		}
		raw, _ := cc.Marshal()
		return raw
	case 6:
		raw, _ := t.encode()
		return snapshotData{meta: raw, state: []byte("0")}.encode()
	}
	n := min(int(r.byte()), len(r.b))
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// message returns any message, most of them close to what means something to c.
func (r *fuzzReader) message(c *core) raftpb.Message {
	terms := []uint64{c.term, c.savedTerm, c.term + 1, c.term + walscan.TermRiseMax}
	indexes := []uint64{c.savedIndex, c.commit, c.savedIndex + 1, 1}
	m := raftpb.Message{
		Type: raftpb.MessageType(r.byte() % 22), To: r.near(uint64(c.id), uint64(c.id), uint64(c.id)), From: r.near(2, 3, c.lead),
		Term: r.near(terms...), LogTerm: r.near(terms...), Index: r.near(indexes...), Commit: r.near(indexes...),
		Reject: r.byte()%2 == 0, RejectHint: r.near(indexes...),
	}
	if r.byte()%4 > 0 { // otherwise hardly anything passes
		switch m.Type {
		case raftpb.MsgProp, raftpb.MsgReadIndex:
			m.Term, m.LogTerm = 0, 0
		case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
			m.LogTerm, m.RejectHint = 0, 0
		}
	}
	for i := range uint64(r.byte() % 4) {
		e := raftpb.Entry{Type: raftpb.EntryType(r.byte() % 4), Term: m.Term, Index: m.Index + 1 + i, Data: r.data(c.members)}
		if r.byte()%8 == 0 {
			e.Term, e.Index = r.near(terms...), r.near(indexes...)
		}
		m.Entries = append(m.Entries, e)
	}
	if m.Type == raftpb.MsgSnap || r.byte()%32 == 0 {
		m.Snapshot = raftpb.Snapshot{Data: r.data(c.members), Metadata: raftpb.SnapshotMetadata{Index: r.near(indexes...), Term: r.near(terms...), ConfState: c.members.conf}}
		if r.byte()%4 == 0 {
			m.Snapshot.Metadata.ConfState.Voters = []uint64{uint64(r.byte() % 4), uint64(r.byte() % 4)}
		}
	}
	return m
}

// FuzzStep sends anything to a member of a cluster that works meanwhile. Nobody
// may panic or fail, and what the member has written is what it reads, without a
// word of damage.
func FuzzStep(f *testing.F) {
	seeds := newSeedTarget()
	for _, what := range slices.Sorted(maps.Keys(seeds)) {
		m := seeds[what]
		f.Add([]byte{byte(m.Type)}, []byte(nil))
		raw, err := m.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(nil), raw)
	}
	for typ := range byte(20) {
		f.Add([]byte{typ, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 9}, []byte(nil))
		f.Add([]byte{typ, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 5, 3, 1, 1, 0, 0, 0, 9, 9, 9}, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, choices, raw []byte) {
		c := newCrashCluster(t, 3, -1)
		n := c.nodes[1]
		files, err := createDisk(t.TempDir(), 1, n.disk.durable.snapshot, fsync.Sync, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		files.wal.SetUnsafeNoFsync()
		n.node.disk = teeDisk{n.disk, files}
		c.lead(t)
		r := &fuzzReader{choices}
		var m raftpb.Message
		if m.Unmarshal(raw) == nil && len(raw) > 0 && !fromLater(&m) {
			n.inbox = append(n.inbox, m)
		}
		for round := 0; len(r.b) > 0 && round < 100; round++ {
			if m := r.message(n.node.core); !fromLater(&m) {
				n.inbox = append(n.inbox, m)
			}
			if round%2 == 0 {
				c.roundAll(1000 + round)
			}
		}
		for round := range 30 {
			c.roundAll(2000 + round)
		}
		wantSameFiles(t, n, files)
	})
}

// fromLater reports whether a leader of a later version could have sent a message: the
// node believes it, and stops when what is in it is committed.
func fromLater(m *raftpb.Message) bool {
	return m.Type == raftpb.MsgApp && slices.ContainsFunc(m.Entries, func(e raftpb.Entry) bool {
		ch, _, err := decodeChange(e.Data)
		return checkKnown(&e, 1) != nil || e.Type == raftpb.EntryConfChange && err == nil && ch.Op == opRaise
	})
}

// newSeedTarget are the lies to the first member of a cluster that has begun.
func newSeedTarget() map[string]raftpb.Message {
	return target{self: 1, from: 2, term: 2, last: 2, commit: 2, conf: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, cluster: 9}.lies()
}

// wantSameFiles reads what was written to files as the next start would.
func wantSameFiles(t *testing.T, n *crashNode, files *walDisk) {
	t.Helper()
	if err := files.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := walscan.Check(files.walDir); err != nil {
		t.Fatalf("the next start refuses the log: %v", err)
	}
	if err := n.disk.sync(); err != nil {
		t.Fatal(err)
	}
	n.disk.durable.entries = slices.Clone(n.disk.durable.entries)
	n.sm.crash()
	n.boot(t)
}
