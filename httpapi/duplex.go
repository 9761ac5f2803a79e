package httpapi

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
)

// streamLinger is how long the rest of a body is awaited without a byte of it, when all
// answers are written.
const streamLinger = time.Second

// duplex is a request's body and its answer, both moving at once. Progress in
// either direction gives both new time: a client may send for an hour before
// it reads a byte, or read for an hour before it sends the next.
//
// It may be read by one goroutine while another writes. An answer through a
// duplex closes its connection, see answer.EnableFullDuplex.
type duplex struct {
	http.ResponseWriter
	conn *http.ResponseController
	body io.Reader

	place *budget.Holder // of the stream; nil: it has none
	in    *budget.Holder // of the memory of what is being read; nil: none. The reader's

	reading sync.Mutex // held while reading

	mu    sync.Mutex     // guards the rest, and setting deadlines
	out   *budget.Holder // of the memory of what is being written; nil: none
	idle  time.Duration
	until time.Time // no deadline is later, if set
	over  bool      // the body is at its end, or not to be read on
	eof   bool      // it is at its end
}

func newDuplex(w http.ResponseWriter, r *http.Request, idle time.Duration) *duplex {
	d := &duplex{ResponseWriter: w, conn: http.NewResponseController(w), body: r.Body, idle: idle}
	_ = d.conn.EnableFullDuplex() // HTTP/2 needs none
	if r.Header.Get("Expect") != "" {
		// net/http would say so at the first read, and never once the answer
		// has begun.
		w.WriteHeader(http.StatusContinue)
	}
	return d
}

// startStream begins an answer of the given media type whose parts go out as they
// come, while the body is still being sent.
func startStream(w http.ResponseWriter, r *http.Request, idle time.Duration, mediaType string) *duplex {
	d := newDuplex(w, r, idle)
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	_ = d.conn.Flush() // now: a client may wait for it before it sends anything
	return d
}

// Read reads on.
func (d *duplex) Read(p []byte) (int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	if !d.renew() {
		if d.eof { // only a read sets it
			return 0, io.EOF
		}
		return 0, os.ErrDeadlineExceeded
	}
	n, err := d.readOn(p)
	if err == io.EOF {
		d.ended()
	}
	if n > 0 {
		d.renew()
	}
	return n, err
}

// readOn reads once.
func (d *duplex) readOn(p []byte) (int, error) {
	if d.in == nil {
		return d.body.Read(p)
	}
	d.in.Waiting()
	n, err := d.body.Read(p)
	d.in.Moved(n)
	return n, err
}

// Write writes p piece by piece, see pacedWriter.
func (d *duplex) Write(p []byte) (written int, err error) {
	for {
		piece := p[:min(len(p), pieceBytes)]
		n, err := d.write(piece)
		written += n
		if err != nil || n == len(p) {
			return written, err
		}
		p = p[n:]
	}
}

// write writes one piece.
func (d *duplex) write(piece []byte) (int, error) {
	d.mu.Lock()
	d.renewLocked()
	holders := [...]*budget.Holder{d.place, d.out}
	d.mu.Unlock()
	for _, h := range holders {
		if h != nil {
			h.Waiting()
		}
	}
	n, err := d.ResponseWriter.Write(piece)
	for _, h := range holders {
		if h != nil {
			h.Moved(n)
		}
	}
	return n, err
}

// writes says whose memory what is written takes from now on.
func (d *duplex) writes(h *budget.Holder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out = h
}

// Unwrap lets http.ResponseController through.
func (d *duplex) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// renew gives both directions new time. It reports whether the body may be
// read.
func (d *duplex) renew() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.renewLocked()
}

func (d *duplex) renewLocked() bool {
	deadline := time.Now().Add(d.idle)
	if !d.until.IsZero() && d.until.Before(deadline) {
		deadline = d.until
	}
	_ = d.conn.SetWriteDeadline(deadline)
	if !d.over {
		_ = d.conn.SetReadDeadline(deadline)
	}
	return !d.over
}

// ended leaves the connection to net/http, which reads on without a deadline
// to hear of the client's going away.
func (d *duplex) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over, d.eof = true, true
	_ = d.conn.SetReadDeadline(time.Time{})
}

// atEnd reports whether the body was read to its end. It waits for a read that
// another goroutine is in.
func (d *duplex) atEnd() bool {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.eof
}

// within makes everything end soon: at least every idle something must move,
// and after total nothing does.
func (d *duplex) within(idle, total time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = min(d.idle, idle)
	if end := time.Now().Add(total); d.until.IsZero() || end.Before(d.until) {
		d.until = end
	}
	d.renewLocked()
}

// last gives the end of the answer, which net/http sends, time of its own: that
// of a client that was heard out is over.
func (d *duplex) last() { _ = d.conn.SetWriteDeadline(time.Now().Add(streamLinger)) }

// Close ends reading, also one that another goroutine is in, and waits for it.
func (d *duplex) Close() error {
	d.mu.Lock()
	if !d.over {
		d.over = true
		_ = d.conn.SetReadDeadline(time.Unix(1, 0))
	}
	d.mu.Unlock()
	d.reading.Lock()
	defer d.reading.Unlock()
	return nil
}
