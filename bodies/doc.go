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
// # Invariants
//
//  1. A body that Has reports is durable, and stays so as long as it is counted or held.
//  2. Bytes that were written are never overwritten. What is read is checked.
//  3. A body is forgotten, durably, before its room is given up.
//  4. An append that fails because the disk is full changes nothing. After any other
//     write or fsync that failed nothing more is written or synced.
package bodies
