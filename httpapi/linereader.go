package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/Focinfi/oncekv/api"
)

// lineBufferBytes is the memory of a lineReader, and the most it reads ahead.
const lineBufferBytes = 64 << 10

// errLineTooLong is returned for a line over the limit.
var errLineTooLong = errors.New("the line is too long")

// lineReader splits a stream into lines that end with LF or with the stream.
// It holds lineBufferBytes; only a longer line takes more, after grow has
// agreed, and shrink gives it back.
type lineReader struct {
	src    io.Reader
	max    int          // bytes of a line, without its LF
	grow   func() error // asked once, before a line takes more memory; up to two times max then
	number uint64       // of the last line returned, from 1

	buf  []byte
	r, w int // what is read and not yet returned
	end  error
}

// next returns the next line, which is valid until the following call of next
// or shrink. At the end it returns the stream's error; what came of a line
// before another error than io.EOF is dropped.
func (l *lineReader) next() ([]byte, error) {
	if l.buf == nil {
		l.buf = make([]byte, lineBufferBytes)
	}
	for scanned := 0; ; { // bytes from l.r that have no LF
		if i := bytes.IndexByte(l.buf[l.r+scanned:l.w], '\n'); i >= 0 {
			return l.take(scanned+i, 1)
		}
		scanned = l.w - l.r
		switch {
		case scanned > l.max:
			return nil, errLineTooLong
		case l.end == io.EOF && scanned > 0:
			return l.take(scanned, 0)
		case l.end != nil:
			return nil, l.end
		}
		if err := l.fill(); err != nil {
			return nil, err
		}
	}
}

// buffered reports whether next has a line without reading.
func (l *lineReader) buffered() bool { return bytes.IndexByte(l.buf[l.r:l.w], '\n') >= 0 }

// take returns a line of n bytes and passes over what ends it.
func (l *lineReader) take(n, ending int) ([]byte, error) {
	if n > l.max {
		return nil, errLineTooLong
	}
	line := l.buf[l.r : l.r+n]
	l.r += n + ending
	l.number++
	return line, nil
}

// fill reads once, after making room.
func (l *lineReader) fill() error {
	if l.w == len(l.buf) {
		if l.r == 0 {
			if err := l.enlarge(); err != nil {
				return err
			}
		} else {
			l.w = copy(l.buf, l.buf[l.r:l.w])
			l.r = 0
		}
	}
	var n int
	n, l.end = l.src.Read(l.buf[l.w:min(len(l.buf), l.w+lineBufferBytes)])
	l.w += n
	return nil
}

func (l *lineReader) enlarge() error {
	if !l.large() {
		if err := l.grow(); err != nil {
			return err
		}
	}
	bigger := make([]byte, min(2*len(l.buf), l.max+lineBufferBytes))
	l.w = copy(bigger, l.buf[:l.w])
	l.buf = bigger
	return nil
}

// large reports whether the reader holds more than its own memory.
func (l *lineReader) large() bool { return len(l.buf) > lineBufferBytes }

// shrink gives up the memory of a long line. What was read ahead fits the
// reader's own.
func (l *lineReader) shrink() {
	own := make([]byte, lineBufferBytes)
	l.w = copy(own, l.buf[l.r:l.w])
	l.r, l.buf = 0, own
}

// lineCodec is what the codecs of lines have in common.
type lineCodec struct {
	*session
	lines   lineReader
	instead string // of a line that is too long: what to do
}

// fetch returns the next line when the session may work on it.
func (c *lineCodec) fetch() ([]byte, error) {
	text, err := c.lines.next()
	if errors.Is(err, errLineTooLong) {
		return nil, newProblem(http.StatusRequestEntityTooLarge, api.ProblemTooLarge, "the line is longer than the limit of %d bytes%s", c.lines.max, c.instead)
	}
	if err != nil {
		return nil, err
	}
	return text, c.resume()
}

func (c *lineCodec) buffered() bool { return c.lines.buffered() }

// mustLine renders an answer that is a line.
func mustLine(answer any) []byte {
	text, err := marshal(answer)
	if err != nil {
		panic(fmt.Sprintf("httpapi: a result does not marshal: %v", err))
	}
	return text
}
