package walscan

import (
	"errors"
	"fmt"
)

// ErrNoSegments is returned by Check for a directory without any WAL segment.
var ErrNoSegments = errors.New("walscan: the directory holds no WAL segment")

// Report is what Check found in a log that can be trusted.
type Report struct {
	// FirstIndex is the index in the name of the first segment: the first
	// entry of the log is at most that.
	FirstIndex uint64
	// LastIndex is the index of the entry written last; an entry that
	// overwrites earlier ones also ends the log at its own index. It is 0
	// when there are no entries.
	LastIndex uint64
	// SnapshotIndex is the highest index of a snapshot record, 0 if none.
	// It is beyond LastIndex after a snapshot was installed.
	SnapshotIndex uint64
	// Commit and Term are those of the last hard state written. Commit may
	// be behind what was committed, because it alone is never flushed.
	Commit, Term uint64
	// Entries counts the entry records, overwritten ones included.
	Entries int
	// Metadata is what the log was created with, the same in every segment.
	Metadata []byte
	// Segments counts the segment files.
	Segments int
	// Torn says that the last segment ends in a torn write: an unflushed
	// tail which Repair removes. All else in the report describes the log
	// without that tail.
	Torn bool
	// TornFile is the path of the segment with the torn tail.
	TornFile string
	// TornOffset is where the tail begins in it: the end of the last good
	// record.
	TornOffset int64
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
