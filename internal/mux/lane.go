package mux

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

const (
	outBytes         = 1 << 20          // of frames that wait for the connection; then calls wait
	restAfter        = 10 * time.Second // without a call; a node gives up after 30 s
	retryPause       = time.Second      // after a stream could not be opened
	unsupportedPause = time.Minute      // after an answer that is not in frames
)

// BufferBytes is a good size for the buffers, each way, of a connection in frames:
// what net/http copies at once, and some.
const BufferBytes = 36 << 10

// ErrClosed: Lanes.Close was called.
var ErrClosed = errors.New("this client's streams are closed")

// EndedError is the problem that a node ends a stream with. It has answered what it
// has taken, and done nothing of the rest.
type EndedError struct{ Problem frame.Problem }

// Error returns the problem's detail.
func (e *EndedError) Error() string { return e.Problem.Detail }

// Lanes opens streams to nodes, and closes them together. It is safe for concurrent use.
type Lanes struct {
	http     *http.Client
	patience time.Duration

	ctx     context.Context // of all streams
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool
}

// NewLanes returns Lanes over a client without a time limit. A node has patience to
// answer a stream's request, and a stream that says nothing for as long while it is
// asked is over.
func NewLanes(client *http.Client, patience time.Duration) *Lanes {
	l := &Lanes{http: client, patience: patience}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Close ends all streams, waits for their goroutines, and lets none begin.
func (l *Lanes) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
}

// start runs f on a goroutine that Close waits for; false when it is closed.
func (l *Lanes) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.running.Go(f)
	}
	return !l.closed
}

// Lane is the streams to one URL, one at a time. A stream is one long request; it
// has one goroutine, which opens it and reads its answers; net/http's own sends the
// frames. One that is idle ends.
type Lane struct {
	lanes  *Lanes
	url    string
	opened func(*http.Response)

	current atomic.Pointer[Stream] // that takes calls; nil: none

	mu      sync.Mutex    // guards the rest
	opening chan struct{} // closed when it is known whether the node takes the stream; nil: none is being opened
	running bool          // a goroutine of the lane's is
	after   time.Time     // no opening before
}

// Lane returns a lane to a URL. opened, if not nil, is called with the answer to each
// stream that the node takes, before its first call.
func (l *Lanes) Lane(url string, opened func(*http.Response)) *Lane {
	return &Lane{lanes: l, url: url, opened: opened}
}

// Stream returns the stream to use now, nil if there is none. Then it sees to it
// that there soon is.
func (l *Lane) Stream() *Stream {
	s, _ := l.stream()
	return s
}

// Await is Stream that waits while one is being opened.
func (l *Lane) Await(ctx context.Context) *Stream {
	s, opening := l.stream()
	if opening == nil {
		return s
	}
	select {
	case <-opening:
	case <-ctx.Done():
	}
	return l.current.Load()
}

func (l *Lane) stream() (s *Stream, opening <-chan struct{}) {
	if s := l.current.Load(); s != nil {
		return s, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running && time.Now().After(l.after) {
		opening := make(chan struct{})
		if l.running = l.lanes.start(func() { l.run(opening) }); l.running {
			l.opening = opening
		}
	}
	return nil, l.opening
}

// run opens a stream and reads its answers until it ends.
func (l *Lane) run(opening chan struct{}) {
	known := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.opening == opening {
			l.opening = nil
			close(opening)
		}
	}
	began := time.Now()
	pause := l.open(known)
	if pause > 0 { // a node that said nothing is left alone for as long
		pause = max(pause, time.Since(began))
	}
	defer known()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running, l.after = false, time.Now().Add(pause)
}

