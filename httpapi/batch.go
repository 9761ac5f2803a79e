package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	batchLineBytesMax = jsonPutBytesMax // of one line
	batchLineBytes    = 512             // what a line costs besides its bytes
	batchWindow       = 8192            // lines of one request that are read and have no result written yet
	batchPuts         = 8192            // lines of all requests that are being decided

	// batchLongBytes is reserved while a line over lineBufferBytes is read.
	batchLongBytes = jsonCopies * batchLineBytesMax

	batchGroupLines = 1024      // that are put together, at most
	batchGroupBytes = 512 << 10 // of their values; larger ones are put alone

	batchDiscardBytes = 1 << 30                 // of input behind an early end
	batchLinger       = time.Second             // without a byte of it, when all is written
	batchLingerMax    = 30 * time.Second        // in all
	batchClosingGrace = 1200 * time.Millisecond // for what is proposed when the node stops
	batchClosingMax   = 1800 * time.Millisecond // for everything then; server drains for 2 s
)

// batches answers POST /keys: lines that are puts in, a line with a result for
// each of them out, in their order. The work on one request is spread over
//
//	read     splits and parses lines, and starts their puts
//	puts     one goroutine a group: the lines that were at hand together, each
//	         with another key
//	collect  waits for the results in order and hands them to a spool
//	write    (the handler's goroutine) takes them from there to the client
//
// Everybody waits for the next one's room, up to the spool's limit; so memory
// does not depend on the number of lines. The budgets are shared by all
// requests. Nobody who holds a part of slots or memory waits for more, except for a
// put's decision: whoever waits gets it in the end.
//
// A request has a place for as long as it lasts, of which there are many, and one
// to work in, of which there are few, only from its first line that is not answered
// until its last answer is on its way. One that rests, because its client says
// nothing, gives its place to another that needs it; so does one whose client takes
// its answers, or sends a long line, too slowly.
type batches struct {
	*puts
	framed   *framed // those that come in frames
	leads    func() bool
	logger   *slog.Logger
	closing  <-chan struct{}
	spillDir string
	spill    int64
	stall    time.Duration // how long a full spool waits for a client that reads nothing

	streams *budget.Budget      // places, one for each request
	working *budget.Budget      // places to work in
	long    *budget.Budget      // bytes of long lines being read
	slots   *semaphore.Weighted // lines being decided
	memory  *semaphore.Weighted // bytes of lines being decided
}

// batchRestingStreams is how many requests there are at a time that do nothing. Each
// takes some 200 KiB.
const batchRestingStreams = 256

// batchLongLines is how many lines over lineBufferBytes are read at a time.
const batchLongLines = 2

// batchStallShare is the part of the idle timeout that a full spool waits.
const batchStallShare = 3

func newBatches(cfg *DatabaseConfig, p *puts) *batches {
	return &batches{
		puts: p, framed: newFramed(cfg), leads: cfg.Cluster.Leads, logger: cfg.Logger, closing: cfg.Closing,
		spillDir: cfg.SpillDir, spill: cfg.SpillBytes, stall: p.idle / batchStallShare,
		streams: budget.New(int64(cfg.BatchStreams) + batchRestingStreams),
		working: budget.New(int64(cfg.BatchStreams)),
		long:    budget.New(batchLongLines * batchLongBytes),
		slots:   semaphore.NewWeighted(batchPuts),
		memory:  semaphore.NewWeighted(max(cfg.BatchBytesInFlight, batchLongBytes)),
	}
}

// tryAdmit takes what a line costs of the budgets, if it is there.
func (b *batches) tryAdmit(cost int64) bool {
	if !b.memory.TryAcquire(cost) {
		return false
	}
	if !b.slots.TryAcquire(1) {
		b.memory.Release(cost)
		return false
	}
	return true
}

// admit waits for it.
func (b *batches) admit(ctx context.Context, cost int64) error {
	if err := b.memory.Acquire(ctx, cost); err != nil {
		return err
	}
	if err := b.slots.Acquire(ctx, 1); err != nil {
		b.memory.Release(cost)
		return err
	}
	return nil
}

// release gives back what lines cost.
func (b *batches) release(lines int, cost int64) {
	b.slots.Release(int64(lines))
	b.memory.Release(cost)
}

// serve answers one request.
func (b *batches) serve(w http.ResponseWriter, r *http.Request) error {
	if err := refuseBatch(r); err != nil {
		return err
	}
	select {
	case <-b.closing:
		return kvstore.ErrClosed
	default:
	}
	s := &batch{batches: b, host: hostOf(r)}
	s.place = b.streams.Hold(s.host, graceOf(b.idle), s.giveWay)
	defer s.place.Close()
	s.work = b.working.Hold(s.host, graceOf(b.idle), s.giveWay)
	defer s.work.Close()
	for _, h := range []*budget.Holder{s.place, s.work} { // a busy node says so before the answer begins
		if err := room(r.Context(), h, 1); err != nil {
			return err
		}
	}
	s.works = true
	s.begin(r.Context(), startStream(w, r, b.idle, api.ContentTypeNDJSON))
	s.run()
	return nil
}

