package shortage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		err  error
		says string // empty: not a shortage
	}{
		{&fs.PathError{Op: "open", Path: "f", Err: syscall.EMFILE}, "ulimit -n"},
		{fmt.Errorf("cut: %w", &fs.PathError{Op: "open", Path: "f", Err: syscall.ENFILE}), "fs.file-max"},
		{os.NewSyscallError("mmap", syscall.ENOMEM), "memory"},
		{os.NewSyscallError("accept", syscall.ENOBUFS), "memory"},
		{errors.New("write history.db: mmap allocate error: cannot allocate memory"), "vm.max_map_count"},
		{&fs.PathError{Op: "write", Path: "f", Err: syscall.ENOMEM}, ""},
		{&fs.PathError{Op: "sync", Path: "f", Err: syscall.ENOMEM}, ""},
		{fmt.Errorf("write history.db: %w", syscall.ENOMEM), ""}, // of an fdatasync
		{&fs.PathError{Op: "sync", Path: "f", Err: syscall.EIO}, ""},
		{&fs.PathError{Op: "open", Path: "f", Err: syscall.ENOENT}, ""},
		{syscall.ENOSPC, ""},
		{nil, ""},
	} {
		got := Explain(tt.err)
		if tt.says == "" {
			if got != tt.err || Is(tt.err) {
				t.Errorf("%v becomes %v", tt.err, got)
			}
			continue
		}
		if !errors.Is(got, Err) || !errors.Is(got, tt.err) || !strings.Contains(got.Error(), tt.says) {
			t.Errorf("%v becomes %v", tt.err, got)
		}
		if again := Explain(got); again != got {
			t.Errorf("explained twice: %v", again)
		}
	}
}
