package walscan

import (
	"errors"
	"fmt"
)

// ErrNoSegments is returned by Check for a directory without any WAL segment.
var ErrNoSegments = errors.New("walscan: the directory holds no WAL segment")

// Report is what Check found in a log that can be trusted.
type Report struct {
	FirstIndex uint64 // in the name of the first segment; the first entry is not behind it
	LastIndex  uint64 // of the entry written last, which may overwrite others; 0 if there is none
	// SnapshotIndex is the highest index of a snapshot record, 0 if there is none. It is
	// beyond LastIndex after a snapshot was installed.
	SnapshotIndex uint64
	// Commit and Term are those of the last hard state. Commit may be behind what was
	// committed, because a commit index alone is never flushed.
	Commit, Term uint64
	Entries      int    // records of entries, overwritten ones included
	Metadata     []byte // of the log, the same in every segment
	Segments     int    // segment files
	// Torn says that the last segment ends in a torn write, an unflushed tail which
	// Repair removes. The rest of the report describes the log without it.
	Torn       bool
	TornFile   string // path of that segment
	TornOffset int64  // of the tail: the end of the last good record
}

// DamageError says that flushed records of the log are damaged, so that the
// node must not start. It never describes a torn tail.
type DamageError struct {
	File   string // path of the segment
	Offset int64  // of the damaged frame in it, in bytes
	Detail string // what is wrong there, without a full stop
}

// Error says what is wrong, where, and what the operator has to do.
func (e *DamageError) Error() string {
	return fmt.Sprintf("write-ahead log %s is damaged at offset %d: %s; this node cannot trust its disk and must be replaced: "+
		"remove the member from the cluster, wipe its data directory, and let it join again", e.File, e.Offset, e.Detail)
}
