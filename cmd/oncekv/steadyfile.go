package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// errFileChanged means that somebody wrote to or replaced a file while it was read. What was
// read may be half old and half new, and a key would keep that.
var errFileChanged = errors.New("the file changed while it was read, so nothing was set; try again when nothing writes to it")

// steadyFile is a put's value: the rest of a regular file, from its offset. It yields the
// bytes that the file had when it was opened, or an error: it holds back the last bytes until
// it has seen that the file ends there and has not changed. A put that lacks them is not
// carried out.
//
// It cannot notice a write through a memory mapping until that reaches the file.
//
// Use it from one goroutine at a time.
type steadyFile struct {
	file  *os.File
	path  string // empty: the name does not matter
	was   fileState
	start int64
	at    int64
}

// fileState tells whether a file has changed. No tool can set the change time back: it is the
// kernel's.
type fileState struct {
	info    os.FileInfo
	size    int64
	written time.Time
	changed time.Time
}

func stateOf(f *os.File) (fileState, error) {
	info, err := f.Stat()
	if err != nil {
		return fileState{}, err
	}
	s := fileState{info: info, size: info.Size(), written: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.changed = changeTime(st)
	}
	return s, nil
}

func (s fileState) same(t fileState) bool {
	return s.size == t.size && s.written.Equal(t.written) && s.changed.Equal(t.changed)
}

// The clock that stamps files stands still between its ticks: a file that was written to just
// now may change again without a new time.
const (
	fileTick       = 20 * time.Millisecond // twice the slowest kernel's tick
	fileTickCoarse = 2 * time.Second       // for file systems with whole seconds
	settleTries    = 10
)

// fresh returns how long the file's times may still miss a change.
func (s fileState) fresh() time.Duration {
	last, tick := s.written, fileTick
	if s.changed.After(last) {
		last = s.changed
	}
	if s.written.Nanosecond() == 0 && s.changed.Nanosecond() == 0 {
		tick = fileTickCoarse
	}
	age := time.Since(last)
	if age < 0 { // stamped by another machine's clock: waiting would not help
		return 0
	}
	return tick - age
}

// newSteadyFile waits until every later change will show.
func newSteadyFile(ctx context.Context, f *os.File, path string) (*steadyFile, error) {
	for range settleTries {
		was, err := stateOf(f)
		if err != nil {
			return nil, err
		}
		pause := was.fresh()
		if pause <= 0 {
			start, err := f.Seek(0, io.SeekCurrent)
			if err == nil && start > was.size {
				return nil, errFileChanged // the file was truncated
			}
			return &steadyFile{file: f, path: path, was: was, start: start, at: start}, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, errFileChanged
}

// Read returns the file's bytes up to its first size.
func (s *steadyFile) Read(p []byte) (int, error) {
	if s.at >= s.was.size {
		return 0, io.EOF
	}
	n, err := s.file.Read(p[:min(int64(len(p)), s.was.size-s.at)])
	switch {
	case err == io.EOF:
		return 0, errFileChanged
	case err != nil:
		return n, err
	}
	if s.at+int64(n) == s.was.size {
		if err := s.ended(); err != nil {
			return 0, err
		}
	}
	s.at += int64(n)
	return n, nil
}

// ended returns nil if the file ends at its offset and has not changed.
func (s *steadyFile) ended() error {
	var more [1]byte
	switch n, err := s.file.Read(more[:]); {
	case n > 0:
		return errFileChanged
	case err != io.EOF:
		return err
	}
	return s.verify()
}

// verify returns nil if the file has not changed.
func (s *steadyFile) verify() error {
	now, err := stateOf(s.file)
	if err != nil {
		return err
	}
	if !now.same(s.was) {
		return errFileChanged
	}
	if s.path == "" {
		return nil
	}
	named, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(named, s.was.info) {
		return errFileChanged
	}
	return err
}

// Seek counts from the file's first size.
func (s *steadyFile) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		offset, whence = s.was.size+offset, io.SeekStart
	}
	at, err := s.file.Seek(offset, whence)
	if err != nil {
		return 0, err
	}
	s.at = at
	return at, nil
}

// readThrough returns a copy of what the file really holds. The size of a file that the kernel
// makes up as it is read (/proc, /sys) means nothing, so only reading finds the end.
func (s *steadyFile) readThrough() (io.ReadSeeker, func() error, error) {
	body, closeBody, err := copyAll(s.file)
	if err != nil {
		return nil, nil, err
	}
	if err := s.verify(); err != nil {
		return nil, nil, errors.Join(err, closeBody())
	}
	return body, closeBody, nil
}

// kindError is something other than a regular file where one is needed.
type kindError struct{ mode os.FileMode }

func (e kindError) Error() string { return fmt.Sprintf("it is %s, not a regular file", kindOf(e.mode)) }
