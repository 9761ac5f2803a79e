package raftnode

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// A snapshot of another member is installed, and then the power goes. What the disk
// has must say that the snapshot counts, whatever was not synced: the store is beyond
// the log from then on, and a node that does not count the snapshot cannot start.
func TestNode_ReceivedSnapshot_CountsAfterAPowerCut(t *testing.T) {
	c, f := follower(t)
	n, core := f.node, f.node.core
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	first := c.nodes[f.id].disk.durable.snapshot
	d, err := createDisk(dir, n.self.ID, first, syncPath, log)
	if err != nil {
		t.Fatal(err)
	}
	// The log of this node until now, in a real one.
	state := raftpb.HardState{Term: core.savedTerm, Vote: core.rn.Status().Vote, Commit: core.commit}
	entries, err := core.log.Entries(core.log.first, core.savedIndex+1, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if core.log.first > first.Metadata.Index+1 {
		t.Fatalf("the log begins at %d already", core.log.first)
	}
	if err := d.save(state, entries, true); err != nil {
		t.Fatal(err)
	}
	n.disk = d
	meta, err := core.members.encode()
	if err != nil {
		t.Fatal(err)
	}
	at := raftpb.SnapshotMetadata{ConfState: core.members.conf, Index: core.savedIndex + 100, Term: core.term}
	m := raftpb.Message{Type: raftpb.MsgSnap, From: core.lead, To: uint64(n.self.ID), Term: core.term,
		Snapshot: raftpb.Snapshot{Data: snapshotData{meta: meta, state: []byte("0")}.encode(), Metadata: at}}
	core.step(m)
	core.staged(m)
	w, ok := core.next()
	if !ok || raft.IsEmptySnap(w.snapshot) {
		t.Fatalf("there is no snapshot to save in %+v", w)
	}
	w.stage = nil
	if err := n.carryOut(context.Background(), w, nil, nil); err != nil {
		t.Fatal(err)
	}
	cut := t.TempDir() // what was not written yet is not in it
	for _, sub := range []string{walDir(""), snapDir("")} {
		if err := os.CopyFS(filepath.Join(cut, sub), os.DirFS(filepath.Join(dir, sub))); err != nil {
			t.Fatal(err)
		}
	}
	_, found, err := openDisk(cut, n.self.ID, syncPath, log)
	if err != nil {
		t.Fatal(err)
	}
	if got := found.snapshot.Metadata.Index; got != at.Index {
		t.Errorf("after the power cut the log begins behind entry %d, but the snapshot at %d may be installed", got, at.Index)
	}
}
