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

// errFileChanged: somebody wrote to a file, or put another one in its place,
// while its bytes were read. What was read may be half of the old and half of the
// new, and a key would have that for ever.
var errFileChanged = errors.New("the file changed while it was read, so nothing was set; try again when nothing writes to it")

// steadyFile is the rest of a regular file, from where it stands, as the value of
// a put. It has the bytes that the file had when it was opened, or an error: the
// last ones are handed out only when the file has ended there and has not changed
// since. A put that lacks them is not carried out.
//
// What a program writes through a mapping into memory may leave no trace until it is
// stored; that is not noticed.
//
// It is used by one goroutine at a time.
type steadyFile struct {
	file  *os.File
	path  string // empty: its name does not matter
	was   fileState
	start int64
	at    int64
}

// fileState is what tells whether a file has changed. The change time is the
// kernel's own: no tool sets it back.
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

// The clock that stamps files stands still between its ticks, so that a file which
// was written to just now may be written to again without a trace.
const (
	fileTick       = 20 * time.Millisecond // twice that of the slowest kernel
	fileTickCoarse = 2 * time.Second       // where files have whole seconds only
	settleTries    = 10
)

// fresh is how long the file's times may stay as they are while it is written to.
func (s fileState) fresh() time.Duration {
	last, tick := s.written, fileTick
	if s.changed.After(last) {
		last = s.changed
	}
	if s.written.Nanosecond() == 0 && s.changed.Nanosecond() == 0 {
		tick = fileTickCoarse
	}
	age := time.Since(last)
	if age < 0 { // a clock of another machine: waiting would not help
		return 0
	}
	return tick - age
}

// newSteadyFile waits until every later change would show.
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
				return nil, errFileChanged // somebody has cut off what was to be read
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

// Read hands out the file's bytes up to the size that it had.
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

// ended is nil if the file ends where it stands and is what it was.
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

// verify is nil if the file is what it was.
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

// Seek counts from the size that the file had.
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

// readThrough returns what the file really holds, to be kept somewhere else. The
// size of a file that the kernel makes up as it is read (/proc, /sys) says nothing,
// so there is no other way to know where it ends.
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

// kindError is something that is no regular file where one is needed.
type kindError struct{ mode os.FileMode }

func (e kindError) Error() string { return fmt.Sprintf("it is %s, not a regular file", kindOf(e.mode)) }
