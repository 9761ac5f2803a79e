// Package writefault tells a failed write or fsync from every other error.
//
// After one, nobody knows what the disk holds, and the system does not help to find out: it
// may go on showing what was never written, and let the next fsync succeed. So neither this
// process nor the next may continue from what it reads. Read errors are different: they come
// again.
package writefault

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/Focinfi/oncekv/internal/shortage"
)

// Err matches every error of Mark.
var Err = errors.New("a write to the disk failed")

// Mark makes the error of a write or an fsync match Err, with the same text. It leaves errors
// unchanged that mean that a write had no room, that a file could not be opened, or that the
// system is short of files or memory: then nothing was lost.
func Mark(err error) error {
	if err == nil || errors.Is(err, Err) || shortage.Is(err) || noRoom(err) || noFile(err) {
		return err
	}
	return &fault{err}
}

// noRoom reports whether a write was refused because the disk is full. An fsync that says so
// has lost data: the disk had promised room that it does not have. A failed fdatasync of the
// log or the store is the system's bare error, which names no call.
func noRoom(err error) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	return ok && path.Op != "sync" && (errors.Is(path.Err, syscall.ENOSPC) || errors.Is(path.Err, syscall.EDQUOT))
}

// noFile reports whether a file or directory could not be opened because its name does not
// exist, as on a disk that is not mounted, or because access is denied.
func noFile(err error) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	if !ok || path.Op != "open" {
		return false
	}
	for _, why := range []error{syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.EACCES, syscall.EPERM} {
		if errors.Is(path.Err, why) {
			return true
		}
	}
	return false
}

type fault struct{ err error }

func (f *fault) Error() string        { return f.err.Error() }
func (f *fault) Unwrap() error        { return f.err }
func (f *fault) Is(target error) bool { return target == Err }
