package httpapi

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// sizesWriter notes how large writes are, and takes its time for each.
type sizesWriter struct {
	*httptest.ResponseRecorder
	takes time.Duration
	sizes []int
}

func (w *sizesWriter) Write(p []byte) (int, error) {
	<-time.After(w.takes) // on the clock of synctest
	w.sizes = append(w.sizes, len(p))
	return len(p), nil
}

// TestPacedWriter_Pieces: only a client that is known to be fast gets large pieces, since
// one that is slow, but not too slow, must be able to take a piece within its grace.
func TestPacedWriter_Pieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &sizesWriter{ResponseRecorder: httptest.NewRecorder()}
		w := newPacedWriter(to, time.Minute)
		write := func(bytes int) (largest int) {
			to.sizes = nil
			for range bytes / copyBytes {
				if _, err := w.Write(make([]byte, copyBytes)); err != nil {
					t.Fatal(err)
				}
			}
			for _, size := range to.sizes {
				largest = max(largest, size)
			}
			return largest
		}
		if n := write(quickAfter); n != pieceBytes {
			t.Errorf("%d bytes at once before the kernel's buffers must be full", n)
		}
		if n := write(1 << 20); n != copyBytes {
			t.Errorf("%d bytes at once to a fast client", n)
		}
		to.takes = 4 * time.Second
		write(copyBytes) // the last large one
		if n := write(1 << 20); n != pieceBytes {
			t.Errorf("%d bytes at once to a slow client", n)
		}
	})
}
