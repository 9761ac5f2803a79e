package s3fifo

import "unsafe"

// ghosts are fingerprints of the last keys that were evicted or not admitted. A key's slot
// depends on its hash, so a few are lost early.
type ghosts struct {
	buckets [][4]ghost // a power of two of them, or none
	now     uint32     // ghosts there have been
}

// ghost is 32 bits of a key's hash, and ghosts.now when it was made. Zero is an empty slot.
type ghost struct{ print, made uint32 }

// ghostShare is the part of the memory for ghosts: one in 128.
const ghostShare = 128

func newGhosts(limit int64) ghosts {
	count := int64(1)
	for 2*count*int64(unsafe.Sizeof([4]ghost{})) <= limit/ghostShare {
		count *= 2
	}
	return ghosts{buckets: make([][4]ghost, count)}
}

func (g *ghosts) bytes() int64 { return int64(len(g.buckets)) * int64(unsafe.Sizeof([4]ghost{})) }

func (g *ghosts) bucket(hash uint64) *[4]ghost { return &g.buckets[hash>>8%uint64(len(g.buckets))] }

// has reports whether the key is among the last limit ghosts.
func (g *ghosts) has(hash uint64, limit int64) bool {
	for _, one := range g.bucket(hash) {
		if one.print == uint32(hash>>32) && one.made != 0 && int64(g.now-one.made) < limit {
			return true
		}
	}
	return false
}

// add makes a ghost in place of the oldest in its bucket.
func (g *ghosts) add(hash uint64) {
	g.now++
	if g.now == 0 { // after 4 billion of them: what was made before is forgotten
		clear(g.buckets)
		g.now = 1
	}
	print, at := uint32(hash>>32), 0
	bucket := g.bucket(hash)
	for i, one := range bucket {
		if one.print == print {
			at = i
			break
		}
		if one.made < bucket[at].made {
			at = i
		}
	}
	bucket[at] = ghost{print: print, made: g.now}
}
