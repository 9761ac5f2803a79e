package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

const (
	coalesceBytesMax  = 32 << 10         // of a value; larger ones gain nothing and would keep others waiting
	streamOutBytes    = 1 << 20          // of frames that wait for the connection; then calls wait
	streamIdle        = 10 * time.Second // without a call; a node gives up after 30 s
	streamRetryPause  = time.Second      // after a stream could not be opened
	streamUnsupported = time.Minute      // after an answer that is not in frames
	streamBufferBytes = 36 << 10         // of a connection, each way: what net/http copies at once, and some
)

// putTarget is where streams of puts go.
const putTarget = "/keys"

// coalescer lets concurrent Puts and Gets of a Client travel together. A call
// that is alone is a request of its own. Of those that are not, each becomes a
// frame on a stream: one long request to POST /keys or POST /keys/get of the
// endpoint, on which thousands are under way. Nobody waits for others to come:
// the transport takes the frames that are there when it is done with those
// before.
//
// A call uses a stream that is up and never waits for one: the first ones go
// alone while it is being opened, and so do all at an endpoint that does not
// know frames. What becomes of a call otherwise (tries, endpoints, time limits)
// is decided in Client.do, which a stream is only another way to try for.
//
// Each stream has one goroutine of the coalescer's, which opens it and reads
// its answers; net/http's own sends the frames. A stream that is idle ends, and
// close ends all.
type coalescer struct {
	client *Client
	http   http.Client // without a time limit of its own
	own    *http.Transport
	puts   []*lane // one for each endpoint
	gets   []*lane

	putting, getting atomic.Int64 // calls under way
	timers           sync.Pool    // *time.Timer, stopped

	ctx     context.Context // of all streams
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool
}

func newCoalescer(c *Client, given *http.Client) *coalescer {
	co := &coalescer{client: c, http: *c.http}
	co.http.Timeout = 0
	if given == nil {
		co.own = newTransport()
		co.own.WriteBufferSize, co.own.ReadBufferSize = streamBufferBytes, streamBufferBytes
		co.http.Transport = co.own
	}
	co.ctx, co.cancel = context.WithCancel(context.Background())
	for n := range c.endpoints {
		co.puts = append(co.puts, &lane{coalescer: co, endpoint: n, target: putTarget})
		co.gets = append(co.gets, &lane{coalescer: co, endpoint: n, target: "/keys/get"})
	}
	return co
}

// close ends all streams, waits for their goroutines, and lets none begin.
func (co *coalescer) close() {
	co.mu.Lock()
	co.closed = true
	co.mu.Unlock()
	co.cancel()
	co.running.Wait()
	if co.own != nil {
		co.own.CloseIdleConnections()
	}
}

// timer returns a timer that runs, to be released.
func (co *coalescer) timer(d time.Duration) *time.Timer {
	if t, ok := co.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

func (co *coalescer) release(t *time.Timer) {
	t.Stop()
	co.timers.Put(t)
}

// start runs f on a goroutine that close waits for; false when it is closed.
func (co *coalescer) start(f func()) bool {
	co.mu.Lock()
	defer co.mu.Unlock()
	if !co.closed {
		co.running.Go(f)
	}
	return !co.closed
}

// lane is the streams for one kind of call to one endpoint, one at a time.
type lane struct {
	*coalescer
	endpoint int
	target   string

	current atomic.Pointer[stream] // that takes calls; nil: none

	opens   sync.Mutex // guards the rest
	opening bool
	after   time.Time // no opening before
}

// stream returns the stream to use now, nil if there is none. Then it sees to it
// that there soon is.
func (l *lane) stream() *stream {
	if s := l.current.Load(); s != nil {
		return s
	}
	l.opens.Lock()
	defer l.opens.Unlock()
	if !l.opening && time.Now().After(l.after) {
		l.opening = l.start(l.run)
	}
	return nil
}

// run opens a stream and reads its answers until it ends.
func (l *lane) run() {
	began := time.Now()
	pause := l.open()
	if pause > 0 { // a node that said nothing is left alone for as long
		pause = max(pause, time.Since(began))
	}
	l.opens.Lock()
	defer l.opens.Unlock()
	l.opening, l.after = false, time.Now().Add(pause)
}

// errNoFrames is what an endpoint does that does not know them.
var errNoFrames = errors.New("the endpoint does not answer in frames")

// open returns when the stream is over, and says how long not to open another.
func (l *lane) open() (pause time.Duration) {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	s := &stream{lane: l, cancel: cancel, calls: make(map[uint32]*framedCall), ready: make(chan struct{}, 1), room: make(chan struct{}, 1), over: make(chan struct{})}
	patience := time.AfterFunc(l.client.idleTimeout, cancel)
	resp, err := l.request(ctx, s)
	if err != nil || !patience.Stop() {
		if err == nil {
			resp.Body.Close()
		}
		s.fail(err)
		if errors.Is(err, errNoFrames) {
			return streamUnsupported
		}
		return streamRetryPause
	}
	defer resp.Body.Close()
	l.current.Store(s)
	idle := time.AfterFunc(streamIdle, s.rest)
	s.idle.Store(idle)
	err = s.read(resp.Body)
	idle.Stop()
	l.retire(s)
	if l.ctx.Err() != nil {
		err = errClosed
	}
	s.fail(err)
	return 0
}

func (l *lane) request(ctx context.Context, s *stream) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.client.endpoints[l.endpoint]+l.target, &streamBody{stream: s, ctx: ctx})
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", api.ContentTypeBatch)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Expect", "100-continue") // else who refuses it waits for a body first
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, err
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusOK && media == api.ContentTypeBatch:
		s.history = resp.Header.Get(api.HeaderHistory)
		l.client.histories.heard(s.history)
		l.learn(resp)
		return resp, nil
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		err = ResponseError(resp)
	default:
		err = errNoFrames
	}
	resp.Body.Close()
	return nil, err
}

