// Package s3fifo is a cache of values by key, bounded by the bytes that they take. Cache
// nodes keep records in one, and database nodes the values that they are asked for often.
//
//	c := s3fifo.New[*record](64 << 20)
//	c.Add(rec, false, 0)
//	rec, _ := c.Get("app/v1/main.js")
//
// The easy version is a list in the order of use under one lock. Every hit then takes
// that lock and writes to three values, and one pass over many cold keys empties the
// list. This is S3-FIFO instead (Yang et al., SOSP 2023): values stand in queues, a hit
// only counts up to three in the value's entry, and what has to go is decided when room is
// needed. A new value enters a small queue. What was asked for twice in there goes on to
// the main queue; the rest is forgotten but for a fingerprint, a ghost. A key that comes
// back while its ghost is still there enters the main queue at once. In the main queue an
// entry goes round once for each use. BenchmarkPolicies compares it with LRU and others;
// docs/caching.md has the table.
//
// There are two pairs of queues: one for values of the cache's own, one for mirrored
// values, which another node has too. Each may take what the other leaves free. When
// nothing is free, a mirrored value is let in only if its ghost is there, that is, if it
// was asked for before and not long ago; and mirrored values give way first as long as
// they have more than a quarter of the memory.
//
// # Invariants
//
//  1. What is held never counts for more than the limit, ghosts and overhead included.
//  2. A value that would take more than an eighth of the limit is not held.
//  3. Get takes the read lock of one of 64 shards, and nothing else.
//  4. A value of an older generation is never held.
package s3fifo
