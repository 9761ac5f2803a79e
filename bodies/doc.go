// Package bodies keeps the bytes of large values, each once, in files that grow at
// their end. It knows neither keys nor the log: a body is up to MaxBytes bytes, and its
// name is its SHA-256. What exists, and why, is for whoever refers to it to say.
//
// # The life of a body
//
//	added, err := s.Append(digest, data)  // to the newest segment, unless it is here
//	err = s.Sync(ctx)                     // durable: now somebody may refer to it
//	s.Hold(digest); s.Release(digest)     // while a log entry, an open upload, … needs it
//	s.Count(changes, mark)                // a record of the history refers to it, or no longer does
//	data, err := s.Read(digest, nil)      // checked
//
// A body is alive while something counts on it, a hold or a count, and for
// Config.Grace after anybody touched it. Then it is dead: a reclaimer forgets it, and
// gives its room back. Counts are durable, and follow from the history; holds are not,
// and are taken again at each start.
//
// # Nobody loses what he needs
//
// Hold looks whether a body is here, and keeps it, in one step. The reclaimer forgets only
// what nobody holds at that moment. That a body is here, which Has says, may be over at once.
//
// # Writing
//
// An append writes to the newest segment, in memory, and has the disk begin by the MiB.
// A Sync is one fdatasync for all who wait for it, and never keeps an append waiting.
//
// # Rooms
//
// A file uses only files further down, but that store.go and table.go share the Store,
// and segment.go and openfiles.go the open files:
//
//	open.go                        what a start reads
//	scrub.go reclaim.go            reading everything, giving room back
//	store.go table.go              the Store, and where its bodies are
//	manifest.go run.go             the table on disk
//	openfiles.go segment.go        files of bodies
//	punch_linux.go sync_linux.go   what only Linux can; elsewhere punch_other.go and sync_other.go
//	wire.go fetch.go               bodies on their way between nodes
//	pacer.go bodies.go             what all of these use
//
// # Files
//
//	NNNNNNNN.values  a segment: frames, each with a header and a body
//	NNNNNNNN.table   a run: rows of the table, sorted by digest, that never change
//	table            the manifest: which runs there are, the mark, and what of each segment they cover
//
// The table says where each body is, and how many records refer to it. It follows from
// the segments and from the history. A flush writes the rows that changed since the last
// one to a new run, syncs it, and replaces the manifest; runs of similar size are merged,
// so that there are about ten. Counts and mark become durable together. Recount writes no
// rows: it begins an epoch, and counts of an earlier one are zero.
//
// # Invariants
//
//  1. A body that Has reports is durable, and stays so as long as it is counted or held.
//  2. Bytes that were written are never overwritten. What is read is checked.
//  3. A body is forgotten, or is elsewhere, durably, before its room is given up.
//  4. An append that fails because the disk is full changes nothing. After any other
//     write or fsync that failed nothing more is written or synced.
//  5. What the table has is durable in the segments before the manifest says so, and the
//     manifest is durable before what it does not list any more is removed.
//  6. What a manifest covers of a segment, and the rows, the counts, the figures and the
//     mark in its runs are those of one moment.
//  7. A row in memory is newer than one in a run, and that than one in an older run.
package bodies
