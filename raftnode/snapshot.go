package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// snapshotData is what a raft snapshot carries here: the member table and the
// state machine's description of its state, some hundred bytes together. The
// state itself is pulled by whoever lacks it.
type snapshotData struct {
	meta, state []byte
	members     *table // what meta holds, decoded
}

const snapshotFormat = 1

var errSnapshotData = errors.New("snapshot data has an unknown format")

func (d snapshotData) encode() []byte {
	b := []byte{snapshotFormat}
	b = binary.AppendUvarint(b, uint64(len(d.meta)))
	b = append(b, d.meta...)
	return append(b, d.state...)
}

func decodeSnapshot(b []byte) (d snapshotData, err error) {
	if len(b) == 0 || b[0] != snapshotFormat {
		return d, errSnapshotData
	}
	b = b[1:]
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return d, errSnapshotData
	}
	d.meta, d.state = b[k:k+int(n)], b[k+int(n):]
	d.members, err = decodeTable(d.meta)
	return d, err
}

// durableState is what a state machine would have after a crash.
type durableState struct {
	index, term uint64
	snapshotData
}

// durableOf asks a state machine. The table is empty if it never stored one.
func durableOf(sm StateMachine) (d durableState, err error) {
	d.index, d.term, d.meta, d.state, err = sm.Durable()
	switch {
	case err != nil:
		err = fmt.Errorf("look at the durable state: %w", err)
	case d.index > 0:
		d.members, err = decodeTable(d.meta)
	default:
		d.members = newTable(0)
	}
	return d, err
}

// snapshot is the state as a raft snapshot.
func (d *durableState) snapshot() raftpb.Snapshot {
	return raftpb.Snapshot{
		Data:     d.encode(),
		Metadata: raftpb.SnapshotMetadata{ConfState: d.members.conf, Index: d.index, Term: d.term},
	}
}

// firstIndex and firstTerm are those of the snapshot with the founders, with which the log
// of a new cluster begins.
const (
	firstIndex = 1
	firstTerm  = 1
)
