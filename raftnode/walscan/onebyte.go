package walscan

import "math/bits"

// byteSearchMax bounds the data searched for any wrong byte. Beyond it only
// single flipped bits are looked for: among more positions some byte would too
// often explain a torn write by chance.
const byteSearchMax = 1 << 16

// oneByteWrong tells whether changing one of size bytes of data, one that may be wrong,
// changes their CRC-32C by delta.
//
// A checksum is linear: a wrong byte e at the end changes it by table[e], and
// every byte that follows turns the change d into table[d&0xff] ^ d>>8. That
// step can be undone, because the high bytes of the table are all different. So
// the change is followed from the last byte to the first, until it is one that
// a single wrong byte makes.
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
