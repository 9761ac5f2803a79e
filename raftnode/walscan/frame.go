package walscan

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	headerBytes = 8
	// sectorBytes is what a disk writes whole or not at all.
	sectorBytes = 512
)

// Record types, as in etcd's wal package.
const (
	metadataType = 1 + iota
	entryType
	stateType
	crcType
	snapshotType
)

// Protobuf tags of walpb.Record.
const (
	typeTag = 0x08
	crcTag  = 0x10
	dataTag = 0x1a
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one decoded walpb.Record. data aliases the buffer it was read from.
type record struct {
	typ     uint64
	crc     uint32
	data    []byte
	dataOff int // of data in the encoded record
}

// chains tells whether r follows a record whose running checksum was crc.
func (r record) chains(crc uint32) bool {
	return crc32.Update(crc, castagnoli, r.data) == r.crc
}

// splitHeader takes a frame header apart. It accepts only what etcd's encoder
// writes, because no checksum covers the header.
func splitHeader(b []byte) (recordBytes, padBytes int64, ok bool) {
	h := binary.LittleEndian.Uint64(b)
	recordBytes = int64(h &^ (0xff << 56))
	padBytes = (8 - recordBytes%8) % 8
	mark := byte(0)
	if padBytes != 0 {
		mark = 0x80 | byte(padBytes)
	}
	return recordBytes, padBytes, recordBytes > 0 && byte(h>>56) == mark
}

// parseRecord decodes a record that fills b exactly.
func parseRecord(b []byte) (record, bool) {
	r, n, ok := parsePrefix(b)
	return r, ok && n == len(b)
}

// parsePrefix decodes the record at the start of b by its own lengths, and
// tells how many bytes it takes. Only etcd's own way to encode is accepted.
func parsePrefix(b []byte) (r record, n int, ok bool) {
	d := fields{b: b}
	r.typ = d.field(typeTag)
	crc := d.field(crcTag)
	if d.failed || r.typ < metadataType || r.typ > snapshotType || crc > 0xffffffff {
		return record{}, 0, false
	}
	r.crc, r.dataOff = uint32(crc), d.off
	if d.off == len(b) || b[d.off] != dataTag {
		return r, d.off, true
	}
	size := d.field(dataTag)
	if d.failed || size > uint64(len(b)-d.off) {
		return record{}, 0, false
	}
	r.dataOff = d.off
	r.data = b[d.off : d.off+int(size)]
	return r, d.off + int(size), true
}

// fields reads tagged varints.
type fields struct {
	b      []byte
	off    int
	failed bool
}

func (d *fields) field(tag byte) uint64 {
	if d.failed || d.off >= len(d.b) || d.b[d.off] != tag {
		d.failed = true
		return 0
	}
	v, n := binary.Uvarint(d.b[d.off+1:])
	if n <= 0 || n > 1 && d.b[d.off+n] == 0 { // cut off, too long, or longer than needed
		d.failed = true
		return 0
	}
	d.off += 1 + n
	return v
}

// appendPrefix encodes what precedes the data of a record.
func appendPrefix(b []byte, typ uint64, crc uint32, dataBytes int) []byte {
	b = binary.AppendUvarint(append(b, typeTag), typ)
	b = binary.AppendUvarint(append(b, crcTag), uint64(crc))
	return binary.AppendUvarint(append(b, dataTag), uint64(dataBytes))
}

// frameAt decodes the frame at the start of b. Its checksum is not verified.
func frameAt(b []byte) (r record, n int, ok bool) {
	if len(b) < headerBytes {
		return record{}, 0, false
	}
	size, pad, ok := splitHeader(b)
	if !ok || size > int64(len(b))-headerBytes-pad {
		return record{}, 0, false
	}
	end := headerBytes + int(size)
	r, ok = parseRecord(b[headerBytes:end])
	return r, end + int(pad), ok && allZero(b[end:end+int(pad)])
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
