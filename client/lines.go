package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// lineBytesMax bounds one line of a stream. Values inside a line have 1 MiB at
// most, and a byte of them takes six bytes of JSON at most.
const lineBytesMax = 16 << 20

// lineReader splits an NDJSON stream. Its memory is what the longest line so
// far took.
type lineReader struct {
	from *bufio.Reader
	long []byte // a line that did not fit from's buffer
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{from: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line that is not blank; it is valid until the call
// after. A last line without a line feed is no line: the stream broke off in
// it.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.line()
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

func (l *lineReader) line() ([]byte, error) {
	l.long = l.long[:0]
	for {
		part, err := l.from.ReadSlice('\n')
		if err != bufio.ErrBufferFull && len(l.long) == 0 {
			return part, err
		}
		l.long = append(l.long, part...)
		switch {
		case err != bufio.ErrBufferFull:
			return l.long, err
		case len(l.long) > lineBytesMax:
			return nil, &StatusError{Kind: ErrTooLarge, Problem: Problem{Detail: fmt.Sprintf("a line of the stream has more than %d bytes", lineBytesMax)}}
		}
	}
}

func decodeLine(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return violation("a line is not the expected JSON: %w", err)
	}
	return nil
}
