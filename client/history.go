package client

import (
	"cmp"
	"fmt"
	"sync"
)

// # Histories
//
// A revision alone does not say which put it is: a cluster that was restored, or
// forced out of another one, begins a history of its own, in which the same revision
// may be another put. So a Position has the history too, nodes name theirs on their
// answers (api.HeaderHistory) and in the heartbeats of streams, and iterators of changes
// and keys keep to the one that they began in: they send it along, compare it with what
// comes back, and end with a *HistoryChangedError at an endpoint that has another one.
// A stream of changes that waits is opened again when some other answer of the client,
// that of a put perhaps, names another history: the node it is from may have been left
// behind. To the put itself that is no error, and PutAnswer.History says it.

// HistoryChangedError ends a walk through a history that is not there any more: the
// cluster was restored, or forced out of another one. It is ErrHistoryChanged.
type HistoryChangedError struct {
	// Asked is the position that the walk stood at. Of a listing of keys it has the
	// history only.
	Asked Position

	History string  // the one there is now; empty if that is not known
	Parent  *Origin // where History went on from another one; nil if it began anew, or that is not known
	Newest  uint64  // revision of History; 0 if that is not known
	Detail  string  // of the server, if it said something
}

// Common is the revision up to which what was read is right in the new history, too:
// drop what came behind it, and go on from there with History. It is 0 if nothing is,
// or that is not known.
func (e *HistoryChangedError) Common() uint64 {
	if e.Parent == nil || e.Parent.ID != e.Asked.History {
		return 0
	}
	return min(e.Asked.Revision, e.Parent.Revision)
}

func (e *HistoryChangedError) Error() string {
	switch {
	case e.Detail != "":
		return e.Detail
	case e.Asked.History == "", e.Asked.History == e.History:
		return fmt.Sprintf("history %s ends at revision %d, before revision %d", cmp.Or(e.History, "unknown"), e.Newest, e.Asked.Revision)
	}
	return fmt.Sprintf("the history is %s now, no longer %s", e.History, e.Asked.History)
}

// Is reports whether target is ErrHistoryChanged.
func (e *HistoryChangedError) Is(target error) bool { return target == ErrHistoryChanged }

// histories knows which history the last answer was of, and lets those who read
// another one find out whether theirs is still there.
type histories struct {
	mu      sync.Mutex
	last    string
	readers map[*historyReader]struct{}
}

// historyReader is a stream of a history.
type historyReader struct {
	history string
	others  map[string]bool // that it knows about
	tell    func()
}

// heard takes in the history that an answer names, empty for none.
func (h *histories) heard(history string) {
	if history == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == history {
		return
	}
	h.last = history
	for r := range h.readers {
		r.hear(history)
	}
}

// hear is called under the mu of histories.
func (r *historyReader) hear(history string) {
	if history != r.history && !r.others[history] {
		r.others[history] = true
		r.tell()
	}
}

// read lets r hear of other histories, each once, until stop is called. tell must not
// wait for anything.
func (h *histories) read(r *historyReader) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers == nil {
		h.readers = make(map[*historyReader]struct{})
	}
	h.readers[r] = struct{}{}
	if h.last != "" {
		r.hear(h.last)
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.readers, r)
	}
}
