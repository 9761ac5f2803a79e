package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	discardBytes = 1 << 30                 // of input behind an early end
	lingerTotal  = 30 * time.Second        // in all
	closingGrace = 1200 * time.Millisecond // for what is proposed when the node stops
	closingTotal = 1800 * time.Millisecond // for everything then; server drains for 2 s
)

// sessions is what the sessions of one kind share.
type sessions struct {
	counters *Counters
	logger   *slog.Logger
	closing  <-chan struct{}
	idle     time.Duration
	answer   time.Duration  // from a request of a session to its answer
	places   *budget.Budget // one for each session
	working  *budget.Budget // places to work in; nil: every session may work
}

// codec is the language of a session: it reads requests off the body, has them
// carried out, and renders their answers. Its methods belong to the goroutine that
// reads, except for last.
type codec interface {
	// next reads a request, calls resume when it has one, and begins it. It waits
	// while there is no room.
	next() error
	// buffered reports whether next has a request without waiting for the client.
	buffered() bool
	// roomy reports whether another request may be taken now. It is asked again after
	// answers were sent.
	roomy() bool
	// flush begins whatever next has gathered. It is called before anything that may
	// wait, so that the wait does not delay gathered requests.
	flush() error
	// last renders the answer that ends a session before its input.
	last(why *problem) []byte
}

// session is one request with many requests in its body and their answers in its
// own, which begin before the body ends. Three goroutines or more work for it:
//
//	read    takes requests off the body and begins them
//	start   carries them out, as the codec sees fit
//	write   (the handler's) sends the answers, all that there are at once
//
// Each waits for the next one's room, so memory does not depend on how many requests
// there are.
//
// A session has a place for as long as it lasts, and a place to work in, where those
// are few, only from its first open request until its last answer was sent. One that
// rests gives its place to another that needs it; so does one whose client is too slow.
type session struct {
	*sessions
	path   string
	op     operation
	host   string // the client's address
	codec  codec
	duplex *duplex
	out    *spool

	place *budget.Holder // rests while there is nothing to do
	work  *budget.Holder // nil: it needs no place to work in

	// alive ends when the client is gone, proposing when what is not proposed yet
	// must not be, accepting when no more requests are wanted. Each ends with the
	// one before.
	alive, proposing, accepting        context.Context
	lose, stopProposing, stopAccepting context.CancelCauseFunc

	background sync.WaitGroup
	finished   chan struct{} // closed when everything is answered
	room       chan struct{} // capacity 1: something was answered, or sent

	mu    sync.Mutex
	works bool   // work has a place
	busy  bool   // read has a request in hand
	open  int    // requests that are accepted and not answered
	taken uint64 // up to which the input was accepted, in lines
	over  bool   // no more are accepted
	early *problem
}

func newSessions(cfg *DatabaseConfig, places int64) *sessions {
	return &sessions{counters: cfg.Counters, logger: cfg.Logger, closing: cfg.Closing, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout, places: budget.New(places)}
}

// serve answers one request; begin makes its codec.
func (c *sessions) serve(w http.ResponseWriter, r *http.Request, op operation, mediaType string, out *spool, begin func(*session) codec) error {
	if closed(c.closing) {
		return kvstore.ErrClosed
	}
	s := &session{sessions: c, path: r.URL.Path, op: op, host: hostOf(r), out: out, finished: make(chan struct{}), room: make(chan struct{}, 1)}
	s.place = c.places.Hold(s.host, graceOf(c.idle), s.giveWay)
	defer s.place.Close()
	if err := room(r.Context(), s.place, 1); err != nil {
		return err
	}
	if c.working != nil { // a busy node says so before the answer begins
		s.work = c.working.Hold(s.host, graceOf(c.idle), s.giveWay)
		defer s.work.Close()
		if err := room(r.Context(), s.work, 1); err != nil {
			return err
		}
		s.works = true
	}
	s.duplex = startStream(w, r, c.idle, mediaType)
	s.duplex.place = s.place
	s.duplex.writes(s.work)
	s.follow(r.Context())
	s.codec = begin(s)
	s.run()
	return nil
}

