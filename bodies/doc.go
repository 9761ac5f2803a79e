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
// The reclaimer decides about bodies while nobody is inside Guard. Whoever looks whether
// bodies are here and then takes a hold of each does both inside one Guard.
//
// # Segments
//
// Bodies are appended to the newest of the files NNNNNNNN.values, each in a frame that
// says what it is and where (segment.go has the format). An append only writes to memory,
// and has the disk begin by the MiB; a Sync is one fdatasync for all who wait for it. At
// a start what the table does not cover yet is read and checked: what cannot be a frame
// at the end is cut off, and behind a gap the next frame is looked for.
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
// Whoever reads meanwhile finds a file that was closed, and looks the body up again.
// Nothing is reclaimed inside a Pause. On a full disk nothing is reclaimed either while
// the table cannot be written; a segment is copied only when there is room.
//
// # Damage
//
// A segment that is missing or too short is a *DamageError of Open. A body that does not
// check, at the place where the table still has it, is one of Read, and of Scrub, which
// reads all there is; if nothing counts on it, it is forgotten instead. A copy that finds
// damage ends the store, and leaves the file.
//
// # Invariants
//
//  1. A body that Has reports is durable, and stays so as long as it is counted or held.
//  2. Bytes that were written are never overwritten. What is read is checked.
//  3. A body is forgotten, durably, before its room is given up.
//  4. A segment is unlinked when the table, durably, has no body in it.
//  5. An append that fails because the disk is full changes nothing. After any other
//     write or fsync that failed nothing more is written or synced.
package bodies
