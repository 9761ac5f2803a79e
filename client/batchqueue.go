package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// batchQueue has the items that are taken and not decided. The producer pushes,
// the transport reads them as the body of a request, and the reader of the
// answer pops. When a stream is lost the next one begins with the oldest item.
type batchQueue struct {
	mu      sync.Mutex
	items   []*batchItem
	bytes   int
	next    int // index of the item to be pushed next
	popped  int // index of the oldest item without a result
	sent    int // how many of items the body has begun with
	closed  bool
	body    *batchBody    // the current stream's; nil for none
	changed chan struct{} // closed at the next change

	waiting time.Time // since when the server owes something
	paused  bool      // the caller's loop is at work
}

func newBatchQueue() *batchQueue { return &batchQueue{changed: make(chan struct{})} }

// announceLocked wakes everybody who waits. mu is held.
func (q *batchQueue) announceLocked() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// push waits for room. It returns false when ctx has ended.
func (q *batchQueue) push(ctx context.Context, item PutItem) bool {
	i := newBatchItem(q.next, item)
	q.next++ // owned by the producer
	for {
		q.mu.Lock()
		if len(q.items) == 0 || len(q.items) < batchItemsMax && q.bytes+len(i.line) <= batchBytesMax {
			break
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		q.waiting = time.Now()
	}
	q.items = append(q.items, i)
	q.bytes += len(i.line)
	q.announceLocked()
	return ctx.Err() == nil
}

func (q *batchQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.announceLocked()
}

// wait returns when there is an item, or false when none will come.
func (q *batchQueue) wait(ctx context.Context) (more bool, err error) {
	for {
		q.mu.Lock()
		some, closed, changed := len(q.items) > 0, q.closed, q.changed
		q.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case some:
			return true, nil
		case closed:
			return false, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// oldestSent is the item that the next result is about; nil if nothing was sent.
func (q *batchQueue) oldestSent() *batchItem {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sent == 0 {
		return nil
	}
	return q.items[0]
}

func (q *batchQueue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= len(q.items[0].line)
	q.items[0] = nil
	q.items = q.items[1:]
	q.sent--
	q.popped++
	q.waiting = time.Now()
	q.announceLocked()
}

// refused notes that a node has definitely not put the oldest item.
func (q *batchQueue) refused() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sent > 0 {
		q.items[0].handed = false
	}
}

func (q *batchQueue) decided() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.popped
}

func (q *batchQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
}

// unsure reports whether some item may have been put although it has no result.
func (q *batchQueue) unsure() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range q.items {
		if i.unsure {
			return true
		}
	}
	return false
}

// pause stops the server's clock while the caller's loop is at work.
func (q *batchQueue) pause(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = on
	q.waiting = time.Now()
}

// owed is how long the server has owed a result.
func (q *batchQueue) owed() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 || q.paused {
		return 0
	}
	return time.Since(q.waiting)
}

// open begins a request's body, with the oldest item.
func (q *batchQueue) open(moved func()) io.ReadCloser {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sent = 0
	q.waiting = time.Now()
	q.body = &batchBody{queue: q, moved: moved}
	q.announceLocked()
	return q.body
}

// detach ends the current body: its stream is over. With unsure, what was sent
// in it may have been put.
func (q *batchQueue) detach(unsure bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.body = nil
	q.sent = 0
	for _, i := range q.items {
		i.unsure = i.unsure || unsure && i.handed
		i.handed = false
	}
	q.announceLocked()
}

// batchBody is the body of one request. net/http may go on reading it after the
// request has failed, so it counts only while it is the queue's current one.
type batchBody struct {
	queue *batchQueue
	moved func()
	rest  []byte // of the line that was begun
}

var errStreamOver = errors.New("this stream is over")

// Read gives out what there is, and waits when there is nothing.
func (b *batchBody) Read(p []byte) (int, error) {
	n, err := b.read(p)
	if n > 0 {
		b.moved()
	}
	return n, err
}

func (b *batchBody) read(p []byte) (int, error) {
	q := b.queue
	for {
		q.mu.Lock()
		if q.body != b {
			q.mu.Unlock()
			return 0, errStreamOver
		}
		n := b.fillLocked(p)
		done, changed := n == 0 && q.closed, q.changed
		q.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case done:
			return 0, io.EOF
		}
		<-changed
	}
}

// fillLocked copies as many lines as fit. The queue's mu is held.
func (b *batchBody) fillLocked(p []byte) (n int) {
	q := b.queue
	for n < len(p) {
		if len(b.rest) == 0 {
			if q.sent == len(q.items) {
				return n
			}
			i := q.items[q.sent]
			q.sent++
			i.sends++
			i.handed = true
			b.rest = i.line
		}
		copied := copy(p[n:], b.rest)
		b.rest = b.rest[copied:]
		n += copied
		q.waiting = time.Now()
	}
	return n
}

// Close wakes a Read that waits.
func (b *batchBody) Close() error {
	q := b.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.body == b {
		q.body = nil
		q.announceLocked()
	}
	return nil
}
