package kvstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/Focinfi/oncekv/internal/level"
)

// Keys of BucketState.
var (
	keyPosition = []byte("position") // history: where it stands
	keyMeta     = []byte("meta")     // history: the log's own opaque bytes
	keyHistory  = []byte("history")  // history: its identity
	keySnapshot = []byte("snapshot") // staging: the snapshot being pulled
	keyProgress = []byte("progress") // staging: how far
)

const (
	stateFormat      = 1
	statePrefixBytes = 1 + 4 // format, checksum

	// Those before were written before the first release.
	positionFormat   = 4 // 3: values were in history, whatever their size
	progressFormat   = 3
	checkpointFormat = 2
)

// position is where a store stands: which entry of the log was applied last
// and what history was then.
type position struct {
	index, term uint64
	derived
}

// frameState puts format and checksum before what starts at b[statePrefixBytes].
func frameState(format byte, key, b []byte) []byte {
	b[0] = format
	binary.BigEndian.PutUint32(b[1:], checksum(key, b))
	return b
}

// openState checks what frameState framed.
func openState(format byte, key, b []byte) (cursor, error) {
	if len(b) < statePrefixBytes {
		return cursor{}, errShort
	}
	if got, want := binary.BigEndian.Uint32(b[1:]), checksum(key, b); got != want {
		return cursor{}, fmt.Errorf("its checksum is %08x, its bytes have %08x", got, want)
	}
	if b[0] != format {
		return cursor{}, &formatError{has: b[0], known: format}
	}
	return cursor{b: b[statePrefixBytes:]}, nil
}

func encodePosition(p *position) []byte {
	return frameState(positionFormat, keyPosition, appendPosition(make([]byte, statePrefixBytes), p))
}

// appendPosition encodes p, of the one sequence that there is.
func appendPosition(b []byte, p *position) []byte {
	b = binary.AppendUvarint(b, coreSequence)
	b = binary.BigEndian.AppendUint64(b, p.index)
	b = binary.BigEndian.AppendUint64(b, p.term)
	return appendDerived(b, &p.derived)
}

// readPosition reads what appendPosition wrote.
func readPosition(c *cursor) position {
	readSequence(c)
	return position{index: c.uint64(), term: c.uint64(), derived: readDerived(c)}
}

// coreSequence is the sequence of all records; others may come. Each will have
// revisions and a digest of its own.
const coreSequence = 0

// readSequence reads the id of a sequence, and refuses one that is not known.
func readSequence(c *cursor) {
	if id := c.uvarint(); c.err == nil && id != coreSequence {
		c.fail(fmt.Errorf("it is of sequence %d, which only a later version of oncekv knows: use that version", id))
	}
}

func decodePosition(b []byte) (position, error) {
	c, err := openState(positionFormat, keyPosition, b)
	if err != nil {
		return position{}, err
	}
	p := readPosition(&c)
	return p, c.end()
}

// encodeMeta frames the log's own bytes. Members are in them, and a wrong one votes
// otherwise than all others.
func encodeMeta(meta []byte) []byte {
	return frameState(stateFormat, keyMeta, append(make([]byte, statePrefixBytes), meta...))
}

func decodeMeta(b []byte) ([]byte, error) {
	c, err := openState(stateFormat, keyMeta, b)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, c.b...), nil
}

// mark is a revision and the history digest at it.
type mark struct {
	rev    Revision
	digest Digest
}

func appendMark(b []byte, m mark) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(m.rev))
	return append(b, m.digest[:]...)
}

func readMark(c *cursor) mark { return mark{Revision(c.uint64()), c.digest()} }

// formatError says that something has another format than the one that is read. Only
// versions from before the first release wrote lower ones.
type formatError struct{ has, known byte }

// Error says whose it is.
func (e *formatError) Error() string { return e.by("it").Error() }

// by returns the error of what has the format.
func (e *formatError) by(what string) error {
	if e.has < e.known {
		return &level.EarlierError{What: what}
	}
	return &level.LaterError{What: what, Known: level.Highest}
}

// stateError is the error of something that does not decode: what another version
// wrote is not damaged.
func stateError(tx Tx, raw []byte, what string, err error) error {
	if f, ok := errors.AsType[*formatError](err); ok {
		file, _ := tx.Where(raw)
		return f.by(file)
	}
	return corruptAt(tx, raw, what+": "+err.Error())
}

// end returns the first failure, or that bytes are left over.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.fail(errors.New("bytes follow its end"))
	}
	return c.err
}

// snapshot describes the state after one entry of the log. It holds no records
// and no chunks: a receiver pulls those it lacks.
type snapshot struct {
	position
	lineage History
	uploads map[uploadID]*upload
}

const snapshotFormat = 2 // 1: before the first release

// encodeSnapshot writes s; equal states have equal bytes.
func encodeSnapshot(s *snapshot) []byte {
	b := appendHistory(appendPosition([]byte{snapshotFormat}, &s.position), &s.lineage)
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
	s := &snapshot{position: readPosition(&c), uploads: make(map[uploadID]*upload)}
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
