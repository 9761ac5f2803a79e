package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/httpapi"
)

// batchLineBytesMax is the longest line, without its line end, as in POST /keys.
const batchLineBytesMax = 8 << 20

// batchLine is a line of a batch that is not blank.
type batchLine struct {
	number int64 // from 1, blank lines included
	bytes  int64 // with its line end, and the blank lines before it
	size   int64 // of the value
	item   client.PutItem
	err    error // the line is invalid
}

// batchLines reads lines one at a time.
type batchLines struct {
	in     *bufio.Reader
	number int64
	long   []byte // a line longer than in's buffer
}

func newBatchLines(in io.Reader) *batchLines {
	return &batchLines{in: bufio.NewReaderSize(in, 64<<10)}
}

// next returns io.EOF at the end. If reading fails within a line, it drops that line: the rest
// of it may be missing.
func (b *batchLines) next() (batchLine, error) {
	var l batchLine
	for {
		text, n, err := b.text()
		l.bytes += n
		tooLong := errors.Is(err, errLineTooLong)
		if err != nil && !tooLong {
			return l, err
		}
		if !tooLong && len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		l.number = b.number
		if l.err = err; err == nil {
			l.item, l.err = httpapi.ParsePut(text)
			l.size = int64(len(l.item.Value))
		}
		if cap(b.long) > 1<<20 { // free the memory of one long line
			b.long = nil
		}
		return l, nil
	}
}

var errLineTooLong = fmt.Errorf("the line is longer than %d bytes; put takes larger values", batchLineBytesMax)

// text returns the next line without its LF, valid until the next call, and how many bytes it
// took. It skips the rest of a line that is too long.
func (b *batchLines) text() (line []byte, taken int64, err error) {
	b.long = b.long[:0]
	for {
		part, err := b.in.ReadSlice('\n')
		taken += int64(len(part))
		switch {
		case err == nil && taken <= int64(b.in.Size()):
			line = part
		case taken <= batchLineBytesMax+1:
			b.long = append(b.long, part...)
			line = b.long
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && taken > 0:
		case err != nil:
			return nil, taken, err
		}
		b.number++
		line = bytes.TrimSuffix(line, []byte{'\n'})
		if taken > batchLineBytesMax+1 || len(line) > batchLineBytesMax {
			return nil, taken, errLineTooLong
		}
		return line, taken, nil
	}
}
