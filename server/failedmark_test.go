package server

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Anything named failed keeps a node from starting, even if no node made it. The node
// neither waits for it nor reads it into a message.
func TestDataDir_Failed_OfAnyKind(t *testing.T) {
	for name, leave := range map[string]func(path string) error{
		"a mark":          func(p string) error { return os.WriteFile(p, []byte("2026-01-01T00:00:00Z: fsync: EIO\n"), 0o600) },
		"nothing":         func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"a large file":    func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) },
		"a directory":     func(p string) error { return os.Mkdir(p, 0o700) },
		"a dangling link": func(p string) error { return os.Symlink("nowhere", p) },
		"a pipe":          func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			d := &dataDir{path: t.TempDir()}
			if err := d.checkFailed(); err != nil {
				t.Fatalf("without one: %v", err)
			}
			if err := leave(filepath.Join(d.path, failedFile)); err != nil {
				t.Fatal(err)
			}
			err := d.checkFailed()
			if !errors.Is(err, ErrDiskFailed) || len(err.Error()) > 1024 {
				t.Fatalf("%.200v", err)
			}
			if told := strings.Contains(err.Error(), "fsync: EIO"); told != (name == "a mark") {
				t.Errorf("%v", err)
			}
		})
	}
}
