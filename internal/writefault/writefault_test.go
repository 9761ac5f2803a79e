package writefault

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestMark(t *testing.T) {
	for _, tt := range []struct {
		err  error
		lost bool
	}{
		{nil, false},
		{syscall.EIO, true},
		{fmt.Errorf("write history.db: %w", syscall.EIO), true},
		{&fs.PathError{Op: "write", Path: "f", Err: syscall.EIO}, true},
		{&fs.PathError{Op: "sync", Path: "f", Err: syscall.ENOSPC}, true},
		{syscall.ENOSPC, true}, // of an fdatasync
		{syscall.ENOMEM, true},
		{&fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}, false},
		{&fs.PathError{Op: "truncate", Path: "f", Err: syscall.EDQUOT}, false},
		{&fs.PathError{Op: "open", Path: "f", Err: syscall.EMFILE}, false},
		{&fs.PathError{Op: "open", Path: "f", Err: syscall.ENOENT}, false},
		{&fs.PathError{Op: "open", Path: "f", Err: syscall.EIO}, true},
		{&fs.PathError{Op: "sync", Path: "f", Err: syscall.EACCES}, true},
		{errors.New("mmap allocate error: cannot allocate memory"), false},
	} {
		got := Mark(tt.err)
		if errors.Is(got, Err) != tt.lost || !errors.Is(got, tt.err) {
			t.Errorf("%v becomes %v", tt.err, got)
		}
		if got != nil && got.Error() != tt.err.Error() {
			t.Errorf("%v says %v", tt.err, got)
		}
		if again := Mark(got); again != got {
			t.Errorf("marked twice: %#v", again)
		}
	}
}
