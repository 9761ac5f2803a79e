package frame

import (
	"encoding/binary"
	"fmt"
	"io"
)

const readerBytes = 16 << 10 // of a Reader, to begin with

// Reader takes frames off a stream. It holds 16 KiB, or BytesMax once a frame or
// one read was larger. It belongs to one goroutine.
type Reader struct {
	src       io.Reader
	uncounted int // bytes of a frame that its length does not count
	buf       []byte
	r, w      int
	err       error // of src
}

// NewReader returns a Reader of src.
func NewReader(src io.Reader) *Reader { return &Reader{src: src, uncounted: lengthBytes} }

// Next returns the next frame, waiting for it. io.EOF is an orderly end, between
// two frames; io.ErrUnexpectedEOF one inside of a frame. Errors that wrap
// ErrMalformed are about the head; every other is the stream's own.
func (r *Reader) Next() (Frame, error) {
	for {
		n, err := r.whole()
		switch {
		case err != nil:
			return Frame{}, err
		case n > 0:
			f := Frame{Kind: Kind(r.buf[r.r+lengthBytes]), ID: binary.BigEndian.Uint32(r.buf[r.r+lengthBytes+1:]), body: r.buf[r.r+headBytes : r.r+n]}
			r.r += n
			return f, nil
		case r.err == io.EOF && r.w > r.r:
			return Frame{}, io.ErrUnexpectedEOF
		case r.err != nil:
			return Frame{}, r.err
		}
		r.fill()
	}
}

// Buffered reports whether Next has a frame, or an error, without reading.
func (r *Reader) Buffered() bool {
	n, err := r.whole()
	return n > 0 || err != nil || r.err != nil
}

// whole is the size of the frame that begins the buffer, 0 if it is not all
// there.
func (r *Reader) whole() (int, error) {
	have := r.w - r.r
	if have < lengthBytes {
		return 0, nil
	}
	length := int64(binary.BigEndian.Uint32(r.buf[r.r:]))
	size := length + int64(r.uncounted)
	if size < headBytes || size > BytesMax {
		return 0, fmt.Errorf("%w: its length is %d, and it takes %d to %d", ErrMalformed, length, headBytes-r.uncounted, BytesMax-r.uncounted)
	}
	if int64(have) < size {
		return 0, nil
	}
	return int(size), nil
}

// fill reads once. A buffer that one read has filled is too small.
func (r *Reader) fill() {
	switch {
	case r.buf == nil:
		r.buf = make([]byte, readerBytes)
	case r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		bigger := make([]byte, BytesMax)
		r.w = copy(bigger, r.buf[:r.w])
		r.buf = bigger
	}
	var n int
	n, r.err = r.src.Read(r.buf[r.w:])
	r.w += n
}
