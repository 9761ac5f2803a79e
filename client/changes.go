package client

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// ChangesOptions are the choices of a walk through the history. The zero value
// is all of it, without values.
type ChangesOptions struct {
	// Since is the revision to begin after; 0 is the beginning of time.
	Since uint64

	// History is the history that Since is a revision of, as Change.Position has
	// it. When it is empty the walk keeps to the one that it finds.
	History string

	// Prefix leaves out changes of keys that do not begin with it.
	Prefix string

	// Follow goes on with changes as they happen, until the context ends, and
	// whatever happens to the nodes: while none can be reached, it keeps trying.
	Follow bool

	// Values brings along the values of at most api.ChangeValueBytesMax; their
	// digests are verified.
	Values bool

	// Limit ends the walk after so many changes; 0 for no limit.
	Limit int

	// OnBreak, if not nil, is called when a stream broke off, or no node could
	// be reached for Config.RetryTimeout, and the walk goes on. It runs between
	// two elements of the loop.
	OnBreak func(err error)
}

// Changes walks through the history: every put above Since once, in order of
// revisions. That none is missing is checked where there is no prefix. A stream that
// breaks off, stands still, skips or repeats is resumed after the last revision seen,
// on whichever endpoint answers. Revisions that are no puts, but something that this
// package does not know, are passed over.
//
// Without Follow the walk ends with what was acknowledged before it began, or a
// little later. With Follow it ends with ctx, or with a request that is refused
// as invalid. An error ends the loop and is its last element; the end of ctx is
// one.
//
// A walk never goes on in another history than it began in. When an endpoint has
// another one, or does not reach the revision that the walk is at, it ends with a
// *HistoryChangedError.
//
//	for change, err := range c.Changes(ctx, client.ChangesOptions{Since: at.Revision, History: at.History, Follow: true}) {
//		var changed *client.HistoryChangedError
//		switch {
//		case errors.As(err, &changed):
//			drop(changed.Common())       // what was read behind this revision need not be there any more
//			at = client.Position{Revision: changed.Common(), History: changed.History}
//		case err != nil:
//			return err
//		default:
//			at = change.Position()       // at.String() may be kept, for ParsePosition
//		}
//	}
func (c *Client) Changes(ctx context.Context, opts ChangesOptions) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		f := &feed{client: c, opts: opts, at: Position{Revision: opts.Since, History: opts.History}, others: make(map[string]bool), left: opts.Limit, yield: yield, stuck: time.Now()}
		if err := f.run(ctx); err != nil && err != errLoopEnded {
			yield(Change{}, err)
		}
	}
}

const opChanges = "read changes"

// followIdle is how long a followed stream may be silent: three heartbeats.
const followIdle = 15 * time.Second

// errLoopEnded: the caller has broken its loop, or has all it wanted.
var errLoopEnded = errors.New("loop ended")

// feed is one walk.
type feed struct {
	client *Client
	opts   ChangesOptions
	yield  func(Change, error) bool

	at         Position        // where the walk stands
	others     map[string]bool // histories that some endpoint was found to have, and the walk's did not end
	left       int             // of opts.Limit
	passed     bool            // the stream had something that is no put
	moved      bool            // since the last break
	stuck      time.Time       // since when the walk has not moved, as of the last break
	breaks     int             // without progress in between
	violations int             // of those, the ones where a node said what cannot be
}

// run reads one stream after the other.
func (f *feed) run(ctx context.Context) error {
	for {
		err := f.stream(ctx)
		switch {
		case err == nil && !f.opts.Follow && !(f.passed && f.opts.Limit > 0), err == errLoopEnded:
			return err // what was passed counts for the node's limit, but not for ours
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", opChanges, ctx.Err())
		}
		if err := f.afterBreak(ctx, err); err != nil {
			return err
		}
	}
}

// afterBreak decides whether to go on after a stream ended with cause, nil for
// an orderly end.
func (f *feed) afterBreak(ctx context.Context, cause error) error {
	f.breaks++
	if f.moved {
		f.moved, f.breaks, f.violations, f.stuck = false, 0, 0, time.Now()
	}
	var lost *EndpointError   // a stream broke off
	var nobody *RequestError  // no stream could be opened
	var wrong *violationError // a node contradicts the history
	switch {
	case errors.As(cause, &wrong):
		if f.violations++; f.violations > len(f.client.endpoints) {
			return fmt.Errorf("%s: %w", opChanges, cause)
		}
	case errors.As(cause, &nobody):
		if _, limited := ctx.Deadline(); limited || !f.opts.Follow || nobody.Cause == ErrNobodyListens {
			return cause
		}
	case cause != nil && !errors.As(cause, &lost):
		return cause
	}
	if cause != nil && f.opts.OnBreak != nil {
		f.opts.OnBreak(cause)
	}
	if f.breaks == 0 {
		return nil
	}
	pause := backoff(f.breaks-1, 0)
	if !f.opts.Follow && lost != nil && time.Since(f.stuck)+pause > f.client.retryTimeout {
		return &RequestError{Op: opChanges, Kind: ErrUnavailable, Endpoints: []*EndpointError{lost}}
	}
	if err := f.client.wait(ctx, pause); err != nil {
		return fmt.Errorf("%s: %w", opChanges, err)
	}
	return nil
}

