package keyruns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
)

// Files is the directory of an index: OSFiles on a disk, MemFiles in memory. All methods are
// safe for concurrent use.
type Files interface {
	// Make makes the directory if it is missing, and its name durable.
	Make() error
	// Create makes an empty file, and replaces one of the same name.
	Create(name string) (File, error)
	// Open opens a file for reading; fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	// Rename renames a file, and replaces one of the new name.
	Rename(from, to string) error
	// Remove removes a name. Open files stay readable.
	Remove(name string) error
	// List returns the names of all files.
	List() ([]string, error)
	// Sync makes the names of all files durable.
	Sync() error
	// Path returns a file's name for errors.
	Path(name string) string
}

// File is one file of a Files.
type File interface {
	io.ReaderAt
	// Write appends.
	io.Writer
	// Size returns the file's length in bytes.
	Size() (int64, error)
	// Sync makes everything written durable.
	Sync() error
	Close() error
}

// OSFiles returns the files in a directory on a disk.
func OSFiles(dir string) Files { return osFiles(dir) }

type osFiles string

func (d osFiles) Path(name string) string { return filepath.Join(string(d), name) }

func (d osFiles) Make() error {
	err := os.Mkdir(string(d), 0o700)
	if errors.Is(err, fs.ErrExist) {
		if _, err = os.Stat(string(d)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is a link that leads nowhere: mount what it leads to, or remove the link, and the index is rebuilt: %w", string(d), err)
		}
		return err
	}
	if err != nil {
		return err
	}
	return writefault.Mark(fsync.Sync(filepath.Dir(string(d))))
}

func (d osFiles) Create(name string) (File, error) {
	f, err := os.OpenFile(d.Path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osFiles) Open(name string) (File, error) {
	// Opening a pipe would block until somebody opens its other end.
	const noFile = fs.ModeNamedPipe | fs.ModeSocket | fs.ModeDevice
	if info, err := os.Stat(d.Path(name)); err == nil && info.Mode()&noFile != 0 {
		return nil, fmt.Errorf("%s is not a file: delete the directory %s, and the index is rebuilt at the next start", d.Path(name), string(d))
	}
	f, err := os.Open(d.Path(name))
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osFiles) Rename(from, to string) error { return os.Rename(d.Path(from), d.Path(to)) }
func (d osFiles) Remove(name string) error     { return os.Remove(d.Path(name)) }
func (d osFiles) Sync() error                  { return fsync.Sync(string(d)) }

func (d osFiles) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