// learn takes in whether the endpoint leads. If not, it is worth to find out who
// does: puts take a detour.
func (l *lane) learn(resp *http.Response) {
	if l.target != putTarget {
		return
	}
	leads := resp.Header.Get(api.HeaderRole) == RoleLeader
	l.client.ranking.said(l.endpoint, leads)
	if !leads {
		l.client.ranking.seekLeader()
	}
}

// retire lets no more calls use s.
func (l *lane) retire(s *stream) { l.current.CompareAndSwap(s, nil) }

// framedCall is one call as a frame, for as many tries as go by streams.
type framedCall struct {
	lanes []*lane
	put   *frame.Put // or else get
	get   frame.Get
	alone bool // the last try was a request of its own

	// The try's. Guarded by the stream's mu until done; then the caller's.
	at      uint64 // place of the frame in its stream
	since   time.Time
	done    chan struct{} // capacity 1: what follows is there
	err     error
	set     frame.Set
	value   frame.Value
	history string // of the node, if the stream told
	large   bool   // the value does not fit a frame
}

func (f *framedCall) append(out []byte, id uint32) []byte {
	if f.put != nil {
		f.put.ID = id
		return frame.AppendPut(out, f.put)
	}
	f.get.ID = id
	return frame.AppendGet(out, &f.get)
}

// stream is one request in frames. The goroutine of open reads its answers, the
// transport reads its body, and every call adds its frame.
type stream struct {
	lane   *lane
	cancel context.CancelFunc
	idle   atomic.Pointer[time.Timer]

	history string // of the node; set before answers are read

	ready chan struct{} // capacity 1: there is something to send
	room  chan struct{} // capacity 1: something was sent
	over  chan struct{} // closed when it has failed

	mu     sync.Mutex
	out    []byte // frames; those before sent are with the transport
	sent   int
	taken  uint64 // bytes that the transport has taken, in all
	queued uint64 // bytes of frames, in all
	calls  map[uint32]*framedCall
	id     uint32    // the last one used
	heard  time.Time // when the last answer came
	busy   bool      // a call came since rest looked
	ending bool      // the body ends when all is sent; no more calls
	unsent bool      // nobody takes frames any more
	err    error     // why it is over
}

// errClosed: Client.Close was called. The call goes on alone.
var errClosed = errors.New("this client's streams are closed")

// errRetired: the stream takes no more calls.
var errRetired = errors.New("this stream takes no more calls")

// do sends a call's frame and waits for its answer. sent is whether the endpoint
// may have got it.
func (s *stream) do(ctx context.Context, f *framedCall, patience time.Duration) (sent bool, err error) {
	timer := s.lane.timer(patience)
	defer s.lane.release(timer)
	id, err := s.add(ctx, f, timer)
	if err != nil {
		return false, err
	}
	select {
	case <-f.done:
		return f.err == nil || f.at < s.sentTo(), f.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errIdle
	}
	sent, answered := s.drop(id, f)
	if answered {
		<-f.done
		return sent, f.err
	}
	if err == errIdle {
		s.silent(f)
	}
	return sent, err
}

func (s *stream) sentTo() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// add queues a frame, waiting for room.
func (s *stream) add(ctx context.Context, f *framedCall, timer *time.Timer) (id uint32, err error) {
	for {
		s.mu.Lock()
		switch {
		case s.err != nil, s.ending:
			err = errRetired
		case len(s.out)-s.sent < streamOutBytes:
			id = s.addLocked(f)
			s.mu.Unlock()
			signal(s.ready)
			signal(s.room) // for another who waits
			return id, nil
		}
		s.mu.Unlock()
		if err != nil {
			return 0, err
		}
		select {
		case <-s.room:
		case <-s.over:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-timer.C:
			return 0, errIdle
		}
	}
}

func (s *stream) addLocked(f *framedCall) (id uint32) {
	for s.id++; s.id == 0 || s.calls[s.id] != nil; s.id++ {
	}
	if s.sent > streamBufferBytes && s.sent > len(s.out)/2 {
		s.out = s.out[:copy(s.out, s.out[s.sent:])]
		s.sent = 0
	}
	f.at, f.since = s.queued, time.Now()
	before := len(s.out)
	s.out = f.append(s.out, s.id)
	s.queued += uint64(len(s.out) - before)
	s.calls[s.id] = f
	s.busy = true
	return s.id
}

