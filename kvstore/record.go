package kvstore

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
	"unsafe"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/internal/merkle"
)

// BodyBytesMin is the size of the smallest value that is kept as a body: from it up to
// ChunkBytes a value is one body, beyond that each of its chunks is. A smaller one lies
// in its record. It is part of the state machine: every replica must have the same.
//
// A body costs a round trip to a majority and an fsync of its own, and a value in its
// record is written twice. With 64 puts of 12 KiB in flight, values in records were put 2.4
// times as fast, 1.6 times with 8 KiB; they wrote 2.2 to 2.3 times their bytes, bodies 1.2.
const BodyBytesMin = 16 << 10

const (
	recordPrefixBytes = 1 + 4 // representation, checksum
	headerFixedBytes  = 1 + 8 + 32
	packedPutID       = 0x80 // a put id of 32 hex digits is kept in 16 bytes
	byBytesMax        = 128
	chunksMax         = 1 << 16
)

// bodyKind says where a record's bytes are. It is the first byte of a stored record;
// 1 was that of a format before the first release.
type bodyKind byte

const (
	bodyInline   bodyKind = 2 // behind the header
	bodyChunked  bodyKind = 3 // in chunks of an upload
	bodyReferred bodyKind = 6 // a body, named by the digest in the header

	// Reserved for later versions: bodyStub is a header whose bytes are retired, bodyLeaf only
	// its leaf. Others may come, up to bodyLast.
	bodyStub bodyKind = 4
	bodyLeaf bodyKind = 5
	bodyLast bodyKind = 15
)

// A header begins with its shape: what type of record it is, and which fields it has
// besides those that all have.
const (
	recordPut = 1 // the type of every record so far: it sets a key

	shapeBy       = 1 << 0
	shapeMeta     = 1 << 1
	shapeSequence = 1 << 2
	shapeTypeBit  = 3 // where the type begins
)

// errLaterRecord is a header that this program cannot know: only a later version
// writes such.
var errLaterRecord = errors.New("it has a type or a sequence that this program does not know")

// body is the decoded part that a record shares with the put or seal command
// that made it. Its byte fields alias what was decoded.
type body struct {
	kind        bodyKind
	time        int64  // nanoseconds since 1970, UTC
	by          []byte // empty: nobody in particular
	userMeta    []byte // as encoded
	putID       []byte // as encoded: 16 bytes when packed
	packed      bool
	size        int64
	sum         Digest
	typeCode    byte   // of a common content type, or commonContentTypes
	contentType []byte // if it is not a common one
	key         []byte
	header      []byte   // what its leaf covers: all but how the value is kept
	upload      uploadID // chunked only
	chunks      uint32   // chunked only
	value       []byte   // inline only
	encoded     []byte   // all of it
}

// appendHeader encodes what a record says of its value, wherever that is kept.
// m.Revision is not in it.
func appendHeader(b []byte, m *Meta) []byte {
	shape := byte(recordPut << shapeTypeBit)
	if m.By != "" {
		shape |= shapeBy
	}
	if !m.UserMeta.IsZero() {
		shape |= shapeMeta
	}
	b = binary.BigEndian.AppendUint64(append(b, shape), uint64(m.Time.UnixNano()))
	if m.By != "" {
		b = append(append(b, byte(len(m.By))), m.By...)
	}
	if encoded := m.UserMeta.encoded; encoded != "" {
		b = append(binary.AppendUvarint(b, uint64(len(encoded))), encoded...)
	}
	b = appendPutID(b, m.PutID)
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = append(b, m.SHA256[:]...)
	b = appendContentType(b, m.ContentType)
	b = binary.AppendUvarint(b, uint64(len(m.Key)))
	return append(b, m.Key...)
}

// headerBytes is how long a header is at most.
func headerBytes(m *Meta) int {
	const lengths = 1 + 2 + 1 + binary.MaxVarintLen64 + 2 + 2 // of by, metadata, put id, the size itself, content type, key
	return headerFixedBytes + lengths + len(m.By) + len(m.UserMeta.encoded) + len(m.PutID) + len(m.ContentType) + len(m.Key)
}

