package cachetier

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/Focinfi/oncekv/kvstore"
)

// sumBytes is how much of a large value has a checksum of its own here.
const sumBytes = 1 << 20

// pieceSums are checksums of the pieces of a value that is streamed, once a reader has
// seen all of it and compared its digest. SHA-256 takes longer than all else that is
// done with a byte on its way through, so that only the first reader pays for it: those
// after him compare pieces with what he saw, a range's too. It is safe for concurrent use.
type pieceSums struct {
	known atomic.Pointer[[]uint64] // xxhash64 of each piece
}

// verifier checks the bytes of one value as one reader gets them. It belongs to one goroutine.
type verifier struct {
	meta  *kvstore.Meta
	sums  *pieceSums
	known []uint64 // nil: not when the reader began

	next   int64 // what is summed next: piece has all from where its piece begins
	piece  xxhash.Digest
	whole  hash.Hash // of bytes 0 to next; nil when the pieces are known
	learns []uint64  // of the pieces before next, when they are not known
}

func newVerifier(meta *kvstore.Meta, sums *pieceSums) *verifier {
	v := &verifier{meta: meta, sums: sums}
	v.piece.Reset()
	if known := sums.known.Load(); known != nil {
		v.known = *known
	} else {
		v.whole = sha256.New()
	}
	return v
}

// restart forgets what was read before, for a reader that goes back to the beginning.
func (v *verifier) restart() {
	v.next = 0
	v.piece.Reset()
	v.learns = nil
	if v.whole != nil {
		v.whole.Reset()
	}
}

// took hears of bytes at an offset. An error wraps errDigest, and means that they are not
// those that were put.
func (v *verifier) took(at int64, p []byte) error {
	if at != v.next {
		if v.known == nil {
			return nil // not all is seen: see restart
		}
		start := (at + sumBytes - 1) / sumBytes * sumBytes
		if start >= at+int64(len(p)) {
			return nil
		}
		v.next, p = start, p[start-at:]
		v.piece.Reset()
	}
	for len(p) > 0 {
		end := min((v.next/sumBytes+1)*sumBytes, v.meta.Size)
		part := p[:min(int64(len(p)), end-v.next)]
		v.piece.Write(part)
		if v.whole != nil {
			v.whole.Write(part)
		}
		v.next += int64(len(part))
		p = p[len(part):]
		if v.next == end {
			if err := v.ended(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ended is called where a piece ends.
func (v *verifier) ended() error {
	sum, n := v.piece.Sum64(), (v.next-1)/sumBytes
	v.piece.Reset()
	if v.known != nil {
		if v.known[n] != sum {
			return fmt.Errorf("%w: MiB %d of the value of %q changed after its digest was verified", errDigest, n, v.meta.Key)
		}
		return nil
	}
	v.learns = append(v.learns, sum)
	if v.next < v.meta.Size {
		return nil
	}
	if got := kvstore.Digest(v.whole.Sum(nil)); got != v.meta.SHA256 {
		return fmt.Errorf("%w: value of %q hashes to %s, its record says %s", errDigest, v.meta.Key, got, v.meta.SHA256)
	}
	known := append(make([]uint64, 0, len(v.learns)), v.learns...) // no longer than it counts for
	v.sums.known.Store(&known)
	return nil
}
