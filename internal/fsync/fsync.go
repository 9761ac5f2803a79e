// Package fsync makes files, and the names in directories, durable.
package fsync

import (
	"errors"
	"fmt"
	"os"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// Sync makes what a file holds durable, or which names a directory has.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncDir makes durable which names a directory has. Its error names the directory, and is
// writefault.Err if nobody knows now what the disk holds.
func SyncDir(dir string) error {
	if err := Sync(dir); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, writefault.Mark(err))
	}
	return nil
}
