package httpapi

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// historyNamed is a history whose id ends with a letter.
func historyNamed(t *testing.T, letter string) kvstore.History {
	t.Helper()
	id, err := kvstore.ParseHistoryID("0000000000000000000000000000000" + letter)
	if err != nil {
		t.Fatal(err)
	}
	return kvstore.History{ID: id}
}

// A cache node names the history that its answers are of: its own.
func TestCache_NamesItsHistory(t *testing.T) {
	t.Parallel()
	own := historyNamed(t, "c")
	stands := own
	cache, database, _ := newCacheNode(t, func(c *CacheConfig) { c.History = func() kvstore.History { return stands } })
	database.put("/key/k", "v")
	for path, status := range map[string]int{"/key/k": 200, "/key?key=k": 200, "/key/k?format=json": 200, "/key/absent": 404, "/stats": 200, "/ping": 200} {
		if got := want(t, cache.get(path), status).header.Get(api.HeaderHistory); got != own.ID.String() {
			t.Errorf("%s is of history %q", path, got)
		}
	}
	stands = kvstore.History{}
	if got, given := want(t, cache.get("/key/k"), 200).header[api.HeaderHistory]; given {
		t.Errorf("a node that stands in no history names %q", got)
	}
}

// moving is a Reader of a node that moves while it looks for a value.
type moving struct {
	history atomic.Pointer[kvstore.History]
	next    kvstore.History
	values  map[kvstore.HistoryID]*kvstore.Value
}

func (m *moving) Get(context.Context, kvstore.Key, kvstore.Consistency) (*kvstore.Value, string, error) {
	v := m.values[m.history.Load().ID] // before the move
	m.history.Store(&m.next)
	return v, "load", nil
}

func TestCache_MovesDuringARead(t *testing.T) {
	t.Parallel()
	before := historyNamed(t, "a")
	m := &moving{next: historyNamed(t, "b"), values: map[kvstore.HistoryID]*kvstore.Value{}}
	m.history.Store(&before)
	for id, value := range map[kvstore.HistoryID]string{before.ID: "old", m.next.ID: "new"} {
		m.values[id] = kvstore.NewValue(kvstore.Meta{Key: "k", Revision: 1, Size: int64(len(value))}, []byte(value))
	}
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) {
		c.Reader = m
		c.History = func() kvstore.History { return *m.history.Load() }
	})
	a := want(t, cache.get("/key/k"), 200)
	if a.header.Get(api.HeaderHistory) != m.next.ID.String() || a.body != "new" {
		t.Errorf("the value %q as one of history %s", a.body, a.header.Get(api.HeaderHistory))
	}
}

// A database node names the history of a value, or of its absence, to those who ask
// for it: cache nodes do.
func TestDatabase_NamesTheHistoryOfAValue(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	own := historyNamed(t, "d")
	n.db.held = own
	n.put("/key/k", "v")
	for path, status := range map[string]int{"/key/k": 200, "/key?key=k": 200, "/key/absent": 404, "/key/k?consistency=local": 200} {
		for _, asked := range []string{"", own.ID.String(), historyNamed(t, "e").ID.String(), "nonsense"} {
			var lines []string
			wanted := ""
			if asked != "" {
				lines, wanted = append(lines, api.HeaderHistory+": "+asked), own.ID.String()
			}
			if got := want(t, n.get(path, lines...), status).header.Get(api.HeaderHistory); got != wanted {
				t.Errorf("%s, asked as %q: history %q", path, asked, got)
			}
		}
	}
}
