package httpapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	framedOutBytes  = 128 << 10 // of answers that wait for the client; then no more requests are taken
	framedBatchKeys = 256       // that are looked up at once
)

// framed answers requests in frames (package frame): puts to POST /keys and gets
// to POST /keys/get, thousands in flight on one connection. Answers go out as
// they are known, tagged with their request's id, so nobody waits for somebody
// else's decision. The work on one request is spread over
//
//	read     takes frames off the body and starts what they ask for
//	work     decides them, see framedPuts, framedGets and framedReads
//	write    (the handler's goroutine) sends the answers, all that there are at once
//
// and, as in batches, everybody waits for the next one's room.
type framed struct {
	counters *Counters
	logger   *slog.Logger
	closing  <-chan struct{}
	idle     time.Duration
	answer   time.Duration  // from a frame to its answer
	streams  *budget.Budget // places
}

func newFramed(cfg *DatabaseConfig) *framed {
	return &framed{counters: cfg.Counters, logger: cfg.Logger, closing: cfg.Closing, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout,
		streams: budget.New(int64(cfg.FramedStreams))}
}

// frameWork decides what the frames of one request ask for. take and flush are
// called by read alone.
type frameWork interface {
	// take begins to work on a frame, and waits while there is too much of it
	// already. An error ends the request.
	take(f *frame.Frame) error
	// flush is called when no other frame is at hand.
	flush()
	// run works until the stream's finished is closed. What it began is over when
	// it returns.
	run()
}

// framedStream is one request.
type framedStream struct {
	*framed
	path   string
	op     operation
	duplex *duplex
	frames *frame.Reader
	work   frameWork
	place  *budget.Holder // rests while nothing is open

	// alive ends when the client is gone, working when what is not proposed yet
	// must not be, accepting when no more frames are wanted. Each ends with the
	// one before.
	alive, working, accepting        context.Context
	lose, stopWorking, stopAccepting context.CancelCauseFunc

	finished chan struct{} // closed when everything is answered
	ready    chan struct{} // capacity 1: there is something for write to do
	room     chan struct{} // capacity 1: write has taken something

	mu    sync.Mutex
	out   []byte // answers that write has not taken
	open  int    // frames that are accepted and not answered
	over  bool   // no more are accepted
	early *frame.Problem
}

// inFrames reports whether a request is in frames.
func inFrames(r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && media == api.ContentTypeFrames
}

// serve answers one request; begin makes its work.
func (f *framed) serve(w http.ResponseWriter, r *http.Request, op operation, begin func(*framedStream) frameWork) error {
	select {
	case <-f.closing:
		return kvstore.ErrClosed
	default:
	}
	s := &framedStream{framed: f, path: r.URL.Path, op: op,
		finished: make(chan struct{}), ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	s.place = f.streams.Hold(hostOf(r), graceOf(f.idle), s.giveWay)
	defer s.place.Close()
	if err := room(r.Context(), s.place, 1); err != nil {
		return err
	}
	s.duplex = startStream(w, r, f.idle, api.ContentTypeFrames)
	s.duplex.place = s.place
	s.frames = frame.NewReader(s.duplex)
	s.contexts(r.Context())
	s.work = begin(s)
	s.run()
	return nil
}

// contexts makes the contexts, like those of a batch.
func (s *framedStream) contexts(parent context.Context) {
	s.alive, s.lose = context.WithCancelCause(context.WithoutCancel(parent))
	context.AfterFunc(parent, func() {
		if s.duplex.atEnd() {
			s.lose(context.Cause(parent))
		}
	})
	s.working, s.stopWorking = context.WithCancelCause(s.alive)
	s.accepting, s.stopAccepting = context.WithCancelCause(s.working)
}

// run returns when nothing of the request is left.
func (s *framedStream) run() {
	var background sync.WaitGroup
	reader := make(chan struct{})
	defer func() {
		s.lose(context.Canceled)
		s.duplex.Close()
		<-reader // it begins no work any more
		close(s.finished)
		background.Wait()
	}()
	background.Go(func() { defer close(reader); s.guarded(s.read) })
	background.Go(func() { s.guarded(s.work.run) })
	background.Go(s.watch)
	if err := s.write(); err != nil {
		s.lose(err)
		panic(http.ErrAbortHandler) // or what was written would pass for all
	}
	// A client that is still sending reads the end only when it is done, and
	// nothing any more after a reset.
	s.duplex.within(batchLinger, batchLingerMax)
	<-reader
	s.duplex.last()
}

// guarded breaks the request off if f panics, as net/http does with a handler.
func (s *framedStream) guarded(f func()) {
	defer func() {
		if cause := recover(); cause != nil {
			s.panicked(cause)
			s.end(newProblem(http.StatusInternalServerError, api.ProblemInternal, "%s", detailInternal(s.op)))
			s.lose(http.ErrAbortHandler)
		}
	}()
	f()
}

func (s *framedStream) panicked(cause any) {
	s.counters.Errors.Add(1)
	s.logger.Error("panic while answering a request", "path", s.path, "panic", cause, "stack", string(debug.Stack()))
}

// watch ends the request when the node stops.
func (s *framedStream) watch() {
	select {
	case <-s.finished:
		return
	case <-s.closing:
	}
	s.end(newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "this node is stopping; send the rest to another node"))
	s.duplex.within(batchLinger, batchClosingMax)
	grace := time.NewTimer(batchClosingGrace)
	defer grace.Stop()
	select {
	case <-s.finished:
	case <-grace.C:
		s.stopWorking(kvstore.ErrClosed)
	}
}

