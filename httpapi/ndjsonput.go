package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// Pauses between tries of a line that was not proposed.
const (
	batchPauseFirst = 10 * time.Millisecond
	batchPauseMax   = time.Second
)

// putLines is the codec of lines that are puts. Their results are lines in the same
// order: collect brings them into it, and into a spool, which waits in a file for a
// client that sends everything before it reads.
type putLines struct {
	lineCodec
	b       *manyPuts
	queue   chan *queuedPut // in order; there is room for a whole window
	settled chan struct{}   // capacity 1: some line has its result

	group      []*queuedPut // with different keys, to be decided together
	groupBytes int          // of values

	mu     sync.Mutex
	latest map[kvstore.Key]*queuedPut // the last undecided line with this key
}

// queuedPut is one line that is not blank.
type queuedPut struct {
	put    kvstore.SmallPut // its value may be too large for PutMany
	cost   int64            // of manyPuts.memory
	next   *queuedPut       // with the same key, waits for this one; guarded by putLines.mu
	done   atomic.Bool      // result is there
	result api.BatchResult
}

func (b *manyPuts) newPutLines(s *session) codec {
	p := &putLines{lineCodec: lineCodec{session: s, instead: "; use PUT /key/{key} for larger values"}, b: b,
		queue: make(chan *queuedPut, batchWindow), settled: make(chan struct{}, 1), latest: make(map[kvstore.Key]*queuedPut)}
	p.lines = lineReader{src: s.duplex, max: batchLineBytesMax, grow: p.grow}
	s.out.tail = make([]byte, 0, pieceBytes)
	s.start(p.collect)
	return p
}

// grow takes memory for a long line.
func (p *putLines) grow() error {
	h := p.b.long.Hold(p.host, graceOf(p.idle), p.giveWay)
	if err := h.Acquire(p.accepting, batchLongBytes, p.answer); err != nil {
		h.Close()
		return err
	}
	p.duplex.in = h
	return nil
}

// shrink gives the memory of a long line back.
func (p *putLines) shrink() {
	if h := p.duplex.in; h != nil {
		p.lines.shrink()
		p.duplex.in = nil
		h.Close()
	}
}

// next starts the put of the next line.
func (p *putLines) next() error {
	defer p.shrink()
	text, err := p.fetch()
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return p.accept(0, p.lines.number)
	}
	l := &queuedPut{cost: 2*int64(len(text)) + batchLineBytes}
	if err := p.b.admit(p.accepting, l.cost, p.flush); err != nil {
		return err
	}
	if err := p.accept(1, p.lines.number); err != nil {
		p.b.release(1, l.cost)
		return err
	}
	p.begin(l, p.parse(text, l))
	return nil
}

// parse reads the put out of a line. It reports whether the line is invalid;
// then it has its result.
func (p *putLines) parse(text []byte, l *queuedPut) (invalid bool) {
	if put, ok := plainPut(text); ok && int64(len(put.Value)) <= p.b.limit {
		l.put = put
		l.result.Key, l.result.KeyBase64 = api.JSONKey(string(put.Key))
		return false
	}
	var document api.PutDocument
	err := decodeStrict(text, &document)
	if err == nil {
		l.put, err = p.b.smallPutIn(&document)
	}
	if err == nil {
		l.result.Key, l.result.KeyBase64 = api.JSONKey(string(l.put.Key))
		return false
	}
	if key, bad := keyIn(&document); bad == nil {
		l.result.Key, l.result.KeyBase64 = api.JSONKey(string(key))
	}
	l.result.Status = api.BatchInvalid
	l.result.Detail = fmt.Sprintf("line %d: %s", p.lines.number, problemFor(putting, err).document.Detail)
	return true
}

// begin puts a line into the queue and, if it is a put, sees to it that it is
// decided, after those with the same key. A large value is decided alone.
func (p *putLines) begin(l *queuedPut, invalid bool) {
	p.queue <- l // there is room: see roomy
	if invalid {
		p.settle(l)
		return
	}
	p.mu.Lock()
	earlier := p.latest[l.put.Key]
	p.latest[l.put.Key] = l
	if earlier != nil {
		earlier.next = l
	}
	p.mu.Unlock()
	if earlier != nil {
		return
	}
	if p.groupBytes+len(l.put.Value) > batchGroupBytes {
		p.decideGroup()
	}
	p.group = append(p.group, l)
	p.groupBytes += len(l.put.Value)
	if len(p.group) == batchGroupLines {
		p.decideGroup()
	}
}

func (p *putLines) roomy() bool { return p.unanswered() < batchWindow }

func (p *putLines) flush() error {
	p.decideGroup()
	return nil
}

// decideGroup begins to decide lines, and then those with the same keys that have
// come meanwhile, until there are none.
func (p *putLines) decideGroup() {
	lines := p.group
	p.group, p.groupBytes = nil, 0
	if len(lines) == 0 {
		return
	}
	p.background.Go(func() {
		for len(lines) > 0 {
			lines = p.decide(lines)
		}
	})
}

