package bodies

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

func stream(t testing.TB) (wire []byte, body Body, ask Ref) {
	body = testBody(rand.New(rand.NewPCG(1, 1)), 1000)
	ask = Ref{sha256.Sum256([]byte("asked for")), MaxBytes}
	var b bytes.Buffer
	if err := errors.Join(WriteBody(&b, body), WriteAsk(&b, ask), WriteEnd(&b)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), body, ask
}

// A stream is read as it was written, and not one byte further.
func TestReadFrame(t *testing.T) {
	wire, body, ask := stream(t)
	r := bytes.NewReader(append(wire, "more"...))
	slow := iotest.OneByteReader(r)
	buf := make([]byte, 2000)
	f, err := ReadFrame(slow, buf)
	if err != nil || f.Kind != FrameBody || f.Ref != (Ref{body.Digest, 1000}) || !bytes.Equal(f.Data, body.Data) || &f.Data[0] != &buf[0] {
		t.Fatalf("%+v, %v", f, err)
	}
	if f, err = ReadFrame(slow, nil); err != nil || f.Kind != FrameAsk || f.Ref != ask || f.Data != nil {
		t.Fatalf("%+v, %v", f, err)
	}
	if f, err = ReadFrame(slow, nil); err != nil || f.Kind != FrameEnd {
		t.Fatalf("%+v, %v", f, err)
	}
	if r.Len() != len("more") {
		t.Errorf("%d bytes are left", r.Len())
	}
}

// A stream that is cut anywhere is told from a whole one.
func TestReadFrame_Cut(t *testing.T) {
	wire, _, _ := stream(t)
	for n := range wire {
		r := bytes.NewReader(wire[:n])
		var err error
		for err == nil {
			var f Frame
			if f, err = ReadFrame(r, nil); f.Kind == FrameEnd && err == nil {
				t.Fatalf("a stream of %d bytes of %d is whole", n, len(wire))
			}
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrFrame) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestReadFrame_Malformed(t *testing.T) {
	wire, _, _ := stream(t)
	changed := func(at int, b byte) []byte {
		p := bytes.Clone(wire)
		p[at] = b
		return p
	}
	for name, tt := range map[string]struct {
		wire []byte
		says string
	}{
		"kind":      {changed(0, 'X'), "begins with byte 0x58"},
		"size zero": {append([]byte{'A', 0, 0, 0, 0}, make([]byte, 32)...), "not 0"},
		"too large": {append([]byte{'B', 0, 0x10, 0, 1}, make([]byte, 32)...), "not 1048577"},
		"digest":    {changed(5, ^wire[5]), "has the SHA-256"},
		"data":      {changed(40, ^wire[40]), "has the SHA-256"},
	} {
		f, err := ReadFrame(bytes.NewReader(tt.wire), nil)
		if !errors.Is(err, ErrFrame) || !strings.Contains(err.Error(), tt.says) || f.Data != nil {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	broken := errors.New("broken")
	if _, err := ReadFrame(iotest.ErrReader(broken), nil); !errors.Is(err, broken) || errors.Is(err, ErrFrame) {
		t.Error(err)
	}
	if WriteBody(io.Discard, Body{}) == nil || WriteAsk(io.Discard, Ref{Size: MaxBytes + 1}) == nil {
		t.Error("an impossible size is written")
	}
}

func FuzzReadFrame(f *testing.F) {
	wire, _, _ := stream(f)
	f.Add(wire)
	f.Add([]byte("E"))
	f.Add([]byte("B\x00\x10\x00\x00"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bytes.NewReader(wire)
		for {
			before := r.Len()
			frame, err := ReadFrame(r, make([]byte, 100))
			if err != nil {
				if !errors.Is(err, ErrFrame) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				return
			}
			var again bytes.Buffer
			switch frame.Kind {
			case FrameBody:
				err = WriteBody(&again, Body{frame.Ref.Digest, frame.Data})
			case FrameAsk:
				err = WriteAsk(&again, frame.Ref)
			case FrameEnd:
				err = WriteEnd(&again)
			}
			at := len(wire) - before
			if read := wire[at : len(wire)-r.Len()]; err != nil || !bytes.Equal(again.Bytes(), read) {
				t.Fatalf("%x is read, and written as %x, %v", read, again.Bytes(), err)
			}
			if frame.Kind == FrameEnd {
				return
			}
		}
	})
}