// refuseBatch refuses what is about one put, or makes the lines unreadable.
func refuseBatch(r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	for _, name := range []string{"If-Match", "If-None-Match", "Repr-Digest", "Content-Range", api.HeaderPutID} {
		if len(r.Header.Values(name)) > 0 {
			return aboutOnePut(name)
		}
	}
	if name := givenUserMeta(r.Header); name != "" {
		return aboutOnePut(name)
	}
	if err := refuseEncoded(r.Header); err != nil {
		return err
	}
	return refuseUnframed(r)
}

func aboutOnePut(header string) error {
	return invalid("%s is about a single put; it cannot be used with POST /keys", header)
}

// batch is one request.
type batch struct {
	*batches
	host   string // the client's address
	duplex *duplex
	lines  *lineReader
	out    *spool

	place *budget.Holder // rests while there is nothing to do

	resting sync.Mutex // guards the three below; held while nothing is waited for
	work    *budget.Holder
	works   bool // work has a place
	busy    bool // read has a line in hand

	// alive ends when the client is gone, proposing when what is not proposed
	// yet must not be, accepting when no more lines are wanted. Each ends with
	// the one before.
	alive, proposing, accepting        context.Context
	lose, stopProposing, stopAccepting context.CancelCauseFunc

	window   chan struct{} // one for each line whose result is not in out
	settled  chan struct{} // capacity 1: some line has its result
	deciding sync.WaitGroup
	group    lineGroup // to be decided together; read's

	mu    sync.Mutex
	queue chan *batchLine // in order; closed by end. Its capacity is that of window
	over  bool
	early *api.BatchResult           // why it ended before the input did
	taken uint64                     // lines of the input that are done with, blank ones included
	last  map[kvstore.Key]*batchLine // the last undecided line with this key
}

// batchLine is one line that is not blank.
type batchLine struct {
	put    kvstore.SmallPut // its value may be too large for PutMany
	cost   int64            // of batches.memory
	next   *batchLine       // with the same key, waits for this one; guarded by batch.mu
	done   atomic.Bool      // result is there
	result api.BatchResult
}

// lineGroup is lines with different keys that are decided together.
type lineGroup struct {
	lines []*batchLine
	bytes int // of values
}

// begin makes the rest of a request whose answer has begun.
func (s *batch) begin(parent context.Context, d *duplex) {
	s.duplex, s.out = d, newSpool(s.spillDir, s.spill)
	d.place, d.out = s.place, s.work
	s.window, s.settled = make(chan struct{}, batchWindow), make(chan struct{}, 1)
	s.queue = make(chan *batchLine, batchWindow)
	s.last = make(map[kvstore.Key]*batchLine)
	// net/http cancels the parent after a read that was merely too slow, too.
	// A failed read or write is found out here; behind the body's end nobody
	// reads but net/http.
	s.alive, s.lose = context.WithCancelCause(context.WithoutCancel(parent))
	context.AfterFunc(parent, func() {
		if d.atEnd() {
			s.lose(context.Cause(parent))
		}
	})
	s.proposing, s.stopProposing = context.WithCancelCause(s.alive)
	s.accepting, s.stopAccepting = context.WithCancelCause(s.proposing)
	s.lines = &lineReader{src: d, max: batchLineBytesMax, grow: s.growLine}
}

// growLine takes memory for a long line.
func (s *batch) growLine() error {
	s.flush() // whoever waits for memory must not hold any
	s.pause()
	h := s.long.Hold(s.host, graceOf(s.idle), s.giveWay)
	if err := h.Acquire(s.accepting, batchLongBytes, s.answer); err != nil {
		h.Close()
		return err
	}
	s.duplex.in = h
	return nil
}

// shrinkLine gives the memory of a long line back.
func (s *batch) shrinkLine() {
	if h := s.duplex.in; h != nil {
		s.lines.shrink()
		s.duplex.in = nil
		h.Close()
	}
}

// resume takes a place to work in, for a line that is in hand.
func (s *batch) resume() error {
	s.resting.Lock()
	s.busy = true
	works := s.works
	s.place.Working()
	s.resting.Unlock()
	if works {
		return nil
	}
	if err := s.work.Acquire(s.accepting, 1, s.answer); err != nil {
		return err
	}
	s.resting.Lock()
	s.works = true
	s.resting.Unlock()
	return nil
}

