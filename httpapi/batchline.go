package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// Pauses between tries of a line that was not proposed.
const (
	batchPauseFirst = 10 * time.Millisecond
	batchPauseMax   = time.Second
)

// parse reads the put out of a line. It reports whether the line is invalid;
// then it has its result.
func (s *batch) parse(text []byte, l *batchLine) (invalid bool) {
	var document client.PutDocument
	err := decodeStrict(text, s.shape, &document)
	if err == nil {
		l.request, err = s.requestIn(&document, terms{})
	}
	if err == nil {
		l.result.Key, l.result.KeyBase64 = client.JSONKey(string(l.request.Key))
		return false
	}
	if key, bad := keyIn(&document); bad == nil {
		l.result.Key, l.result.KeyBase64 = client.JSONKey(string(key))
	}
	l.result.Status = client.BatchInvalid
	l.result.Detail = fmt.Sprintf("line %d: %s", s.lines.number, problemFor(putting, err).document.Detail)
	return true
}

// decide puts a line. It waits while too much is in flight and, for a while,
// for a leader: nothing was proposed then.
func (s *batch) decide(l *batchLine) {
	defer func() {
		if cause := recover(); cause != nil {
			s.logger.Error("panic while putting a line", "panic", cause, "stack", string(debug.Stack()))
			l.undecided(errors.New("the put panicked"))
		}
	}()
	leaderless := time.Now().Add(s.answer)
	for pause := batchPauseFirst; ; pause = min(2*pause, batchPauseMax) {
		result, err := s.put(l)
		switch {
		case err == nil:
			s.count(result.Outcome)
			l.decided(result)
			return
		case s.proposing.Err() != nil:
		case errors.Is(err, kvstore.ErrOutcomeUnknown):
		case errors.Is(err, kvstore.ErrOverloaded), errors.Is(err, kvstore.ErrTooManyUploads),
			errors.Is(err, kvstore.ErrUnavailable) && time.Now().Before(leaderless):
			if s.wait(pause) {
				continue
			}
		}
		s.failed(l, err)
		return
	}
}

// put tries once.
func (s *batch) put(l *batchLine) (kvstore.PutResult, error) {
	if s.proposing.Err() != nil {
		return kvstore.PutResult{}, kvstore.ErrUnavailable
	}
	if _, err := l.request.Body.(io.Seeker).Seek(0, io.SeekStart); err != nil {
		return kvstore.PutResult{}, err
	}
	ctx, cancel := context.WithTimeout(s.proposing, s.answer)
	defer cancel()
	return s.db.Put(ctx, l.request)
}

// wait pauses, and reports whether the line is still wanted.
func (s *batch) wait(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.proposing.Done():
		return false
	}
}

// failed gives a line the result of an error, and notes what is this node's
// own fault.
func (s *batch) failed(l *batchLine, err error) {
	l.undecided(err)
	if p := problemFor(putting, err); p.document.Status == http.StatusInternalServerError {
		s.counters.Errors.Add(1)
		s.logger.Error("put of a line failed", "err", err)
	}
}

func (l *batchLine) decided(result kvstore.PutResult) {
	m := &result.Meta
	l.result.Status = result.Outcome.String()
	l.result.Revision, l.result.SHA256, l.result.Size = uint64(m.Revision), m.SHA256.String(), &m.Size
	if result.Outcome == kvstore.Conflict {
		l.result.Detail = fmt.Sprintf("the key is set to other bytes since revision %d, for ever; choose another key", m.Revision)
	}
}

// undecided gives a line the result that the error table has for an error.
func (l *batchLine) undecided(err error) {
	p := problemFor(putting, err)
	l.result.Detail = p.document.Detail
	switch p.document.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		l.result.Status = client.BatchInvalid
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		l.result.Status = client.BatchFailed
		l.result.Detail = "no leader took it in time, or this node is stopping; nothing was proposed. Send the line again"
	case http.StatusInsufficientStorage:
		l.result.Status = client.BatchFailed
	default:
		l.result.Status = client.BatchUnknown
		l.result.Detail = "the outcome is unknown: the put may or may not take effect. Sending the same line again is safe and tells"
	}
}