// appendPlace writes where the bytes of a chunked value are, which follows its header.
func appendPlace(b []byte, upload uploadID, chunks uint32) []byte {
	return binary.AppendUvarint(append(b, upload[:]...), uint64(chunks))
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

// decodeBody reads a header and what follows it: the value, or where it is. It
// accepts exactly one encoding of each body and never panics.
func decodeBody(kind bodyKind, b []byte) (body, error) {
	c := cursor{b: b}
	d := body{kind: kind, encoded: b}
	shape := c.uvarint()
	if err := checkShape(&c, shape); err != nil {
		return body{}, err
	}
	d.time = int64(c.uint64())
	if shape&shapeBy != 0 {
		d.by = c.take(int(c.byte()))
	}
	if shape&shapeMeta != 0 {
		d.userMeta = c.take(int(min(c.uvarint(), math.MaxInt32)))
	}
	idBytes := c.byte()
	d.packed = idBytes&packedPutID != 0
	d.putID = c.take(int(idBytes &^ packedPutID))
	d.size = int64(min(c.uvarint(), math.MaxInt64))
	d.sum = c.digest()
	d.typeCode, d.contentType = c.contentType()
	d.key = c.take(int(min(c.uvarint(), math.MaxInt32)))
	d.header = b[:len(b)-len(c.b)]
	if d.kind == bodyChunked {
		copy(d.upload[:], c.take(len(d.upload)))
		d.chunks = uint32(min(c.uvarint(), math.MaxUint32))
	}
	if c.err != nil {
		return body{}, c.err
	}
	d.value = c.b
	return d, d.check(shape)
}

// checkShape refuses a header of which nothing more can be read.
func checkShape(c *cursor, shape uint64) error {
	recordType := shape >> shapeTypeBit
	switch {
	case c.err != nil:
		return c.err
	case recordType == 0:
		return errors.New("it has no type")
	case recordType > recordPut:
		return fmt.Errorf("%w: type %d", errLaterRecord, recordType)
	case shape&shapeSequence == 0:
		return nil
	}
	sequence := c.uvarint()
	switch {
	case c.err != nil:
		return c.err
	case sequence == 0:
		return errors.New("sequence 0 is spelled out")
	}
	return fmt.Errorf("%w: sequence %d", errLaterRecord, sequence)
}

// check refuses what appendHeader and appendPlace never write.
func (d *body) check(shape uint64) error {
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
	if err := d.checkContentType(); err != nil {
		return err
	}
	if shape&shapeBy != 0 {
		if len(d.by) == 0 {
			return errors.New("nobody is spelled out as who put it")
		}
		if err := checkBy(string(d.by)); err != nil {
			return err
		}
	}
	if shape&shapeMeta != 0 {
		if err := checkEncodedUserMeta(d.userMeta); err != nil {
			return err
		}
	}
	if d.kind == bodyInline {
		if int64(len(d.value)) != d.size || d.size >= BodyBytesMin {
			return fmt.Errorf("it carries %d bytes of a value of %d (a value of %d and more is a body)", len(d.value), d.size, BodyBytesMin)
		}
		return nil
	}
	if len(d.value) != 0 {
		return fmt.Errorf("%d bytes follow its end", len(d.value))
	}
	if d.kind == bodyReferred {
		if d.size < BodyBytesMin || d.size > ChunkBytes {
			return fmt.Errorf("a value of %d bytes is not one body, which has %d to %d", d.size, BodyBytesMin, ChunkBytes)
		}
		return nil
	}
	if d.chunks == 0 || d.chunks > chunksMax || d.size <= int64(d.chunks-1)*ChunkBytes || d.size > int64(d.chunks)*ChunkBytes {
		return fmt.Errorf("%d bytes do not make %d chunks", d.size, d.chunks)
	}
	return nil
}

// ref names the body of a referred value.
func (d *body) ref() bodies.Ref { return bodies.Ref{Digest: bodies.Digest(d.sum), Size: int(d.size)} }

// checkBy accepts a principal that a record can name. It is part of the state
// machine: every replica must judge alike.
func checkBy(by string) error {
	if len(by) > byBytesMax {
		return fmt.Errorf("who puts has a name of %d characters, the limit is %d", len(by), byBytesMax)
	}
	if err := api.CheckHeaderValue(by); err != nil {
		return fmt.Errorf("the name of who puts, %q: %w", by, err)
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
		By:          string(d.by),
		UserMeta:    UserMeta{string(d.userMeta)},
	}
}

// keyView returns the key without a copy: it lives as long as what was decoded.
func (d *body) keyView() Key { return Key(unsafe.String(unsafe.SliceData(d.key), len(d.key))) }

func (d *body) contentTypeString() string {
	if d.typeCode < commonContentTypes {
		return contentTypes[d.typeCode]
	}
	return string(d.contentType)
}

// checkContentType refuses a content type that appendContentType does not write.
func (d *body) checkContentType() error {
	if d.typeCode < commonContentTypes {
		return nil
	}
	ct := string(d.contentType)
	if slices.Contains(contentTypes[:], ct) {
		return errors.New("a common content type is spelled out")
	}
	return checkContentType(ct)
}

func (d *body) putIDString() string {
	if d.packed {
		var digits [32]byte // on the stack: this runs for every Get
		return string(hex.AppendEncode(digits[:0], d.putID))
	}
	return string(d.putID)
}

// leafOf returns the leaf of a record in the tree of its history. The header covers
// the value through its SHA-256.
func leafOf(header []byte) Digest { return merkle.Leaf(header) }

// sealRecord gives a checksum to an encoded body, which starts at b[recordPrefixBytes], as
// the record of revision rev. b[0] is its kind.
func sealRecord(b []byte, rev Revision) {
	binary.BigEndian.PutUint32(b[1:], recordChecksum(b, rev))
}

// recordChecksum covers the revision too, so that a record in another's place
// is found out.
func recordChecksum(b []byte, rev Revision) uint32 {
	k := revisionKey(rev)
	return checksum(k[:], b)
}

// decodeRecord checks and reads the record of revision rev. What only a later
// version writes is a *level.LaterError.
func decodeRecord(b []byte, rev Revision) (body, error) {
	if len(b) <= recordPrefixBytes {
		return body{}, fmt.Errorf("the record of revision %d has %d bytes only", rev, len(b))
	}
	if got, want := binary.BigEndian.Uint32(b[1:]), recordChecksum(b, rev); got != want {
		return body{}, fmt.Errorf("the record of revision %d has checksum %08x, its bytes have %08x", rev, got, want)
	}
	kind := bodyKind(b[0])
	var d body
	var err error
	switch {
	case kind == bodyInline || kind == bodyChunked || kind == bodyReferred:
		d, err = decodeBody(kind, b[recordPrefixBytes:])
	case kind >= bodyStub && kind <= bodyLast:
		err = errLaterRecord
	default:
		err = fmt.Errorf("it has format %d; this program knows %d, %d and %d", kind, bodyInline, bodyChunked, bodyReferred)
	}
	switch {
	case errors.Is(err, errLaterRecord):
		return body{}, &level.LaterError{What: fmt.Sprintf("the record of revision %d", rev), Known: level.Highest}
	case err != nil:
		return body{}, fmt.Errorf("the record of revision %d: %w", rev, err)
	}
	return d, nil
}
