// Package merkle implements the hash tree of RFC 6962 over a list that only grows. It keeps
// only what it needs to continue: of a tree of n leaves, the heads of its full subtrees, one
// for each bit set in n.
package merkle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Hash is the hash of a leaf, a node or a whole tree.
type Hash = [sha256.Size]byte

const sizeBits = 48

// SizeMax is the largest number of leaves.
const SizeMax = 1<<sizeBits - 1

// Range is a compact range that begins at the first leaf. The zero value is empty. Assignment
// copies it, and ranges over the same leaves are equal.
type Range struct {
	size  uint64
	heads [sizeBits]Hash // heads of the full subtrees, the largest first; zero after the last
}

// Leaf returns the hash of a leaf.
func Leaf(data []byte) Hash {
	var buf [512]byte // most leaves fit: one call then
	if len(data) < len(buf) {
		n := copy(buf[1:], data)
		return sha256.Sum256(buf[:1+n])
	}
	h := sha256.New()
	h.Write(buf[:1])
	h.Write(data)
	return Hash(h.Sum(buf[:0]))
}

// node returns the hash of an inner node.
func node(left, right *Hash) Hash {
	var buf [1 + 2*sha256.Size]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+sha256.Size:], right[:])
	return sha256.Sum256(buf[:])
}

// Size returns the number of leaves.
func (r *Range) Size() uint64 { return r.size }

// Append adds a leaf at the end. It hashes one node on average, and panics at SizeMax leaves,
// which nobody lives to see.
func (r *Range) Append(leaf Hash) {
	if r.size == SizeMax {
		panic("merkle: the tree is full")
	}
	n := bits.OnesCount64(r.size)
	for full := r.size; full&1 != 0; full >>= 1 {
		n--
		leaf = node(&r.heads[n], &leaf)
		r.heads[n] = Hash{}
	}
	r.heads[n] = leaf
	r.size++
}

// Head returns the head of the tree. It hashes up to 47 nodes.
func (r *Range) Head() Hash {
	n := bits.OnesCount64(r.size)
	if n == 0 {
		return sha256.Sum256(nil)
	}
	head := r.heads[n-1]
	for i := n - 2; i >= 0; i-- {
		head = node(&r.heads[i], &head)
	}
	return head
}

// AppendTo appends the encoded range to b: its size, and the heads of its subtrees.
func (r *Range) AppendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, r.size)
	for i := range bits.OnesCount64(r.size) {
		b = append(b, r.heads[i][:]...)
	}
	return b
}

// Decode decodes what AppendTo wrote, and returns the bytes after it. Each range has only one
// valid encoding.
func Decode(b []byte) (r Range, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	switch {
	case n <= 0:
		return r, nil, errors.New("the size of the tree is missing")
	case n > 1 && b[n-1] == 0:
		return r, nil, errors.New("the size of the tree is not in its shortest form")
	case size > SizeMax:
		return r, nil, fmt.Errorf("a tree of %d leaves: the limit is %d", size, uint64(SizeMax))
	}
	rest = b[n:]
	r.size = size
	for i := range bits.OnesCount64(size) {
		if len(rest) < sha256.Size {
			return Range{}, nil, fmt.Errorf("a tree of %d leaves has %d heads of subtrees, %d came", size, bits.OnesCount64(size), i)
		}
		r.heads[i] = Hash(rest)
		rest = rest[sha256.Size:]
	}
	return r, rest, nil
}
