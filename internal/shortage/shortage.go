// Package shortage tells errors of a system that is short of something, open files or
// memory, from those of a broken disk.
//
// What failed for such a reason was not done, and may be done when there is room. It
// says nothing about what is stored, so nobody is told to replace anything. The
// exception is a write, or an fsync, that failed: what the disk has then is not known,
// whatever the reason.
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

// Err is what every error of Explain is.
var Err = errors.New("the system is short of files or memory; the data was not changed")

// Is reports whether err says that the system is short of files or memory.
func Is(err error) bool { return advice(err) != "" }

// Explain wraps an error that Is says yes to: it is Err then, and names the limit.
// Others, and what is explained already, it returns as they are.
func Explain(err error) error {
	if say := advice(err); say != "" && !errors.Is(err, Err) {
		return fmt.Errorf("%w: %s: %w", Err, say, err)
	}
	return err
}

// advice names the limit that was reached, "" if none was.
func advice(err error) string {
	switch {
	case err == nil || wrote(err):
		return ""
	case says(err, syscall.ENFILE): // whose words begin like EMFILE's
		return "the whole machine has as many files open as it may; raise the limit (fs.file-max), or stop what opens them"
	case says(err, syscall.EMFILE):
		return "this process has as many files and connections open as it may; raise the limit (ulimit -n, LimitNOFILE= in a systemd unit)"
	case says(err, syscall.ENOMEM), says(err, syscall.ENOBUFS):
		return "there is not enough memory; raise the limit (ulimit -v, MemoryMax= in a systemd unit, vm.max_map_count), or give the machine more"
	}
	return ""
}

// says reports whether err is the system's error. The packages that open the log
// (etcd's fileutil) and map the store (bbolt) keep only its words.
func says(err error, errno syscall.Errno) bool {
	return errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error())
}

// wrote reports whether err is that of a write or an fsync. The fdatasync of the log
// and of the store comes as the system's bare error, which names no call.
func wrote(err error) bool {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return slices.Contains([]string{"write", "writeat", "sync", "truncate"}, path.Op)
	}
	_, call := errors.AsType[*os.SyscallError](err)
	_, bare := errors.AsType[syscall.Errno](err)
	return bare && !call
}
