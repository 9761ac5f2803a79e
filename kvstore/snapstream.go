package kvstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/url"
	"strconv"
)

// A snapshot stream is a row of items: kind, length, checksum, and then the sequence
// that the item is of, and its payload.
const (
	itemHeaderBytes = 1 + 4 + 4
	itemBytesMax    = BodyBytesMin + 8192
)

type itemKind byte

const (
	itemRecord itemKind = 'r' // revision, record as stored
	itemChunk  itemKind = 'c' // chunk key, row as stored: the bytes are pulled as a body
	itemEnd    itemKind = 'e' // nothing follows; without it the stream broke off

	// Reserved, for later versions: what is left of a record whose value was retired.
	// Neither is part of a stream that this version may ask for.
	itemStub itemKind = 's' // revision, header
	itemLeaf itemKind = 'l' // revision, leaf
)

// appendItem appends an item whose payload is prefix and body.
func appendItem(b []byte, kind itemKind, prefix, body []byte) []byte {
	b = append(b, byte(kind))
	start := len(b) - 1
	b = binary.BigEndian.AppendUint32(b, uint32(itemSequenceBytes+len(prefix)+len(body)))
	b = append(b, 0, 0, 0, 0) // checksum
	b = binary.AppendUvarint(b, coreSequence)
	sum := crc32.Update(itemChecksum(b[start:]), castagnoli, prefix)
	binary.BigEndian.PutUint32(b[start+5:], crc32.Update(sum, castagnoli, body))
	return append(append(b, prefix...), body...)
}

// itemSequenceBytes is the length of the only sequence that there is.
const itemSequenceBytes = 1

// itemChecksum covers an item but for the checksum itself.
func itemChecksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:5], castagnoli), castagnoli, b[itemHeaderBytes:])
}

// itemRoom is where small items are read to, many in one piece of memory: a pull has
// millions, and keeps those of a portion until all are written.
type itemRoom []byte

const itemRoomBytes = 64 << 10

// take returns n bytes that nobody else has.
func (f *itemRoom) take(n int) []byte {
	if n > itemRoomBytes/8 {
		return make([]byte, n)
	}
	if n > len(*f) {
		*f = make([]byte, itemRoomBytes)
	}
	b := (*f)[:n:n]
	*f = (*f)[n:]
	return b
}

// readItem reads one item into memory of room. A stream that breaks off gives
// io.ErrUnexpectedEOF or the reader's own error, a damaged one errSnapshotBody, a later
// version's neither.
func readItem(r *bufio.Reader, room *itemRoom) (itemKind, []byte, error) {
	h, err := r.Peek(itemHeaderBytes)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(h[1:])
	if size > itemBytesMax {
		return 0, nil, fmt.Errorf("%w: an item of %d bytes", errSnapshotBody, size)
	}
	frame := room.take(itemHeaderBytes + int(size))
	if _, err := io.ReadFull(r, frame); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	if itemChecksum(frame) != binary.BigEndian.Uint32(frame[5:]) {
		return 0, nil, fmt.Errorf("%w: the checksum of an item does not match its bytes", errSnapshotBody)
	}
	kind, c := itemKind(frame[0]), cursor{b: frame[itemHeaderBytes:]}
	sequence := c.uvarint()
	switch {
	case c.err != nil:
		return 0, nil, fmt.Errorf("%w: the sequence of an item: %w", errSnapshotBody, c.err)
	case kind == itemStub || kind == itemLeaf:
		return 0, nil, laterStream("records whose values were retired")
	case sequence != coreSequence:
		return 0, nil, laterStream(fmt.Sprintf("sequence %d", sequence))
	}
	return kind, c.b, nil
}

// laterStream refuses what only a later version sends. It is no *level.LaterError, with
// which a node stops: whoever sends it may be nobody to believe.
func laterStream(what string) error {
	return fmt.Errorf("the sender is of a later version of oncekv: it sends %s, which this program does not know; pull from a member of this version, or start this node with the later one", what)
}

const (
	queryRecords = "records"
	queryChunks  = "chunks"
)

// query is what a receiver asks a sender for; its text form travels as an
// opaque string.
type query struct {
	kind    string
	index   uint64   // the sender must have applied this entry
	after   Revision // records: from the next one
	through Revision // records: to this one
	chunk   uint32   // chunks: from this number
	upload  uploadID // chunks: of this open upload
}

// String encodes q.
func (q *query) String() string {
	v := url.Values{"kind": {q.kind}, "sequence": {strconv.Itoa(coreSequence)}, "index": {strconv.FormatUint(q.index, 10)}}
	if q.kind == queryRecords {
		v.Set("after", strconv.FormatUint(uint64(q.after), 10))
		v.Set("through", strconv.FormatUint(uint64(q.through), 10))
	} else {
		v.Set("upload", q.upload.String())
		v.Set("chunk", strconv.FormatUint(uint64(q.chunk), 10))
	}
	return v.Encode()
}

// parseQuery reads what query.String wrote.
func parseQuery(s string) (*query, error) {
	v, err := url.ParseQuery(s)
	if err != nil {
		return nil, fmt.Errorf("snapshot query: %w", err)
	}
	q := &query{kind: v.Get("kind")}
	number := func(name string, bits int) uint64 {
		n, perr := strconv.ParseUint(v.Get(name), 10, bits)
		if perr != nil && err == nil {
			err = fmt.Errorf("snapshot query: %s: %w", name, perr)
		}
		return n
	}
	if sequence := number("sequence", 64); err == nil && sequence != coreSequence {
		return nil, fmt.Errorf("snapshot query: it asks for sequence %d, which this program does not know: only a later version of oncekv has others than %d", sequence, coreSequence)
	}
	q.index = number("index", 64)
	switch q.kind {
	case queryRecords:
		q.after = Revision(number("after", 64))
		q.through = Revision(number("through", 64))
	case queryChunks:
		q.chunk = uint32(number("chunk", 32))
		q.upload, err = parseUploadID(v.Get("upload"), err)
	default:
		return nil, fmt.Errorf("snapshot query: kind %q is unknown", q.kind)
	}
	return q, err
}
