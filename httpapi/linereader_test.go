package httpapi

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"
)

func filesIn(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	return len(entries), err
}

// readerOf delivers data in pieces of sizes that seed decides.
type readerOf struct {
	data []byte
	rand *rand.Rand
	last error
}

func (r *readerOf) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, r.last
	}
	n := min(1+r.rand.IntN(1+r.rand.IntN(100_000)), len(p), len(r.data))
	copy(p, r.data[:n])
	r.data = r.data[n:]
	if len(r.data) == 0 && r.rand.IntN(2) == 0 {
		return n, r.last
	}
	return n, nil
}

func splitAll(l *lineReader) (lines [][]byte, err error) {
	for {
		line, err := l.next()
		if err != nil {
			return lines, err
		}
		lines = append(lines, bytes.Clone(line))
		if l.large() {
			l.shrink()
		}
	}
}

func FuzzLineReader(f *testing.F) {
	f.Add([]byte("a\n\nb\r\nc"), uint16(10), uint64(1), false)
	f.Add(bytes.Repeat([]byte("0123456789\n"), 7_000), uint16(10), uint64(2), true)
	f.Add(bytes.Repeat([]byte("x"), 70_000), uint16(60_000), uint64(3), false)
	f.Add(append(bytes.Repeat([]byte("x"), 65_535), "\n\ny\n"...), uint16(65_535), uint64(4), false)
	f.Fuzz(func(t *testing.T, data []byte, limit uint16, seed uint64, breaks bool) {
		end := io.EOF
		if breaks {
			end = io.ErrUnexpectedEOF
		}
		grown := 0
		l := &lineReader{src: &readerOf{data, rand.New(rand.NewPCG(seed, 0)), end}, max: int(limit), grow: func() error { grown++; return nil }}
		got, err := splitAll(l)
		var wanted [][]byte
		wantErr := end
		rest := data
		for len(rest) > 0 {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			if len(line) > int(limit) {
				wantErr = errLineTooLong
				break
			}
			if !found && breaks {
				break
			}
			wanted, rest = append(wanted, line), after
		}
		if breaks && errors.Is(err, errLineTooLong) != errors.Is(wantErr, errLineTooLong) || !breaks && err != wantErr {
			t.Fatalf("ends with %v, want %v", err, wantErr)
		}
		if len(got) != len(wanted) || l.number != uint64(len(wanted)) {
			t.Fatalf("%d lines, number %d, want %d", len(got), l.number, len(wanted))
		}
		for i := range got {
			if !bytes.Equal(got[i], wanted[i]) {
				t.Fatalf("line %d is %q, want %q", i, got[i], wanted[i])
			}
		}
		if int(limit) < lineBufferBytes && grown > 0 {
			t.Fatalf("grew %d times for lines of %d bytes", grown, limit)
		}
	})
}

func TestLineReader_Grow(t *testing.T) {
	data := append(bytes.Repeat([]byte("x"), 3*lineBufferBytes), "\nshort\n"...)
	refused := errors.New("no memory")
	l := &lineReader{src: iotest.HalfReader(bytes.NewReader(data)), max: 1 << 20, grow: func() error { return refused }}
	if _, err := l.next(); err != refused || l.large() {
		t.Errorf("error %v", err)
	}
	l = &lineReader{src: bytes.NewReader(data), max: 1 << 20, grow: func() error { return nil }}
	line, err := l.next()
	if len(line) != 3*lineBufferBytes || err != nil || !l.large() {
		t.Fatalf("%d bytes, %v", len(line), err)
	}
	l.shrink()
	if line, err := l.next(); string(line) != "short" || err != nil || l.large() {
		t.Errorf("%q, %v", line, err)
	}
}
