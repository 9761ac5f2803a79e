package mux

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
)

// ErrRetired: the stream takes no more calls. The call was not sent.
var ErrRetired = errors.New("this stream takes no more calls")

// Request is what a call asks.
type Request interface {
	// AppendFrame appends the request in a frame with this id.
	AppendFrame(out []byte, id uint32) []byte
	// Answered takes the answer in. The frame's memory is used again when it has
	// returned. An error means that this is no answer to the request, and ends the
	// stream. It must not block, nor use the stream.
	Answered(f *frame.Frame) error
}

// Listener is a Request that nobody waits for: it hears of its end.
type Listener interface {
	Request
	// Failed is called when the stream has ended without an answer. sent is whether the
	// other side may have got the request. It must not block, nor use the stream.
	Failed(sent bool, err error)
}

// Call is a request on its way over one stream. The zero value is ready; for the
// next try it must be made anew.
type Call struct {
	request Request
	id      uint32
	at      uint64 // place of its frame in the stream
	since   time.Time
	done    chan struct{}
	err     error
}

// Done is closed when the call has ended; then Err says how. StartListener leaves it nil.
func (c *Call) Done() <-chan struct{} { return c.done }

// Err returns nil if the request was answered. It may be called after Done.
func (c *Call) Err() error { return c.err }

// Caller is the calls of one stream. Its Queue is read by whatever sends.
type Caller struct {
	Queue

	// Guarded by Queue.mu.
	calls   map[uint32]*Call
	last    uint32    // id that was used last
	heard   time.Time // when the last answer came
	busy    bool      // a call came since Rested looked
	retired bool      // no more calls
	err     error     // why it is over
}

// NewCaller returns a Caller whose calls wait while limit bytes of frames do.
func NewCaller(limit int) *Caller {
	c := new(Caller)
	c.init(limit)
	return c
}

func (c *Caller) init(limit int) {
	c.Queue.init(limit)
	c.calls = make(map[uint32]*Call)
}

// Start sends a request. It waits for room, as Queue.Add does; an error means that
// nothing was sent.
func (c *Caller) Start(ctx context.Context, late <-chan time.Time, call *Call, r Request) error {
	call.done = make(chan struct{})
	return c.start(ctx, late, call, r)
}

// StartListener is Start of a request that nobody waits for.
func (c *Caller) StartListener(ctx context.Context, call *Call, r Listener) error {
	return c.start(ctx, nil, call, r)
}

func (c *Caller) start(ctx context.Context, late <-chan time.Time, call *Call, r Request) error {
	call.request = r
	switch err := c.lockWithRoom(ctx, late); {
	case err == ErrOver:
		return ErrRetired
	case err != nil:
		return err
	}
	if c.retired {
		c.mu.Unlock()
		return ErrRetired
	}
	for c.last++; c.last == 0 || c.calls[c.last] != nil; c.last++ {
	}
	call.id, call.at, call.since = c.last, c.queued, time.Now()
	c.calls[call.id] = call
	c.busy = true
	c.compactLocked()
	c.addedLocked(r.AppendFrame(c.out, call.id))
	c.mu.Unlock()
	c.Flush()
	return nil
}

// Do sends a request and waits for its answer. sent is whether the other side may
// have got it. It gives up with ErrIdle after patience.
func (c *Caller) Do(ctx context.Context, call *Call, r Request, patience time.Duration) (sent bool, err error) {
	timer := startTimer(patience)
	defer stopTimer(timer)
	if err := c.Start(ctx, timer.C, call, r); err != nil {
		return false, err
	}
	select {
	case <-call.done:
		return call.err == nil || c.sentPast(call), call.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = ErrIdle
	}
	sent, open := c.Drop(call)
	if !open {
		return sent, call.err
	}
	return sent, err
}

func (c *Caller) sentPast(call *Call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return call.at < c.taken
}

// Drop forgets a call whose caller has gone. sent is whether the other side may have
// got it, or may get it yet: its frame stays in the queue of a stream that goes on. open
// is false if the call had ended.
func (c *Caller) Drop(call *Call) (sent, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	open = c.calls[call.id] == call
	if open {
		delete(c.calls, call.id)
	}
	return call.at < c.taken || open && !c.closed, open
}

// mute reports whether nothing was heard since the call began.
func (c *Caller) mute(call *Call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard.Before(call.since)
}

// Open returns how many calls are not answered.
func (c *Caller) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// Retire takes no more calls. Those under way are answered.
func (c *Caller) Retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
}

// Retired reports whether Retire was called.
func (c *Caller) Retired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// rested reports whether no call has come since it was asked last, and none is
// under way.
func (c *Caller) rested() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	busy := c.busy || len(c.calls) > 0
	c.busy = false
	return !busy
}

// Fail ends the stream and every call on it with err; nil is an orderly end. Only
// the first call counts.
func (c *Caller) Fail(err error) {
	if err == nil {
		err = errors.New("the stream ended before its answers")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.closeLocked()
	for id, call := range c.calls {
		delete(c.calls, id)
		call.err = err
		if call.done != nil {
			close(call.done)
		} else {
			call.request.(Listener).Failed(call.at < c.taken, err)
		}
	}
}

// Answers hands out answers until the stream ends; nil is its orderly end, between
// two frames. It returns ErrRetired behind the last answer that a retired stream owes.
// Frames with the id 0 answer no call; they are for other.
func (c *Caller) Answers(frames *frame.Reader, other func(*frame.Frame) error) error {
	var f frame.Frame // one for all of them: it escapes
	for {
		var err error
		f, err = frames.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
		case f.ID == 0:
			if err = other(&f); err == nil && c.Retired() && c.Open() == 0 {
				err = ErrRetired
			}
		default:
			err = c.answered(&f)
		}
		if err != nil {
			return err
		}
	}
}

// answered hands an answer to its call. The caller may have gone. The error is ErrRetired
// when the stream is retired and owes no more answers.
func (c *Caller) answered(f *frame.Frame) error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = now
	if call := c.calls[f.ID]; call != nil {
		if err := call.request.Answered(f); err != nil {
			return err
		}
		delete(c.calls, f.ID)
		if call.done != nil {
			close(call.done)
		}
	}
	if c.retired && len(c.calls) == 0 {
		return ErrRetired
	}
	return nil
}

var timers sync.Pool // *time.Timer, stopped

func startTimer(d time.Duration) *time.Timer {
	if t, ok := timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

func stopTimer(t *time.Timer) {
	t.Stop()
	timers.Put(t)
}
