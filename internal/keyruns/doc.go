// Package keyruns is an index from keys to revisions with constant cost: immutable sorted
// runs, each with a filter, in a directory. It knows neither the history that it indexes nor
// the log. A key has one revision, which never changes, and is in one run.
//
//	x, err := keyruns.Open(keyruns.Config{Files: keyruns.OSFiles(dir), …})
//	go x.Run(ctx)                                // merges
//	err = x.Add(ctx, keys, n, keyruns.Mark{…})   // one new run, and the mark: durable
//	revision, err := x.Find(key)                 // 0: not here
//
// # Files
//
//	NNNNNNNNNNNN.run  a run: blocks, fences, filter, footer (run.go, block.go, filter.go)
//	list              all runs, and the mark (list.go)
//
// # A lookup
//
// A lookup first asks the filters of all runs, in memory: blocked Bloom filters of 12 bits a
// key. A filter claims a key that its run lacks for 0.41% of the keys. Then the fences, in
// memory too, lead to the only block that may have the key: one read of 2 KiB.
//
// # Additions and merges
//
// An Add writes a run, syncs it, reads it again and checks that the filter has all its keys,
// syncs the directory, and replaces the list with the new mark. A merge does the same.
// Config.Factor runs of similar size become one, so a key is written about once for each power
// of that factor by which the index is larger than an addition. A merge yields to merges of
// less than half its size, or runs would pile up behind the largest. Replaced runs are
// unlinked when they have no readers left.
//
// Neither blocks a Find, or the other, except for the moment in which they replace the list.
//
// Run merges at Config.MergeRate, and faster when there are more than half of Config.MaxRuns
// runs; Wait slows callers that add faster than that. Config.Spread makes replicas merge after
// different numbers of additions.
//
// # Memory
//
// A key of 32 random bytes takes 13.1 bits: 12 of the filter, 1.05 of the fences, so 100
// million take 165 MB. Keys of 1 KiB that differ only in their last bytes take up to 10 bytes.
// A merge also holds the filter of the run that it writes, 128 KiB for each run that it reads,
// and 2 MiB. Filters of 1 MiB and more are not on Go's heap.
//
// # Measurements
//
// Processor time on a busy machine of two cores, for keys of 32 random bytes, half a million
// in each of ten runs (bench_test.go):
//
//	a key that is in no run  0.45 µs; 0.04 blocks are read
//	a key that is in one     2.8 µs, of which 0.7 to 1.2 are the read
//	an addition              0.17 µs a key
//	a merge of all ten       0.25 µs a key
//	a run                    35 bytes a key, the filter's 1.5 among them
//	a start                  1 ms a million keys
//
// Filters: binary fuse filters of 8 bits (FastFilter/xorfilter) take 9.0 bits a key and are
// wrong as often, 0.39%. But to make one, all hashes of a run must be in memory with working
// room, some 27 bytes a key: 2.7 GB for a run of 100 million. A Bloom filter is made during a
// merge, in memory that it needs anyway. Blocked: a key costs one cache miss, not seven. 7
// bits a key in lines of 512 are wrong for 0.41%.
//
// Reads: a block of a file that is in memory takes 0.7 µs with pread and 0.3 µs through a
// mapping. But through a mapping a disk error ends the process with a signal, and the pages
// count as the process's own memory. So keyruns uses pread.
//
// Files of blocks, not bbolt: the same blocks, put into bbolt in order, took 0.46 µs and 68
// bytes of file a key. A run is written once and never changes, so pages, a free list and
// transactions would cost without a benefit.
//
// # Damage
//
// Everything on disk has a CRC-32C. A damaged block, fence, footer or list is a *CorruptError
// with file and offset: delete the directory and rebuild the index. A damaged filter is
// rebuilt from its run, and a merge replaces the run.
//
// # Invariants
//
//  1. The keys up to the mark are in the runs of the list, each in one.
//  2. A file that the list names is durable, with its name, before the list is, and never
//     changes. A file is removed only when a list that does not name it is durable.
//  3. A crash leaves a whole run or none, and the mark that goes with it.
//  4. A filter has every key of its run: writing a run checks that, and so does Verify.
//  5. An addition or a merge that fails because the disk is full changes nothing. After any
//     other failed write or fsync nothing more is written.
package keyruns
