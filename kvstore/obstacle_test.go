package kvstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Wherever a store keeps a file there may be something that cannot be opened, read or
// removed. The store does not open, names it, has kept nothing open, and lost nothing
// when it is gone.
func TestOpenStoreDir_Obstacles(t *testing.T) {
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
