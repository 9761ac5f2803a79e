package cachetier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/kvstore"
)

const (
	streamProtocol = "oncekv-peer/2" // the Upgrade of GET /peer/stream
	streamBuffer   = 64 << 10        // bytes read at once
	streamCallsMax = loadsMax        // unanswered questions
	questionsMax   = 64 << 20        // bytes of questions in a queue: never so many
)

// stream is a connection to another cache node, over which loads of one era ask for
// records, many at a time. It is made before it is connected; questions wait. It ends
// when either side moves to another history.
//
// Its goroutine, in run, connects, and then reads: it hands every answer to its
// call. Another one, in frameWriter.run, writes. Who asks waits for neither.
//
// The other side answers a ping at once, whatever it loads. So it can be told
// whether it lives or only its database is slow: whoever waits for long pings,
// and a ping, or a connection, that is not answered within PeerTimeout is the
// end of the stream.
type stream struct {
	peer   *peer
	era    *era
	writer *frameWriter
	ctx    context.Context // ends with the stream
	cancel context.CancelFunc
	dog    *time.Timer // fires when a ping has not been answered in time

	pinged atomic.Int64 // unix nanoseconds of the ping that is not answered; 0: there is none

	mu       sync.Mutex
	calls    map[uint32]*call
	lastID   uint32
	retiring bool  // no more questions; it ends with the last answer
	err      error // why it ended
}

// call is a question on its way. answer and err are set before done is closed.
type call struct {
	peer   *peer
	began  time.Time
	done   chan struct{}
	answer frame
	err    error
}

func newStream(p *peer, e *era) *stream {
	s := &stream{peer: p, era: e, writer: newFrameWriter(questionsMax, p.node.cfg.StreamIdle), calls: make(map[uint32]*call)}
	s.ctx, s.cancel = context.WithCancel(e.ctx)
	s.pinged.Store(time.Now().UnixNano())
	s.dog = time.AfterFunc(p.node.cfg.PeerTimeout, s.silent)
	return s
}

// ask sends a question. An error means that it was not sent.
func (s *stream) ask(key kvstore.Key) (*call, error) {
	c := &call{peer: s.peer, began: time.Now(), done: make(chan struct{})}
	id, err := s.admit(c)
	if err != nil {
		return nil, err
	}
	s.writer.send(frameGet, id, []byte(key))
	return c, nil
}

func (s *stream) admit(c *call) (id uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return 0, s.err
	case s.retiring:
		return 0, errPeerLeft
	case len(s.calls) >= streamCallsMax:
		return 0, fmt.Errorf("%w: %d questions are unanswered", errPeerBusy, len(s.calls))
	}
	s.lastID++
	for s.lastID == 0 || s.calls[s.lastID] != nil {
		s.lastID++
	}
	s.calls[s.lastID] = c
	return s.lastID, nil
}

// ping asks for a sign of life, unless one is awaited: then it returns for how
// long.
func (s *stream) ping() time.Duration {
	now := time.Now().UnixNano()
	if s.pinged.CompareAndSwap(0, now) {
		s.dog.Reset(s.peer.node.cfg.PeerTimeout - s.peer.hedgeDelay())
		s.writer.send(framePing, 0, nil)
		return 0
	}
	since := s.pinged.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(now - since)
}

// heard notes a sign of life. A peer that leaves gives some too, and is not to be
// asked for that.
func (s *stream) heard() {
	if s.pinged.Load() == 0 {
		return
	}
	s.dog.Stop()
	s.pinged.Store(0)
	s.mu.Lock()
	retiring := s.retiring
	s.mu.Unlock()
	if !retiring && s.ctx.Err() == nil {
		s.peer.answers()
	}
}

// silent is called by dog.
func (s *stream) silent() {
	if since := s.pinged.Load(); since != 0 { // else the answer came at the same moment
		s.end(fmt.Errorf("%w for %v", errPeerSilent, time.Since(time.Unix(0, since)).Round(time.Millisecond)))
	}
}

