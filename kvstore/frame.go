package kvstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/url"
	"strconv"
)

// A snapshot stream is a row of frames: kind, length, checksum, payload.
const (
	frameHeaderBytes = 1 + 4 + 4
	frameBytesMax    = ChunkBytes + 8192
)

type frameKind byte

const (
	frameRecord frameKind = 'r' // revision, record as stored
	frameChunk  frameKind = 'c' // chunk key, chunk as stored
	frameEnd    frameKind = 'e' // nothing follows; without it the stream broke off
)

// appendFrame appends a frame whose payload is prefix and body.
func appendFrame(b []byte, kind frameKind, prefix, body []byte) []byte {
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(prefix)+len(body)))
	sum := crc32.Update(crc32.Checksum(b[len(b)-5:], castagnoli), castagnoli, prefix)
	b = binary.BigEndian.AppendUint32(b, crc32.Update(sum, castagnoli, body))
	return append(append(b, prefix...), body...)
}

// readFrame reads one frame. A stream that breaks off gives
// io.ErrUnexpectedEOF or the reader's own error, a damaged one ErrSnapshotBody.
func readFrame(r io.Reader) (frameKind, []byte, error) {
	var h [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(h[1:])
	if size > frameBytesMax {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes", ErrSnapshotBody, size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	sum := crc32.Update(crc32.Checksum(h[:5], castagnoli), castagnoli, payload)
	if sum != binary.BigEndian.Uint32(h[5:]) {
		return 0, nil, fmt.Errorf("%w: a frame has another checksum than its bytes", ErrSnapshotBody)
	}
	return frameKind(h[0]), payload, nil
}

// The kinds of query.
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
	chunk   uint32   // records: the first one's chunks from this number; chunks: from this number
	upload  uploadID // chunks: of this open upload
}

// String encodes q.
func (q *query) String() string {
	v := url.Values{"kind": {q.kind}, "index": {strconv.FormatUint(q.index, 10)}, "chunk": {strconv.FormatUint(uint64(q.chunk), 10)}}
	if q.kind == queryRecords {
		v.Set("after", strconv.FormatUint(uint64(q.after), 10))
		v.Set("through", strconv.FormatUint(uint64(q.through), 10))
	} else {
		v.Set("upload", q.upload.String())
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
	q.index = number("index", 64)
	q.chunk = uint32(number("chunk", 32))
	switch q.kind {
	case queryRecords:
		q.after = Revision(number("after", 64))
		q.through = Revision(number("through", 64))
	case queryChunks:
		q.upload, err = parseUploadID(v.Get("upload"), err)
	default:
		return nil, fmt.Errorf("snapshot query: kind %q is unknown", q.kind)
	}
	return q, err
}
