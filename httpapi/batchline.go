package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/Focinfi/oncekv/api"
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
	if put, ok := plainPut(text); ok && int64(len(put.Value)) <= s.limit {
		l.put = put
		l.result.Key, l.result.KeyBase64 = api.JSONKey(string(put.Key))
		return false
	}
	var document api.PutDocument
	err := decodeStrict(text, &document)
	if err == nil {
		l.put, err = s.smallPutIn(&document)
	}
	if err == nil {
		l.result.Key, l.result.KeyBase64 = api.JSONKey(string(l.put.Key))
		return false
	}
	if key, bad := keyIn(&document); bad == nil {
		l.result.Key, l.result.KeyBase64 = api.JSONKey(string(key))
	}
	l.result.Status = api.BatchInvalid
	l.result.Detail = fmt.Sprintf("line %d: %s", s.lines.number, problemFor(putting, err).document.Detail)
	return true
}

// decide puts lines, whose keys differ, and returns those that have waited for
// them. It waits while too much is in flight and, for a while, for a leader:
// nothing was proposed then.
func (s *batch) decide(lines []*batchLine) (next []*batchLine) {
	settle := func(l *batchLine) {
		if n := s.settle(l); n != nil {
			next = append(next, n)
		}
	}
	undecided := lines
	leaderless := time.Now().Add(s.answer)
	for pause := batchPauseFirst; len(undecided) > 0; pause = min(2*pause, batchPauseMax) {
		var again []*batchLine
		var errs []error
		s.put(undecided, func(l *batchLine, result kvstore.PutResult, err error) {
			switch {
			case err == nil:
				s.count(result.Outcome)
				l.decided(result)
				settle(l)
			case s.mayRepeat(err, leaderless):
				again, errs = append(again, l), append(errs, err)
			default:
				s.failed(l, err)
				settle(l)
			}
		})
		if len(again) > 0 && !s.wait(pause) {
			for i, l := range again {
				s.failed(l, errs[i])
				settle(l)
			}
			break
		}
		undecided = again
	}
	return next
}

// mayRepeat reports whether a put that failed was not proposed, and is worth
// another try.
func (s *batch) mayRepeat(err error, leaderless time.Time) bool {
	switch {
	case s.proposing.Err() != nil, errors.Is(err, kvstore.ErrOutcomeUnknown):
		return false
	case errors.Is(err, kvstore.ErrOverloaded), errors.Is(err, kvstore.ErrTooManyUploads):
		return true
	}
	return errors.Is(err, kvstore.ErrUnavailable) && time.Now().Before(leaderless)
}

// put tries once, and calls each once for every line.
func (s *batch) put(lines []*batchLine, each func(l *batchLine, result kvstore.PutResult, err error)) {
	told := make([]bool, len(lines))
	tell := func(i int, result kvstore.PutResult, err error) {
		if !told[i] {
			told[i] = true
			each(lines[i], result, err)
		}
	}
	defer func() {
		if cause := recover(); cause != nil {
			s.logger.Error("panic while putting lines", "panic", cause, "stack", string(debug.Stack()))
			for i := range lines {
				tell(i, kvstore.PutResult{}, errPutPanicked)
			}
		}
	}()
	if s.proposing.Err() != nil {
		for i := range lines {
			tell(i, kvstore.PutResult{}, kvstore.ErrUnavailable)
		}
		return
	}
	ctx, cancel := context.WithTimeout(s.proposing, s.answer)
	defer cancel()
	small := make([]kvstore.SmallPut, 0, len(lines))
	places := make([]int, 0, len(lines))
	for i, l := range lines {
		if len(l.put.Value) <= kvstore.ChunkBytes {
			small = append(small, l.put)
			places = append(places, i)
		}
	}
	if len(small) > 0 {
		s.db.PutMany(ctx, small, func(i int, result kvstore.PutResult, err error) { tell(places[i], result, err) })
	}
	for i, l := range lines {
		if p := &l.put; len(p.Value) > kvstore.ChunkBytes {
			result, err := s.db.Put(ctx, kvstore.PutRequest{Key: p.Key, ContentType: p.ContentType, UserMeta: p.UserMeta, Body: bytes.NewReader(p.Value), Size: int64(len(p.Value))})
			tell(i, result, err)
		}
	}
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
	if p := problemFor(putting, err); p.document.Status == http.StatusInternalServerError && s.proposing.Err() == nil { // else the client went away
		s.counters.Errors.Add(1)
		s.logger.Error("put of a line failed", "err", err)
	}
}

func (l *batchLine) decided(result kvstore.PutResult) {
	m := &result.Meta
	l.result.Status = result.Outcome.String()
	l.result.Revision, l.result.SHA256, l.result.Size = uint64(m.Revision), m.SHA256.String(), &m.Size
	if result.Outcome == kvstore.Conflict {
		l.result.Detail = fmt.Sprintf("the key is set to other bytes %s, and cannot be changed; choose another key", since(m))
	}
}

// undecided gives a line the result that the error table has for an error.
func (l *batchLine) undecided(err error) {
	p := problemFor(putting, err)
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
