package cachetier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// historyPatience is how long no database node of a cache node's history may answer, while
// others do, before the cache node moves to one that has nothing to do with it.
const historyPatience = time.Minute

// deafAfter is how long all database nodes may be silent before the silence says nothing about
// them: this node may have stood still, or been cut off.
const deafAfter = 3 * time.Second

// errElsewhere: the node that asks and the one that answers do not have the same history.
var errElsewhere = errors.New("it has another history")

// era is the time that a node spends in one history. It learns which one its database nodes
// have from the answers to heartbeats, and asks only nodes that have its own. It moves to a
// history that names its own as one that it went on from, or when no database node of its own
// has answered for a minute in which others did. Until a database node has told a history, a
// node is in none, and takes answers that name none.
//
// Whatever is loaded, held, asked of peers or answered to them belongs to one era. A move ends
// it: everything held is dropped, loads begin anew, streams end, and what old loads still
// bring is not held. A node never comes back to a history, so between two looks that find the
// same era there was no other one. So what takes something from memory, a load or a stream
// checks the era before and after.
type era struct {
	history kvstore.HistoryID // zero: no database node has told one yet
	ctx     context.Context   // parent of every load's; ends with the era
	end     context.CancelFunc

	generation uint64 // of what it adds to the memory
}

func newEra(base context.Context, history kvstore.HistoryID) *era {
	e := &era{history: history}
	e.ctx, e.end = context.WithCancel(base)
	return e
}

// named makes a request or an answer name the history.
func (e *era) named(h http.Header) {
	if text := e.text(); text != "" {
		h.Set(api.HeaderHistory, text)
	}
}

// text is the history's id, "" if there is none.
func (e *era) text() string {
	if e.history.IsZero() {
		return ""
	}
	return e.history.String()
}

// check returns errElsewhere if a request or an answer does not name this history.
func (e *era) check(h http.Header) (named kvstore.HistoryID, err error) {
	if text := h.Get(api.HeaderHistory); text != "" {
		if named, err = kvstore.ParseHistoryID(text); err != nil {
			return named, err
		}
	}
	if named != e.history {
		return named, fmt.Errorf("%w: %s, and this cache node has %s", errElsewhere, nameOf(named), nameOf(e.history))
	}
	return named, nil
}

// nameOf is an id for people.
func nameOf(id kvstore.HistoryID) string {
	if id.IsZero() {
		return "none"
	}
	return id.String()
}

// standing decides in which history a node is, by what database nodes tell.
type standing struct {
	own      kvstore.History     // with the parents that were told of it
	left     []kvstore.HistoryID // in which the node was before
	answered time.Time           // when a database node of own last answered, moved on by every silence of all
	heard    time.Time           // when any last told
}

// hear takes in what a database node has told, and returns why the node moves there, "" when
// it stays. The node moves to the first history that it hears of.
func (s *standing) hear(told kvstore.History, now time.Time) (why string) {
	if told.ID.IsZero() {
		return ""
	}
	if silence := now.Sub(s.heard); silence > deafAfter {
		s.answered = s.answered.Add(silence)
	}
	s.heard = now
	switch {
	case told.ID == s.own.ID:
		s.answered = now
		if len(told.Parents) > 0 {
			s.own = told
		}
		return ""
	case s.own.ID.IsZero():
		why = "it is the first one that a database node reported"
	case slices.Contains(s.left, told.ID) || s.own.DescendsFrom(told.ID):
		return "" // there is no way back
	case told.DescendsFrom(s.own.ID):
		why = "the new history continues it"
	case now.Sub(s.answered) >= historyPatience:
		why = fmt.Sprintf("no database node of it has answered for %v", now.Sub(s.answered).Round(time.Second))
	default:
		return ""
	}
	if !s.own.ID.IsZero() {
		s.left = append(s.left, s.own.ID)
	}
	s.own, s.answered = told, now
	return why
}

// historyIn reads what a database node tells of its history, without heads, which mean nothing
// here. One that makes no sense is none.
func historyIn(told *api.History) (h kvstore.History) {
	if told == nil {
		return h
	}
	id, err := kvstore.ParseHistoryID(told.ID)
	if err != nil {
		return h
	}
	h.ID = id
	for _, origin := range told.Parents {
		if id, err := kvstore.ParseHistoryID(origin.ID); err == nil {
			h.Parents = append(h.Parents, kvstore.Origin{ID: id, Revision: kvstore.Revision(origin.Revision)})
		}
	}
	return h
}
