package httpapi

import (
	"net/http"
	"sync/atomic"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// identity tells which history a DB holds, or a cache node stands in. It changes a few
// times in a cluster's life, and is in every answer that has a revision, so it is
// formatted once.
type identity struct {
	history func() kvstore.History
	last    atomic.Pointer[namedHistory]
}

// namedHistory is a history's id and what answers say of it.
type namedHistory struct {
	id     kvstore.HistoryID
	text   string   // "" for none
	header []string // shared by all answers; nil for none
}

// now returns the history that there is now.
func (i *identity) now() *namedHistory { return i.named(i.history().ID) }

// named returns what answers say of a history, as a rule that which there is now.
func (i *identity) named(id kvstore.HistoryID) *namedHistory {
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

// nameIn makes an answer name the history that its revisions are of. When it begins there
// may be another one already; whoever goes on from it is told then.
func (h *namedHistory) nameIn(w http.ResponseWriter) {
	if a, ok := w.(*answer); ok {
		a.of = h
	}
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
		if len(r.Header[api.HeaderHistory]) > 0 {
			return named(w, r)
		}
		return do(w, r)
	}
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
func HistoryDocument(h kvstore.History) *api.History {
	if h.ID.IsZero() {
		return nil
	}
	document := &api.History{ID: h.ID.String()}
	for i := range h.Parents {
		document.Parents = append(document.Parents, originOf(&h.Parents[i]))
	}
	return document
}

func originOf(o *kvstore.Origin) api.Origin {
	return api.Origin{ID: o.ID.String(), Revision: uint64(o.Revision), Head: o.Head.String()}
}
