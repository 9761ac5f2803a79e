package kvstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Keys of BucketState.
var (
	keyPosition = []byte("position") // history: where it stands
	keyMeta     = []byte("meta")     // history: the log's own opaque bytes
	keyIndexed  = []byte("indexed")  // index: up to where it covers history
	keyIndexing = []byte("indexing") // index: up to where keys may be in it
	keySnapshot = []byte("snapshot") // staging: the snapshot being pulled
	keyProgress = []byte("progress") // staging: how far
)

const (
	stateFormat      = 1
	statePrefixBytes = 1 + 4 // format, checksum

	// A program that does not know of blocks of records, of keys, or of
	// records that are pulled behind the end of history must read none of
	// them; so what it reads first has another format.
	positionFormat = 2 // 1: every record is alone
	indexedFormat  = 2 // 1: every key is alone
	progressFormat = 2 // 1: the records are in staging
)

// position is where a store stands: which entry of the log was applied last
// and what history was then.
type position struct {
	index, term uint64
	rev         Revision
	digest      Digest
	valueBytes  int64 // sum of the sizes of all values
}

// frameState puts format and checksum before what starts at b[statePrefixBytes].
func frameState(key, b []byte) []byte { return frameStateAs(stateFormat, key, b) }

// frameStateAs is frameState for what had other formats before.
func frameStateAs(format byte, key, b []byte) []byte {
	b[0] = format
	binary.BigEndian.PutUint32(b[1:], checksum(key, b))
	return b
}

// openState checks what frameState framed.
func openState(key, b []byte) (cursor, error) { return openStateAs(stateFormat, key, b) }

// openStateAs checks what frameStateAs framed.
func openStateAs(format byte, key, b []byte) (cursor, error) {
	if len(b) < statePrefixBytes {
		return cursor{}, errShort
	}
	if got, want := binary.BigEndian.Uint32(b[1:]), checksum(key, b); got != want {
		return cursor{}, fmt.Errorf("its checksum is %08x, its bytes have %08x", got, want)
	}
	if b[0] != format {
		return cursor{}, fmt.Errorf("it has format %d; this program knows %d: use the program that wrote it, or a later one", b[0], format)
	}
	return cursor{b: b[statePrefixBytes:]}, nil
}

func encodePosition(p *position) []byte {
	b := make([]byte, statePrefixBytes, statePrefixBytes+4*8+len(p.digest))
	b = binary.BigEndian.AppendUint64(b, p.index)
	b = binary.BigEndian.AppendUint64(b, p.term)
	b = appendMark(b, p.rev, p.digest)
	b = binary.BigEndian.AppendUint64(b, uint64(p.valueBytes))
	return frameStateAs(positionFormat, keyPosition, b)
}

func decodePosition(b []byte) (position, error) {
	format := byte(positionFormat)
	if len(b) > 0 && b[0] == 1 {
		format = 1 // records that are alone are read as they always were
	}
	c, err := openStateAs(format, keyPosition, b)
	if err != nil {
		return position{}, err
	}
	p := position{index: c.uint64(), term: c.uint64()}
	p.rev, p.digest = readMark(&c)
	p.valueBytes = int64(c.uint64())
	return p, c.end()
}

// appendMark writes a revision and the history digest at it.
func appendMark(b []byte, rev Revision, digest Digest) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(rev))
	return append(b, digest[:]...)
}

func readMark(c *cursor) (Revision, Digest) { return Revision(c.uint64()), c.digest() }

// writeIndexed puts a mark into the index: keyIndexed with the last keys up to rev,
// keyIndexing with those before. A history that then loses its last transaction,
// as it may when bbolt's newest meta page is damaged, must not be opened with an
// index that has more.
func writeIndexed(tx Tx, key []byte, rev Revision, digest Digest) error {
	return tx.Put(BucketState, key, encodeIndexed(key, rev, digest))
}

func encodeIndexed(key []byte, rev Revision, digest Digest) []byte {
	return frameStateAs(indexedFormat, key, appendMark(make([]byte, statePrefixBytes), rev, digest))
}

func decodeIndexed(key, b []byte) (Revision, Digest, error) {
	c, err := openStateAs(indexedFormat, key, b)
	if err != nil {
		return 0, Digest{}, err
	}
	rev, digest := readMark(&c)
	return rev, digest, c.end()
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
	uploads map[uploadID]*upload
}

const snapshotFormat = 1

// encodeSnapshot writes s; equal states have equal bytes.
func encodeSnapshot(s *snapshot) []byte {
	b := []byte{snapshotFormat}
	b = binary.BigEndian.AppendUint64(b, s.index)
	b = binary.BigEndian.AppendUint64(b, s.term)
	b = appendMark(b, s.rev, s.digest)
	b = binary.BigEndian.AppendUint64(b, uint64(s.valueBytes))
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
		return nil, fmt.Errorf("snapshot has format %d; this program knows %d", format, snapshotFormat)
	}
	s := &snapshot{uploads: make(map[uploadID]*upload)}
	s.index, s.term = c.uint64(), c.uint64()
	s.rev, s.digest = readMark(&c)
	s.valueBytes = int64(c.uint64())
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
