package fsync

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/writefault"
)

func TestPathAndDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Path(file), Path(dir), Dir(dir)); err != nil {
		t.Error(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, err := range []error{Path(missing), Dir(missing)} {
		if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, writefault.Err) {
			t.Errorf("what is missing: %v", err)
		}
	}
	if runtime.GOOS != "linux" {
		return // there is no /proc, which cannot be synced
	}
	if err := Path("/proc"); err == nil || errors.Is(err, writefault.Err) {
		t.Errorf("Path of a directory that cannot be synced: %v", err)
	}
	if err := Dir("/proc"); !errors.Is(err, writefault.Err) || !strings.Contains(err.Error(), "sync directory /proc") {
		t.Errorf("Dir of a directory that cannot be synced: %v", err)
	}
}
