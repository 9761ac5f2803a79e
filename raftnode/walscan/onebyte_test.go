package walscan

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func newRand() *rand.Rand { return rand.New(rand.NewPCG(3, 4)) }

func anywhere(int) bool { return true }

func TestOneByteWrong(t *testing.T) {
	t.Parallel()
	rng := newRand()
	for range 200 {
		data := randomBytes(rng, 2+rng.IntN(3000))
		const before = 0xc0ffee
		right := crc32.Update(before, castagnoli, data)
		i := rng.IntN(len(data))
		data[i] ^= byte(1 + rng.IntN(255))
		delta := crc32.Update(before, castagnoli, data) ^ right
		if !oneByteWrong(delta, len(data), anywhere) {
			t.Fatalf("byte %d of %d is wrong, not found", i, len(data))
		}
		if oneByteWrong(delta, len(data), func(at int) bool { return at < i }) {
			t.Fatalf("byte %d of %d is wrong, found before it", i, len(data))
		}
		data[(i+1)%len(data)] ^= 0x55
		if oneByteWrong(crc32.Update(before, castagnoli, data)^right, len(data), anywhere) {
			t.Fatalf("two bytes of %d are wrong, taken for one", len(data))
		}
	}
}

// Much data has so many bytes that one of them would explain a torn write by
// chance; there only flipped bits count.
func TestOneByteWrong_MuchData(t *testing.T) {
	t.Parallel()
	data := randomBytes(newRand(), byteSearchMax+1)
	right := crc32.Update(0, castagnoli, data)
	data[40000] ^= 0x10
	if !oneByteWrong(crc32.Update(0, castagnoli, data)^right, len(data), anywhere) {
		t.Fatal("a flipped bit was not found")
	}
	data[40000] ^= 0x01
	if oneByteWrong(crc32.Update(0, castagnoli, data)^right, len(data), anywhere) {
		t.Fatal("two flipped bits were taken for one")
	}
}
