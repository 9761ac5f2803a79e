package cachetier

import (
	"io"
	"runtime"
	"sync"
	"time"
)

// spareBytesMax is the largest buffer that is kept for the next frames.
const spareBytesMax = 256 << 10

// frameWriter sends frames from many goroutines over one connection. They leave
// them in a queue; run, which belongs to one goroutine, writes whatever has
// gathered there in one piece. The busier the connection, the more frames a
// system call carries.
type frameWriter struct {
	limit int           // of the queue, in bytes: add waits above it
	stall time.Duration // how long a connection may take nothing
	wake  chan struct{} // holds one

	mu     sync.Mutex
	room   sync.Cond // the queue was taken, or closed is set
	queue  []byte
	closed bool
}

func newFrameWriter(limit int, stall time.Duration) *frameWriter {
	w := &frameWriter{limit: limit, stall: stall, wake: make(chan struct{}, 1)}
	w.room.L = &w.mu
	return w
}

// add queues a frame, which is sent after the next flush. While more than limit
// waits to be sent, so does add. A frame for a closed writer is dropped.
func (w *frameWriter) add(kind byte, id uint32, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > w.limit && !w.closed {
		w.flush()
		w.room.Wait()
	}
	if !w.closed {
		w.queue = appendFrame(w.queue, kind, id, payload)
	}
}

// flush makes run send what is queued.
func (w *frameWriter) flush() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// send is add and flush.
func (w *frameWriter) send(kind byte, id uint32, payload []byte) {
	w.add(kind, id, payload)
	w.flush()
}

// close ends run, and whatever waits.
func (w *frameWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.room.Broadcast()
	w.flush()
}

// take returns what is queued, and gives the queue a buffer for what comes.
func (w *frameWriter) take(spare []byte) (queued []byte, closed bool) {
	w.mu.Lock()
	queued, w.queue = w.queue, spare[:0]
	closed = w.closed
	w.mu.Unlock()
	w.room.Broadcast()
	return queued, closed
}

// run writes to conn until close, or an error of conn's. When conn takes nothing
// for w.stall, stalled is called, which has to close it.
func (w *frameWriter) run(conn io.Writer, stalled func()) error {
	dog := time.AfterFunc(w.stall, stalled)
	dog.Stop()
	defer dog.Stop()
	var spare []byte
	for range w.wake {
		runtime.Gosched() // those who are about to add do so first
		for {
			queued, closed := w.take(spare)
			if closed {
				return nil
			}
			if len(queued) == 0 {
				spare = queued
				break
			}
			dog.Reset(w.stall)
			_, err := conn.Write(queued)
			dog.Stop()
			if err != nil {
				return err
			}
			if spare = queued; cap(spare) > spareBytesMax {
				spare = nil
			}
		}
	}
	return nil
}
