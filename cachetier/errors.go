package cachetier

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/Focinfi/oncekv/kvstore"
)

var (
	// errAbsent is a definite "not set", confirmed after the load that returns it began.
	errAbsent = kvstore.ErrNotFound

	// errUnanswered: the owner of a key gave no answer, neither a record nor an absence.
	errUnanswered = errors.New("owner gave no answer")

	// errDigest: the bytes a node sent are not those of its own digest.
	errDigest = errors.New("wrong bytes")

	// errPanic: a bug, which ends only the load it happened in.
	errPanic = errors.New("internal error while loading")
)

// recovered turns a panic into an error. groupcache has no defer around its loads: a panic
// that passed through it would wedge the key.
func recovered(log *slog.Logger, what string, err *error) {
	if r := recover(); r != nil {
		log.Error("panic during a load", "in", what, "panic", r, "stack", string(debug.Stack()))
		*err = fmt.Errorf("%w: %s: %v", errPanic, what, r)
	}
}
