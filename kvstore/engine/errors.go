package engine

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by every call on a closed engine.
var ErrClosed = errors.New("store is closed")

// DamageError says that what a file holds cannot be trusted.
type DamageError struct {
	File   string // path of the damaged file
	Offset int64  // byte offset of the damage in File, -1 when not known
	Detail string // what was found there and what was expected
}

// Error names the file and the offset.
func (e *DamageError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", e.Offset)
	}
	return fmt.Sprintf("%s is damaged%s: %s", e.File, at, e.Detail)
}
