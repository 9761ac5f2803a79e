package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/Focinfi/oncekv/kvstore"
)

// stutterReader delivers a value in pieces of changing size, sometimes with
// io.EOF beside the last bytes, as readers may.
type stutterReader struct {
	*bytes.Reader
	random *rand.Rand
}

func (r stutterReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), 1+r.random.IntN(7))])
	if err == nil && r.Len() == 0 && r.random.IntN(2) == 0 {
		err = io.EOF
	}
	return n, err
}

func (stutterReader) Close() error { return nil }

// TestContent_LikeBytesReader: whatever order it is sought, read and primed
// in, it delivers what a bytes.Reader would.
func TestContent_LikeBytesReader(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 5000)
	for i := range value {
		value[i] = byte(random.Uint32())
	}
	for range 200 {
		c := newContent(context.Background(), kvstore.NewStreamedValue(kvstore.Meta{Size: int64(len(value))}, func(context.Context) io.ReadSeekCloser {
			return stutterReader{bytes.NewReader(value), random}
		}))
		model := bytes.NewReader(value)
		for range 50 {
			switch random.IntN(4) {
			case 0:
				if err := c.prime(); err != nil {
					t.Fatal(err)
				}
			case 1:
				to, whence := int64(random.IntN(7))*1000, io.SeekStart // often the same place, and beyond the end
				if random.IntN(3) == 0 {
					to, whence = int64(-random.IntN(len(value))), io.SeekEnd
				}
				got, err := c.Seek(to, whence)
				want, _ := model.Seek(to, whence)
				if got != want || err != nil {
					t.Fatalf("Seek(%d, %d) is %d (%v), want %d", to, whence, got, err, want)
				}
			default:
				p := make([]byte, 1+random.IntN(300))
				n, err := c.Read(p)
				want := make([]byte, n)
				if _, wantErr := io.ReadFull(model, want); wantErr != nil && n > 0 || !bytes.Equal(p[:n], want) {
					t.Fatalf("read %x, want %x", p[:n], want)
				}
				if atEnd := model.Len() == 0; err != nil && (err != io.EOF || !atEnd || n > 0) {
					t.Fatalf("Read: %v with %d bytes left", err, model.Len())
				}
			}
		}
		if err := c.failure(); err != nil {
			t.Fatalf("failure: %v", err)
		}
	}
}

func TestContent_Read_EarlyEnd(t *testing.T) {
	t.Parallel()
	c := newContent(context.Background(), kvstore.NewStreamedValue(kvstore.Meta{Size: 10}, func(context.Context) io.ReadSeekCloser {
		return readSeekNopCloser{bytes.NewReader([]byte("short"))}
	}))
	got, err := io.ReadAll(c)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "short" || c.failure() == nil {
		t.Errorf("read %q, error %v, failure %v", got, err, c.failure())
	}
}

// TestContent_Read_TooMuch: a value ends where its size says.
func TestContent_Read_TooMuch(t *testing.T) {
	t.Parallel()
	c := newContent(context.Background(), kvstore.NewStreamedValue(kvstore.Meta{Size: 3}, func(context.Context) io.ReadSeekCloser {
		return readSeekNopCloser{bytes.NewReader([]byte("longer"))}
	}))
	if got, err := io.ReadAll(c); string(got) != "lon" || err != nil {
		t.Errorf("read %q, error %v", got, err)
	}
}

func TestContent_Close_Unopened(t *testing.T) {
	t.Parallel()
	c := newContent(context.Background(), kvstore.NewStreamedValue(kvstore.Meta{Size: 3}, func(context.Context) io.ReadSeekCloser {
		t.Error("opened though nothing was read")
		return nil
	}))
	c.Seek(0, io.SeekEnd)
	c.Seek(0, io.SeekStart)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
	if _, err := c.Seek(-1, io.SeekStart); err == nil {
		t.Error("sought before the beginning")
	}
}
