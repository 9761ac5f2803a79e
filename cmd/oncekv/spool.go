package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// spoolMemoryBytes is how much of a stream is kept in memory; beyond it a
// temporary file takes over.
const spoolMemoryBytes = 1 << 20

// spool makes r seekable, because a put may have to be sent more than once. A
// regular file is used as it is. close frees what spool made, not r.
func spool(ctx context.Context, r io.Reader) (body io.ReadSeeker, close func() error, err error) {
	nothing := func() error { return nil }
	if f, ok := r.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			return f, nothing, nil
		}
	}
	type spooled struct {
		body  io.ReadSeeker
		close func() error
		err   error
	}
	// Reading a terminal cannot be interrupted. So it happens aside, and when
	// ctx ends first, the reader is left to end with the process.
	done := make(chan spooled, 1)
	go func() {
		var s spooled
		s.body, s.close, s.err = copyAll(r)
		done <- s
	}()
	select {
	case s := <-done:
		return s.body, s.close, s.err
	case <-ctx.Done():
		return nil, nil, ctx.Err()
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
		return nil, nil, fmt.Errorf("a large value is kept in a temporary file until it is sent: %w", err)
	}
	// Without a name it goes away with the process, however that ends.
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	if err := fill(f, head, r); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, f.Close, nil
}

// fill writes head and the rest of r into f and goes back to its start.
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

// sizeOf returns how many bytes are left to read, 0 if that is not known.
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
