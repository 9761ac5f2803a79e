package httpapi

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// TestSpool_Order: what comes out is what went in, many times around the file.
func TestSpool_Order(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(dir, 600_001)
	const total = 12 << 20
	source := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, total)
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	in := make(chan struct{}) // closed when all is in
	go func() {
		sizes := rand.New(rand.NewPCG(3, 4))
		for rest := data; len(rest) > 0; {
			n := min(1+sizes.IntN(9000), len(rest))
			if err := s.append(t.Context(), rest[:n], 0); err != nil {
				t.Error(err)
				break
			}
			rest = rest[n:]
		}
		close(in)
		wake(s.ready)
	}()
	var got bytes.Buffer
	buf := make([]byte, 0, pieceBytes)
	for got.Len() < total {
		if got.Len() < total/2 { // so that it runs full
			eventually(t, "there is something in the file, or all is in", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return closed(in) || s.to > s.from
			})
		}
		p, _, err := s.take(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got.Write(p); len(p) == 0 {
			<-s.ready
		}
		buf = p
	}
	if p, _, err := s.take(buf); len(p) > 0 || err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes came out, %v", got.Len(), err)
	}
	if s.file == nil {
		t.Error("no file was used")
	}
	if n, err := filesIn(dir); n != 0 || err != nil {
		t.Errorf("%d files, %v", n, err)
	}
	s.free()
}

func TestSpool_Stall(t *testing.T) {
	piece := make([]byte, spoolMemoryBytes)
	for _, tt := range []struct {
		dir   string
		limit int64
		fits  int
	}{{t.TempDir(), -1, 1}, {t.TempDir(), 3 * spoolMemoryBytes, 4}, {filepath.Join(t.TempDir(), "missing"), 1 << 30, 1}} {
		s := newSpool(tt.dir, tt.limit)
		fits := 0
		var err error
		for ; err == nil; fits++ {
			err = s.append(t.Context(), piece, time.Millisecond)
		}
		if fits-1 != tt.fits || !errors.Is(err, errStalled) {
			t.Errorf("%d pieces fit, then %v", fits-1, err)
		}
		if _, _, err := s.take(make([]byte, 0, pieceBytes)); err != nil {
			t.Error(err)
		}
		for s.add(piece) {
			if _, _, err := s.take(make([]byte, 0, pieceBytes)); err != nil {
				t.Fatal(err)
			}
			if s.limit < 0 || s.broken != nil {
				break
			}
		}
		s.free()
	}
}

func TestSpool_Cancelled(t *testing.T) {
	s := newSpool(t.TempDir(), -1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.add(make([]byte, spoolMemoryBytes))
	if err := s.append(ctx, []byte("x"), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestSpool_EmptyWhenSent: what is being sent keeps a stream from resting, whoever
// looks meanwhile.
func TestSpool_EmptyWhenSent(t *testing.T) {
	s := newSpool(t.TempDir(), 1<<20)
	defer s.free()
	for _, size := range []int{10, spoolMemoryBytes + 1} { // the second goes through the file
		if err := s.append(t.Context(), make([]byte, size), 0); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			if s.empty() {
				t.Fatal("empty before anything was taken")
			}
			var err error
			if _, more, err = s.take(make([]byte, 0, pieceBytes)); err != nil {
				t.Fatal(err)
			}
			if s.empty() {
				t.Fatal("empty before what was taken was sent")
			}
		}
		if s.sent(); !s.empty() {
			t.Fatal("not empty although all was sent")
		}
	}
}
