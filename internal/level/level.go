// Package level numbers what a program understands. A level covers the commands, record types
// and formats that may be in a log, a history or a stream, and the constants that decide
// outcomes. A store has a level too, which never falls: nothing above it is written, so that
// every member can apply what it receives. A program that meets something unknown stops and
// changes nothing: if it went on, its state would differ from that of the others.
package level

import "fmt"

// Highest is the level of this program. Raise it by one when you add a command, a record type
// or a format, or change what decides an outcome.
const Highest = 1

// LaterError means that a later version of the program wrote the data. It is fatal to a node
// that must apply it, and leaves the data as it is: a program that knows the level goes on
// from there.
type LaterError struct {
	What  string // such as "log entry 17"
	Level uint64 // needed level; 0 if unknown
	Known uint64 // the highest that this program knows
}

// Error says what to do.
func (e *LaterError) Error() string {
	if e.Level <= e.Known {
		return fmt.Sprintf("%s was written by a later version of oncekv; this program knows up to level %d: start this node with that version, or a later one; nothing was changed", e.What, e.Known)
	}
	return fmt.Sprintf("%s was written by a later version of oncekv (level %d); this program knows up to %d: start this node with that version, or a later one; nothing was changed", e.What, e.Level, e.Known)
}

// EarlierError means that a version from before the first release wrote the data. No release
// reads its formats. The data is left as it is.
type EarlierError struct {
	What string // such as "the identity in /var/lib/oncekv"
}

// Error says what to do.
func (e *EarlierError) Error() string {
	return fmt.Sprintf("%s was written by a version of oncekv from before the first release, which this program cannot read: serve it with the program that wrote it and move its keys, see docs/operations.md; nothing was changed", e.What)
}
