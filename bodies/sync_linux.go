package bodies

import (
	"io/fs"
	"os"
	"syscall"
)

const writeOutMode = 0x2 // SYNC_FILE_RANGE_WRITE

// syncData makes durable what was written to f, and how long f is.
func syncData(f *os.File) error {
	return control(f, "sync", syscall.Fdatasync)
}

// writeOut has the system begin to write a part of f to the disk, so that the next fsync,
// of this file or of another one, finds little left to write. An error would be that of
// the fsync too.
func writeOut(f *os.File, off, n int64) {
	_ = control(f, "write", func(fd int) error { return syscall.SyncFileRange(fd, off, n, writeOutMode) })
}

const keepSize = 0x1 // FALLOC_FL_KEEP_SIZE

// keepRoom has the file system keep room for bytes of f, which does not get longer.
func keepRoom(f *os.File, off, n int64) error {
	return control(f, "allocate", func(fd int) error { return syscall.Fallocate(fd, keepSize, off, n) })
}

// control calls f with the descriptor of a file, which cannot be closed meanwhile.
func control(file *os.File, op string, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		for failed = syscall.EINTR; failed == syscall.EINTR; {
			failed = f(int(fd))
		}
	}); err != nil {
		return err
	}
	if failed != nil {
		return &fs.PathError{Op: op, Path: file.Name(), Err: failed}
	}
	return nil
}
