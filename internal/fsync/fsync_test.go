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

func TestSyncAndSyncDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Sync(file), Sync(dir), SyncDir(dir)); err != nil {
		t.Error(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, err := range []error{Sync(missing), SyncDir(missing)} {
		if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, writefault.Err) {
			t.Errorf("what is missing: %v", err)
		}
	}
	if runtime.GOOS != "linux" {
		return // there is no /proc, which cannot be synced
	}
	if err := Sync("/proc"); err == nil || errors.Is(err, writefault.Err) {
		t.Errorf("Sync of a directory that cannot be synced: %v", err)
	}
	if err := SyncDir("/proc"); !errors.Is(err, writefault.Err) || !strings.Contains(err.Error(), "sync directory /proc") {
		t.Errorf("SyncDir of a directory that cannot be synced: %v", err)
	}
}