// errOtherHistory ends a stream whose history may not be there any more.
var errOtherHistory = errors.New("another history was seen meanwhile; asking whether this one is still there")

// stream reads one answer to its end.
func (f *feed) stream(ctx context.Context) error {
	f.passed = false
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req := &call{op: opChanges, method: http.MethodGet, target: "/changes" + f.query()}
	if f.opts.Follow {
		req.idle = max(f.client.idleTimeout, followIdle)
	}
	resp, err := f.client.do(ctx, req)
	var changed *HistoryChangedError
	if errors.As(err, &changed) {
		changed.Asked = f.at
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := f.of(resp.Header.Get(api.HeaderHistory)); err != nil {
		return fmt.Errorf("%s: %w", opChanges, err)
	}
	defer f.client.histories.read(&historyReader{history: f.at.History, others: f.others, tell: func() { cancel(errOtherHistory) }})()
	lines := newLineReader(resp.Body)
	for {
		line, err := lines.next()
		if err == nil {
			err = f.take(line)
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF:
			return nil
		case err == errLoopEnded:
			return err
		case context.Cause(ctx) == errOtherHistory:
			err = errOtherHistory
		}
		return f.lost(req.endpoint, err)
	}
}

// of compares the history that a node names with the walk's, which is the first one
// that was named.
func (f *feed) of(history string) error {
	switch {
	case history == "", history == f.at.History:
		return nil
	case f.at.History == "":
		f.at.History = history
		return nil
	}
	return &HistoryChangedError{Asked: f.at, History: history}
}

// lost is a stream that did not reach its end. What the node refused for good
// is not its loss.
func (f *feed) lost(endpoint int, err error) error {
	lost := &EndpointError{Endpoint: f.client.endpoints[endpoint], Sent: true, Err: err}
	if !retriable(lost) {
		return fmt.Errorf("%s: %w", opChanges, err)
	}
	f.client.ranking.failed(endpoint, time.Now())
	return lost
}

func (f *feed) query() string {
	q := url.Values{"since": {strconv.FormatUint(f.at.Revision, 10)}}
	if f.at.History != "" {
		q.Set("history", f.at.History)
	}
	if f.opts.Prefix != "" {
		q.Set("prefix", f.opts.Prefix)
	}
	if f.opts.Values {
		q.Set("values", "true")
	}
	if f.opts.Follow {
		q.Set("follow", "true")
	}
	if f.opts.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.left))
	}
	return encodeQuery(q)
}

// changeLine is a line of GET /changes: a Change, or an api.ChangesMark.
type changeLine struct {
	Change
	Event   string `json:"event"`
	History string `json:"history"`
	Reason  string `json:"reason"`
	Detail  string `json:"detail"`
}

// take handles one line.
func (f *feed) take(data []byte) error {
	line, err := readChange(data)
	if err != nil {
		return err
	}
	put := line.Type == ""
	if line.Event != "" || put && line.Key == "" && line.KeyBase64 == "" {
		return f.mark(&line)
	}
	if put {
		if err := line.check(); err != nil {
			return err
		}
	}
	dense := f.opts.Prefix == ""
	if r := line.Revision; r <= f.at.Revision || dense && r != f.at.Revision+1 {
		return violation("revision %d after %d", r, f.at.Revision)
	}
	f.at.Revision, f.moved = line.Revision, true
	if !put {
		f.passed = true
		return nil
	}
	line.Change.History = f.at.History
	more := f.yield(line.Change, nil)
	if f.left--; !more || f.left == 0 {
		return errLoopEnded
	}
	return nil
}

// readChange reads a line. Of one with a type nothing else than its revision has to be
// as it is with puts.
func readChange(data []byte) (line changeLine, err error) {
	if err = decodeLine(data, &line); err == nil {
		return line, nil
	}
	var other struct {
		Type     string `json:"type"`
		Revision uint64 `json:"revision"`
	}
	if json.Unmarshal(data, &other) != nil || other.Type == "" {
		return changeLine{}, err
	}
	return changeLine{Change: Change{Type: other.Type, Record: Record{Revision: other.Revision}}}, nil
}

// mark moves the walk over revisions that the prefix left out, and ends the
// stream where the node does.
func (f *feed) mark(line *changeLine) error {
	if err := f.of(line.History); err != nil {
		return err
	}
	switch scanned := line.Revision; {
	case scanned > f.at.Revision && f.opts.Prefix == "":
		return violation("everything up to revision %d was sent, after %d", scanned, f.at.Revision)
	case scanned > f.at.Revision:
		f.at.Revision, f.moved = scanned, true
	}
	if line.Event == api.EventEnd {
		return fmt.Errorf("the node ended the stream (%s): %s", line.Reason, line.Detail)
	}
	return nil
}

// check verifies the key and the value of a change.
func (l *changeLine) check() error {
	if _, err := l.RawKey(); err != nil {
		return violation("revision %d: %w", l.Revision, err)
	}
	value, carried, err := l.Bytes()
	if err != nil {
		return violation("revision %d: %w", l.Revision, err)
	}
	if sum := sha256.Sum256(value); carried && digestText(&sum) != l.SHA256 {
		return violation("revision %d: %w", l.Revision, ErrDigestMismatch)
	}
	return nil
}