// giveWay ends the request because another one needs its place. It is called
// while nothing is open, or when the client takes its answers too slowly.
func (s *framedStream) giveWay() {
	s.end(newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "%s", detailPlaceNeeded))
	s.duplex.within(placeLinger, placeLinger)
}

// end accepts no more frames; only the first call counts. Without a problem it
// is the input's regular end.
func (s *framedStream) end(why *problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	if why != nil {
		p := problemFrame(0, why)
		s.early = &p
	}
	s.stopAccepting(context.Canceled)
	wake(s.ready)
}

// read takes frames until the input or the request ends; then it discards.
func (s *framedStream) read() {
	defer s.work.flush() // write waits for every frame that was accepted
	var err error
	for err == nil {
		var f frame.Frame
		if f, err = s.frames.Next(); err == nil {
			err = s.take(&f)
		}
		if err != nil || !s.frames.Buffered() {
			s.work.flush()
		}
		if err == nil {
			err = s.awaitRoom(s.work.flush)
		}
	}
	s.stopped(err)
	if err != io.EOF {
		_, _ = io.CopyN(io.Discard, s.duplex, batchDiscardBytes)
	}
}

func (s *framedStream) take(f *frame.Frame) error {
	if f.ID == 0 {
		return fmt.Errorf("%w: a request has the id 0", frame.ErrMalformed)
	}
	return s.work.take(f)
}

// stopped ends the request because of what reading ended with.
func (s *framedStream) stopped(err error) {
	switch {
	case err == io.EOF:
		s.end(nil)
	case errors.Is(err, frame.ErrMalformed):
		s.end(invalid("%v; neither this frame nor any after it was carried out", err))
	case s.accepting.Err() != nil: // end was called, or the client is gone
		s.end(newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "the request was cancelled"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end(newProblem(http.StatusRequestTimeout, api.ProblemTimeout, "no byte arrived for %v", s.idle))
	default:
		s.lose(fmt.Errorf("the client is gone: %w", err))
		s.end(nil)
	}
}

// accept counts n frames in; each needs an answer from now on.
func (s *framedStream) accept(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return context.Canceled
	}
	if s.open == 0 && n > 0 {
		s.place.Working()
	}
	s.open += n
	return nil
}

// answered adds what add appends, the answers to n frames.
func (s *framedStream) answered(n int, add func(out []byte) []byte) {
	s.mu.Lock()
	s.out = add(s.out)
	s.open -= n
	s.mu.Unlock()
	wake(s.ready)
}

// failed answers a frame with an error, and notes what is this node's own fault.
func (s *framedStream) failed(id uint32, err error) {
	p := s.failure(err)
	s.answered(1, func(out []byte) []byte { return appendProblem(out, id, p) })
}

func (s *framedStream) failure(err error) *problem {
	p := problemFor(s.op, err)
	if p.document.Status == http.StatusInternalServerError && s.working.Err() == nil { // else the client went away
		s.counters.Errors.Add(1)
		s.logger.Error("request in a frame failed", "path", s.path, "err", err)
	}
	return p
}

func appendProblem(out []byte, id uint32, p *problem) []byte {
	f := problemFrame(id, p)
	return frame.AppendProblem(out, &f)
}

// awaitRoom waits until the client has taken its answers, if they are many. It
// calls before if it has to wait.
func (s *framedStream) awaitRoom(before func()) error {
	for {
		s.mu.Lock()
		full := len(s.out) >= framedOutBytes
		s.mu.Unlock()
		if !full {
			wake(s.room) // for another who waits
			return nil
		}
		before()
		select {
		case <-s.room:
		case <-s.alive.Done():
			return context.Cause(s.alive)
		}
	}
}

// write sends answers until all are sent and no more will come.
func (s *framedStream) write() error {
	var buf []byte
	for {
		var last bool
		buf, last = s.takeAnswers(buf)
		if len(buf) > 0 {
			if _, err := s.duplex.Write(buf); err != nil {
				return err
			}
			if err := s.duplex.conn.Flush(); err != nil {
				return err
			}
			wake(s.room)
		}
		switch {
		case last:
			return nil
		case len(buf) > 0:
			continue
		}
		select {
		case <-s.ready:
			// Those who were woken by the same event are about to add theirs.
			runtime.Gosched()
		case <-s.alive.Done():
			return context.Cause(s.alive)
		}
	}
}

// takeAnswers exchanges the answers that wait for a buffer to fill anew. last is
// whether nothing comes after them.
func (s *framedStream) takeAnswers(buf []byte) (_ []byte, last bool) {
	if cap(buf) > 2*framedOutBytes {
		buf = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	buf, s.out = s.out, buf[:0]
	if s.over && s.open == 0 {
		if s.early != nil {
			buf = frame.AppendProblem(buf, s.early)
		}
		return buf, true
	}
	if len(buf) == 0 && s.open == 0 {
		s.place.Resting()
	}
	return buf, false
}

// problemFrame is a problem as a frame carries it.
func problemFrame(id uint32, p *problem) frame.Problem {
	d := &p.document
	f := frame.Problem{ID: id, Status: uint16(d.Status), Type: d.Type, Title: d.Title, Detail: d.Detail,
		HasLimit: d.LimitBytes > 0, Limit: uint64(max(0, d.LimitBytes))}
	if after, err := strconv.ParseUint(p.header["Retry-After"], 10, 16); err == nil {
		f.RetryAfter = uint16(after)
	}
	if d.Revision != 0 && d.Size != nil {
		f.HasWinner = true
		f.Winner = frame.Winner{Revision: d.Revision, Size: uint64(*d.Size)}
		_, _ = hex.Decode(f.Winner.Digest[:], []byte(d.SHA256)) // it is one of ours
	}
	return f
}
