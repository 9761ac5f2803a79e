package raftnode

import (
	"encoding/binary"
	"errors"
)

// snapshotData is what a raft snapshot carries here: the member table and the
// state machine's description of its state, some hundred bytes together. The
// state itself is pulled by whoever lacks it.
type snapshotData struct{ meta, state []byte }

const snapshotFormat = 1

var errSnapshotData = errors.New("snapshot data has an unknown format")

func (d snapshotData) encode() []byte {
	b := []byte{snapshotFormat}
	b = binary.AppendUvarint(b, uint64(len(d.meta)))
	b = append(b, d.meta...)
	return append(b, d.state...)
}

func decodeSnapshot(b []byte) (snapshotData, error) {
	if len(b) == 0 || b[0] != snapshotFormat {
		return snapshotData{}, errSnapshotData
	}
	b = b[1:]
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return snapshotData{}, errSnapshotData
	}
	return snapshotData{meta: b[k : k+int(n)], state: b[k+int(n):]}, nil
}
