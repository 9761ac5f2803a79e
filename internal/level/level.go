// Package level numbers what a program understands. A level covers the commands,
// record types and formats that may be in a log, a history or a stream, and the
// constants that decide outcomes. A store has a level too, which never falls: nothing
// above it is written, so that every member can carry out what it is given. A program
// that meets what it does not know stops, and changes nothing: if it went on without,
// its state would differ from that of the others.
package level

import "fmt"

// Highest is the level of this program. Whoever adds a command, a type of record, or
// a format, or changes what decides an outcome, raises it by one.
const Highest = 1

// LaterError says that data was written by a later version of the program. It is
// fatal to whoever must carry it out, and leaves the data as it is: a program that
// knows the level goes on from there.
type LaterError struct {
	What  string // such as "log entry 17"
	Level uint64 // that is needed; 0 if that cannot be told
	Known uint64 // the highest that this program knows
}

// Error says what to do.
func (e *LaterError) Error() string {
	if e.Level <= e.Known {
		return fmt.Sprintf("%s was written by a later version of oncekv; this program knows up to level %d: start this node with that version, or a later one; nothing was changed", e.What, e.Known)
	}
	return fmt.Sprintf("%s was written by a later version of oncekv (level %d); this program knows up to %d: start this node with that version, or a later one; nothing was changed", e.What, e.Level, e.Known)
}

// EarlierError says that data was written by a version from before the first release,
// the formats of which no release reads. The data is left as it is.
type EarlierError struct {
	What string // such as "the identity in /var/lib/oncekv"
}

// Error says what to do.
func (e *EarlierError) Error() string {
	return fmt.Sprintf("%s was written by a version of oncekv from before the first release, which this program cannot read: serve it with the program that wrote it and move its keys, see docs/operations.md; nothing was changed", e.What)
}
