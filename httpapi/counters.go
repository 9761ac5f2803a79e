package httpapi

import "sync/atomic"

// Counters count what a database node's clients asked for since the process
// began. The zero value is ready; safe for concurrent use; must not be copied.
type Counters struct {
	Puts      atomic.Uint64 // puts that were decided: Created + Unchanged + Conflicts
	Created   atomic.Uint64 // puts that won, repeats of a winner's put id included
	Unchanged atomic.Uint64 // puts of a key that was set to the same bytes
	Conflicts atomic.Uint64 // puts of a key that was set to other bytes, kept ones included
	Gets      atomic.Uint64 // reads of a key that were answered, GET and HEAD
	Absences  atomic.Uint64 // those of Gets that were answered "not set"
	Errors    atomic.Uint64 // answers with a status of 500 or more, and answers broken off
}
