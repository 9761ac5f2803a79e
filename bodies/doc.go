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
// A flush happens when Config.TableRows rows changed, 256 MiB were appended, the mark
// went 200,000 revisions on, something was forgotten, and at Checkpoint, Recount and
// Close. Run does it; whoever appends or counts does only if Run is far behind, or does
// not run yet.
//
// # A start
//
// Open reads the manifest, the end of each run, and those frames that the manifest does
// not cover, whole: what was never synced may have a right header and wrong bytes. If
// manifest or a run is missing or damaged, it makes the table anew: it reads all frames,
// keeps those that are whole, and the mark is zero. A lookup that finds a damaged block in
// a run removes the manifest, and ends the store: the next start makes the table anew.
// Until Counted says that it is complete, every start does.
// Behind a header that is damaged the next one is searched for; a frame that is found so
// must have its SHA-256.
//
// # Memory
//
// Of the table there are in memory at most about Config.TableRows rows that were looked
// up, as many that nothing counts on, and twice as many that changed: about 240 bytes
// each, 30 MiB at most with 32,768. When that many changed and the disk is full, Append
// and Count return the error of the disk, and nothing is lost. Besides there is a row for
// each body that is held, 8 bytes for each 85 bodies, and some 200 bytes for each segment.
// A merge needs 64 KiB for each run, and 1 MiB. Rows that nothing counts on and that are
// not in memory, after a start say, are found by a sweep through the runs, some of them
// in each round.
//
// # Open files
//
// A segment is open while somebody uses it, and until Config.OpenFiles others were used
// since; the newest one, and one that is not durable, stays open. Who needs one more while
// all are in use waits. So there are about 50 files open, with the runs, however many
// segments there are. When the system is short of files what needs one fails with its
// error (internal/shortage), and nothing else.
//
// # Disk
//
// A row takes 48 bytes; while runs are merged, and while rows wait for that, about three
// times as much.
//
// # Reclaiming
//
// Run does, every Config.Round and not faster than Config.ReclaimRate:
//
//  1. It forgets what is dead, and flushes the table.
//  2. It punches the blocks of the file system that lie in what was forgotten. Headers
//     stay, and so do blocks that are shared with a neighbour.
//  3. It unlinks segments without any body; the newest one ends when it has none.
//  4. It gives back, in one segment that was there at the start, what a process before
//     had forgotten and not given back.
//  5. Of the ended segment of which least is left, if that is less than half, it copies
//     the rest to the newest, syncs, has the table say so, flushes it, and unlinks the file.
//
// Whoever reads meanwhile finds a segment that was dropped, and looks the body up again.
// Nothing is reclaimed inside a Pause. On a full disk nothing is reclaimed either while
// the table cannot be written; a segment is copied only when there is room.
//
// # Damage
//
// A segment that is missing, too short, or has another beginning is a *DamageError of
// Open if the table has bodies of it. A body that does not check, at the place where the
// table still has it, is one of Read, and of Scrub, which reads all there is; if nothing
// counts on it, it is forgotten instead. A copy that finds damage ends the store, and
// leaves the file.
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