// drop forgets a call whose caller has gone, unless it is answered.
func (s *stream) drop(id uint32, f *framedCall) (sent, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answered = s.calls[id] != f
	delete(s.calls, id)
	return f.at < s.taken, answered
}

// silent judges a stream on which a call was in vain. One that has said nothing
// since gets no more calls; one that says nothing for the idle timeout is over.
func (s *stream) silent(f *framedCall) {
	s.mu.Lock()
	mute := s.heard.Before(f.since)
	s.mu.Unlock()
	if !mute {
		return
	}
	s.lane.retire(s)
	if time.Since(f.since) >= s.lane.client.idleTimeout {
		s.fail(errIdle)
		s.cancel()
	} else {
		s.end()
	}
}

// end lets no more calls come. The body ends behind those that did.
func (s *stream) end() {
	s.lane.retire(s)
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	signal(s.ready)
}

// rest ends the stream if no call has come for a while.
func (s *stream) rest() {
	s.mu.Lock()
	busy := s.busy || len(s.calls) > 0
	s.busy = false
	s.mu.Unlock()
	if !busy {
		s.end()
	} else if idle := s.idle.Load(); idle != nil {
		idle.Reset(streamIdle)
	}
}

// fail ends every call with err, nil for an orderly end. Only the first call
// counts.
func (s *stream) fail(err error) {
	if err == nil {
		err = errors.New("the stream ended before its answers")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	close(s.over)
	signal(s.ready)
	for id, f := range s.calls {
		delete(s.calls, id)
		f.err = err
		f.done <- struct{}{}
	}
}

// read takes answers until the stream ends.
func (s *stream) read(body io.Reader) error {
	frames := frame.NewReader(body)
	for {
		f, err := frames.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if f.ID == 0 {
			return s.ended(&f)
		}
		if err := s.answered(&f); err != nil {
			return err
		}
	}
}

// ended is the problem that the node ends the stream with: it has answered what
// it has taken, and done nothing of the rest.
func (s *stream) ended(f *frame.Frame) error {
	p, err := f.Problem()
	if err != nil {
		return err
	}
	document := problemOf(&p)
	return &StatusError{Problem: document, Kind: ErrUnavailable}
}

// answered hands an answer to its call. The caller may have gone.
func (s *stream) answered(answer *frame.Frame) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = now
	f := s.calls[answer.ID]
	if f == nil {
		return nil
	}
	if err := f.decode(answer, s.history); err != nil {
		return err
	}
	delete(s.calls, answer.ID)
	f.done <- struct{}{}
	return nil
}

// decode reads an answer, of that history. An error means that it is not one to this
// call.
func (f *framedCall) decode(answer *frame.Frame, history string) (err error) {
	switch {
	case answer.Kind == frame.KindProblem:
		p, err := answer.Problem()
		if err != nil {
			return err
		}
		f.err = problemError(problemOf(&p))
		if p.RetryAfter > 0 {
			f.err = &retryAfterError{error: f.err, after: time.Duration(p.RetryAfter) * time.Second}
		}
		return nil
	case f.put != nil && answer.Kind == frame.KindSet:
		f.set, err = answer.Set()
		f.history = history
		return err
	case f.put == nil && answer.Kind == frame.KindLarge:
		f.large = true
		return answer.Large()
	case f.put == nil && answer.Kind == frame.KindValue:
		if f.value, err = answer.Value(); err == nil {
			f.value.Value = append(make([]byte, 0, len(f.value.Value)), f.value.Value...)
		}
		return err
	}
	return fmt.Errorf("the answer is a %v frame: is this an oncekv node?", answer.Kind)
}

// signal wakes whoever waits, unless a wake-up waits there already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// streamBody is the body of a stream's request: frames, as they come.
type streamBody struct {
	*stream
	ctx context.Context // of the request: the transport waits for Read after it has ended
}

// Read gives out what there is, and waits when there is nothing.
func (b *streamBody) Read(p []byte) (int, error) {
	for {
		n, err := b.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-b.ready:
			// Those who were woken by the same answers are about to add theirs.
			runtime.Gosched()
		case <-b.over:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
}

func (b *streamBody) take(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.unsent {
		return 0, errStreamOver
	}
	n := copy(p, b.out[b.sent:])
	if n == 0 {
		if b.ending {
			return 0, io.EOF
		}
		return 0, nil
	}
	b.sent += n
	b.taken += uint64(n)
	if b.sent == len(b.out) {
		b.out, b.sent = b.out[:0], 0
	}
	signal(b.room)
	return n, nil
}

// Close is called when no more is sent. What becomes of the calls is for the
// answer to say.
func (b *streamBody) Close() error {
	b.lane.retire(b.stream)
	b.mu.Lock()
	b.ending, b.unsent = true, true
	b.mu.Unlock()
	signal(b.ready)
	return nil
}
