package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Bounds of what a put sends from memory. Larger streams go to a temporary file.
const (
	spoolMemoryBytes = 1 << 20  // of a stream
	spoolFileBytes   = 64 << 10 // of a regular file, which larger is sent as it is
)

// spooled is a value that can be sent more than once. close frees only what spool made.
type spooled struct {
	body  io.ReadSeeker
	close func() error
}

// spool makes r seekable, because a put may have to be sent more than once. path is the name
// by which r was opened, if any.
//
// A regular file must not change until its last byte is sent (see steadyFile). A small one,
// and one that claims to be empty, is read to its real end.
func spool(ctx context.Context, r io.Reader, path string) (spooled, error) {
	if f, ok := r.(*os.File); ok {
		st, err := f.Stat()
		switch {
		case err != nil:
			return spooled{}, err
		case st.IsDir():
			return spooled{}, kindError{st.Mode()}
		case st.Mode().IsRegular():
			return spoolFile(ctx, f, path)
		}
	}
	return interruptibly(ctx, func() (s spooled, err error) {
		s.body, s.close, err = copyAll(r)
		return s, err
	})
}

func spoolFile(ctx context.Context, f *os.File, path string) (spooled, error) {
	steady, err := newSteadyFile(ctx, f, path)
	if err != nil {
		return spooled{}, err
	}
	if steady.was.size > spoolFileBytes {
		return spooled{body: steady, close: func() error { return nil }}, nil
	}
	return interruptibly(ctx, func() (s spooled, err error) {
		s.body, s.close, err = steady.readThrough()
		return s, err
	})
}

// interruptibly runs what cannot be interrupted, such as reading a terminal or opening a
// pipe, and returns when ctx ends. do may then end with the process.
func interruptibly[T any](ctx context.Context, do func() (T, error)) (T, error) {
	return interruptiblyOrSay(ctx, func() {}, do)
}

// openPatiently opens a file, and says so if that waits: a named pipe waits for another
// process to open its other end.
func (a *app) openPatiently(ctx context.Context, path string, flag int) (*os.File, error) {
	say := func() {
		other := "writer"
		if flag == os.O_WRONLY {
			other = "reader"
		}
		fmt.Fprintf(a.stderr, "oncekv: waiting for a %s of %s; Ctrl-C to stop\n", other, shown(path))
	}
	return interruptiblyOrSay(ctx, say, func() (*os.File, error) { return os.OpenFile(path, flag, 0) })
}

// interruptiblyOrSay is interruptibly, but calls say once if do takes nearly a second.
func interruptiblyOrSay[T any](ctx context.Context, say func(), do func() (T, error)) (T, error) {
	const silentAfter = 800 * time.Millisecond
	type outcome struct {
		v   T
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		v, err := do()
		done <- outcome{v, err}
	}()
	silent := time.NewTimer(silentAfter)
	defer silent.Stop()
	for {
		select {
		case o := <-done:
			return o.v, o.err
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		case <-silent.C:
			say()
		}
	}
}

func copyAll(r io.Reader) (io.ReadSeeker, func() error, error) {
	head, err := io.ReadAll(io.LimitReader(r, spoolMemoryBytes))
	if err != nil {
		return nil, nil, err
	}
	if len(head) < spoolMemoryBytes {
		return bytes.NewReader(head), func() error { return nil }, nil
	}
	f, err := os.CreateTemp("", "oncekv-put-*")
	if err != nil {
		return nil, nil, fmt.Errorf("create a temporary file for a large value: %w", err)
	}
	// Without a name it vanishes with the process, however that ends.
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	if err := fill(f, head, r); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, f.Close, nil
}

// fill writes head and the rest of r into f and seeks back to its start.
func fill(f *os.File, head []byte, r io.Reader) error {
	if _, err := f.Write(head); err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// sizeOf returns how many bytes are left to read, 0 if unknown.
func sizeOf(body io.Seeker) int64 {
	at, err := body.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	end, err := body.Seek(0, io.SeekEnd)
	if err != nil {
		return 0
	}
	if _, err := body.Seek(at, io.SeekStart); err != nil {
		return 0
	}
	return end - at
}