// follow makes the contexts. net/http cancels the parent after a read that was
// merely too slow, too. A failed read or write is found out here; behind the body's
// end nobody reads but net/http.
func (s *session) follow(parent context.Context) {
	s.alive, s.lose = context.WithCancelCause(context.WithoutCancel(parent))
	context.AfterFunc(parent, func() {
		if s.duplex.atEnd() {
			s.lose(context.Cause(parent))
		}
	})
	s.proposing, s.stopProposing = context.WithCancelCause(s.alive)
	s.accepting, s.stopAccepting = context.WithCancelCause(s.proposing)
}

// run returns when nothing of the session is left.
func (s *session) run() {
	reader := make(chan struct{})
	defer func() {
		s.lose(context.Canceled)
		s.duplex.Close()
		<-reader // it begins nothing any more
		close(s.finished)
		s.background.Wait()
		s.out.free()
	}()
	s.start(func() { defer close(reader); s.read() })
	s.start(s.watch)
	if err := s.write(); err != nil {
		s.lose(err)
		panic(http.ErrAbortHandler) // or what was written would pass for all
	}
	// A client that is still sending reads the end only when it is done, and
	// nothing any more after a reset.
	s.duplex.within(streamLinger, lingerTotal)
	<-reader
	s.duplex.last()
}

// start runs f, which ends soon after the session does. A panic breaks the session
// off, as net/http does with a handler.
func (s *session) start(f func()) {
	s.background.Go(func() {
		defer func() {
			if cause := recover(); cause != nil {
				s.panicked(cause)
				s.end(newProblem(http.StatusInternalServerError, api.ProblemInternal, "%s", detailInternal(s.op)))
				s.lose(http.ErrAbortHandler)
			}
		}()
		f()
	})
}

func (s *session) panicked(cause any) {
	s.counters.Errors.Add(1)
	s.logger.Error("panic while answering a request", "path", s.path, "panic", cause, "stack", string(debug.Stack()))
}

// watch ends the session when the node stops.
func (s *session) watch() {
	select {
	case <-s.finished:
		return
	case <-s.closing:
	}
	s.end(newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "this node is stopping; send the rest to another node"))
	s.duplex.within(streamLinger, closingTotal)
	grace := time.NewTimer(closingGrace)
	defer grace.Stop()
	select {
	case <-s.finished:
	case <-grace.C:
		s.stopProposing(kvstore.ErrClosed)
	}
}

// giveWay ends the session because others need what it holds.
func (s *session) giveWay() {
	s.end(newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "%s", detailPlaceNeeded))
	s.duplex.within(placeLinger, placeLinger)
}

// end accepts no more requests; only the first call counts. Without a problem it is
// the input's regular end.
func (s *session) end(why *problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over, s.early = true, why
	s.stopAccepting(context.Canceled)
	wake(s.out.ready)
}

// read takes requests until the input or the session ends; then it discards.
func (s *session) read() {
	defer func() { _ = s.codec.flush() }() // what was taken is answered whatever happens
	var err error
	for err == nil {
		err = s.readOne()
	}
	s.stopped(err)
	if err != io.EOF {
		_, _ = io.CopyN(io.Discard, s.duplex, discardBytes)
	}
}

func (s *session) readOne() error {
	err := s.codec.next()
	if err != nil || !s.codec.buffered() {
		if failed := s.codec.flush(); failed != nil {
			err = failed
		}
		s.pause()
	}
	if err == nil && !s.codec.roomy() {
		if err = s.codec.flush(); err == nil {
			err = s.await(s.accepting, s.codec.roomy)
		}
	}
	return err
}

