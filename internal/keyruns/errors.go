package keyruns

import (
	"errors"
	"fmt"
)

// ErrClosed is what every call on a closed index returns.
var ErrClosed = errors.New("the index is closed")

// CorruptError says that a file of the index cannot be trusted. No file but a filter can
// be mended: the index must be deleted, and made again from what it is an index of.
type CorruptError struct {
	File   string // its path
	Offset int64  // of the damage, in bytes from the file's start; -1 when not known
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
