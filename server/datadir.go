package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// ErrDiskFailed stops a database node whose write or fsync failed, and keeps it from
// starting on that directory again.
var ErrDiskFailed = writefault.Err

// ErrInUse is returned for a data directory that another process uses.
var ErrInUse = errors.New("in use by another process")

// lockFile is locked by the process that uses the data directory.
const lockFile = "lock"

// failedFile marks a data directory in which a write or an fsync failed. A node does not
// start in it: the system may show data that never reached the disk.
const failedFile = "failed"

const failedBytesMax = 16 << 10 // a node writes less

// dataDir is a locked data directory.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir makes the directory if needed and locks it for this process.
// The kernel drops the lock when the process ends, however it ends.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	if err := syncParent(path); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, syscall.EISDIR) {
		return nil, fmt.Errorf("lock the data directory: %w; move it away: a node makes a file there", err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("the data directory %s is %w; stop that one or choose another --data-dir", path, ErrInUse)
		}
		return nil, fmt.Errorf("lock the data directory %s: %w", path, err)
	}
	return &dataDir{path: path, lock: f}, nil
}

// syncParent makes the name of a directory durable. It ignores a parent that this user may
// not open, as systemd's, or that cannot be synced and need not be, as the read-only root
// of a container.
func syncParent(path string) error {
	err := fsync.Sync(filepath.Dir(path))
	for _, harmless := range []error{os.ErrPermission, syscall.EROFS, syscall.EINVAL, syscall.ENOTSUP} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return err
}

// freeBytes returns what an unprivileged process may still write there.
func (d *dataDir) freeBytes() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.path, &st); err != nil {
		return 0, fmt.Errorf("look at the free space of %s: %w", d.path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil // the types differ between systems
}

// markFailed writes failedFile with the time and the cause; it keeps an existing one. The
// disk may fail this write too. The file still helps: a start that would read the directory
// from the page cache finds the file there as well.
func (d *dataDir) markFailed(cause error) error {
	f, err := os.OpenFile(filepath.Join(d.path, failedFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s: %v\n", time.Now().UTC().Format(time.RFC3339), cause)
	return errors.Join(err, f.Sync(), f.Close(), fsync.Sync(d.path))
}

// checkFailed returns ErrDiskFailed, with what to do, if failedFile exists.
func (d *dataDir) checkFailed() error {
	mark := filepath.Join(d.path, failedFile)
	at, err := os.Lstat(mark)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	when := "when and why is not known"
	if err == nil && at.Mode().IsRegular() && at.Size() <= failedBytesMax { // else no node wrote it
		if said, err := os.ReadFile(mark); err == nil && len(said) > 0 {
			when = strings.TrimSpace(string(said))
		}
	}
	return fmt.Errorf("%w under this node (%s), so it is not known what the disk holds: what the system shows may never have been written. "+
		"Replace this node: remove the member, empty %s, join again. Only if there is no other copy of its data: make sure that the disk is in order, "+
		"unmount and mount its file system, or restart the machine, so that everything is read from the disk itself; then delete %s and start the node", ErrDiskFailed, when, d.path, mark)
}

func (d *dataDir) close() error { return d.lock.Close() }

// CheckDataDir returns the error with which EmptyDataDir would refuse a directory.
func CheckDataDir(path string) error {
	entries, err := dataEntries(path)
	if err != nil || len(entries) == 0 {
		return err
	}
	dir, err := openDataDir(path)
	if err != nil {
		return err
	}
	return dir.close()
}

// EmptyDataDir removes everything that a database node keeps in its directory, but not the
// directory. It removes nothing and returns an error if a process uses the directory
// (ErrInUse), if path is a symbolic link, or if the directory holds something that no
// database node makes. A directory that does not exist counts as empty.
func EmptyDataDir(path string) error {
	entries, err := dataEntries(path)
	if err != nil || len(entries) == 0 {
		return err
	}
	dir, err := openDataDir(path)
	if err != nil {
		return err
	}
	defer dir.close()
	// The identity goes first: if a crash interrupts this, the rest belongs to no node.
	if err := raftnode.RemoveIdentity(path); err != nil {
		return fmt.Errorf("empty the data directory: %w", err)
	}
	for _, name := range entries {
		if name == lockFile { // held
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
			return fmt.Errorf("empty the data directory: %w", err)
		}
	}
	return nil
}

// dataEntries lists a data directory, and refuses one that holds something that is not a
// database node's.
func dataEntries(path string) ([]string, error) {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look at the data directory: %w", err)
	case !st.IsDir():
		return nil, fmt.Errorf("%s is not a directory itself, so nothing in it is removed; empty it by hand", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("look at the data directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !isNodeFile(e.Name()) {
			return nil, fmt.Errorf("%s is not a database node's, so nothing in %s is removed; move it away", filepath.Join(path, e.Name()), path)
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// isNodeFile reports whether a database node makes files with that name.
func isNodeFile(name string) bool {
	switch name {
	case lockFile, failedFile, scrubFile, scrubFileNew:
		return true
	}
	return raftnode.IsFile(name) || kvstore.IsFile(name) || strings.HasPrefix(name, httpapi.SpillPrefix)
}
