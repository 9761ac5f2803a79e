package kvstore

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
)

// openUploadsMax bounds the memory of uploads that are not sealed yet. It is
// part of the state machine: every replica must have the same.
const openUploadsMax = 4096

// OpenResult is what Apply answers to a command that opens an upload: it is open now,
// or was before, and lives.
type OpenResult struct{}

// upload is the state of a large value that is not sealed yet. Its chunks are added
// in their order, and all but the last have ChunkBytes.
type upload struct {
	uploadLife
	sum hash.Hash // of its bytes
}

// uploadLife changes with every chunk, and whenever the upload is opened again.
type uploadLife struct {
	time  int64 // proposer's clock at the last of these, nanoseconds since 1970, or later; says nothing but that it changes
	bytes int64 // of all chunks so far
}

func newUpload(now int64) *upload {
	return &upload{uploadLife: uploadLife{time: now}, sum: sha256.New()}
}

// renew notes that the upload was opened again: its body still arrives. The time always
// changes, whatever the proposer's clock says.
func (u *upload) renew(now int64) {
	if now > u.time {
		u.time = now
	} else {
		u.time++
	}
}

// count returns how many chunks there are.
func (u *upload) count() uint32 { return uint32((u.bytes + ChunkBytes - 1) / ChunkBytes) }

// add notes the bytes of the next chunk.
func (u *upload) add(data []byte, now int64) {
	u.sum.Write(data)
	u.bytes += int64(len(data))
	u.time = max(u.time, now)
}

// digest returns that of the chunks so far.
func (u *upload) digest() Digest { return Digest(u.sum.Sum(nil)) }

// appendUpload encodes u.
func appendUpload(b []byte, u *upload) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(u.time))
	b = binary.AppendUvarint(b, uint64(u.bytes))
	return appendSum(b, u.sum, u.bytes)
}

// readUpload reads what appendUpload wrote.
func readUpload(c *cursor) *upload {
	u := newUpload(int64(c.uint64()))
	size := c.uvarint()
	if size > chunksMax*ChunkBytes {
		c.fail(fmt.Errorf("an upload has %d bytes; the limit is %d", size, int64(chunksMax*ChunkBytes)))
		return u
	}
	u.bytes = int64(size)
	u.sum = readSum(c, u.bytes)
	return u
}

// How SHA-256 is kept after some bytes: the chaining value after its whole blocks, and
// what follows those. Go's own form has both too, but is Go's to change.
const (
	chainBytes   = sha256.Size
	goSumPrefix  = "sha\x03"
	goBlockAt    = len(goSumPrefix) + chainBytes
	goSumLength  = goBlockAt + sha256.BlockSize // where the number of bytes is
	goSumBytes   = goSumLength + 8
	goSumChanged = "kvstore: this release of Go keeps the state of SHA-256 in another form"
)

// appendSum encodes the state of a SHA-256 that was given size bytes.
func appendSum(b []byte, h hash.Hash, size int64) []byte {
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(state) != goSumBytes || string(state[:len(goSumPrefix)]) != goSumPrefix {
		panic(goSumChanged) // and TestUpload_Sum fails
	}
	return append(b, state[len(goSumPrefix):goBlockAt+int(size%sha256.BlockSize)]...)
}

// readSum reads what appendSum wrote.
func readSum(c *cursor, size int64) hash.Hash {
	var state [goSumBytes]byte
	copy(state[:], goSumPrefix)
	copy(state[len(goSumPrefix):], c.take(chainBytes+int(size%sha256.BlockSize)))
	binary.BigEndian.PutUint64(state[goSumLength:], uint64(size))
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state[:]); err != nil {
		panic(goSumChanged + ": " + err.Error())
	}
	return h
}

// uploadFormat is that of an open upload in the uploads bucket.
const uploadFormat = 2 // 1: chunks came in any order

// encodeUpload encodes u for the uploads bucket.
func encodeUpload(id uploadID, u *upload) []byte {
	return encodeState(uploadFormat, id[:], appendUpload(make([]byte, statePrefixBytes), u))
}

// decodeUpload reads what encodeUpload wrote.
func decodeUpload(id uploadID, b []byte) (*upload, error) {
	c, err := openState(uploadFormat, id[:], b)
	if err != nil {
		return nil, err
	}
	u := readUpload(&c)
	if err := c.end(); err != nil {
		return nil, err
	}
	return u, nil
}
