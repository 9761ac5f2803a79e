package cachetier

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// inlineBytesMax is the largest value that is cached with its bytes at once. Of a larger
// value only the header is cached at first, and the bytes are streamed.
const inlineBytesMax = 1 << 20

// The encoded record, in memory and between cache nodes. Numbers are big-endian.
//
//	 0  format, 1 byte: 2
//	 1  flags, 1 byte: bit 0 set when the bytes are not part of the record
//	 2  revision, 8
//	10  size of the value, 8
//	18  time: Unix seconds, 8, signed
//	26  time: nanoseconds, 4
//	30  SHA-256 of the value, 32
//	62  length of the content type, 2
//	64  length of who put it, 1
//	65  length of the user's metadata, 2
//	67  content type
//	    who put it
//	    the user's metadata as a JSON object; nothing if there is none
//	    xxhash64 of the key and all of the above, 8
//	    the value, unless flagged
//
// The checksum covers the key, which is not stored: a record that a peer sent for another key
// is refused like a damaged one.
const (
	recordFormat   = 2
	flagStreamed   = 1
	recordFixed    = 67
	recordChecksum = 8
)

// What database nodes accept; userMetaBytesMax is of 2 KiB of metadata as JSON.
const (
	byBytesMax       = 128
	userMetaBytesMax = 24 << 10
)

// recordBytesMax bounds what is read from a peer.
const recordBytesMax = recordFixed + api.ContentTypeBytesMax + byBytesMax + userMetaBytesMax + recordChecksum + inlineBytesMax

// record is a decoded record. It is immutable but for sums.
type record struct {
	value    *kvstore.Value // its bytes are the end of raw; a streamed one has none: see Node.value
	streamed bool           // raw is without the bytes
	raw      []byte         // the encoding
	sums     *pieceSums     // of a streamed one without bytes, as they become known; else nil
}

// encodeHeader writes the header of meta, with room for the value behind it.
func encodeHeader(meta kvstore.Meta, streamed bool) []byte {
	room := int(meta.Size)
	if streamed {
		room = 0
	}
	var userMeta []byte
	if !meta.UserMeta.IsZero() {
		userMeta, _ = meta.UserMeta.MarshalJSON() // of strings, which always works
	}
	raw := make([]byte, recordFixed, recordFixed+len(meta.ContentType)+len(meta.By)+len(userMeta)+recordChecksum+room)
	raw[0] = recordFormat
	if streamed {
		raw[1] = flagStreamed
	}
	binary.BigEndian.PutUint64(raw[2:], uint64(meta.Revision))
	binary.BigEndian.PutUint64(raw[10:], uint64(meta.Size))
	binary.BigEndian.PutUint64(raw[18:], uint64(meta.Time.Unix()))
	binary.BigEndian.PutUint32(raw[26:], uint32(meta.Time.Nanosecond()))
	copy(raw[30:], meta.SHA256[:])
	binary.BigEndian.PutUint16(raw[62:], uint16(len(meta.ContentType)))
	raw[64] = byte(len(meta.By))
	binary.BigEndian.PutUint16(raw[65:], uint16(len(userMeta)))
	raw = append(append(append(raw, meta.ContentType...), meta.By...), userMeta...)
	return binary.BigEndian.AppendUint64(raw, headerSum(meta.Key, raw))
}

func headerSum(key kvstore.Key, header []byte) uint64 {
	d := xxhash.New()
	d.WriteString(string(key))
	d.Write(header)
	return d.Sum64()
}

