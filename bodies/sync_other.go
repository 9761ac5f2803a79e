//go:build !linux

package bodies

import (
	"errors"
	"os"
)

// syncData makes durable what was written to f, and how long f is.
func syncData(f *os.File) error { return f.Sync() }

// writeOut is for Linux only: elsewhere the next fsync writes everything.
func writeOut(*os.File, int64, int64) {}

// keepRoom is for Linux only: elsewhere the file system finds room when it writes.
func keepRoom(*os.File, int64, int64) error { return errors.ErrUnsupported }