// decide puts lines, whose keys differ, and returns those that have waited for
// them. It waits while too much is in flight and, for a while, for a leader:
// nothing was proposed then.
func (p *putLines) decide(lines []*queuedPut) (next []*queuedPut) {
	settle := func(l *queuedPut) {
		if n := p.settle(l); n != nil {
			next = append(next, n)
		}
	}
	leaderless := time.Now().Add(p.answer)
	for pause := batchPauseFirst; len(lines) > 0; pause = min(2*pause, batchPauseMax) {
		trying := lines
		puts := make([]kvstore.SmallPut, len(trying))
		for i, l := range trying {
			puts[i] = l.put
		}
		var again []*queuedPut
		var errs []error
		p.b.putAll(p.proposing, puts, func(i int, result kvstore.PutResult, err error) {
			l := trying[i]
			switch {
			case err == nil:
				p.b.count(result.Outcome)
				l.decided(result)
				settle(l)
			case p.mayRepeat(err, leaderless):
				again, errs = append(again, l), append(errs, err)
			default:
				l.undecided(p.failure("put of a line failed", err))
				settle(l)
			}
		})
		if len(again) > 0 && !p.wait(pause) {
			for i, l := range again {
				l.undecided(p.failure("put of a line failed", errs[i]))
				settle(l)
			}
			return next
		}
		lines = again
	}
	return next
}

// mayRepeat reports whether a put that failed was not proposed, and is worth
// another try.
func (p *putLines) mayRepeat(err error, leaderless time.Time) bool {
	switch {
	case p.proposing.Err() != nil, errors.Is(err, kvstore.ErrOutcomeUnknown):
		return false
	case errors.Is(err, kvstore.ErrOverloaded), errors.Is(err, kvstore.ErrTooManyUploads):
		return true
	}
	return errors.Is(err, kvstore.ErrUnavailable) && time.Now().Before(leaderless)
}

// wait pauses, and reports whether lines are still wanted.
func (p *putLines) wait(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.proposing.Done():
		return false
	}
}

// settle hands over a line's result. It returns the line with the same key that
// has waited for this one, if there is one.
func (p *putLines) settle(l *queuedPut) (next *queuedPut) {
	p.mu.Lock()
	if next = l.next; next == nil && p.latest[l.put.Key] == l {
		delete(p.latest, l.put.Key)
	}
	p.mu.Unlock()
	p.b.release(1, l.cost)
	l.put = kvstore.SmallPut{} // the value; the key is in the result
	l.done.Store(true)
	wake(p.settled)
	return next
}

// collect brings the results into the order of their lines, and hands them to the
// spool.
func (p *putLines) collect() {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	for {
		var l *queuedPut
		select {
		case l = <-p.queue:
		case <-p.finished:
			return
		}
		for !l.done.Load() {
			<-p.settled
		}
		text.Reset()
		if plain, ok := appendPlainResult(text.AvailableBuffer(), &l.result); ok {
			text.Write(plain)
		} else if err := encoder.Encode(&l.result); err != nil {
			panic(fmt.Sprintf("httpapi: a result does not marshal: %v", err))
		}
		err := p.out.append(p.alive, text.Bytes(), p.b.stall)
		if errors.Is(err, errStalled) {
			p.end(newProblem(http.StatusTooManyRequests, api.ProblemOverloaded, "%v (%d bytes); read results while sending, or send fewer lines at once", err, p.b.spill))
			err = p.out.append(p.alive, text.Bytes(), 0)
		}
		if err != nil {
			return // the client is gone
		}
		p.answered(1)
	}
}

func (p *putLines) last(why *problem) []byte {
	return mustLine(&api.BatchResult{Status: api.BatchError, Type: why.document.Type, Line: p.taken + 1,
		Detail: fmt.Sprintf("the stream ends before line %d: %s. Neither that line nor any after it was proposed; every line before it has its result", p.taken+1, why.document.Detail)})
}

func (l *queuedPut) decided(result kvstore.PutResult) {
	m := &result.Meta
	l.result.Status = result.Outcome.String()
	l.result.Revision, l.result.SHA256, l.result.Size = uint64(m.Revision), m.SHA256.String(), &m.Size
	if result.Outcome == kvstore.Conflict {
		l.result.Detail = fmt.Sprintf("the key is set to other bytes %s, and cannot be changed; choose another key", since(m))
	}
}

// undecided gives a line the result of an error.
func (l *queuedPut) undecided(p *problem) {
	l.result.Detail = p.document.Detail
	switch p.document.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		l.result.Status = api.BatchInvalid
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		l.result.Status = api.BatchFailed
		l.result.Detail = "no leader took it in time, or this node is stopping; nothing was proposed. Send the line again"
	case http.StatusInsufficientStorage:
		l.result.Status = api.BatchFailed
	default:
		l.result.Status = api.BatchUnknown
		l.result.Detail = "the outcome is unknown: the put may or may not take effect. Sending the same line again is safe and shows the outcome"
	}
}
