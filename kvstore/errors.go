package kvstore

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Errors of a request that could never succeed.
var (
	// ErrInvalidKey is returned for a key that Key.Validate refuses.
	ErrInvalidKey = errors.New("invalid key")
	// ErrInvalidContentType is returned for a content type over 255 bytes or
	// one that is not a media type.
	ErrInvalidContentType = errors.New("invalid content type")
	// ErrInvalidPutID is returned for a put id that is not 1 to 64 visible
	// ASCII characters.
	ErrInvalidPutID = errors.New("invalid put id")
	// ErrInvalidMeta is returned for user metadata that MakeUserMeta does not take, and
	// for a principal that a record cannot name.
	ErrInvalidMeta = errors.New("invalid metadata")
	// ErrTooLarge is what a *TooLargeError is.
	ErrTooLarge = errors.New("value too large")
	// ErrDigestMismatch is returned when the body of a put does not have the
	// digest the request promised. Nothing was set.
	ErrDigestMismatch = errors.New("the body does not have the SHA-256 digest that was sent with it")
	// ErrBodyRead is returned when the body of a put broke off, or had another
	// length than announced. Nothing was set.
	ErrBodyRead = errors.New("the body could not be read to its end")
)

// Errors of a request that found no value or could not be served now.
var (
	// ErrNotFound is returned for a key that is not set.
	ErrNotFound = errors.New("key is not set")
	// ErrGone is returned for a key that was set, and whose value was retired since:
	// it is set for ever, and will never be read again. No record says so yet.
	ErrGone = errors.New("the value was retired and is gone")
	// ErrOverloaded is returned when a limit of bytes in flight is reached.
	// The put was definitely not proposed.
	ErrOverloaded = errors.New("overloaded: too many bytes in flight; repeat the request after a pause")
	// ErrUnavailable is returned when there is no leader to propose to. The
	// key was definitely not set by this put.
	ErrUnavailable = errors.New("unavailable: the cluster has no leader that this node can reach; repeat the request")
	// ErrLevel is returned for what needs a higher level than the store has: not every
	// member runs a version that knows it. The put was definitely not proposed.
	ErrLevel = errors.New("not every member runs a version that knows this; nothing was set")
	// ErrOutcomeUnknown is returned when a put was proposed and its outcome
	// did not arrive in time. Repeating the same put is safe.
	ErrOutcomeUnknown = errors.New("outcome unknown: the put may or may not have won; repeat the same put to find out")
	// ErrDiskReserve is returned when a disk is too full to accept puts.
	// Reads go on.
	ErrDiskReserve = errors.New("a voter's disk is below its reserve: free space on it or add space; reads go on")
	// ErrClosed is returned by every call on a closed store or engine.
	ErrClosed = errors.New("store is closed")
)

// Errors between replicas.
var (
	// ErrBehind is returned when this store has not yet applied what is asked for, or
	// may not have: ask another member, or later.
	ErrBehind = errors.New("this store has not applied what was asked for")
	// ErrSnapshotBody is wrapped by Store.Stage when what was pulled is
	// damaged. Staging is empty again: pull from another member.
	ErrSnapshotBody = errors.New("the pulled snapshot is damaged")
	// ErrDiverged is returned when two stores disagree about a revision both
	// have. It is fatal: this store must not serve.
	ErrDiverged = errors.New("this store's history differs from the cluster's: replace this node")
	// ErrMalformedCommand is wrapped by the result Apply gives to a command it
	// cannot read. It is the same on every replica.
	ErrMalformedCommand = errors.New("malformed command")
	// ErrUploadIncomplete is the result of a seal whose upload is not open or
	// lacks chunks, of a chunk whose upload is not open, or has its last one, and of
	// opening an upload that is sealed.
	ErrUploadIncomplete = errors.New("the upload is not open or not complete")
	// ErrChunkOrder is the result of a chunk that came before the one that it
	// follows. It may be proposed again.
	ErrChunkOrder = errors.New("the chunk before this one is not there yet")
	// ErrValueDamaged is the result of a put or a seal whose bytes do not have
	// the digest that it says: a bit flipped in the memory of whoever proposed
	// them. It is the same on every replica.
	ErrValueDamaged = errors.New("the value was damaged on its way into the log")
	// ErrTooManyUploads is the result of opening one upload more than a store
	// keeps.
	ErrTooManyUploads = errors.New("too many open uploads")
)

// TooLargeError says that a value is over the limit. errors.Is(err, ErrTooLarge)
// holds for it.
type TooLargeError struct {
	LimitBytes int64
}

// Error names the limit.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("value too large: the limit is %d bytes", e.LimitBytes)
}

// Is reports whether target is ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// CorruptError says that stored data cannot be trusted. It is fatal: the store
// that returned it answers nothing else from then on.
type CorruptError struct {
	File   string // path of the damaged file
	Offset int64  // byte offset of the damage in File, -1 when not known
	Detail string // what was found there and what was expected
}

// Error names the file, the offset and what to do.
func (e *CorruptError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", e.Offset)
	}
	return fmt.Sprintf("%s is damaged%s: %s; %s", e.File, at, e.Detail, corruptAdvice(e.File))
}

// corruptAdvice says what to do about a damaged file of a store's directory.
func corruptAdvice(file string) string {
	switch name := filepath.Base(file); {
	case name == indexDir, filepath.Base(filepath.Dir(file)) == indexDir:
		return "delete the directory " + indexDir + ": it is rebuilt from history at the next start"
	case name == stagingFile:
		return "delete " + stagingFile + ": it is pulled again from another member"
	}
	return "restore this node by replacing it: remove it from the cluster, clear its data directory, join it again"
}
