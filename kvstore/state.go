package kvstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Keys of engine.BucketState.
var (
	keyApplied  = []byte("position") // history: where it stands
	keyMeta     = []byte("meta")     // history: the log's own opaque bytes
	keyHistory  = []byte("history")  // history: its identity
	keySnapshot = []byte("snapshot") // staging: the snapshot being pulled
	keyProgress = []byte("progress") // staging: how far
)

// appliedState is where a store stands: which entry of the log was applied last
// and what history was then.
type appliedState struct {
	index, term uint64
	derived
}

func encodeApplied(p *appliedState) []byte {
	return encodeState(appliedFormat, keyApplied, appendApplied(make([]byte, statePrefixBytes), p))
}

// appendApplied encodes p, of the one sequence that there is.
func appendApplied(b []byte, p *appliedState) []byte {
	b = binary.AppendUvarint(b, coreSequence)
	b = binary.BigEndian.AppendUint64(b, p.index)
	b = binary.BigEndian.AppendUint64(b, p.term)
	return appendDerived(b, &p.derived)
}

// readApplied reads what appendApplied wrote.
func readApplied(c *cursor) appliedState {
	readSequence(c)
	return appliedState{index: c.uint64(), term: c.uint64(), derived: readDerived(c)}
}

func decodeApplied(b []byte) (appliedState, error) {
	c, err := openState(appliedFormat, keyApplied, b)
	if err != nil {
		return appliedState{}, err
	}
	p := readApplied(&c)
	return p, c.end()
}

// encodeMeta encodes the log's own bytes, with a checksum: the members are in them, and a node
// with a wrong list of members votes unlike all others.
func encodeMeta(meta []byte) []byte {
	return encodeState(stateFormat, keyMeta, append(make([]byte, statePrefixBytes), meta...))
}

func decodeMeta(b []byte) ([]byte, error) {
	c, err := openState(stateFormat, keyMeta, b)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, c.b...), nil
}

// snapshot describes the state after one entry of the log. It holds no records
// and no chunks: a receiver pulls those it lacks.
type snapshot struct {
	appliedState
	lineage History
	uploads map[uploadID]*upload
}

const snapshotFormat = 2 // 1: before the first release

// encodeSnapshot writes s; equal states have equal bytes.
func encodeSnapshot(s *snapshot) []byte {
	b := appendHistory(appendApplied([]byte{snapshotFormat}, &s.appliedState), &s.lineage)
	ids := sortedUploads(s.uploads)
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = append(b, id[:]...)
		b = appendUpload(b, s.uploads[id])
	}
	return b
}

// decodeSnapshot reads what encodeSnapshot wrote, and nothing else.
func decodeSnapshot(b []byte) (*snapshot, error) {
	c := cursor{b: b}
	if format := c.byte(); c.err == nil && format != snapshotFormat {
		// Not the error itself, with which a node stops: whoever sends it may be nobody to believe.
		return nil, errors.New((&formatError{has: format, known: snapshotFormat}).by("the snapshot").Error())
	}
	s := &snapshot{appliedState: readApplied(&c), uploads: make(map[uploadID]*upload)}
	s.lineage = readHistory(&c, s.rev)
	n := c.uvarint()
	if n > openUploadsMax {
		return nil, fmt.Errorf("snapshot names %d open uploads; the limit is %d", n, openUploadsMax)
	}
	var last uploadID
	for i := range n {
		var id uploadID
		copy(id[:], c.take(len(id)))
		u := readUpload(&c)
		if c.err != nil {
			break // a number that nothing stands behind takes no memory
		}
		if i > 0 && bytes.Compare(last[:], id[:]) >= 0 {
			return nil, fmt.Errorf("read snapshot: open uploads %s and %s are not in order", last, id)
		}
		s.uploads[id], last = u, id
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return s, nil
}

// sortedUploads returns the ids in order: map order must not reach any state.
func sortedUploads[V any](m map[uploadID]V) []uploadID {
	ids := make([]uploadID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uploadID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// storedApplied reads where history stands; at its beginning if nothing says so.
func storedApplied(tx engine.Tx) (p appliedState, err error) {
	raw := tx.Get(engine.BucketState, keyApplied)
	if raw == nil {
		return p, nil
	}
	if p, err = decodeApplied(raw); err != nil {
		return p, stateError(tx, raw, "the position", err)
	}
	return p, nil
}

// storedMeta reads the log's own bytes; nil if there never were any.
func storedMeta(tx engine.Tx) ([]byte, error) {
	raw := tx.Get(engine.BucketState, keyMeta)
	if raw == nil {
		return nil, nil
	}
	meta, err := decodeMeta(raw)
	if err != nil {
		return nil, stateError(tx, raw, "the member table", err)
	}
	return meta, nil
}

// readSnapshot reads the whole state of history but records and chunks.
func readSnapshot(tx engine.Tx) (*snapshot, error) {
	p, err := storedApplied(tx)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{appliedState: p, uploads: make(map[uploadID]*upload)}
	if snap.lineage, err = storedLineage(tx, p.rev); err != nil {
		return nil, err
	}
	var failed error
	tx.Ascend(engine.BucketUploads, nil, func(k, v []byte) bool {
		if len(k) != len(uploadID{}) {
			failed = corruptAt(tx, v, fmt.Sprintf("an upload id has %d bytes", len(k)))
			return false
		}
		u, err := checkUpload(tx, uploadID(k), v)
		snap.uploads[uploadID(k)], failed = u, err
		return err == nil
	})
	return snap, failed
}

// checkUpload decodes a stored upload.
func checkUpload(tx engine.Tx, id uploadID, raw []byte) (*upload, error) {
	u, err := decodeUpload(id, raw)
	if err != nil {
		return nil, stateError(tx, raw, fmt.Sprintf("upload %s", id), err)
	}
	return u, nil
}

// writeApplied moves the applied index; it is the last write of a transaction
// that brings the effects.
func writeApplied(tx engine.Tx, p *appliedState, meta []byte) error {
	if meta != nil {
		if err := tx.Put(engine.BucketState, keyMeta, encodeMeta(meta)); err != nil {
			return err
		}
	}
	return tx.Put(engine.BucketState, keyApplied, encodeApplied(p))
}

// writeLineage stores the identity of the history.
func writeLineage(tx engine.Tx, h *History) error {
	return tx.Put(engine.BucketState, keyHistory, encodeLineage(h))
}

func encodeLineage(h *History) []byte {
	return encodeState(stateFormat, keyHistory, appendHistory(make([]byte, statePrefixBytes), h))
}

// storedLineage reads the identity of the history, of a store at revision newest.
func storedLineage(tx engine.Tx, newest Revision) (h History, err error) {
	raw := tx.Get(engine.BucketState, keyHistory)
	if raw == nil {
		return h, nil
	}
	c, err := openState(stateFormat, keyHistory, raw)
	if err == nil {
		h = readHistory(&c, newest)
		err = c.end()
	}
	if err != nil {
		return h, stateError(tx, raw, "the identity of the history", err)
	}
	return h, nil
}