// pause says that no line is in hand.
func (s *batch) pause() {
	s.resting.Lock()
	s.busy = false
	s.resting.Unlock()
	s.rest()
}

// rest gives the place to work in back when there is nothing to do: no line is in
// hand, or decided, or has a result that the client has not been sent.
func (s *batch) rest() {
	s.resting.Lock()
	defer s.resting.Unlock()
	if s.busy || len(s.window) > 0 || !s.out.empty() {
		return
	}
	if s.works {
		s.works = false
		s.work.Give(1)
	}
	s.place.Resting()
}

// giveWay ends the request because others need what it holds.
func (s *batch) giveWay() {
	s.end(api.ProblemUnavailable, detailPlaceNeeded)
	s.duplex.within(placeLinger, placeLinger)
}

// run returns when nothing of the request is left.
func (s *batch) run() {
	var background sync.WaitGroup
	finished := make(chan struct{})
	defer func() {
		s.lose(context.Canceled)
		s.duplex.Close()
		close(finished)
		background.Wait()
		s.deciding.Wait()
		s.out.free()
	}()
	reader := make(chan struct{})
	background.Go(func() { defer close(reader); s.guarded(s.read) })
	background.Go(func() { s.guarded(s.collect) })
	background.Go(func() { s.watch(finished) })
	if err := s.write(); err != nil {
		s.lose(err)
		panic(http.ErrAbortHandler) // or what was written would pass for all
	}
	// A client that is still sending reads the end only when it is done, and
	// nothing any more after a reset.
	s.duplex.within(batchLinger, batchLingerMax)
	<-reader
}

// guarded breaks the request off if f panics, as net/http does with a handler.
func (s *batch) guarded(f func()) {
	defer func() {
		if cause := recover(); cause != nil {
			s.counters.Errors.Add(1)
			s.logger.Error("panic while answering a request", "path", "/keys", "panic", cause, "stack", string(debug.Stack()))
			s.end(api.ProblemInternal, "this node failed")
			s.lose(http.ErrAbortHandler)
		}
	}()
	f()
}

// watch ends the request when the node stops.
func (s *batch) watch(finished <-chan struct{}) {
	select {
	case <-finished:
		return
	case <-s.closing:
	}
	s.end(api.ProblemUnavailable, "this node is stopping; send the rest to another node")
	s.duplex.within(batchLinger, batchClosingMax)
	grace := time.NewTimer(batchClosingGrace)
	defer grace.Stop()
	select {
	case <-finished:
	case <-grace.C:
		s.stopProposing(kvstore.ErrClosed)
	}
}

// end closes the queue; only the first call counts. Without a kind it is the
// input's regular end.
func (s *batch) end(kind, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	if kind != "" {
		s.early = &api.BatchResult{Status: api.BatchError, Type: kind, Line: s.taken + 1,
			Detail: fmt.Sprintf("the stream ends before line %d: %s. Neither that line nor any after it was proposed; every line before it has its result", s.taken+1, detail)}
	}
	close(s.queue)
	s.stopAccepting(context.Canceled)
}

// read takes lines until the input or the request ends; then it discards.
func (s *batch) read() {
	defer s.flush() // collect waits for every line that was taken
	defer s.shrinkLine()
	s.rest() // until there is a line
	for s.accepting.Err() == nil {
		line, err := s.lines.next()
		if err == nil {
			err = s.resume()
		}
		if err == nil {
			err = s.accept(line)
		}
		if err != nil || !s.lines.buffered() {
			s.flush()
			s.pause()
		}
		if err != nil {
			s.stopped(err)
		}
	}
	s.shrinkLine()
	if s.lines.end == nil {
		s.flush()
		_, _ = io.CopyN(io.Discard, s.duplex, batchDiscardBytes)
	}
}

// stopped ends the request because of what reading ended with.
func (s *batch) stopped(err error) {
	switch {
	case err == io.EOF:
		s.end("", "")
	case errors.Is(err, errLineTooLong):
		s.end(api.ProblemTooLarge, fmt.Sprintf("the line is longer than the limit of %d bytes; use PUT /key/{key} for larger values", batchLineBytesMax))
	case errors.Is(err, budget.ErrShort):
		s.end(api.ProblemOverloaded, "this node is overloaded; send the rest later, or to another node")
	case s.accepting.Err() != nil:
		// end was called, or the client is gone.
		s.end(api.ProblemUnavailable, "the request was cancelled")
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end(api.ProblemTimeout, fmt.Sprintf("no byte arrived for %v", s.idle))
	default:
		s.end(api.ProblemInvalid, fmt.Sprintf("the body broke off (%v)", err))
		s.lose(fmt.Errorf("the client is gone: %w", err))
	}
}

