package raftnode

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// recover opens log and state machine, brings them to agreement, and makes
// the core.
func (n *Node) recover(ctx context.Context) error {
	if !n.self.Started {
		if err := n.begin(); err != nil {
			return err
		}
	}
	d, st, err := openDisk(n.cfg.Dir, n.self.ID, n.cfg.sync, n.logger)
	if err != nil {
		return err
	}
	n.disk = d
	if n.cfg.ForceNewCluster != "" {
		if n.forcing, err = n.mayForce(ctx, &st); err != nil {
			return err
		}
	}
	return n.rebuild(ctx, st)
}

// rebuild makes the core from what the disk held.
func (n *Node) rebuild(ctx context.Context, st diskState) error {
	if err := n.finishInstall(ctx, st.snapshot); err != nil {
		return err
	}
	durable, err := durableOf(n.sm)
	if err != nil {
		return err
	}
	applied, members := durable.index, durable.members
	if applied == 0 {
		members.cluster = n.self.ClusterID
	}
	found := st.state
	if err := agree(&st, applied); err != nil {
		return err
	}
	if err := n.checkLevels(&st, members, applied); err != nil {
		return err
	}
	if st.state.Commit != found.Commit {
		// raft takes this for stored and writes it only when it changes again. Until then a
		// snapshot of this node would lie beyond the commit index on disk, where the next
		// start does not count it, although the log before it is gone. No fsync: it has to
		// lie before the snapshot in the file, no more.
		if err := n.disk.save(st.state, nil, false); err != nil {
			return err
		}
	}
	if n.forcing != nil {
		if err := n.forceNewCluster(&st, members, applied, *n.forcing); err != nil {
			return err
		}
	}
	if err := n.followForced(&st, members, applied); err != nil {
		return err
	}
	log := newMemlog(references{n.cfg.Bodies, n.sm.Body})
	if !raft.IsEmptySnap(st.snapshot) {
		if err := log.restore(st.snapshot); err != nil {
			return err
		}
	}
	if err := log.SetHardState(st.state); err != nil {
		return err
	}
	if err := n.loadEntries(log, st.entries, applied); err != nil {
		return err
	}
	n.progress.set(applied)
	n.core, err = newCore(n.self.ID, log, members, applied, n.waiters, n.progress, n.dropped, coreLimits{
		electionTicks:    10,
		retryTicks:       10,
		readTicks:        5,
		snapshotTicks:    30,
		inflightBatches:  4,
		queueBytes:       n.cfg.QueueBytes,
		snapshotLogBytes: n.cfg.SnapshotLogBytes,
		bodyTicks:        n.cfg.bodyTicks,
		promoteLag:       1000,
	}, gate{n.cfg.Level, n.sm.Level}, n.logger)
	if err != nil {
		return err
	}
	n.core.forcedAt = lastForced(st.entries)
	if err := n.core.leadAlone(); err != nil {
		return err
	}
	n.sm.Recovered()
	n.publish()
	return nil
}

// loadEntries gives the log what the disk held, and holds its bodies. Those of an entry
// that the state machine has durably may be gone: the state does not refer to them any
// more. Nobody can be sent such an entry, so the log goes on behind it, from a snapshot.
// Any other missing body is damage.
func (n *Node) loadEntries(log *memlog, entries []raftpb.Entry, applied uint64) error {
	lacking, err := log.add(entries, applied, 0)
	if err != nil || lacking == 0 {
		return err
	}
	durable, err := durableOf(n.sm)
	if err != nil {
		return err
	}
	n.logger.Info("the log refers to bodies that are gone; taking a snapshot after those entries", "entry", lacking, "index", durable.index)
	if err := n.takeSnapshot(log, durable); err != nil {
		return err
	}
	return log.compact(lacking)
}

// begin makes the first durable state: the founding snapshot of a founder, nothing of a
// node that joins. It can be repeated until Started is on disk, because the node has sent
// nothing.
func (n *Node) begin() error {
	var first raftpb.Snapshot
	if len(n.self.Founders) > 0 {
		history := historyOf(n.self.Founders)
		if history.cluster() != n.self.ClusterID {
			return fmt.Errorf("%w: %s has cluster %v, and founders of another one; %s", errMixedUp, identityPath(n.cfg.Dir), n.self.ClusterID, putBack)
		}
		t := foundersTable(n.self.ClusterID, membersOf(n.self.Founders))
		metaBytes, err := t.encode()
		if err != nil {
			return err
		}
		durable, err := durableOf(n.sm)
		if err == nil && durable.index == 0 {
			if err = n.sm.Bootstrap(firstIndex, firstTerm, metaBytes, history); err == nil {
				durable, err = durableOf(n.sm)
			}
		}
		if err != nil {
			return fmt.Errorf("store the founders: %w", err)
		}
		first = durable.snapshot()
	}
	d, err := createDisk(n.cfg.Dir, n.self.ID, first, n.cfg.sync, n.logger)
	if err != nil {
		return err
	}
	if err := d.close(); err != nil {
		return err
	}
	n.self.Started = true
	return n.keepSelf()
}

// finishInstall completes a snapshot installation that a crash interrupted:
// the WAL promises the snapshot, the state machine does not have it yet.
func (n *Node) finishInstall(ctx context.Context, s raftpb.Snapshot) error {
	durable, err := durableOf(n.sm)
	if err != nil || durable.index >= s.Metadata.Index {
		return err
	}
	n.logger.Info("finishing the installation of a snapshot", "index", s.Metadata.Index, "applied", durable.index)
	d, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	t := d.members
	if t.level > n.cfg.Level {
		return later("the snapshot that this node is about to install", t.level, n.cfg.Level)
	}
	err = n.pull(ctx, s, 0, t.list)
	if errors.Is(err, errNoSource) {
		return fmt.Errorf("%w: the state machine is at entry %d, the log begins after %d, and there is no other member to get the rest from: restore the data directory from a copy", errDisk, durable.index, s.Metadata.Index)
	}
	if err != nil {
		return err
	}
	if err := n.sm.Install(s.Metadata.Index, s.Metadata.Term, d.meta, d.state); err != nil {
		return fmt.Errorf("install snapshot %d: %w", s.Metadata.Index, err)
	}
	return nil
}

// agree makes the commit index fit log and state. The WAL does not fsync a commit index
// that comes alone: the one on disk may be older than what was applied, or newer than the
// log, if a crash cut off a snapshot's record behind it. A new cluster that was forced is
// committed.
func agree(st *diskState, applied uint64) error {
	last := st.snapshot.Metadata.Index
	if n := len(st.entries); n > 0 {
		last = st.entries[n-1].Index
	}
	if last < applied {
		return fmt.Errorf("%w: the log ends at entry %d, but entry %d was applied: synced entries are missing; %s", errDisk, last, applied, putBack)
	}
	st.state.Commit = min(max(st.state.Commit, applied, lastForced(st.entries)), last)
	return nil
}
