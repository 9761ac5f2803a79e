// Package keyruns is an index from keys to revisions whose cost does not grow: immutable
// sorted runs, each with a filter, in a directory. It knows neither the history that it is
// an index of, nor the log. A key has one revision for ever, and is in one run.
//
//	x, err := keyruns.Open(keyruns.Config{Files: keyruns.OSFiles(dir), …})
//	go x.Run(ctx)                                // merges
//	err = x.Add(ctx, keys, n, keyruns.Mark{…})   // one new run, and the mark: durable
//	revision, err := x.Find(key)                 // 0: not here
//
// # Files
//
//	NNNNNNNNNNNN.run  a run: blocks, fences, filter, footer (run.go, block.go, filter.go)
//	list              which runs there are, and the mark (list.go)
//
// # A lookup
//
// The filters of all runs are asked first, in memory. One that says that its run may have
// the key is wrong for one key in two hundred. Then the fences, in memory, lead to the only
// block that may have it: that is one read of 2 KiB.
//
// # Additions and merges
//
// An Add writes a run, syncs it, reads it again and checks that the filter has every key of
// it, syncs the directory, and replaces the list with the mark. A merge does the same.
// Config.Factor runs of similar size become one, so a key is written about once for each
// power of that factor that the index is larger than what is added. A merge gives way to
// those of less than half its size, else runs would pile up behind the largest. Runs of
// before are unlinked when nobody reads them any more.
//
// Neither keeps a Find or the other waiting, but for the moment in which both replace the
// list.
//
// # Damage
//
// Everything on disk has a CRC-32C. A block, fences, footer or list that is damaged is a
// *CorruptError with file and offset: the directory must be deleted, and the index made
// anew. A filter that is damaged is made anew from its run, and a merge replaces the run.
//
// # Invariants
//
//  1. The keys up to the mark are in the runs of the list, each in one.
//  2. A file that the list names is durable, with its name, before the list is, and never
//     changes. A file is removed only when a list that does not name it is durable.
//  3. A crash leaves a whole run or none, and the mark that goes with it.
//  4. A filter has every key of its run: that is checked when a run is written, and by
//     Verify.
//  5. An addition or a merge that fails because the disk is full changes nothing. After any
//     other write or fsync that failed nothing more is written.
package keyruns
