package raftnode

import (
	"net/http"
	"time"
)

const (
	// streamIdle is how long a stream to another member may take nothing before
	// it is given up. While a write to a dead connection blocks, the stream that
	// the member has opened instead is not looked at.
	streamIdle = 3 * time.Second
	// pacedBytes are written under one deadline, so that a slow link is no dead
	// one: 64 KiB in streamIdle are 170 kbit/s.
	pacedBytes = 64 << 10
)

// pacedWriter gives an answer up when its reader takes nothing for so long. The
// deadline is by progress, whatever the size of one write.
type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	idle    time.Duration
	started bool // something was written
}

func newPacedWriter(w http.ResponseWriter, idle time.Duration) *pacedWriter {
	return &pacedWriter{ResponseWriter: w, control: http.NewResponseController(w), idle: idle}
}

// Write implements io.Writer.
func (p *pacedWriter) Write(b []byte) (n int, err error) {
	p.started = true
	for {
		part := b[n:min(len(b), n+pacedBytes)]
		p.extend()
		k, err := p.ResponseWriter.Write(part)
		n += k
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// Flush implements http.Flusher, which rafthttp asks for. What failed shows at
// the next Write.
func (p *pacedWriter) Flush() {
	p.extend()
	_ = p.control.Flush()
}

func (p *pacedWriter) extend() {
	_ = p.control.SetWriteDeadline(time.Now().Add(p.idle)) // unsupported only in tests without a connection
}

// end takes the deadline off again, for the next request on the connection.
func (p *pacedWriter) end() { _ = p.control.SetWriteDeadline(time.Time{}) }