// decodeRecord reads a record of key: encodeHeader's bytes and the value. It keeps raw. It does
// not compute the value's digest: see verify.
func decodeRecord(key kvstore.Key, raw []byte) (*record, error) {
	if len(raw) < recordFixed+recordChecksum || raw[0] != recordFormat {
		return nil, fmt.Errorf("record of %q has an unknown format or is cut short (%d bytes)", key, len(raw))
	}
	typed := recordFixed + int(binary.BigEndian.Uint16(raw[62:]))
	by := typed + int(raw[64])
	header := by + int(binary.BigEndian.Uint16(raw[65:]))
	if len(raw) < header+recordChecksum {
		return nil, fmt.Errorf("record of %q is cut short in its header (%d bytes)", key, len(raw))
	}
	if binary.BigEndian.Uint64(raw[header:]) != headerSum(key, raw[:header]) {
		return nil, fmt.Errorf("record of %q has a damaged header or is another key's", key)
	}
	r := &record{raw: raw, streamed: raw[1]&flagStreamed != 0}
	body := raw[header+recordChecksum:]
	meta := kvstore.Meta{
		Key:         key,
		Revision:    kvstore.Revision(binary.BigEndian.Uint64(raw[2:])),
		Size:        int64(binary.BigEndian.Uint64(raw[10:])),
		SHA256:      kvstore.Digest(raw[30:62]),
		ContentType: string(raw[recordFixed:typed]),
		Time:        time.Unix(int64(binary.BigEndian.Uint64(raw[18:])), int64(binary.BigEndian.Uint32(raw[26:]))).UTC(),
		By:          string(raw[typed:by]),
	}
	if by < header {
		if err := meta.UserMeta.UnmarshalJSON(raw[by:header]); err != nil {
			return nil, fmt.Errorf("record of %q: %w", key, err)
		}
	}
	if want := meta.Size; !r.streamed && int64(len(body)) != want || r.streamed && len(body) != 0 {
		return nil, fmt.Errorf("record of %q has %d bytes of a value of %d", key, len(body), want)
	}
	r.value = kvstore.NewValue(meta, body)
	if r.streamed {
		r.sums = new(pieceSums)
	}
	return r, nil
}

// whole reports whether the value's bytes are at hand.
func (r *record) whole() bool {
	body, _ := r.value.Bytes()
	return int64(len(body)) == r.value.Size
}

// verify compares the bytes with the digest. It is called once, when a record
// enters a cache. A streamed record has no bytes yet: whoever reads them all
// verifies them.
func (r *record) verify() error {
	if r.streamed {
		return nil
	}
	body, _ := r.value.Bytes()
	return verifyBytes(&r.value.Meta, body)
}

// receivedRecord decodes and verifies a record that a peer sent.
func receivedRecord(key kvstore.Key, raw []byte) (*record, error) {
	rec, err := decodeRecord(key, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDigest, err)
	}
	return rec, rec.verify()
}

func verifyBytes(meta *kvstore.Meta, body []byte) error {
	if got := kvstore.Digest(sha256.Sum256(body)); got != meta.SHA256 {
		return fmt.Errorf("%w: value of %q hashes to %s, its record says %s", errDigest, meta.Key, got, meta.SHA256)
	}
	return nil
}

// metaFromRecord translates what a database node's headers said.
func metaFromRecord(key kvstore.Key, r api.Record) (kvstore.Meta, error) {
	if len(r.ContentType) > api.ContentTypeBytesMax {
		return kvstore.Meta{}, fmt.Errorf("content type of %d bytes is over %d", len(r.ContentType), api.ContentTypeBytesMax)
	}
	if len(r.By) > byBytesMax {
		return kvstore.Meta{}, fmt.Errorf("who put the value has a name of %d bytes, over %d", len(r.By), byBytesMax)
	}
	digest, err := kvstore.ParseDigest(r.SHA256)
	if err != nil {
		return kvstore.Meta{}, err
	}
	userMeta, err := kvstore.MakeUserMeta(r.Meta)
	if err != nil {
		return kvstore.Meta{}, err
	}
	return kvstore.Meta{
		Key:         key,
		Revision:    kvstore.Revision(r.Revision),
		Size:        r.Size,
		SHA256:      digest,
		ContentType: r.ContentType,
		Time:        *r.Time,
		By:          r.By,
		UserMeta:    userMeta,
	}, nil
}
