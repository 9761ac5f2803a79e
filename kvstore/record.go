package kvstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"
	"unsafe"
)

// ChunkBytes is the size of every chunk of a large value but its last, and the
// size of the largest value that is kept in one piece.
const ChunkBytes = 1 << 20

const (
	recordFormat      = 1
	recordPrefixBytes = 1 + 4 // format, checksum
	bodyFixedBytes    = 1 + 32 + 8
	packedPutID       = 0x80 // a put id of 32 hex digits is kept in 16 bytes
	chunksMax         = 1 << 16
)

// bodyKind says where a record's bytes are.
type bodyKind byte

const (
	bodyInline  bodyKind = 1 // behind the header
	bodyChunked bodyKind = 2 // in chunks of an upload
)

// body is the decoded part that a record shares with the put or seal command
// that made it. Its byte fields alias what was decoded.
type body struct {
	kind        bodyKind
	sum         Digest
	time        int64 // nanoseconds since 1970, UTC
	size        int64
	putID       []byte // as encoded: 16 bytes when packed
	packed      bool
	contentType []byte // empty: DefaultContentType
	key         []byte
	upload      uploadID // chunked only
	chunks      uint32   // chunked only
	header      []byte   // everything but the inline value: what the history digest covers
	value       []byte   // inline only
}

// appendBody encodes the part of a record that its command carries too, up to
// an inline value, which the caller appends. m.Revision is not in it.
func appendBody(b []byte, kind bodyKind, m *Meta, upload uploadID, chunks uint32) []byte {
	b = append(b, byte(kind))
	b = append(b, m.SHA256[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Time.UnixNano()))
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = appendPutID(b, m.PutID)
	ct := m.ContentType
	if ct == DefaultContentType {
		ct = ""
	}
	b = append(b, byte(len(ct)))
	b = append(b, ct...)
	b = binary.AppendUvarint(b, uint64(len(m.Key)))
	b = append(b, m.Key...)
	if kind == bodyChunked {
		b = append(b, upload[:]...)
		b = binary.AppendUvarint(b, uint64(chunks))
	}
	return b
}

// appendPutID writes length and id; the common kind, 32 lower-case hex digits,
// at half its length.
func appendPutID(b []byte, id string) []byte {
	if !packable([]byte(id)) {
		return append(append(b, byte(len(id))), id...)
	}
	b = append(b, packedPutID|16)
	b, err := hex.AppendDecode(b, []byte(id))
	if err != nil {
		panic("kvstore: packable put id is not hex: " + err.Error())
	}
	return b
}

// packable reports whether id is 32 lower-case hex digits.
func packable(id []byte) bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// decodeBody reads what appendBody wrote and the inline value behind it. It
// accepts exactly one encoding of each body and never panics.
func decodeBody(b []byte) (body, error) {
	c := cursor{b: b}
	d := body{kind: bodyKind(c.byte()), sum: c.digest(), time: int64(c.uint64())}
	size := c.uvarint()
	idBytes := c.byte()
	d.packed = idBytes&packedPutID != 0
	d.putID = c.take(int(idBytes &^ packedPutID))
	d.contentType = c.take(int(c.byte()))
	d.key = c.take(int(min(c.uvarint(), math.MaxInt32)))
	if d.kind == bodyChunked {
		copy(d.upload[:], c.take(len(d.upload)))
		d.chunks = uint32(min(c.uvarint(), math.MaxUint32))
	}
	if c.err != nil {
		return body{}, c.err
	}
	d.header = b[:len(b)-len(c.b)]
	d.value = c.b
	d.size = int64(min(size, math.MaxInt64))
	return d, d.check()
}

