package keyruns

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by every call on a closed index.
var ErrClosed = errors.New("the index is closed")

// CorruptError means that a file of the index cannot be trusted. Only filters can be repaired:
// delete the index and rebuild it from what it indexes.
type CorruptError struct {
	File   string // its path
	Offset int64  // offset of the damage in bytes; -1 if unknown
	Detail string // what was found there, and what was expected
}

// Error names the file and the offset.
func (e *CorruptError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", e.Offset)
	}
	return fmt.Sprintf("%s is damaged%s: %s; stop the node and delete the directory of this file: it is rebuilt at the next start", e.File, at, e.Detail)
}