// accept starts the put of a line. It waits until there is room for it, and
// returns an error if the request ended meanwhile.
func (s *batch) accept(text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 {
		s.mu.Lock()
		s.taken = max(s.taken, s.lines.number)
		s.mu.Unlock()
		s.shrinkLine()
		return nil
	}
	l := &batchLine{cost: 2*int64(len(text)) + batchLineBytes}
	if err := s.admitLine(l); err != nil {
		return err
	}
	invalid := s.parse(text, l)
	s.shrinkLine()
	if err := s.start(l, invalid); err != nil {
		s.release(1, l.cost)
		return err
	}
	return nil
}

// admitLine takes what a line costs.
func (s *batch) admitLine(l *batchLine) error {
	if s.tryAdmit(l.cost) {
		return nil
	}
	s.flush()
	return s.admit(s.accepting, l.cost)
}

// start puts a line into the queue and, if it is a put, sees to it that it is
// decided. What it holds is given back when that is done.
func (s *batch) start(l *batchLine, invalid bool) error {
	select {
	case s.window <- struct{}{}:
	default:
		s.flush()
		select {
		case s.window <- struct{}{}:
		case <-s.accepting.Done():
			return s.accepting.Err()
		}
	}
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return context.Canceled
	}
	s.queue <- l // there is room: it has a place in the window
	s.taken = s.lines.number
	if invalid {
		s.mu.Unlock()
		s.settle(l)
		return nil
	}
	earlier := s.last[l.put.Key]
	s.last[l.put.Key] = l
	if earlier != nil {
		earlier.next = l
	}
	s.mu.Unlock()
	if earlier == nil {
		s.add(l)
	}
	return nil
}

// add adds a line to the group. A large value is one of its own.
func (s *batch) add(l *batchLine) {
	if s.group.bytes+len(l.put.Value) > batchGroupBytes {
		s.flush()
	}
	s.group.lines = append(s.group.lines, l)
	s.group.bytes += len(l.put.Value)
	if len(s.group.lines) == batchGroupLines {
		s.flush()
	}
}

// flush begins to decide the group. It is called before anything that may wait.
func (s *batch) flush() {
	if lines := s.group.lines; len(lines) > 0 {
		s.group = lineGroup{}
		s.deciding.Go(func() { s.decideAll(lines) })
	}
}

// decideAll decides lines, and then those with the same keys that have come
// meanwhile, until there are none.
func (s *batch) decideAll(lines []*batchLine) {
	for len(lines) > 0 {
		lines = s.decide(lines)
	}
}

// settle hands over a line's result. It returns the line with the same key that
// has waited for this one, if there is one.
func (s *batch) settle(l *batchLine) (next *batchLine) {
	s.mu.Lock()
	if next = l.next; next == nil && s.last[l.put.Key] == l {
		delete(s.last, l.put.Key)
	}
	s.mu.Unlock()
	s.release(1, l.cost)
	l.put = kvstore.SmallPut{} // the value; the key is in the result
	l.done.Store(true)
	wake(s.settled)
	return next
}

// await waits for a line's result. It is called by collect alone.
func (s *batch) await(l *batchLine) {
	for !l.done.Load() {
		<-s.settled
	}
}

// collect brings the results into the order of their lines.
func (s *batch) collect() {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	emit := func(result *api.BatchResult) error {
		text.Reset()
		if plain, ok := appendPlainResult(text.AvailableBuffer(), result); ok {
			text.Write(plain)
		} else if err := encoder.Encode(result); err != nil {
			panic(fmt.Sprintf("httpapi: a result does not marshal: %v", err))
		}
		err := s.out.append(s.alive, text.Bytes(), s.stall)
		if errors.Is(err, errStalled) {
			s.end(api.ProblemOverloaded, fmt.Sprintf("%v (%d bytes); read results while sending, or send fewer lines at once", err, s.spill))
			err = s.out.append(s.alive, text.Bytes(), 0)
		}
		return err
	}
	for l := range s.queue {
		s.await(l)
		if emit(&l.result) != nil {
			return // the client is gone
		}
		<-s.window
		if len(s.window) == 0 {
			s.rest()
		}
	}
	if s.early != nil { // written before the queue was closed
		_ = emit(s.early)
	}
	s.out.close()
}

// write sends what is collected, as it comes.
func (s *batch) write() error {
	buf := make([]byte, 0, pieceBytes)
	for {
		p, more, err := s.out.take(s.alive, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := s.duplex.Write(p); err != nil {
			return err
		}
		if !more {
			if err := s.duplex.conn.Flush(); err != nil {
				return err
			}
			s.out.sent()
			if len(s.window) == 0 {
				s.rest()
			}
		}
		buf = p
	}
}
