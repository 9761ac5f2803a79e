package raftnode

import (
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/internal/level"
)

// Errors of proposals and reads. But for ErrOutcomeUnknown nothing was proposed.
var (
	// ErrUnavailable: no leader is known, or none has taken the command.
	ErrUnavailable = errors.New("no leader is known")
	// ErrOverloaded: the node holds too many bytes that are not applied yet.
	ErrOverloaded = errors.New("too much is waiting to be replicated")
	// ErrOutcomeUnknown: raft has the command, which may take effect later. Proposing it
	// again is safe.
	ErrOutcomeUnknown = errors.New("the outcome is unknown")
	// ErrStopped: the node is stopping or has stopped.
	ErrStopped = errors.New("the node has stopped")
	// ErrCommandTooLarge: a command is larger than 64 KiB.
	ErrCommandTooLarge = errors.New("the command is too large for one log entry")
	// errBodyMissing, an ErrUnavailable: Distribute brings the body back.
	errBodyMissing error = unavailableError("a body that the command refers to is not here any more")
	// ErrLevel, an ErrUnavailable: the command needs a level that the store does not have
	// yet, or is none.
	ErrLevel error = unavailableError("the store's level does not allow this command")
	// ErrDiskFull: a disk has no room for a body.
	ErrDiskFull = errors.New("a disk has no room for the value")
)

// unavailableError is an ErrUnavailable for another reason.
type unavailableError string

func (e unavailableError) Error() string        { return string(e) }
func (e unavailableError) Is(target error) bool { return target == ErrUnavailable }

// Errors of membership changes.
var (
	// ErrUnknownMember: no member has that name.
	ErrUnknownMember = errors.New("no member has that name")
	// ErrBadMember: a name, ID or URL is not valid.
	ErrBadMember = errors.New("the member's description is not valid")
	// ErrRefused is what every RefusedError is.
	ErrRefused = errors.New("the change was refused")
)

// Errors that end Run.
var (
	// ErrRemoved: this node was removed from the cluster. Its ID cannot come back; its
	// name can, with an empty data directory.
	ErrRemoved = errors.New("this node was removed from the cluster; to use the machine again, empty its data directory and start it with --join")
	// ErrEnded: another member forced a new cluster without this one.
	ErrEnded = errors.New("the cluster of this node's data has ended")
	// ErrLostData: the cluster knows this node's name under another ID.
	ErrLostData = errors.New("this node's data directory was lost")
	// ErrDiverged: most voters have another history than this node. A disk or the memory
	// of the machine has lied.
	ErrDiverged = errors.New("this node's history differs from that of most voters")
	// errFounders: the founders begin with different states. Nothing was formed.
	errFounders = errors.New("the founders of the new cluster do not agree")
	// errMixedUp: files of the data directory are missing, or of another node or time.
	// Nothing was changed.
	errMixedUp = errors.New("the files of the data directory do not belong together")
	// errDisk: a write, an fsync or a read of the node's own files failed, so that it
	// cannot know what is on the disk.
	errDisk = errors.New("the disk cannot be trusted")
)

// RefusedError says why a membership change was refused. Nothing changed.
type RefusedError struct{ Reason string }

// Error returns the reason.
func (e *RefusedError) Error() string { return e.Reason }

// Is makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

func later(what string, need, known uint64) error {
	return &level.LaterError{What: what, Level: need, Known: known}
}

func isLater(err error) bool { return errors.As(err, new(*level.LaterError)) }
