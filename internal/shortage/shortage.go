// Package shortage tells the errors of a system that is short of open files or memory from
// those of a broken disk.
//
// What failed for such a reason was not done, and may be repeated when there is room. It says
// nothing about what is stored, so nobody has to replace anything. The exception is a failed
// write or fsync: whatever the reason, nobody knows what the disk holds then.
package shortage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Err matches every error of Explain.
var Err = errors.New("the system is short of files or memory; the data was not changed")

// Is reports whether err means that the system is short of files or memory.
func Is(err error) bool { return advice(err) != "" }

// Explain wraps an error for which Is returns true in one that matches Err and names the
// limit. It returns other errors, and explained ones, unchanged.
func Explain(err error) error {
	if say := advice(err); say != "" && !errors.Is(err, Err) {
		return fmt.Errorf("%w: %s: %w", Err, say, err)
	}
	return err
}

// advice names the limit that was reached, "" if none.
func advice(err error) string {
	switch {
	case err == nil || wrote(err):
		return ""
	case says(err, syscall.ENFILE): // check it first: its text begins like EMFILE's
		return "the whole machine has as many files open as it may; raise the limit (fs.file-max), or stop what opens them"
	case says(err, syscall.EMFILE):
		return "this process has as many files and connections open as it may; raise the limit (ulimit -n, LimitNOFILE= in a systemd unit)"
	case says(err, syscall.ENOMEM), says(err, syscall.ENOBUFS):
		return "there is not enough memory; raise the limit (ulimit -v, MemoryMax= in a systemd unit, vm.max_map_count), or give the machine more"
	}
	return ""
}

// says reports whether err is the system error errno. The packages that open the log (etcd's
// fileutil) and map the store (bbolt) keep only its text.
func says(err error, errno syscall.Errno) bool {
	return errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error())
}

// wrote reports whether err comes from a write or an fsync. A failed fdatasync of the log or
// the store is the system's bare error, which names no call.
func wrote(err error) bool {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return slices.Contains([]string{"write", "writeat", "sync", "truncate"}, path.Op)
	}
	_, call := errors.AsType[*os.SyscallError](err)
	_, bare := errors.AsType[syscall.Errno](err)
	return bare && !call
}
