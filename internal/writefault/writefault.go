// Package writefault tells a write or an fsync that failed from every other error.
//
// After one, nobody knows what the disk holds, and the system does not help to find
// out: it may go on showing what was never written, and say yes to the next fsync. So
// neither this process nor the next one may go on from what it reads. An error of
// reading is none: it is there again when it is looked for.
package writefault

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/Focinfi/oncekv/internal/shortage"
)

// Err is what every error of Mark is.
var Err = errors.New("a write to the disk failed")

// Mark makes the error of a write or an fsync Err, in the same words. It leaves alone
// what says that there was no room for a write, that there was no file to write to, or
// that the system is short of files or memory: nothing was lost then.
func Mark(err error) error {
	if err == nil || errors.Is(err, Err) || shortage.Is(err) || noRoom(err) || noFile(err) {
		return err
	}
	return &fault{err}
}

// noRoom reports whether a write was refused because the disk is full. An fsync that
// says so has lost what was written: that disk had promised room which it does not
// have. The fdatasync of the log and of the store comes as the system's bare error,
// which names no call.
func noRoom(err error) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	return ok && path.Op != "sync" && (errors.Is(path.Err, syscall.ENOSPC) || errors.Is(path.Err, syscall.EDQUOT))
}

// noFile reports whether a file or a directory could not be opened because its name leads
// nowhere, as of a disk that is not mounted, or because it may not be.
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
