package bodies

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Between nodes bodies travel as a stream of frames:
//
//	body  'B' | size 4 | SHA-256 32 | the body
//	ask   'A' | size 4 | SHA-256 32
//	end   'E'
//
// Sizes are big endian, 1 to MaxBytes. A stream that ends without an end frame was cut.

// FrameKind says what a frame of a stream is.
type FrameKind byte

const (
	// FrameBody carries a body.
	FrameBody FrameKind = 'B'
	// FrameAsk asks whether the other side has a body.
	FrameAsk FrameKind = 'A'
	// FrameEnd is the last of every stream.
	FrameEnd FrameKind = 'E'
)

// Answer is what the receiver of a stream says of one frame, as one byte.
type Answer byte

const (
	// AnswerDurable: the body is here, durably.
	AnswerDurable Answer = 'd'
	// AnswerMissing: the body that was asked for is not here.
	AnswerMissing Answer = 'm'
	// AnswerRefused: the body is not kept, because there is no room for it now.
	AnswerRefused Answer = 'r'
)

// ErrFrame: what was read is no frame, or a body does not have its digest. Whoever sent
// it does not keep to the format; nothing more can be read from that stream.
var ErrFrame = errors.New("malformed frame of bodies")

const frameHeadBytes = 1 + 4 + sha256.Size

// Frame is one frame of a stream.
type Frame struct {
	Kind FrameKind
	Ref  Ref    // of a body, or what is asked for; zero at the end
	Data []byte // of a body; it has the digest
}

// WriteBody writes a frame that carries b. It does not check that b has its digest.
func WriteBody(w io.Writer, b Body) error {
	if err := writeHead(w, FrameBody, Ref{b.Digest, len(b.Data)}); err != nil {
		return err
	}
	_, err := w.Write(b.Data)
	return err
}

// WriteAsk writes a frame that asks for a body.
func WriteAsk(w io.Writer, r Ref) error { return writeHead(w, FrameAsk, r) }

// WriteEnd writes the frame that ends a stream.
func WriteEnd(w io.Writer) error {
	_, err := w.Write([]byte{byte(FrameEnd)})
	return err
}

func writeHead(w io.Writer, kind FrameKind, r Ref) error {
	if r.Size < 1 || r.Size > MaxBytes {
		return fmt.Errorf("a body has 1 to %d bytes, not %d", MaxBytes, r.Size)
	}
	head := binary.BigEndian.AppendUint32(append(make([]byte, 0, frameHeadBytes), byte(kind)), uint32(r.Size))
	_, err := w.Write(append(head, r.Digest[:]...))
	return err
}

// ReadFrame reads one frame, and no byte more. Data of a body begins at the start of buf
// when buf has room for it, and has room of its own otherwise: at most MaxBytes. ErrFrame
// says that the other side does not keep to the format; io.ErrUnexpectedEOF that the
// stream ends before its end frame; any other error is the reader's.
func ReadFrame(r io.Reader, buf []byte) (Frame, error) {
	var head [frameHeadBytes]byte
	if err := readWhole(r, head[:1], "before its end frame"); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: FrameKind(head[0])}
	switch f.Kind {
	case FrameEnd:
		return f, nil
	case FrameAsk, FrameBody:
	default:
		return Frame{}, fmt.Errorf("%w: it begins with byte %#02x", ErrFrame, head[0])
	}
	if err := readWhole(r, head[1:], "inside the head of a frame"); err != nil {
		return Frame{}, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 1 || size > MaxBytes {
		return Frame{}, fmt.Errorf("%w: a body has 1 to %d bytes, not %d", ErrFrame, MaxBytes, size)
	}
	f.Ref = Ref{Digest(head[5:]), int(size)}
	if f.Kind == FrameAsk {
		return f, nil
	}
	return f, f.readData(r, buf)
}

func (f *Frame) readData(r io.Reader, buf []byte) error {
	if cap(buf) < f.Ref.Size {
		buf = make([]byte, f.Ref.Size)
	}
	data := buf[:f.Ref.Size]
	if err := readWhole(r, data, "inside a body"); err != nil {
		return err
	}
	if got := Digest(sha256.Sum256(data)); got != f.Ref.Digest {
		return fmt.Errorf("%w: a body that is named %s has the SHA-256 %s", ErrFrame, f.Ref.Digest, got)
	}
	f.Data = data
	return nil
}

func readWhole(r io.Reader, p []byte, where string) error {
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("a stream of bodies ends %s: %w", where, err)
	}
	return nil
}