// run connects and reads until the stream ends.
func (s *stream) run() {
	conn, err := s.connect()
	if err != nil {
		s.end(err)
		return
	}
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() { // closes the connection, which ends the reading
		<-s.ctx.Done()
		conn.Close()
	})
	others.Go(func() { s.end(s.writer.run(conn, func() { s.end(errPeerSilent) })) })
	s.heard()
	s.end(s.read(bufio.NewReaderSize(conn, streamBuffer)))
}

// connect makes the connection. errPeerPlain: the other side has no streams;
// errElsewhere: it stands in another history.
func (s *stream) connect() (conn io.ReadWriteCloser, err error) {
	defer recovered(s.peer.node.log, "a stream to "+s.peer.url, &err)
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.peer.url+peerStream, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", streamProtocol)
	s.era.named(req.Header)
	resp, err := s.peer.node.peerHTTP.Do(req)
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	elsewhere := answersIn(s.era, resp)
	switch {
	case elsewhere != nil:
		err = elsewhere
	case resp.StatusCode == http.StatusSwitchingProtocols && resp.Header.Get("Upgrade") == streamProtocol && ok:
		return conn, nil
	case resp.StatusCode == http.StatusServiceUnavailable:
		err = errPeerLeft
	default:
		err = errPeerPlain
	}
	resp.Body.Close()
	return nil, err
}

// read hands out answers.
func (s *stream) read(r *bufio.Reader) (err error) {
	defer recovered(s.peer.node.log, "a stream from "+s.peer.url, &err)
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		s.heard()
		switch f.kind {
		case framePong:
		case frameLeaving:
			s.peer.leaves()
			s.retire()
		case frameRecord, frameAbsent, frameBusy, frameLarge:
			s.answered(f)
		default:
			return fmt.Errorf("peer sent a frame of kind %d, which is no answer", f.kind)
		}
	}
}

func (s *stream) answered(f frame) {
	s.mu.Lock()
	c := s.calls[f.id]
	delete(s.calls, f.id)
	over := s.retiring && len(s.calls) == 0
	s.mu.Unlock()
	if c != nil {
		c.answer = f
		close(c.done)
	}
	if over {
		s.end(errPeerLeft)
	}
}

// retire takes no more questions, and ends the stream when all are answered.
func (s *stream) retire() {
	s.mu.Lock()
	s.retiring = true
	over := len(s.calls) == 0
	s.mu.Unlock()
	if over {
		s.end(errPeerLeft)
	}
}

// end ends the stream, once: whoever waits is told why.
func (s *stream) end(err error) {
	if err == nil {
		err = io.EOF
	}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	calls := s.calls
	s.calls = nil
	s.mu.Unlock()
	if len(calls) == 0 && s.pinged.Load() == 0 && errors.Is(err, io.EOF) {
		err = errPeerIdle
	}
	s.dog.Stop()
	s.cancel()
	s.writer.close()
	s.peer.ended(s, err)
	for _, c := range calls {
		c.err = fmt.Errorf("stream to the owner ended: %w", err)
		close(c.done)
	}
}

// record returns the answer to a question about key.
func (c *call) record(key kvstore.Key) (*record, error) {
	switch {
	case c.err != nil:
		return nil, c.err
	case c.answer.kind == frameAbsent:
		return nil, errAbsent
	case c.answer.kind == frameLarge:
		return nil, errPeerPlain
	case c.answer.kind == frameBusy:
		return nil, fmt.Errorf("%w: %s", errPeerBusy, c.answer.payload)
	}
	rec, err := decodeRecord(key, c.answer.payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDigest, err)
	}
	return rec, rec.verify()
}

// late is record for a question whose asker has given up waiting alone, and
// counts an answer as one.
func (c *call) late(key kvstore.Key) (*record, error) {
	rec, err := c.record(key)
	if err == nil || errors.Is(err, errAbsent) {
		c.peer.served(c.began)
	}
	return rec, err
}