// open returns when the stream is over, and says how long not to open another.
func (l *Lane) open(known func()) (pause time.Duration) {
	ctx, cancel := context.WithCancel(l.lanes.ctx)
	defer cancel()
	s := &Stream{lane: l, cancel: cancel}
	s.init(outBytes)
	patience := time.AfterFunc(l.lanes.patience, cancel)
	resp, pause := l.request(ctx, s)
	if resp == nil {
		patience.Stop()
		s.Fail(ErrOver)
		return pause
	}
	defer resp.Body.Close()
	if !patience.Stop() {
		s.Fail(ErrIdle)
		return retryPause
	}
	s.History = resp.Header.Get(api.HeaderHistory)
	if l.opened != nil {
		l.opened(resp)
	}
	l.current.Store(s)
	known()
	idle := time.AfterFunc(restAfter, s.rest)
	s.idle.Store(idle)
	err := s.Answers(frame.NewReader(resp.Body), ended)
	idle.Stop()
	l.retire(s)
	if l.lanes.ctx.Err() != nil {
		err = ErrClosed
	}
	s.Fail(err)
	return 0
}

// request returns the answer, or how long to leave the node alone.
func (l *Lane) request(ctx context.Context, s *Stream) (*http.Response, time.Duration) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, &body{Stream: s, ctx: ctx})
	if err != nil {
		return nil, unsupportedPause
	}
	req.Header.Set("Content-Type", api.ContentTypeFrames)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Expect", "100-continue") // else a node that refuses it waits for a body first
	resp, err := l.lanes.http.Do(req)
	if err != nil {
		return nil, retryPause
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode == http.StatusOK && media == api.ContentTypeFrames {
		return resp, 0
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		return nil, retryPause
	}
	return nil, unsupportedPause
}

// ended is the end of a stream by a frame that answers no call.
func ended(f *frame.Frame) error {
	p, err := f.Problem()
	if err != nil {
		return err
	}
	return &EndedError{Problem: p}
}

// retire lets no more calls use s.
func (l *Lane) retire(s *Stream) { l.current.CompareAndSwap(s, nil) }

// Stream is one request in frames.
type Stream struct {
	Caller
	History string // of the node, as its answer names it

	lane   *Lane
	cancel context.CancelFunc
	idle   atomic.Pointer[time.Timer]
}

// Do is Caller.Do. A stream that stays silent gets no more calls, and is over when it
// has said nothing for the lanes' patience.
func (s *Stream) Do(ctx context.Context, call *Call, r Request, patience time.Duration) (sent bool, err error) {
	sent, err = s.Caller.Do(ctx, call, r, patience)
	if err == ErrIdle && !call.since.IsZero() {
		s.silent(call)
	}
	return sent, err
}

// GiveUp is Drop of a call that was in vain, as Do does when its patience ends.
func (s *Stream) GiveUp(call *Call) (sent, open bool) {
	if sent, open = s.Drop(call); open {
		s.silent(call)
	}
	return sent, open
}

// silent judges a stream on which a call was in vain.
func (s *Stream) silent(call *Call) {
	if !s.mute(call) {
		return
	}
	s.lane.retire(s)
	if time.Since(call.since) >= s.lane.lanes.patience {
		s.Fail(ErrIdle)
		s.cancel()
	} else {
		s.end()
	}
}

// end lets no more calls come. The request's body ends behind those that did.
func (s *Stream) end() {
	s.lane.retire(s)
	s.End()
}

// rest ends the stream if no call has come for a while.
func (s *Stream) rest() {
	if s.rested() {
		s.end()
	} else if idle := s.idle.Load(); idle != nil {
		idle.Reset(restAfter)
	}
}

// body is the body of a stream's request: frames, as they come.
type body struct {
	*Stream
	ctx context.Context // of the request: the transport waits for Read after it has ended
}

// Read gives out what there is, and waits when there is nothing.
func (b *body) Read(p []byte) (int, error) { return b.read(b.ctx, p) }

// Close is called when no more is sent. What becomes of the calls is for the
// answer to say.
func (b *body) Close() error {
	b.lane.retire(b.Stream)
	b.Queue.Close()
	return nil
}
