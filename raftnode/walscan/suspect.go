package walscan

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// suspect is the end of the last segment from the first frame on that does not
// read. It is either an unflushed tail that was torn, or damage.
type suspect struct {
	b   []byte // to the end of the file
	off int64  // of b in the file
	crc uint32 // running checksum before b
	log history
}

// damaged says why the bytes cannot be an unflushed tail, or nothing.
func (t *suspect) damaged() string {
	written := len(bytes.TrimRight(t.b, "\x00"))
	if written <= headerBytes {
		return "" // at most a header got out
	}
	at, follows := t.validAfter()
	if follows && (!t.log.marked || t.markAfter()) {
		return fmt.Sprintf("yet a good record follows at offset %d", t.off+int64(at))
	}
	if reason := t.complete(written); reason != "" {
		return "yet the record was completely written: " + reason
	}
	if follows && !t.hole() || !follows && !t.torn(written) {
		return "without any sign of a torn write"
	}
	return ""
}

// markAfter tells whether there is a mark behind the suspect frame, so that it was
// flushed.
func (t *suspect) markAfter() bool {
	for at := 8; at < len(t.b); at += 8 {
		if first, n, ok := frameAt(t.b[at:]); ok && first.typ == stateType {
			if second, _, ok := frameAt(t.b[at+n:]); ok && isMark(first, second) {
				return true
			}
		}
	}
	return false
}

// hole tells whether the suspect frame lacks sectors, or begins in one that is
// missing, while later ones of the same write are there.
func (t *suspect) hole() bool {
	if allZero(t.b[:headerBytes]) {
		return allZero(t.b[:min(t.sectorLeft(0), len(t.b))])
	}
	size, pad, ok := splitHeader(t.b)
	return ok && headerBytes+size+pad <= int64(len(t.b)) && t.lacksSector(t.b[:headerBytes+size])
}

// validAfter looks for a good record behind the suspect frame: one whose checksum continues
// that of the frame before it, or one that makes sense where it stands. The suspect frame
// counts as the one before, as its stored checksum may have survived.
func (t *suspect) validAfter() (at int, ok bool) {
	for at := 0; at < len(t.b); at += 8 {
		rec, n, ok := frameAt(t.b[at:])
		if !ok {
			continue
		}
		if at > 0 && t.log.plausible(rec) {
			return at, true
		}
		next, _, ok := frameAt(t.b[at+n:])
		if !ok || next.data == nil || !next.chains(rec.crc) {
			continue
		}
		if at == 0 {
			return n, true
		}
		return at, true
	}
	return 0, false
}

// complete tells whether all of the suspect record is there, but for one damaged place in
// what no checksum protects, or one damaged byte in what it does. The damaged place must
// not be missing with its sector.
func (t *suspect) complete(written int) string {
	body := t.b[headerBytes:]
	if rec, _, ok := parsePrefix(body); ok && rec.data != nil && rec.chains(t.crc) && !t.missing(0) {
		return "its data matches the checksum, and the frame around it is damaged"
	}
	size, _, ok := splitHeader(t.b)
	if !ok || size > int64(len(body)) {
		return ""
	}
	body = body[:size]
	if t.wrongPrefix(body) {
		return "its data matches the checksum but for one byte in front of it"
	}
	if rec, ok := parseRecord(body); ok {
		sum := crc32.Update(t.crc, castagnoli, rec.data)
		before := headerBytes + rec.dataOff
		if oneByteWrong(sum^rec.crc, len(rec.data), func(i int) bool { return before+i < written && !t.missing(before+i) }) {
			return "its data differs from the checksum in one byte"
		}
	}
	return ""
}

// wrongPrefix tells whether body is a whole record with one wrong byte before its data. The
// right bytes follow from the data, for each length that they may have.
func (t *suspect) wrongPrefix(body []byte) bool {
	const prefixMin, prefixMax = 6, 15
	for n := prefixMin; n <= min(prefixMax, len(body)); n++ {
		sum := crc32.Update(t.crc, castagnoli, body[n:])
		for typ := uint64(metadataType); typ <= snapshotType; typ++ {
			want := appendPrefix(nil, typ, sum, len(body)-n)
			if len(want) != n {
				continue
			}
			if at, ok := difference(want, body[:n]); ok && !t.missing(headerBytes+at) {
				return true
			}
		}
	}
	return false
}

// difference is the place of the only byte in which two slices of one length differ;
// ok also if there is none.
func difference(a, b []byte) (at int, ok bool) {
	n := 0
	for i := range a {
		if a[i] != b[i] {
			at, n = i, n+1
		}
	}
	return at, n <= 1
}

// missing tells whether b[at] is in a sector that holds nothing, from the suspect
// frame on: it may never have been written.
func (t *suspect) missing(at int) bool {
	end := at + t.sectorLeft(at)
	return allZero(t.b[max(0, end-sectorBytes):min(end, len(t.b))])
}

// torn tells whether the suspect frame looks torn. Sectors are written whole or not at all,
// and a write that was cut off leaves zeros to the end.
func (t *suspect) torn(written int) bool {
	if t.hole() {
		return true
	}
	size, pad, ok := splitHeader(t.b)
	return ok && (headerBytes+size > int64(written) || t.lacksSector(t.b[:headerBytes+size+pad]))
}

// lacksSector tells whether a frame has a whole sector of zeros, or as much of one as
// it reaches into.
func (t *suspect) lacksSector(frame []byte) bool {
	for at := headerBytes; at < len(frame); {
		end := min(at+t.sectorLeft(at), len(frame))
		if allZero(frame[at:end]) {
			return true
		}
		at = end
	}
	return false
}

// sectorLeft counts the bytes from b[at] to the end of its sector in the file.
func (t *suspect) sectorLeft(at int) int {
	return sectorBytes - int((t.off+int64(at))%sectorBytes)
}

// byteSearchMax bounds the data searched for any wrong byte. In more data some byte would
// too often explain a torn write by chance, so only flipped bits are looked for.
const byteSearchMax = 1 << 16

// oneByteWrong tells whether changing one byte of data, one that may be wrong, changes its
// CRC-32C by delta.
//
// A checksum is linear: a wrong byte e at the end changes it by table[e], and every byte
// that follows turns the change d into table[d&0xff] ^ d>>8. That can be undone, as the
// high bytes of the table are all different. So the change is followed from the last byte
// to the first, until it is one that a single wrong byte makes.
func oneByteWrong(delta uint32, size int, may func(i int) bool) bool {
	var byHigh [256]byte
	for e, v := range castagnoli {
		byHigh[v>>24] = byte(e)
	}
	for i := size - 1; i >= 0 && delta != 0; i-- {
		e := byHigh[delta>>24]
		if delta == castagnoli[e] && may(i) && (size <= byteSearchMax || bits.OnesCount8(e) == 1) {
			return true
		}
		delta = (delta^castagnoli[e])<<8 | uint32(e)
	}
	return false
}
