package kvstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Wherever a store keeps a file there may be something that cannot be opened, read or
// removed. The store does not open, names it, has kept nothing open, and lost nothing
// when it is gone.
func TestOpenStoreDir_Obstacles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, says string }{
		{historyFile, historyFile}, {indexDir, indexDir}, {stagingFile, stagingFile}, {scratchFile, scratchFile},
		{historyFile + engine.Creating, historyFile + engine.Creating},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			born := !strings.HasSuffix(c.name, engine.Creating) && c.name != historyFile
			if born || c.name == historyFile {
				s, err := OpenStoreDir(dir, tiny())
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			path, kept := filepath.Join(dir, c.name), filepath.Join(dir, "kept")
			if err := os.Rename(path, kept); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			obstacle := os.MkdirAll(filepath.Join(path, "in the way"), 0o700)
			if c.name == indexDir {
				obstacle = errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte("in the way"), 0o600))
			}
			if obstacle != nil {
				t.Fatal(obstacle)
			}
			if _, err := OpenStoreDir(dir, tiny()); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, c.says)) {
				t.Fatalf("it opens: %v", err)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(kept, path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			s, err := OpenStoreDir(dir, tiny())
			if err != nil {
				t.Fatalf("with nothing in the way: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	// An index without its history: a new history would be empty.
	dir := t.TempDir()
	fillDir(t, dir, 3)
	history := filepath.Join(dir, historyFile)
	if err := os.Remove(history); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStoreDir(dir, tiny()); err == nil || !strings.Contains(err.Error(), history+" is missing") {
		t.Errorf("an index alone opens: %v", err)
	}
	if _, err := os.Stat(history); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty history was made: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStoreDir(file, tiny()); err == nil {
		t.Error("a file is no directory")
	}
}

// Nobody resumes a pull whose progress is damaged: a start drops it.
func TestOpenStoreDir_DropsDamagedStaging(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, stagingFile)
	area, err := openBolt(path, engine.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(t, area, func(tx engine.Tx) error {
		return tx.Put(engine.BucketState, keyProgress, []byte("a pull got this far"))
	})
	if err := area.Close(); err != nil {
		t.Fatal(err)
	}
	openDir(t, dir, tiny())
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// Files that cannot be made or synced are told of as what they are: only an fsync that
// failed is a write that failed.
func TestFiles_CannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing", "x.db")
	if _, err := openScratchFile(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a scratch file in no directory is made: %v", err)
	}
	scratch := filepath.Join(dir, scratchFile)
	f, err := openScratchFile(scratch)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(scratch); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a scratch file that is gone is dropped: %v", err)
	}
	if err := fsync.SyncDir(filepath.Dir(missing)); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, writefault.Err) {
		t.Errorf("a directory that is not there is synced: %v", err)
	}
	if _, err := OpenStore(StoreConfig{}); err == nil {
		t.Error("a store without engines opens")
	}
}
