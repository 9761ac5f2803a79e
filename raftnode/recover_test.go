package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/internal/fsync"
)

// A state machine's file may lose its last transaction, on the strength of which the
// log before a snapshot is gone already. The others have the rest; a node that is
// alone says so.
func TestNode_StateWentBack(t *testing.T) {
	for _, size := range []int{1, 3} {
		nodes := newTestCluster(t, size, func(c *Config) { c.SnapshotLogBytes, c.KeepLogBytes = 4<<10, 1<<10 })
		leader := leaderOf(t, nodes)
		back := nodes[0]
		mustPropose(t, leader, "before")
		sameLists(t, nodes, 1)
		back.sm.mu.Lock()
		old := back.sm.durable.clone()
		back.sm.mu.Unlock()
		pad := bytes.Repeat([]byte("x"), 8<<10)
		for i := range 100 {
			mustPropose(t, leader, fmt.Sprintf("%d-%s", i, pad))
		}
		sameLists(t, nodes, 101)
		eventually(t, "a snapshot of the node itself", func() bool {
			names, err := fileNames(snapDir(back.cfg.Dir), ".snap")
			return err == nil && len(names) > 1
		})
		if err := back.stop(); err != nil {
			t.Fatal(err)
		}
		back.sm.durable = old
		back.sm.crash()
		back.start()
		if size > 1 {
			sameLists(t, nodes, 101)
			mustPropose(t, leaderOf(t, nodes), "after")
			sameLists(t, nodes, 102)
			continue
		}
		<-back.node.Stopped()
		if err := back.stop(); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "restore the data directory") {
			t.Fatalf("a node that is alone: %v", err)
		}
	}
}

// A commit index that was raised at the start must be on disk before a
// snapshot that relies on it: the WAL counts no snapshot beyond the last commit
// index it holds, and the log before the snapshot is purged.
func TestNode_SnapshotAfterRaisedCommit_IsFoundAgain(t *testing.T) {
	c := newCrashCluster(t, 1, -1)
	old := c.nodes[1]
	founding := old.disk.durable.snapshot
	dir := t.TempDir()
	d, err := createDisk(dir, 1, founding, fsync.Sync, old.node.logger)
	if err != nil {
		t.Fatal(err)
	}
	// Entries 2 and 3 are synced and applied; the commit index that says so
	// comes alone, is not synced, and is lost.
	entries := []raftpb.Entry{{Term: 1, Index: 2}, {Term: 1, Index: 3}}
	if err := d.save(raftpb.HardState{Term: 1, Commit: 1}, entries, true); err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i <= 3; i++ {
		if _, err := old.sm.Apply(i, 1, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	old.sm.sync()
	if err := d.close(); err != nil {
		t.Fatal(err)
	}

	d, st, err := openDisk(dir, 1, fsync.Sync, old.node.logger)
	if err != nil {
		t.Fatal(err)
	}
	n := old.node
	n.disk = d
	if err := n.rebuild(context.Background(), st); err != nil {
		t.Fatal(err)
	}
	n.core.limits.snapshotLogBytes = 1
	if err := n.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}

	d, st, err = openDisk(dir, 1, fsync.Sync, n.logger)
	if err != nil {
		t.Fatalf("does not start again: %v", err)
	}
	defer d.close()
	if st.snapshot.Metadata.Index != 3 {
		t.Fatalf("starts from the snapshot at %d, want 3", st.snapshot.Metadata.Index)
	}
}

// A snapshot of another member is installed, and then the power goes. What the disk
// has must say that the snapshot counts, whatever was not synced: the store is beyond
// the log from then on, and a node that does not count the snapshot cannot start.
func TestNode_ReceivedSnapshot_CountsAfterAPowerCut(t *testing.T) {
	c, f := follower(t)
	n, core := f.node, f.node.core
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	first := c.nodes[f.id].disk.durable.snapshot
	d, err := createDisk(dir, n.self.ID, first, fsync.Sync, log)
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
	_, found, err := openDisk(cut, n.self.ID, fsync.Sync, log)
	if err != nil {
		t.Fatal(err)
	}
	if got := found.snapshot.Metadata.Index; got != at.Index {
		t.Errorf("after the power cut the log begins behind entry %d, but the snapshot at %d may be installed", got, at.Index)
	}
}
