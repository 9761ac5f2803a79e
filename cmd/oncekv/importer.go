package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// putter is the part of client.Client that an import needs.
type putter interface {
	Put(ctx context.Context, key string, body io.ReadSeeker, opts client.PutOptions) (api.PutAnswer, error)
}

// importer sends the files below root. One goroutine walks, parallel others send; all end
// before run returns.
type importer struct {
	client   putter
	root     string
	prefix   string
	parallel int
	exclude  []exclusion
	bar      *progress
	sum      summary // has its own lock

	dir *os.Root // root, while run runs
}

// errGaveUp ends an import in which several files in a row found no cluster.
var errGaveUp = errors.New("the cluster cannot be reached, so the remaining files were not tried; repeat the import when it is back")

// run returns an error if not every file was tried. sum holds the outcomes.
func (im *importer) run(ctx context.Context) error {
	// When the import gives up, files under way finish, so that their outcomes are known.
	walking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var err error
	if im.dir, err = os.OpenRoot(im.root); err != nil {
		return err
	}
	defer im.dir.Close()
	files := make(chan string)
	var senders sync.WaitGroup
	for range im.parallel {
		senders.Go(func() {
			for path := range files {
				im.send(ctx, stop, path)
			}
		})
	}
	err = im.walk(walking, files)
	close(files)
	senders.Wait()
	if cause := context.Cause(walking); cause != nil {
		return cause
	}
	return err
}

// walk hands every regular file to the senders and counts everything else that is not a
// directory.
func (im *importer) walk(ctx context.Context, files chan<- string) error {
	return filepath.WalkDir(im.root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && path == im.root:
			return err
		case err != nil:
			im.sum.add(im.relative(path), failed, 0, err)
			return nil
		case path == im.root && !d.IsDir():
			return fmt.Errorf("%s is not a directory", path)
		case path != im.root && im.excluded(path, d.IsDir()):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			im.sum.add(im.relative(path), skipped, 0, errors.New(kindOf(d.Type())))
			return nil
		}
		select {
		case files <- path:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (im *importer) excluded(path string, isDir bool) bool {
	return len(im.exclude) > 0 && slices.ContainsFunc(im.exclude, func(e exclusion) bool { return e.matches(im.relative(path), isDir) })
}

// send puts one file and notes the outcome.
func (im *importer) send(ctx context.Context, stop context.CancelCauseFunc, path string) {
	relative := im.relative(path)
	size, created, err := im.put(ctx, path, im.prefix+relative)
	how := created
	switch {
	case err == nil:
	case errors.Is(err, errReaderGone): // from a dry run, not the file
		stop(err)
		return
	case errors.Is(err, api.ErrExists):
		how = conflict
	case errors.Is(err, api.ErrOutcomeUnknown):
		how = unknown
	default:
		how = failed
	}
	if errors.Is(err, client.ErrNobodyListens) {
		stop(err)
	}
	if im.sum.add(relative, how, size, err) >= im.parallel {
		stop(errGaveUp)
	}
}

// put sends the file at path. It returns the size even with an error.
func (im *importer) put(ctx context.Context, path, key string) (size int64, how outcome, err error) {
	if err := kvstore.Key(key).Validate(); err != nil {
		return 0, failed, err
	}
	f, err := im.open(im.relative(path))
	if err != nil {
		return 0, failed, err
	}
	defer f.Close()
	value, err := spool(ctx, f, path)
	if err != nil {
		return 0, failed, err
	}
	defer value.close()
	size = sizeOf(value.body)
	counted := &meter{ReadSeeker: value.body, p: im.bar}
	answer, err := im.client.Put(ctx, key, counted, client.PutOptions{ContentType: contentTypeOf(path)})
	im.bar.add(size - counted.top) // the rest will not be read
	if answer.Created {
		return size, created, err
	}
	return size, unchanged, err
}

// open opens a file that was regular when the walk saw it. By now it may be something else: a
// pipe, which must not block the import, or a link that leads out of the directory.
func (im *importer) open(relative string) (*os.File, error) {
	name := filepath.FromSlash(relative)
	named, err := im.dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !named.Mode().IsRegular() {
		return nil, kindError{named.Mode()}
	}
	f, err := im.dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	switch {
	case err != nil:
	case !opened.Mode().IsRegular():
		err = kindError{opened.Mode()}
	case !os.SameFile(named, opened):
		err = errFileChanged
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// relative returns a file's path below the root, with slashes.
func (im *importer) relative(path string) string {
	rel, err := filepath.Rel(im.root, path)
	if err != nil { // both come from one walk
		return filepath.ToSlash(path)
	}
	return filepath.ToSlash(rel)
}

func kindOf(t fs.FileMode) string {
	switch {
	case t.IsDir():
		return "a directory"
	case t&fs.ModeSymlink != 0:
		return "a symbolic link"
	case t&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case t&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// totalBytes sums the sizes of the files to send, as far as they are readable, for the
// progress bar.
func (im *importer) totalBytes(ctx context.Context) int64 {
	var total int64
	filepath.WalkDir(im.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != im.root && im.excluded(path, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return ctx.Err()
	})
	return total
}
