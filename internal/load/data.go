package load

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// keyTail is how many characters at a key's end make it unique.
const keyTail = 16

// blockBytes is the number of offsets at which a value can begin.
const blockBytes = 1 << 20

// DataVersion is raised when the same DataConfig gets other keys or values: stores may still
// be full of the old ones.
const DataVersion = 1

// DataConfig describes keys and values. The same description gives the same data.
type DataConfig struct {
	Prefix    string // of all keys
	Seed      uint64
	KeySize   Size // at least KeySizeMin(Prefix)
	ValueSize Size
	Ordered   bool // key n+1 follows key n; else keys are scattered
}

// KeySizeMin returns the smallest size of keys with the prefix.
func KeySizeMin(prefix string) int64 { return int64(len(prefix)) + keyTail }

// Data is a sequence of keys and values that are computed from their numbers. It is immutable
// and may be shared.
//
// A value is a piece of one random text: letters and digits, so that it is the same in JSON
// and in bytes, and compresses to three quarters at best.
type Data struct {
	cfg   DataConfig
	first uint64 // seed of the number of key 0
	fill  string
	block []byte
}

// NewData returns an error if the keys do not fit into their size.
func NewData(cfg DataConfig) (*Data, error) {
	if least := KeySizeMin(cfg.Prefix); cfg.KeySize.Min < least {
		return nil, fmt.Errorf("keys of %d bytes are too short: the prefix and the number take %d", cfg.KeySize.Min, least)
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_."
	random := rand.New(rand.NewPCG(cfg.Seed, 0))
	d := &Data{cfg: cfg, first: scatter(cfg.Seed), block: make([]byte, blockBytes+cfg.ValueSize.Max)}
	for i := range d.block {
		d.block[i] = letters[random.Uint64()>>58]
	}
	d.fill = strings.Repeat("k", int(cfg.KeySize.Max-KeySizeMin(cfg.Prefix)))
	return d, nil
}

// Key returns the n-th key. Different n have different keys.
func (d *Data) Key(n uint64) string {
	const hex = "0123456789abcdef"
	number := n
	if !d.cfg.Ordered {
		number = scatter(n + d.first)
	}
	var tail [keyTail]byte
	for i := range tail {
		tail[keyTail-1-i] = hex[number>>(4*i)&15]
	}
	fill := d.cfg.KeySize.at(d.bits(n, 1)) - KeySizeMin(d.cfg.Prefix)
	return d.cfg.Prefix + d.fill[:fill] + string(tail[:])
}

// Value returns the n-th value. Do not modify it.
func (d *Data) Value(n uint64) []byte {
	from := d.bits(n, 2) % blockBytes
	return d.block[from:][:d.cfg.ValueSize.at(d.bits(n, 3))]
}

// Item returns the n-th key with its value.
func (d *Data) Item(n uint64) Item { return Item{Key: d.Key(n), Value: d.Value(n)} }

// bits returns 64 random bits of the n-th key, different for each purpose.
func (d *Data) bits(n, purpose uint64) uint64 {
	return scatter(scatter(n+d.first) ^ purpose<<56)
}

// scatter maps different numbers to different numbers that look random: the last step of
// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
func scatter(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}