// stopped ends the session because of what reading ended with. A problem among the
// errors is the client's to hear.
func (s *session) stopped(err error) {
	told, ok := errors.AsType[*problem](err)
	switch {
	case err == io.EOF:
		s.end(nil)
	case ok:
		s.end(told)
	case errors.Is(err, budget.ErrShort):
		s.end(newProblem(http.StatusTooManyRequests, api.ProblemOverloaded, "this node is overloaded; send the rest later, or to another node"))
	case s.accepting.Err() != nil: // end was called, or the client is gone
		s.end(newProblem(http.StatusServiceUnavailable, api.ProblemUnavailable, "the request was cancelled"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end(newProblem(http.StatusRequestTimeout, api.ProblemTimeout, "no byte arrived for %v", s.idle))
	default:
		s.end(invalid("the body broke off (%v)", err))
		s.lose(fmt.Errorf("the client is gone: %w", err))
	}
}

// resume says that a request is in hand, and takes a place to work in.
func (s *session) resume() error {
	if s.busy { // written by this goroutine alone
		return nil
	}
	s.mu.Lock()
	s.busy = true
	works := s.works || s.work == nil
	s.place.Working()
	s.mu.Unlock()
	if works {
		return nil
	}
	if err := s.work.Acquire(s.accepting, 1, s.answer); err != nil {
		return err
	}
	s.mu.Lock()
	s.works = true
	s.mu.Unlock()
	return nil
}

// pause says that no request is in hand.
func (s *session) pause() {
	s.mu.Lock()
	s.busy = false
	idle := s.open == 0
	s.mu.Unlock()
	if idle {
		wake(s.out.ready)
	}
}

// accept counts n requests in, each of which needs an answer from now on. The input
// is done with up to a line.
func (s *session) accept(n int, line uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return context.Canceled
	}
	s.open += n
	s.taken = line
	return nil
}

// answered counts n requests out, whose answers are in out.
func (s *session) answered(n int) {
	s.mu.Lock()
	s.open -= n
	none := s.open == 0
	s.mu.Unlock()
	if none {
		wake(s.out.ready)
	}
	wake(s.room)
}

// unanswered is how many requests are open.
func (s *session) unanswered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// await waits until ok, which is asked again whenever something was answered or sent.
func (s *session) await(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-s.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	wake(s.room) // for another who waits
	return nil
}

// failure is the answer to a request that ended with an error. What is this node's own
// fault is counted, and logged as what.
func (s *session) failure(what string, err error) *problem {
	p := problemFor(s.op, err)
	if p.document.Status == http.StatusInternalServerError && s.proposing.Err() == nil { // else the client went away
		s.counters.Errors.Add(1)
		s.logger.Error(what, "path", s.path, "err", err)
	}
	return p
}

// write sends answers until all are sent and no more will come.
func (s *session) write() error {
	var buf []byte
	for {
		p, more, err := s.out.take(buf)
		if err != nil {
			return err
		}
		buf = p
		if len(p) > 0 {
			if err := s.send(p, more); err != nil {
				return err
			}
			continue
		}
		if s.settled() {
			if s.early == nil {
				return nil
			}
			return s.send(s.codec.last(s.early), false)
		}
		select {
		case <-s.out.ready:
			// Those who were woken by the same event are about to add theirs.
			runtime.Gosched()
		case <-s.alive.Done():
			return context.Cause(s.alive)
		}
	}
}

// send writes answers, and more are about to follow or not.
func (s *session) send(p []byte, more bool) error {
	if _, err := s.duplex.Write(p); err != nil || more {
		return err
	}
	if err := s.duplex.conn.Flush(); err != nil {
		return err
	}
	s.out.sent()
	wake(s.room)
	return nil
}

// settled reports whether everything is sent and nothing will come. It rests when
// there is nothing to do: no request is in hand or open, and all answers are sent.
func (s *session) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open > 0 || !s.out.empty() {
		return false
	}
	if s.over || s.busy {
		return s.over
	}
	if s.works {
		s.works = false
		s.work.Give(1)
	}
	s.place.Resting()
	return false
}
