// Package s3fifo is a cache of values by key, bounded by their bytes. Cache nodes keep
// records in one, and database nodes their frequently read values.
//
//	c := s3fifo.New[*record](64 << 20)
//	c.Add(rec, false, 0)
//	rec, _ := c.Get("app/v1/main.js")
//
// The simple design is a list in the order of use under one lock. Every hit then takes that
// lock and writes to three values, and one pass over many cold keys empties the list. This
// is S3-FIFO instead (Yang et al., SOSP 2023): values stand in queues, a hit only counts up
// to three in the value's entry, and evictions are decided when room is needed. A new value
// enters a small queue. If it is asked for twice there, it moves on to the main queue;
// otherwise it is dropped, except for a fingerprint, a ghost. A key that comes back while
// its ghost exists enters the main queue at once. In the main queue an entry goes round
// once for each use. BenchmarkPolicies compares it with LRU and others; docs/caching.md has
// the table.
//
// There are two pairs of queues: one for the cache's own values, one for mirrored values,
// which another node has too. Each may take what the other leaves free. When nothing is
// free, a mirrored value is admitted only if its ghost exists, that is, if it was asked for
// recently; and mirrored values are evicted first as long as they have more than a quarter
// of the memory.
//
// # Invariants
//
//  1. The held values never count for more than the limit, ghosts and overhead
//     included.
//  2. A value that would take more than an eighth of the limit is not held.
//  3. Get takes only the read lock of one of 64 shards.
//  4. A value of an older generation is never held.
package s3fifo
