package walscan

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// segment is one segment file by its name.
type segment struct {
	path       string
	seq, index uint64
}

// segments lists the segment files in order. Files that do not end in .wal are
// none of ours: unfinished segments (.tmp) and copies of torn ones (.broken).
func segments(dir string) ([]segment, error) {
	files, err := os.ReadDir(dir) // sorted by name, hence by sequence
	if err != nil {
		return nil, fmt.Errorf("list the WAL segments: %w", err)
	}
	var segs []segment
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".wal") {
			continue
		}
		s := segment{path: filepath.Join(dir, f.Name())}
		if _, err := fmt.Sscanf(f.Name(), "%016x-%016x.wal", &s.seq, &s.index); err != nil || f.Name() != s.name() {
			return nil, &DamageError{File: s.path, Detail: "its name is not that of a WAL segment (sequence-index.wal, 16 hex digits each)"}
		}
		if n := len(segs); n > 0 && segs[n-1].seq+1 != s.seq {
			return nil, &DamageError{File: s.path, Detail: fmt.Sprintf("segment %d follows segment %d, so segments are missing before it", s.seq, segs[n-1].seq)}
		}
		segs = append(segs, s)
	}
	if len(segs) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoSegments, dir)
	}
	return segs, nil
}

func (s segment) name() string { return fmt.Sprintf("%016x-%016x.wal", s.seq, s.index) }

// reader reads the frames of one segment in order. Its memory is one record.
type reader struct {
	f    *os.File
	br   *bufio.Reader
	buf  []byte
	off  int64 // end of the last good frame
	size int64
}

// badFrameError is returned by next for bytes that are no frame. It says why.
type badFrameError string

func (e badFrameError) Error() string { return string(e) }

const readAheadBytes = 1 << 16

func openReader(path string) (*reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &reader{f: f, br: bufio.NewReaderSize(f, readAheadBytes), size: st.Size()}, nil
}

func (r *reader) close() { r.f.Close() }

// next reads the frame at off and, if its record chains with crc, moves behind
// it. io.EOF means that only zeros follow, if anything. The record is valid
// until the next call.
func (r *reader) next(crc uint32) (record, error) {
	left := r.size - r.off
	if left == 0 {
		return record{}, io.EOF
	}
	if left < headerBytes {
		return record{}, badFrameError("the file ends within a frame header")
	}
	if err := r.fill(0, headerBytes); err != nil {
		return record{}, err
	}
	if allZero(r.buf) {
		return record{}, r.zeroToEnd()
	}
	size, pad, ok := splitHeader(r.buf)
	if !ok {
		return record{}, badFrameError("the frame header is not one that was ever written")
	}
	if size > left-headerBytes-pad {
		return record{}, badFrameError("the frame reaches beyond the end of the file")
	}
	if err := r.fill(headerBytes, int(size+pad)); err != nil {
		return record{}, err
	}
	rec, n, ok := frameAt(r.buf)
	if !ok {
		return record{}, badFrameError("the record cannot be decoded")
	}
	if rec.typ != crcType && !rec.chains(crc) {
		return record{}, badFrameError("the checksum of the record does not match")
	}
	r.off += int64(n)
	return rec, nil
}

// fill reads n more bytes of the frame behind the first have bytes.
func (r *reader) fill(have, n int) error {
	if cap(r.buf) < have+n {
		grown := make([]byte, have+n)
		copy(grown, r.buf[:have])
		r.buf = grown
	}
	r.buf = r.buf[:have+n]
	_, err := io.ReadFull(r.br, r.buf[have:])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // the file shrank since it was opened
	}
	return err
}

// zeroToEnd returns io.EOF when only zeros are left. A zero header before
// anything else is damage that etcd would take for the end of the log.
func (r *reader) zeroToEnd() error {
	for {
		b, err := r.br.Peek(r.br.Size())
		if !allZero(b) {
			return badFrameError("the frame header is zero, yet data follows")
		}
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return err
		}
		if _, err := r.br.Discard(len(b)); err != nil {
			return err
		}
	}
}

// tail returns everything behind the last good frame.
func (r *reader) tail() ([]byte, error) {
	b := make([]byte, r.size-r.off)
	_, err := io.ReadFull(io.NewSectionReader(r.f, r.off, r.size-r.off), b)
	return b, err
}
