package cachetier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/internal/mux"
	"github.com/Focinfi/oncekv/kvstore"
)

// Between cache nodes:
//
//	GET /peer/ping                 204: this process runs; 503: it is leaving
//	GET /peer/stream               101: from here on frames (package frame); 503: it
//	                               is leaving; 409: it stands in another history
//	GET /peer/record?key=BASE64URL 200 and a record, or 404 and typeAbsent,
//	                               or 503: could not load; 409 as above
//
// Each answer names the history that it is of, and each question the one that it
// asks for, in Oncekv-History; who stands in none yet, none.
//
// A node that is older than streams answers 404 to one, and is asked for every
// record by itself.
const (
	peerPing   = "/peer/ping"
	peerStream = "/peer/stream"
	peerRecord = "/peer/record"
	typeRecord = "application/vnd.oncekv.record"
	typeAbsent = "application/vnd.oncekv.absent"
)

const (
	streamProtocol = "oncekv-peer/2" // the Upgrade of GET /peer/stream
	streamCallsMax = loadsMax        // unanswered questions
	questionsMax   = 64 << 20        // bytes of questions in a queue: never so many
)

// stream is a connection to another cache node, over which loads of one era ask for
// records, many at a time. It is made before it is connected; questions wait. It ends
// when either side moves to another history.
//
// The goroutine of run connects, and then reads: it hands every answer to its call.
// Another one writes. A load that asks waits for neither.
//
// The other side answers a ping at once, whatever it loads. That tells a peer that is
// dead from one whose database is slow: a load that has waited for long pings, and a
// ping, or a connection, that is not answered within PeerTimeout ends the stream.
type stream struct {
	peer   *peer
	era    *era
	calls  *mux.Caller
	ctx    context.Context // ends with the stream
	cancel context.CancelCauseFunc
	dog    *time.Timer // fires when a ping has not been answered in time

	pinged atomic.Int64 // unix nanoseconds of the ping that is not answered; 0: there is none
	over   atomic.Bool
}

// call is a question on its way.
type call struct {
	mux.Call
	key    kvstore.Key
	peer   *peer
	began  time.Time
	kind   frame.Kind // of the answer
	answer []byte
}

func newStream(p *peer, e *era) *stream {
	s := &stream{peer: p, era: e, calls: mux.NewCaller(questionsMax)}
	s.ctx, s.cancel = context.WithCancelCause(e.ctx)
	s.pinged.Store(time.Now().UnixNano())
	s.dog = time.AfterFunc(p.node.cfg.PeerTimeout, s.silent)
	return s
}

// ask sends a question. An error means that it was not sent.
func (s *stream) ask(key kvstore.Key) (*call, error) {
	if open := s.calls.Open(); open >= streamCallsMax {
		return nil, fmt.Errorf("%w: %d questions are unanswered", errPeerBusy, open)
	}
	c := &call{key: key, peer: s.peer, began: time.Now()}
	if err := s.calls.Start(s.ctx, nil, &c.Call, c); err != nil {
		if ended := context.Cause(s.ctx); ended != nil {
			return nil, ended
		}
		return nil, errPeerLeft
	}
	return c, nil
}

// AppendFrame implements mux.Request.
func (c *call) AppendFrame(out []byte, id uint32) []byte {
	return frame.AppendPeer(out, frame.PeerGet, id, c.key)
}

// Answered implements mux.Request.
func (c *call) Answered(f *frame.Frame) error {
	switch f.Kind {
	case frame.PeerRecord, frame.PeerAbsent, frame.PeerBusy, frame.PeerLarge:
		c.kind, c.answer = f.Kind, bytes.Clone(f.Body())
		return nil
	}
	return noAnswer(f)
}

func noAnswer(f *frame.Frame) error {
	return fmt.Errorf("peer sent a frame of kind %d, which is no answer", f.Kind)
}

// ping asks for a sign of life. If one is awaited already, it returns for how long.
func (s *stream) ping() time.Duration {
	now := time.Now().UnixNano()
	if s.pinged.CompareAndSwap(0, now) {
		s.dog.Reset(s.peer.node.cfg.PeerTimeout - s.peer.hedgeDelay())
		_ = s.calls.Add(s.ctx, nil, func(out []byte) []byte { return frame.AppendPeer(out, frame.PeerPing, 0, "") }) // or it is over
		s.calls.Flush()
		return 0
	}
	since := s.pinged.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(now - since)
}

// heard notes a sign of life. A peer that leaves gives some too, but is not asked any more.
func (s *stream) heard() {
	if s.pinged.Load() == 0 {
		return
	}
	s.dog.Stop()
	s.pinged.Store(0)
	if !s.calls.Retired() && s.ctx.Err() == nil {
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
	others.Go(func() { s.end(s.calls.Send(conn, s.peer.node.cfg.StreamIdle, func() { s.end(errPeerSilent) })) })
	s.heard()
	s.end(s.read(conn))
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
func (s *stream) read(conn io.Reader) (err error) {
	defer recovered(s.peer.node.log, "a stream from "+s.peer.url, &err)
	err = s.calls.Answers(frame.NewPeerReader(movingReader{conn, s.heard}), func(f *frame.Frame) error {
		switch f.Kind {
		case frame.PeerPong:
		case frame.PeerLeaving:
			s.peer.leaves()
			s.calls.Retire()
		default:
			return noAnswer(f)
		}
		return nil
	})
	if err == mux.ErrRetired {
		return errPeerLeft
	}
	return err
}

// retire takes no more questions, and ends the stream when all are answered.
func (s *stream) retire() {
	s.calls.Retire()
	if s.calls.Open() == 0 {
		s.end(errPeerLeft)
	}
}

// end ends the stream, once, and tells all that wait why.
func (s *stream) end(err error) {
	if s.over.Swap(true) {
		return
	}
	if err == nil {
		err = io.EOF
	}
	if errors.Is(err, io.EOF) && s.calls.Open() == 0 && s.pinged.Load() == 0 {
		err = errPeerIdle
	}
	s.dog.Stop()
	s.cancel(err)
	s.peer.ended(s, err)
	s.calls.Fail(fmt.Errorf("stream to the owner ended: %w", err))
}

// record returns the answer. It may be called after Done.
func (c *call) record() (*record, error) {
	switch {
	case c.Err() != nil:
		return nil, c.Err()
	case c.kind == frame.PeerAbsent:
		return nil, errAbsent
	case c.kind == frame.PeerLarge:
		return nil, errPeerPlain
	case c.kind == frame.PeerBusy:
		return nil, fmt.Errorf("%w: %s", errPeerBusy, c.answer)
	}
	return receivedRecord(c.key, c.answer)
}

// late is record for a question whose load asks the database too by now. It counts an answer.
func (c *call) late() (*record, error) {
	rec, err := c.record()
	if err == nil || errors.Is(err, errAbsent) {
		c.peer.served(c.began)
	}
	return rec, err
}
