package walscan

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// appendFrame encodes a metadata record, whose content proves nothing.
func appendFrame(b []byte, crc uint32, data []byte) []byte {
	rec := appendPrefix(nil, metadataType, crc, len(data))
	if data == nil {
		rec = rec[:len(rec)-2]
	}
	rec = append(rec, data...)
	size, pad := uint64(len(rec)), -len(rec)&7
	if pad > 0 {
		size |= uint64(0x80|pad) << 56
	}
	b = append(binary.LittleEndian.AppendUint64(b, size), rec...)
	return append(b, make([]byte, pad)...)
}

// Two records prove each other by their checksums, whatever is in them.
func TestSuspect_ValidAfter_Chain(t *testing.T) {
	t.Parallel()
	const crc = 0x12345678
	bad := []byte("\x00\x00\x00\x00\x00\x00\x00\x00not a record at all.....")
	next := []byte("the data of the next")
	sum := crc32.Update(crc, castagnoli, next)
	for name, c := range map[string]struct {
		b    []byte
		at   int
		want bool
	}{
		"two that chain":      {appendFrame(appendFrame(bad, crc, []byte("x")), sum, next), len(bad), true},
		"two that do not":     {appendFrame(appendFrame(bad, crc, []byte("x")), sum+1, next), 0, false},
		"one alone":           {appendFrame(bad, crc, []byte("x")), 0, false},
		"two without data":    {appendFrame(appendFrame(bad, crc, nil), crc, nil), 0, false},
		"after its own frame": {appendFrame(appendFrame(nil, crc, []byte("damaged")), sum, next), 32, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &suspect{b: c.b}
			if at, ok := s.validAfter(); ok != c.want || at != c.at {
				t.Fatalf("found %t at %d, want %t at %d", ok, at, c.want, c.at)
			}
		})
	}
}
