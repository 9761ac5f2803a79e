package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// changes answers GET /changes: history as lines of JSON or as server-sent
// events.
type changes struct {
	db        Lister
	names     *identity
	logger    *slog.Logger
	idle      time.Duration // a write may take so long, and a follower's half of it
	answer    time.Duration // for what has to be waited for before the first byte, and for memory
	heartbeat time.Duration // a stream that follows is never silent for longer
	closing   <-chan struct{}
	memory    *budget.Budget // of parts of histories on their way
	streams   *budget.Budget // places
}

// changesQuery is what a request asks for.
type changesQuery struct {
	since       kvstore.Revision
	history     kvstore.HistoryID // that since is a revision of; zero: whichever there is
	prefix      kvstore.Key
	left        uint64 // records still to send
	values      bool
	follow      bool
	events      bool // as server-sent events
	consistency kvstore.Consistency
}

// list answers with a stream. Everything that can be refused is refused before
// it begins.
func (c *changes) list(w http.ResponseWriter, r *http.Request) error {
	q, err := changesQueryOf(r)
	if err != nil {
		return err
	}
	ctx, lose := context.WithCancelCause(r.Context())
	defer lose(nil)
	paced := newPacedWriter(w, c.idle)
	place := c.streams.Hold(hostOf(r), graceOf(c.idle), func() {
		lose(errPlaceNeeded)
		paced.within(placeLinger)
	})
	defer place.Close()
	if err := room(ctx, place, 1); err != nil {
		return err
	}
	if closed(c.closing) {
		return kvstore.ErrClosed
	}
	first, err := c.begin(ctx, &q)
	if err != nil {
		return err
	}
	of := c.names.named(first.History)
	of.nameIn(w)
	s := &changeStream{changes: c, changesQuery: q, ctx: ctx, from: hostOf(r), place: place, of: of, newest: first.Newest, at: q.since, target: first.Newest, paced: paced}
	s.begin()
	if r.Method != http.MethodHead {
		s.run()
	}
	return nil
}

// begin looks where the list begins, and how far it goes: to the newest revision that it
// finds. A stream that follows has no such end, and so needs nobody's confirmation: it
// shows every put as soon as this node has applied it. Only when it asks for what this
// node has not reached does the cluster say whether this node is behind. If nobody says
// it, that is waited for.
func (c *changes) begin(ctx context.Context, q *changesQuery) (kvstore.Changes, error) {
	if !q.follow {
		return c.look(ctx, q.since, q.history, q.consistency)
	}
	first, err := c.look(ctx, q.since, q.history, kvstore.Local)
	if err != nil || q.since <= first.Newest || q.consistency == kvstore.Local {
		return first, err
	}
	confirmed, err := c.look(ctx, q.since, q.history, kvstore.Linearizable)
	if err == nil || errors.Is(err, kvstore.ErrHistoryChanged) {
		return confirmed, err
	}
	return first, nil
}

// look finds what follows a revision of a history: one record, and how far there are.
func (c *changes) look(ctx context.Context, since kvstore.Revision, history kvstore.HistoryID, consistency kvstore.Consistency) (kvstore.Changes, error) {
	ctx, cancel := context.WithTimeout(ctx, c.answer)
	defer cancel()
	return c.db.Changes(ctx, kvstore.ChangesRequest{After: since, History: history, Limit: 1}, consistency)
}

func changesQueryOf(r *http.Request) (q changesQuery, err error) {
	p, err := parseQuery(r.URL.RawQuery, "since", "history", "limit", "prefix", "values", "follow", "consistency")
	if err != nil {
		return q, err
	}
	q.events = wantsEvents(r.Header)
	if q.since, q.history, err = sinceOf(p, r.Header, q.events); err != nil {
		return q, err
	}
	if q.left, err = p.number("limit", math.MaxInt64, math.MaxInt64); err != nil {
		return q, err
	}
	if q.prefix, err = p.prefix(); err != nil {
		return q, err
	}
	if q.values, err = p.truth("values"); err != nil {
		return q, err
	}
	if q.follow, err = p.truth("follow"); err != nil {
		return q, err
	}
	if _, given := p.lookup("follow"); q.events && given && !q.follow {
		return q, invalid(`follow=false cannot be combined with "Accept: text/event-stream": event streams always follow`)
	}
	q.follow = q.follow || q.events
	q.consistency, err = consistencyOf(p)
	return q, err
}

// sinceOf returns the revision after which to begin, and the history that it is of. Of
// an event stream the browser's Last-Event-ID counts: it connects again with the URL it
// began with.
func sinceOf(p parameters, h http.Header, events bool) (since kvstore.Revision, history kvstore.HistoryID, err error) {
	value := "0"
	if given, ok := p.lookup("since"); ok {
		value = given
	}
	from, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, history, invalid(`parameter "since" is %q; it takes a revision, a whole number from 0`, value)
	}
	if history, err = p.history(); err != nil {
		return 0, history, err
	}
	last := h.Get("Last-Event-ID")
	if !events || last == "" {
		return kvstore.Revision(from), history, nil
	}
	at, err := api.ParsePosition(last)
	switch {
	case err != nil:
		return 0, history, invalid("Last-Event-ID is %.80q; it takes the id of an event: a revision, a whole number from 0, and after a dot the history that it belongs to", last)
	case at.History == "":
		return kvstore.Revision(at.Revision), history, nil
	}
	history, err = parseHistory("what follows the dot of Last-Event-ID", at.History)
	return kvstore.Revision(at.Revision), history, err
}

const (
	contentTypeNDJSON = "application/x-ndjson"
	contentTypeEvents = "text/event-stream"
)

// wantsEvents reports whether a request accepts server-sent events by name.
func wantsEvents(h http.Header) bool {
	for _, line := range h["Accept"] {
		for part := range strings.SplitSeq(line, ",") {
			name, parameters, err := mime.ParseMediaType(part)
			if err != nil || name != contentTypeEvents {
				continue
			}
			if weight, given := parameters["q"]; !given || strings.Trim(weight, "0.") != "" {
				return true
			}
		}
	}
	return false
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// documentOfChange renders a record. The same record gives the same bytes on
// every node.
func documentOfChange(change *kvstore.Change, values bool) *api.Change {
	at := change.Time.UTC()
	document := &api.Change{Record: recordOf(&change.Meta)}
	document.Time = &at
	switch {
	case !values:
	case change.Value == nil || change.Size > api.ChangeValueBytesMax:
		document.Location = locationOf(change.Key)
	default:
		value, encoding := textOf(change.Value)
		document.Value, document.Encoding = &value, encoding
	}
	return document
}
