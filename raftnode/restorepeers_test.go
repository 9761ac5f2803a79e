package raftnode

import (
	"slices"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// A snapshot may change who belongs to the cluster. The transport is told of those
// who came, moved or left, and of nobody else.
func TestCore_RestoredSnapshot_TellsTheTransport(t *testing.T) {
	_, f := follower(t)
	core := f.node.core
	var stays, moves, leaves ID
	for _, m := range core.members.list() {
		switch {
		case m.ID == f.id:
		case stays == 0:
			stays = m.ID
		default:
			moves = m.ID
		}
	}
	leaves = 9
	core.members.members[leaves] = Member{ID: leaves, Name: "n9", PeerURL: "http://h9:1"}
	next := foundersTable(core.members.cluster, []Member{
		core.members.members[f.id], core.members.members[stays],
		{ID: moves, Name: "moved", PeerURL: "http://elsewhere:1", ClientURL: "http://h:1"},
		{ID: 12, Name: "n12", PeerURL: "http://h12:1", ClientURL: "http://h:1"},
	})
	meta, err := next.encode()
	if err != nil {
		t.Fatal(err)
	}
	var h handoff
	if err := core.restore(raftpb.Snapshot{
		Data:     snapshotData{meta: meta, state: []byte("0")}.encode(),
		Metadata: raftpb.SnapshotMetadata{Index: core.commit + 10, Term: core.term, ConfState: next.conf},
	}, &h); err != nil {
		t.Fatal(err)
	}
	want := []peerChange{{moves, "http://elsewhere:1"}, {leaves, ""}, {12, "http://h12:1"}}
	slices.SortFunc(h.peers, func(a, b peerChange) int { return int(a.id) - int(b.id) })
	if !slices.Equal(h.peers, want) {
		t.Errorf("the transport is told %v, want %v", h.peers, want)
	}
	if len(core.members.members) != 4 || core.savedIndex != h.install.Metadata.Index {
		t.Errorf("%d members, the log ends at %d", len(core.members.members), core.savedIndex)
	}
}
