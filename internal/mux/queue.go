package mux

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"
)

// ErrOver is the error of a Queue that takes no more frames, and of its reader.
var ErrOver = errors.New("this stream is over")

// ErrIdle ends what has stood still for too long.
var ErrIdle = errors.New("no byte moved within the idle timeout")

// compactBytes is how much of a queue must have left before the rest is moved to its front.
const compactBytes = 32 << 10

// Queue holds frames on their way out. Many goroutines add to it; one reads it:
// that of Send, or of a stream's request.
type Queue struct {
	limit int           // bytes; above it, Add waits
	ready chan struct{} // capacity 1: there is something to send
	room  chan struct{} // capacity 1: something was sent
	over  chan struct{} // closed by Close

	mu     sync.Mutex
	out    []byte // frames; the reader has those before sent
	sent   int
	taken  uint64 // bytes that the reader has, in all
	queued uint64 // bytes that were added, in all
	ended  bool   // the reader gets io.EOF behind the last frame
	closed bool   // nothing is added or read any more
}

// NewQueue returns a Queue. Add waits while it holds limit bytes.
func NewQueue(limit int) *Queue {
	q := new(Queue)
	q.init(limit)
	return q
}

func (q *Queue) init(limit int) {
	q.limit = limit
	q.ready, q.room, q.over = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
}

// Add adds what write appends, which is sent after the next Flush, or earlier. It
// waits for room; the error is ErrOver, or ErrIdle once late fires, or ctx's.
func (q *Queue) Add(ctx context.Context, late <-chan time.Time, write func(out []byte) []byte) error {
	if err := q.lockWithRoom(ctx, late); err != nil {
		return err
	}
	defer q.mu.Unlock()
	q.compactLocked()
	q.addedLocked(write(q.out))
	return nil
}

// lockWithRoom returns with q.mu held, or an error.
func (q *Queue) lockWithRoom(ctx context.Context, late <-chan time.Time) error {
	for {
		q.mu.Lock()
		switch {
		case q.closed, q.ended:
			q.mu.Unlock()
			return ErrOver
		case len(q.out)-q.sent < q.limit:
			return nil
		}
		q.mu.Unlock()
		q.Flush()
		select {
		case <-q.room:
		case <-q.over:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return ErrIdle
		}
	}
}

// compactLocked makes out ready to be appended to.
func (q *Queue) compactLocked() {
	if q.sent > compactBytes && q.sent > len(q.out)/2 {
		q.out = q.out[:copy(q.out, q.out[q.sent:])]
		q.sent = 0
	}
}

// addedLocked takes what out has become.
func (q *Queue) addedLocked(out []byte) {
	q.queued += uint64(len(out) - len(q.out))
	q.out = out
	if len(q.out)-q.sent < q.limit {
		signal(q.room) // for another who waits
	}
}

// Flush wakes the reader.
func (q *Queue) Flush() { signal(q.ready) }

// End takes no more frames. The reader gets those that are there, and then io.EOF.
func (q *Queue) End() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.Flush()
}

// Close drops what is queued. Whoever waits gets ErrOver.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closeLocked()
}

func (q *Queue) closeLocked() {
	if !q.closed {
		q.closed = true
		close(q.over)
	}
}

// Len returns how many bytes wait.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.out) - q.sent
}

// read fills p with what there is, and waits when there is nothing. io.EOF is the end
// that End makes.
func (q *Queue) read(ctx context.Context, p []byte) (int, error) {
	for {
		n, err := q.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-q.ready:
			runtime.Gosched() // those who were woken by the same event are about to add theirs
		case <-q.over:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (q *Queue) take(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, ErrOver
	}
	n := copy(p, q.out[q.sent:])
	if n == 0 {
		if q.ended {
			return 0, io.EOF
		}
		return 0, nil
	}
	q.sent += n
	q.taken += uint64(n)
	if q.sent == len(q.out) {
		q.out, q.sent = q.out[:0], 0
		if cap(q.out) > max(q.limit, spareBytesMax) {
			q.out = nil
		}
	}
	signal(q.room)
	return n, nil
}

// Sizes of buffers, in bytes.
const (
	spareBytesMax = 256 << 10 // of a queue that is empty
	sendBytes     = 64 << 10  // that Send writes at a time
)

// Send writes frames to conn until Close, End, or an error of conn's. When conn takes
// nothing for stall, stalled is called, which has to close it.
func (q *Queue) Send(conn io.Writer, stall time.Duration, stalled func()) error {
	dog := time.AfterFunc(stall, stalled)
	dog.Stop()
	defer dog.Stop()
	buf := make([]byte, sendBytes)
	for {
		n, err := q.read(context.Background(), buf)
		if err != nil {
			if err == ErrOver || err == io.EOF {
				return nil
			}
			return err
		}
		dog.Reset(stall)
		_, err = conn.Write(buf[:n])
		dog.Stop()
		if err != nil {
			return err
		}
	}
}

// signal wakes whoever waits, unless a wake-up waits there already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
