package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"github.com/Focinfi/oncekv/client"
)

// writeFile writes all of r to the file at path, or leaves the old content.
//
// It follows symbolic links. It replaces a regular file by renaming a new one, which keeps the
// mode and the owner. If that is impossible (the file has several names or another owner, or
// its directory is not writable), it writes in place, once all of r is there. A new file's
// mode follows the umask. Anything else, such as a device or a pipe, is written as r comes.
func (a *app) writeFile(ctx context.Context, path string, r io.Reader) error {
	target, descriptor, err := resolveOutput(path)
	if err != nil {
		return err
	}
	if descriptor >= 0 {
		return writeDescriptor(descriptor, path, r)
	}
	st, err := os.Stat(target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return replaceFile(target, nil, r)
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		f, err := a.openPatiently(ctx, target, os.O_WRONLY)
		if err != nil {
			return err
		}
		_, err = io.Copy(output{f}, r)
		return errors.Join(err, f.Close())
	}
	// A file that we may not write to we may not replace either.
	f, err := os.OpenFile(target, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if several(st) {
		return writeInPlace(f, r)
	}
	err = replaceFile(target, st, r)
	cannot, ok := errors.AsType[*cannotReplaceError](err)
	if !ok {
		return err
	}
	if spare, ok := cannot.rest.(*os.File); ok && spare != r {
		defer spare.Close()
	}
	return writeInPlace(f, cannot.rest)
}

// ownDescriptor matches directories whose entries are the open files of this process.
var ownDescriptor = regexp.MustCompile(`^(/proc/(self|thread-self|[0-9]+)(/task/[0-9]+)?/fd|/dev/fd)$`)

// resolveOutput follows the symbolic links of path, even to a file that does not exist yet. If
// path means an open file of this process, such as /dev/stdout, it returns its descriptor,
// else -1: that file must be written at its offset, not opened by name.
func resolveOutput(path string) (target string, descriptor int, err error) {
	const linksMax = 40
	for range linksMax {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", -1, err
		}
		base := filepath.Base(path)
		if n, err := strconv.Atoi(base); err == nil && n >= 0 && isOwnDescriptors(dir) {
			return "", n, nil
		}
		to, err := os.Readlink(path)
		if err != nil { // no link, or nothing
			return path, -1, nil
		}
		if path = to; !filepath.IsAbs(to) {
			path = filepath.Join(dir, to)
		}
	}
	return "", -1, &os.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
}

func isOwnDescriptors(dir string) bool {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	m := ownDescriptor.FindStringSubmatch(abs)
	if m == nil {
		return false
	}
	pid, err := strconv.Atoi(m[2])
	return err != nil || pid == os.Getpid()
}

func writeDescriptor(n int, path string, r io.Reader) error {
	again, err := syscall.Dup(n)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(again), path)
	_, err = io.Copy(output{f}, r)
	return errors.Join(err, f.Close())
}

// several reports whether a file has more than one name.
func several(st os.FileInfo) bool {
	s, ok := st.Sys().(*syscall.Stat_t)
	return ok && s.Nlink > 1
}

// cannotReplaceError is a file that has to be written in place. rest is the new content.
type cannotReplaceError struct {
	rest io.Reader
	err  error
}

func (e *cannotReplaceError) Error() string { return e.err.Error() }

// replaceFile writes r to a file beside target and renames it to target. was is the present
// file, nil for none.
func replaceFile(target string, was os.FileInfo, r io.Reader) error {
	f, err := newBeside(target)
	if err != nil {
		if was == nil {
			return fmt.Errorf("write %s: %w", target, err)
		}
		return &cannotReplaceError{r, err}
	}
	defer os.Remove(f.Name()) // fails after the rename
	if was != nil {
		if err := likeFile(f, was); err != nil {
			return errors.Join(&cannotReplaceError{r, err}, f.Close())
		}
	}
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(err, f.Close())
	}
	err = os.Rename(f.Name(), target)
	if err == nil || was == nil {
		return errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil { // for example, a mount point cannot be replaced
		return errors.Join(err, f.Close())
	}
	return &cannotReplaceError{f, err}
}

// newBeside makes a file in target's directory, with a mode by the umask.
func newBeside(target string) (*os.File, error) {
	const tries = 100
	for range tries {
		name := filepath.Join(filepath.Dir(target), ".oncekv-"+client.NewPutID())
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
	return nil, os.ErrExist
}

// likeFile gives f the owner and the mode of another file.
func likeFile(f *os.File, was os.FileInfo) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	mine, ok := st.Sys().(*syscall.Stat_t)
	other, ok2 := was.Sys().(*syscall.Stat_t)
	if ok && ok2 && (mine.Uid != other.Uid || mine.Gid != other.Gid) {
		if err := f.Chown(int(other.Uid), int(other.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(was.Mode().Perm())
}

// writeInPlace first waits until all of r is there: writing destroys the old bytes.
func writeInPlace(f *os.File, r io.Reader) error {
	value, closeValue, err := copyAll(r)
	if err != nil {
		return err
	}
	defer closeValue()
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = io.Copy(f, value)
	return err
}
