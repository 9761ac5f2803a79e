// Package fsync makes files, and the names in directories, durable.
package fsync

import (
	"errors"
	"fmt"
	"os"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// Path makes what a file holds durable, or which names a directory has.
func Path(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Dir makes durable which names a directory has. Its error names the directory, and is
// writefault.Err if nobody knows now what the disk holds.
func Dir(dir string) error {
	if err := Path(dir); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, writefault.Mark(err))
	}
	return nil
}
