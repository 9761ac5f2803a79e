package cachetier

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

func TestNode_Get_FallsBackThroughAllDatabases(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dead, busy, silent, good := newFakeDB(t, keys), newFakeDB(t, keys), newFakeDB(t, keys), newFakeDB(t, keys)
	dead.Close()
	busy.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		writeProblem(w, api.Problem{Type: api.ProblemUnavailable, Status: 503, Detail: "no leader"})
		return true
	})
	silent.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		io.WriteString(w, "<html>not a database")
		return true
	})
	n := newTestNode(t, frozen, dead, busy, silent, good)
	mustGet(t, n, keys.put("k", []byte("v")))
	mustGet(t, n, keys.put("k2", []byte("v")))
	if reads := good.readsOf("k2"); reads != 1 {
		t.Errorf("the second key was read %d times from the database that works", reads)
	}
	if reads := busy.readsOf("k2") + silent.readsOf("k2"); reads != 0 {
		t.Errorf("databases that had just failed were asked first, %d times", reads)
	}
}

func TestNode_Get_OnlyTheAPIs404IsAbsence(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	stranger, good := newFakeDB(t, keys), newFakeDB(t, keys)
	stranger.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		http.NotFound(w, r)
		return true
	})
	n := newTestNode(t, nil, stranger, good)
	n.databases.begin([]string{stranger.URL, good.URL})
	mustGet(t, n, keys.put("k", []byte("v")))
}

func TestNode_Get_HedgesASlowDatabase(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	slow, fast := newFakeDB(t, keys), newFakeDB(t, keys)
	release, asked := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		once.Do(func() { close(asked) })
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return false
	})
	defer close(release)
	fast.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		select { // an answer would take back the request to the slow one
		case <-asked:
		case <-r.Context().Done():
		}
		return false
	})
	n := newTestNode(t, func(cfg *NodeConfig) { cfg.HedgeDelay = time.Millisecond }, slow, fast)
	n.databases.begin([]string{slow.URL, fast.URL})
	mustGet(t, n, keys.put("k", []byte("v")))
	if n.fetcher.hedges.Load() != 1 || slow.readsOf("k") != 1 {
		t.Errorf("%d hedges, %d reads of the slow database", n.fetcher.hedges.Load(), slow.readsOf("k"))
	}
	more := 0
	eventually(t, "the fast database is preferred", func() bool {
		more++
		mustGet(t, n, keys.put(fmt.Sprint("more-", more), []byte("v")))
		return n.databases.preference(kvstore.HistoryID{})[0].url == fast.URL
	})
}

func TestNode_Get_WithoutAnyDatabase(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	var beats sync.WaitGroup
	if err := n.Ready(t.Context()); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("ready before anything answered: %v", err)
	}
	eventually(t, "it is ready after a heartbeat", func() bool {
		n.round(t.Context(), &beats)
		beats.Wait()
		return n.Ready(t.Context()) == nil
	})
	held := keys.put("held", []byte("v"))
	mustGet(t, n, held)
	db.Close()
	if source := mustGet(t, n, held); source != sourceHit {
		t.Errorf("held value came by %s", source)
	}
	_, _, err := n.Get(t.Context(), "other", kvstore.Linearizable)
	if !errors.Is(err, kvstore.ErrUnavailable) || errors.Is(err, kvstore.ErrNotFound) || !strings.Contains(err.Error(), db.URL) {
		t.Errorf("get without a database: %v, want ErrUnavailable that names it", err)
	}
	now := n.now
	n.now = func() time.Time { return now().Add(4 * time.Second) }
	if err := n.Ready(t.Context()); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("ready 4 s after the last answer: %v", err)
	}
}

func TestNode_Get_WrongBytesOfADatabaseAreRefused(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	liar, good := newFakeDB(t, keys), newFakeDB(t, keys)
	want := keys.put("k", []byte("the value"))
	liar.onRequest(func(w http.ResponseWriter, r *http.Request, key string) bool {
		v, _ := keys.get(key)
		v.body = bytes.ToUpper(v.body)
		serveFake(w, r, v)
		return true
	})
	n := newTestNode(t, nil, liar, good)
	n.databases.begin([]string{liar.URL, good.URL})
	mustGet(t, n, want)
	alone := newTestNode(t, nil, liar)
	if _, _, err := alone.Get(t.Context(), "k", kvstore.Linearizable); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("get from the liar alone: %v", err)
	}
}
