package httpapi

import (
	"context"
	"errors"
	"math"
	"net/http"
	"sync/atomic"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// identity tells which history a DB holds, or a cache node stands in. It changes a few
// times in a cluster's life, and is in every answer that has a revision, so it is
// formatted once.
type identity struct {
	history func() kvstore.History
	db      Lister // nil of a cache node
	last    atomic.Pointer[namedHistory]
}

func newIdentity(db Lister) *identity { return &identity{history: db.History, db: db} }

// namedHistory is a history's id and what answers say of it.
type namedHistory struct {
	id     kvstore.HistoryID
	text   string   // "" for none
	header []string // shared by all answers; nil for none
}

// now returns the history that there is now.
func (i *identity) now() *namedHistory {
	id := i.history().ID
	if last := i.last.Load(); last != nil && last.id == id {
		return last
	}
	named := &namedHistory{id: id}
	if !id.IsZero() {
		named.text = id.String()
		named.header = []string{named.text}
	}
	i.last.Store(named)
	return named
}

// in makes the answers of a handler, errors too, name the history. It is the one that
// there is when the answer begins: what was found before that is part of it, for a
// history goes on from all that is there. A nil identity is that of a node that holds
// none.
func (i *identity) in(do handler) handler {
	if i == nil {
		return do
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		if a, ok := w.(*answer); ok {
			a.names = i
		}
		return do(w, r)
	}
}

// inWhenAsked is in for answers that anybody may keep for ever: they name the history
// to those who name theirs, as cache nodes do.
func (i *identity) inWhenAsked(do handler) handler {
	if i == nil {
		return do
	}
	named := i.in(do)
	return func(w http.ResponseWriter, r *http.Request) error {
		if len(r.Header[client.HeaderHistory]) > 0 {
			return named(w, r)
		}
		return do(w, r)
	}
}

// newest returns the newest revision.
func (i *identity) newest(ctx context.Context, c kvstore.Consistency) (kvstore.Revision, error) {
	probe, err := i.db.Changes(ctx, kvstore.ChangesRequest{After: math.MaxUint64, Limit: 1}, c)
	return probe.Newest, err
}

// refuse returns the 409 of a position in a history that the DB does not hold, nil if
// it holds it or none is named. The DB must not be behind.
func (i *identity) refuse(ctx context.Context, asked kvstore.HistoryID) error {
	if asked.IsZero() || i.now().id == asked {
		return nil
	}
	newest, err := i.newest(ctx, kvstore.Local)
	if err != nil {
		return err
	}
	return i.changed(asked, 0, newest)
}

func (i *identity) changed(asked kvstore.HistoryID, since, newest kvstore.Revision) *kvstore.HistoryChangedError {
	own := i.db.History()
	return &kvstore.HistoryChangedError{Asked: asked, Since: since, Newest: newest, History: own.ID, Parent: own.Parent()}
}

// elsewhere reports whether an error is about another history than the DB holds, which
// it never will, and not about a revision that it may reach.
func elsewhere(err error) bool {
	changed, ok := errors.AsType[*kvstore.HistoryChangedError](err)
	return ok && !changed.Asked.IsZero() && !changed.History.IsZero() && changed.Asked != changed.History
}

// ofHistory adds which history there is.
func (p *problem) ofHistory(e *kvstore.HistoryChangedError) *problem {
	p.document.Detail = e.Error()
	p.document.Newest = uint64(e.Newest)
	if !e.History.IsZero() {
		p.document.History = e.History.String()
	}
	if e.Parent != nil {
		parent := originOf(e.Parent)
		p.document.Parent = &parent
	}
	return p
}

// HistoryDocument is what documents say of a history, nil for none.
func HistoryDocument(h kvstore.History) *client.History {
	if h.ID.IsZero() {
		return nil
	}
	document := &client.History{ID: h.ID.String()}
	for i := range h.Parents {
		document.Parents = append(document.Parents, originOf(&h.Parents[i]))
	}
	return document
}

func originOf(o *kvstore.Origin) client.Origin {
	return client.Origin{ID: o.ID.String(), Revision: uint64(o.Revision), Head: o.Head.String()}
}