// check refuses what appendBody never writes.
func (d *body) check() error {
	if len(d.key) == 0 || len(d.key) > MaxKeyBytes || bytes.IndexByte(d.key, 0) >= 0 {
		return Key(d.key).Validate()
	}
	if d.packed && len(d.putID) != 16 || !d.packed && packable(d.putID) {
		return errors.New("the put id is not packed as it should be")
	}
	if !d.packed {
		if err := validatePutID(string(d.putID)); err != nil {
			return err
		}
	}
	if len(d.contentType) > 0 {
		if string(d.contentType) == DefaultContentType {
			return errors.New("the default content type is spelled out")
		}
		if err := checkContentType(string(d.contentType)); err != nil {
			return err
		}
	}
	switch d.kind {
	case bodyInline:
		if int64(len(d.value)) != d.size || d.size > ChunkBytes {
			return fmt.Errorf("it carries %d bytes of a value of %d (at most %d travel in one piece)", len(d.value), d.size, ChunkBytes)
		}
	case bodyChunked:
		if len(d.value) != 0 {
			return fmt.Errorf("%d bytes follow its end", len(d.value))
		}
		if d.chunks == 0 || d.chunks > chunksMax || d.size <= int64(d.chunks-1)*ChunkBytes || d.size > int64(d.chunks)*ChunkBytes {
			return fmt.Errorf("%d bytes do not make %d chunks", d.size, d.chunks)
		}
	default:
		return fmt.Errorf("kind %d is unknown", d.kind)
	}
	return nil
}

// meta returns the Meta of d, the record of revision rev, whose strings are
// copies but for key.
func (d *body) meta(rev Revision, key Key) Meta {
	return Meta{
		Key:         key,
		Revision:    rev,
		Size:        d.size,
		SHA256:      d.sum,
		ContentType: d.contentTypeString(),
		Time:        time.Unix(0, d.time).UTC(),
		PutID:       d.putIDString(),
	}
}

// keyView returns the key without a copy: it lives as long as what was decoded.
func (d *body) keyView() Key { return Key(unsafe.String(unsafe.SliceData(d.key), len(d.key))) }

func (d *body) contentTypeString() string {
	if len(d.contentType) == 0 {
		return DefaultContentType
	}
	return string(d.contentType)
}

func (d *body) putIDString() string {
	if d.packed {
		var digits [32]byte // on the stack: this runs for every Get
		return string(hex.AppendEncode(digits[:0], d.putID))
	}
	return string(d.putID)
}

// nextDigest returns the history digest after revision rev, whose record has
// this header, when prev is the one before. It covers each value through its
// SHA-256.
func nextDigest(prev Digest, rev Revision, header []byte) Digest {
	var buf [512]byte
	b := append(buf[:0], prev[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(rev))
	b = append(b, header...)
	return sha256.Sum256(b)
}

// sealRecord frames an encoded body, which starts at b[recordPrefixBytes], as
// the record of revision rev.
func sealRecord(b []byte, rev Revision) {
	b[0] = recordFormat
	binary.BigEndian.PutUint32(b[1:], recordChecksum(b, rev))
}

// recordChecksum covers the revision too, so that a record in another's place
// is found out.
func recordChecksum(b []byte, rev Revision) uint32 {
	k := revisionKey(rev)
	return checksum(k[:], b)
}

// decodeRecord checks and reads the record of revision rev.
func decodeRecord(b []byte, rev Revision) (body, error) {
	if len(b) < recordPrefixBytes+bodyFixedBytes {
		return body{}, fmt.Errorf("the record of revision %d has %d bytes only", rev, len(b))
	}
	if got, want := binary.BigEndian.Uint32(b[1:]), recordChecksum(b, rev); got != want {
		return body{}, fmt.Errorf("the record of revision %d has checksum %08x, its bytes have %08x", rev, got, want)
	}
	if b[0] != recordFormat {
		return body{}, fmt.Errorf("the record of revision %d has format %d; this program knows %d", rev, b[0], recordFormat)
	}
	d, err := decodeBody(b[recordPrefixBytes:])
	if err != nil {
		return body{}, fmt.Errorf("the record of revision %d: %w", rev, err)
	}
	return d, nil
}
