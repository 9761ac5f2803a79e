package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// What a stream has in hand at a time.
const (
	partRecords = 500
	partBytes   = 64 << 10 // about; one record at least
	partCopies  = 3        // as found, as a document, as JSON
)

// errPlaceNeeded ends a stream in whose place another one goes.
var errPlaceNeeded = errors.New("another stream needs the place")

// errGone is the end of a stream whose client takes nothing any more.
var errGone = errors.New("the client has gone")

// changeStream is one answer of GET /changes. Nothing is kept for a client:
// what it has not taken is read from history when it does. It belongs to one
// goroutine, the handler's.
type changeStream struct {
	*changes
	changesQuery
	ctx    context.Context
	from   string // the client's address
	paced  *pacedWriter
	place  *budget.Holder
	of     *namedHistory    // the history that is sent
	newest kvstore.Revision // as of the last look
	at     kvstore.Revision // everything up to here was sent or is not of the prefix
	target kvstore.Revision // where a stream that does not follow ends
	quiet  time.Time        // since when nothing was sent
	slow   bool             // the client took long over some piece
}

// begin sends the headers at once: whoever follows sees that it is connected.
func (s *changeStream) begin() {
	h := s.paced.Header()
	h.Set("Content-Type", contentTypeNDJSON)
	if s.events {
		h.Set("Content-Type", contentTypeEvents)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold lines back
	h.Set("X-Content-Type-Options", "nosniff")
	s.paced.WriteHeader(http.StatusOK)
	_ = s.send(nil) // a client that has gone is noticed by the first line
}

// run sends until the end: that of the list, that of the client, or one that a
// last line explains. A list that is cut short is also broken off, because
// what was sent could pass for all of it.
func (s *changeStream) run() {
	reason, err := s.sendAll()
	switch {
	case reason == "":
		return
	case errors.Is(context.Cause(s.ctx), errPlaceNeeded):
		s.explain(api.EndOverloaded, err)
	case s.ctx.Err() != nil || errors.Is(err, errGone):
		s.logger.Debug("a reader of changes is gone, or read nothing for too long", "revision", uint64(s.at))
	default:
		s.explain(reason, err)
	}
	if !s.follow {
		panic(http.ErrAbortHandler)
	}
}

// explain sends the last line.
func (s *changeStream) explain(reason string, err error) {
	if reason == api.EndFailed {
		s.logger.Error("a stream of changes cannot continue", "revision", uint64(s.at), "err", err)
	} else {
		s.logger.Debug("ended a stream of changes", "reason", reason, "revision", uint64(s.at))
	}
	_ = s.mark(api.ChangesMark{Event: api.EventEnd, Reason: reason, Detail: endDetail(reason)})
}

func endDetail(reason string) string {
	const resume = "; continue with since= and history= of this line"
	switch reason {
	case api.EndClosing:
		return "this node is stopping" + resume + ", at another node"
	case api.EndHistory:
		return "this node no longer has the history that the stream was reading: ask again with history=, and the answer tells what there is now"
	case api.EndSlow:
		return "the stream was read too slowly" + resume
	case api.EndOverloaded:
		return "this node has too many answers in memory now" + resume + ", at another node or later"
	}
	return "this node cannot read any further; its log says why" + resume + ", at another node"
}

// sendAll returns why it ended, "" when nothing is left to send.
func (s *changeStream) sendAll() (reason string, err error) {
	for s.left > 0 && (s.follow || s.at < s.target) {
		reason, err := s.sendSome()
		switch {
		case reason != "":
			return reason, err
		case s.slow && s.follow:
			return api.EndSlow, nil
		case closed(s.closing):
			return api.EndClosing, nil
		}
		if s.follow && s.left > 0 {
			if reason, err := s.await(); reason != "" {
				return reason, err
			}
		}
	}
	return "", nil
}

// sendSome sends what the next look into history brings.
func (s *changeStream) sendSome() (reason string, err error) {
	held := int64(partCopies * partBytes)
	s.place.Working()
	room := s.memory.Hold(s.from, graceOf(s.idle), func() { s.paced.within(placeLinger) })
	s.paced.held = room
	defer func() {
		s.paced.held = nil
		room.Close()
	}()
	if reason := s.reserve(room, held); reason != "" {
		return reason, nil
	}
	part, err := s.db.Changes(s.ctx, kvstore.ChangesRequest{
		After: s.at, History: s.of.id, Prefix: s.prefix, Limit: int(min(s.left, partRecords)), LimitBytes: partBytes, Values: s.values,
	}, kvstore.Local)
	switch {
	case errors.Is(err, kvstore.ErrHistoryChanged):
		return api.EndHistory, nil
	case err != nil:
		return api.EndFailed, err
	case s.of.id.IsZero():
		s.of = s.names.named(part.History) // this node may have formed or joined its cluster meanwhile
	}
	if more := partCopies * valueBytes(part.Records); more > held {
		if reason := s.reserve(room, more); reason != "" {
			return reason, nil
		}
	}
	var lines bytes.Buffer
	for i := range part.Records {
		change := &part.Records[i]
		if !s.follow && change.Revision > s.target {
			break // set after the request came
		}
		if err := s.line(&lines, "", change.Revision, documentOfChange(change, s.values)); err != nil {
			return api.EndFailed, err
		}
		s.left--
	}
	part.Records = nil
	room.Keep(int64(lines.Len()))
	if lines.Len() > 0 {
		if err := s.send(lines.Bytes()); err != nil {
			return api.EndFailed, err
		}
	}
	s.at, s.newest = max(s.at, part.Scanned), part.Newest
	return "", nil
}

// valueBytes is what values take. Their escapes may take more, as JSON.
func valueBytes(records []kvstore.Change) (n int64) {
	for i := range records {
		n += int64(len(records[i].Value))
	}
	return n
}

// reserve waits a while for memory, and returns why the stream ends when there
// is none.
func (s *changeStream) reserve(room *budget.Holder, n int64) (reason string) {
	if room.Try(n) {
		return ""
	}
	ctx, end := untilClosed(s.ctx, s.closing)
	defer end()
	switch err := room.Acquire(ctx, n, s.answer); {
	case err == nil:
		return ""
	case closed(s.closing):
		return api.EndClosing
	case s.ctx.Err() != nil:
		return api.EndFailed
	}
	return api.EndOverloaded
}

// await returns when there may be more than was sent. It keeps the connection alive
// meanwhile.
func (s *changeStream) await() (reason string, err error) {
	if s.at < s.newest && time.Since(s.quiet) < s.heartbeat {
		return "", nil
	}
	beat := time.NewTimer(time.Until(s.quiet.Add(s.heartbeat)))
	defer beat.Stop()
	advanced := s.db.Advanced(s.at)
	if s.at < s.newest {
		advanced = nil // only the heartbeat is due, and is so at once
	}
	s.place.Resting()
	select {
	case <-advanced:
		return "", nil
	case <-beat.C:
		if err := s.mark(api.ChangesMark{Event: api.EventHeartbeat}); err != nil {
			return api.EndFailed, err
		}
		return s.beyond(), nil
	case <-s.closing:
		return api.EndClosing, nil
	case <-s.ctx.Done():
		return api.EndFailed, errGone
	}
}

// beyond ends a stream that waits for what will never be there: behind a revision that
// the whole cluster has not reached. As long as nobody confirms that, this node may be
// behind.
func (s *changeStream) beyond() (reason string) {
	if s.at <= s.newest || s.consistency == kvstore.Local {
		return ""
	}
	closing, end := untilClosed(s.ctx, s.closing)
	defer end()
	ctx, cancel := context.WithTimeout(closing, s.heartbeat/2)
	defer cancel()
	if _, err := s.look(ctx, s.at, s.of.id, kvstore.Linearizable); errors.Is(err, kvstore.ErrHistoryChanged) {
		return api.EndHistory
	}
	return ""
}

// mark sends a line that is no change. It tells no position that this node has not
// reached: a stream may wait for one.
func (s *changeStream) mark(m api.ChangesMark) error {
	at := min(s.at, s.newest)
	m.Revision, m.History = uint64(at), s.of.text
	var b bytes.Buffer
	if err := s.line(&b, m.Event, at, &m); err != nil {
		return err
	}
	return s.send(b.Bytes())
}

// line appends a document in the stream's format. Its id is where to go on, and left
// out where the stream still waits for what it was asked for.
func (s *changeStream) line(b *bytes.Buffer, event string, at kvstore.Revision, document any) error {
	text, err := marshal(document) // ends with a newline, and has no other
	if err != nil || !s.events {
		b.Write(text)
		return err
	}
	if at >= s.since {
		b.WriteString("id: " + api.Position{Revision: uint64(at), History: s.of.text}.String() + "\n")
	}
	if event != "" {
		b.WriteString("event: " + event + "\n")
	}
	b.WriteString("data: ")
	b.Write(text)
	b.WriteByte('\n')
	return nil
}

// send writes lines piece by piece, each under a fresh deadline, and flushes.
func (s *changeStream) send(lines []byte) error {
	for piece := range slices.Chunk(lines, pieceBytes) {
		if err := s.timed(len(piece), func() error { _, err := s.paced.Write(piece); return err }); err != nil {
			return err
		}
	}
	err := s.timed(0, s.paced.conn.Flush)
	s.quiet = time.Now()
	return err
}

// timed does one write of n bytes, and notes whether the client took long over it.
func (s *changeStream) timed(n int, write func() error) error {
	began := time.Now()
	s.place.Waiting()
	if err := errors.Join(s.paced.renew(), write()); err != nil {
		return errors.Join(errGone, err)
	}
	s.place.Moved(n)
	s.slow = s.slow || time.Since(began) > s.idle/2
	return nil
}
