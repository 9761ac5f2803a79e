package raftnode

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// peerBodyIdle is how long a body on the peer port may give nothing, and
	// peerBodyTotal how long it may take in all: the largest is 8 MiB, and who sends
	// it waits for pipelineAnswer.
	peerBodyIdle  = 10 * time.Second
	peerBodyTotal = time.Minute
	// peerBodyFree is what every body may have without a reservation, as large as the
	// connection's buffer: votes and heartbeats always come through.
	peerBodyFree = 4 << 10
)

// errBodyMemory ends a body for which there is no memory now. Its sender sends the
// message again.
var errBodyMemory = errors.New("too many large messages are on their way to this node")

// bodyBudget bounds the memory of bodies that arrive at the same time. One remote address
// has a quarter of it at most. It may be used from any goroutine.
type bodyBudget struct {
	limit int

	mu   sync.Mutex
	used int
	of   map[string]int // by remote host
}

func newBodyBudget(limit int) *bodyBudget { return &bodyBudget{limit: limit, of: map[string]int{}} }

func (b *bodyBudget) take(host string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit || b.of[host]+n > b.limit/4 {
		return false
	}
	b.used += n
	b.of[host] += n
	return true
}

func (b *bodyBudget) give(host string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.of[host] -= n; b.of[host] == 0 {
		delete(b.of, host)
	}
}

// pacedBody reads a body of the peer port under a deadline by progress, and
// reserves memory for what it brings.
type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	idle    time.Duration
	latest  time.Time
	budget  *bodyBudget
	host    string
	read    int
	held    int
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Read implements io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.extend()
	n, err := b.ReadCloser.Read(p)
	b.read += n
	if more := b.read - peerBodyFree - b.held; more > 0 {
		if !b.budget.take(b.host, more) {
			return 0, errBodyMemory
		}
		b.held += more
	}
	return n, err
}

func (b *pacedBody) extend() {
	by := time.Now().Add(b.idle)
	if by.After(b.latest) {
		by = b.latest
	}
	_ = b.control.SetReadDeadline(by) // unsupported only in tests without a connection
}

// reserve takes memory for the largest part of a body that its handler keeps at a time. If
// the handler calls kept after each part, nothing more is taken.
func (b *pacedBody) reserve(n int) bool {
	if !b.budget.take(b.host, n) {
		return false
	}
	b.held += n
	return true
}

// kept is called when the handler needs nothing of what has arrived any more.
func (b *pacedBody) kept() { b.read = 0 }

// release gives the memory back, once the message has been decoded and queued.
func (b *pacedBody) release() { b.budget.give(b.host, b.held) }

const (
	// streamIdle is how long a stream to another member may take nothing: while a write to
	// a dead connection blocks, the stream that the member has opened instead waits.
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
