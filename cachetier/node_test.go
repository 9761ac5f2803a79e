package cachetier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

func TestNew_RefusesBadConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []NodeConfig{
		{}, {Name: "c", URL: "http://c"}, {Name: "c", URL: "c", Nodes: []string{"http://n"}}, {Name: "c", URL: "http://c", Nodes: []string{"n"}},
		{Name: "c", URL: "http://c/path", Nodes: []string{"http://n"}}, {Name: "c", URL: "http://c", Nodes: []string{"http://n"}, CacheBytes: -1},
		{URL: "http://c", Nodes: []string{"http://n"}}, {Name: "a b", URL: "http://c", Nodes: []string{"http://n"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) is fine", cfg)
		}
	}
}

func TestNode_Get_EveryKeyIsExactThroughEveryNode(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 3, nil, newFakeDB(t, keys), newFakeDB(t, keys))
	names := []string{"a", "a b", "a+b", "a%20b", "a/b", "a//b", "a%2Fb", "..", ".", "a/../b", "./a", "a/", "/a", "a?b#c", "a&b=c;d", "%", "\xff\xfe", "\x01",
		"ünï/日本", strings.Repeat("k", 1024), strings.Repeat("\xff", 1024), strings.Repeat("../", 341)}
	for b := 1; b < 256; b++ {
		names = append(names, "byte-"+string([]byte{byte(b)})+"-")
	}
	for _, name := range names {
		keys.put(name, []byte("value of "+name))
	}
	sources := map[string]int{}
	for _, name := range names {
		want, _ := keys.get(name)
		for range 2 {
			for _, n := range nodes {
				sources[mustGet(t, n, want)]++
			}
		}
	}
	if sources[sourceHit] == 0 || sources[sourcePeer] == 0 || sources[sourceLoad] == 0 {
		t.Errorf("sources %v: every way of answering must have been used", sources)
	}
}

func TestNode_Get_ColdKeyIsReadOnce(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 3, nil, db)
	want := keys.put("cold", []byte("value"))
	entered, release := make(chan struct{}, 200), make(chan struct{})
	db.onRequest(func(http.ResponseWriter, *http.Request, string) bool {
		entered <- struct{}{}
		<-release
		return false
	})
	var callers sync.WaitGroup
	for i := range 200 {
		callers.Go(func() { mustGet(t, nodes[i%3], want) })
	}
	receive(t, "the first read", entered)
	eventually(t, "all callers have arrived", func() bool {
		sum := uint64(0)
		for _, n := range nodes {
			sum += n.counters.gets.Load()
		}
		return sum == 200
	})
	close(release)
	callers.Wait()
	if n := db.readsOf("cold"); n != 1 {
		t.Errorf("%d database reads for 200 callers on 3 nodes, want 1 by the owner", n)
	}
}

func TestNode_Get_AbsenceIsNotCached(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	for _, owner := range nodes {
		key := keyOwnedBy(t, nodes[0], owner)
		for i := range 3 {
			if _, _, err := nodes[0].Get(t.Context(), key, kvstore.Linearizable); !errors.Is(err, kvstore.ErrNotFound) {
				t.Fatalf("get: %v", err)
			}
			if n := db.readsOf(string(key)); n != i+1 {
				t.Errorf("%d database reads after %d gets of an absent key: each must ask, once", n, i+1)
			}
		}
		mustGet(t, nodes[0], keys.put(string(key), []byte("now")))
	}
	if n := nodes[0].counters.absences.Load(); n != 6 {
		t.Errorf("%d absences counted, want 6", n)
	}
}

// A load looks before the put and answers after it; whoever comes after the
// put was acknowledged must not get the old absence, whether the load is this
// node's own or its owner's.
func TestNode_Get_PutAcknowledgedBeforeTheCallerIsNeverHidden(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"own load", "through a peer", "two nodes ask the owner"} {
		t.Run(where, func(t *testing.T) {
			keys := newFakeKeys()
			db := newFakeDB(t, keys)
			nodes := newTestNodes(t, 3, nil, db)
			owner, first, later := nodes[0], nodes[0], nodes[0]
			switch where {
			case "through a peer":
				first, later = nodes[1], nodes[1]
			case "two nodes ask the owner":
				first, later = nodes[1], nodes[2]
			}
			key := keyOwnedBy(t, first, owner)
			entered, release := make(chan struct{}), make(chan struct{})
			var looked atomic.Bool
			db.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				if looked.Swap(true) {
					return false
				}
				close(entered) // it has looked, and found nothing
				<-release
				answerAbsent(w)
				return true
			})
			early := make(chan error, 1)
			go func() {
				_, _, err := first.Get(t.Context(), key, kvstore.Linearizable)
				early <- err
			}()
			receive(t, "the early load has looked", entered)
			want := keys.put(string(key), []byte("acknowledged"))

			const late = 20
			results := make(chan error, late)
			ticks := later.clock.Load()
			for range late {
				go func() {
					v, _, err := later.Get(t.Context(), key, kvstore.Linearizable)
					if err == nil && v.SHA256 != want.meta.SHA256 {
						err = errors.New("wrong value")
					}
					results <- err
				}()
			}
			eventually(t, "the late callers have arrived", func() bool { return later.clock.Load() >= ticks+late })
			close(release)
			for range late {
				if err := receive(t, "a late caller", results); err != nil {
					t.Errorf("a caller who came after the put: %v", err)
				}
			}
			if err := receive(t, "the early caller", early); !errors.Is(err, kvstore.ErrNotFound) {
				t.Errorf("the caller who came before the put: %v", err)
			}
			if n := db.readsOf(string(key)); n != 2 {
				t.Errorf("%d database reads, want 2: late callers share one round", n)
			}
		})
	}
}

func TestNode_Load_DiscardsAbsenceOfAnEarlierFlight(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	db.onRequest(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		once.Do(func() { close(entered); <-release })
		return false
	})
	_, flight, err := n.owned.join(n.era.Load(), "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, "the load", entered)
	_, same, _ := n.owned.join(n.era.Load(), "k", nil)
	if same != flight {
		t.Fatal("a second caller got another flight while one is in progress")
	}
	arrived := n.tick()
	close(release)
	receive(t, "the flight's end", flight.done)
	if flight.start >= arrived || !errors.Is(flight.err, errAbsent) {
		t.Fatalf("flight began at %d, caller came at %d, %v", flight.start, arrived, flight.err)
	}
	if _, next, _ := n.owned.join(n.era.Load(), "k", nil); next == flight {
		t.Error("a finished flight was handed to a later caller")
	} else {
		receive(t, "the next flight's end", next.done)
		if next.start <= arrived {
			t.Errorf("the next flight began at %d, before the caller came at %d", next.start, arrived)
		}
	}
}

// TestNode_Load_OneSecondLookupForAllWhoCameDuringTheFirst: also for a caller
// who wakes up when that is over, too.
func TestNode_Load_OneSecondLookupForAllWhoCameDuringTheFirst(t *testing.T) {
	t.Parallel()
	db := newFakeDB(t, newFakeKeys())
	n := newTestNode(t, nil, db)
	_, first, err := n.owned.join(n.era.Load(), "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, "the first load's end", first.done)
	var second *flight
	for range 3 {
		_, next, err := n.owned.join(n.era.Load(), "k", first)
		if err != nil {
			t.Fatal(err)
		}
		receive(t, "the second load's end", next.done)
		if second == nil {
			second = next
		}
		if next != second || next == first {
			t.Error("callers of one load were given different second ones")
		}
	}
	if reads := db.readsOf("k"); reads != 2 {
		t.Errorf("%d database reads of an absent key, want 2", reads)
	}
}

func TestNode_Get_FirstCallerLeavesOthersStay(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	for _, owner := range nodes {
		n := nodes[0]
		want := keys.put(string(keyOwnedBy(t, n, owner)), []byte("value"))
		entered, release := make(chan struct{}, 2), make(chan struct{})
		db.onRequest(func(http.ResponseWriter, *http.Request, string) bool {
			entered <- struct{}{}
			<-release
			return false
		})
		ctx, cancel := context.WithCancel(t.Context())
		first, others := make(chan error, 1), make(chan error, 10)
		go func() {
			_, _, err := n.Get(ctx, want.meta.Key, kvstore.Linearizable)
			first <- err
		}()
		receive(t, "the load", entered)
		for range cap(others) {
			go func() {
				_, _, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
				others <- err
			}()
		}
		cancel()
		if err := receive(t, "the caller who left", first); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller who left got %v", err)
		}
		close(release)
		for range cap(others) {
			if err := receive(t, "another caller", others); err != nil {
				t.Errorf("another caller: %v", err)
			}
		}
		if reads := db.readsOf(string(want.meta.Key)); reads != 1 {
			t.Errorf("%d reads, want the first caller's to go on", reads)
		}
	}
}

// panicky is a transport that panics once.
type panicky struct {
	http.RoundTripper
	armed atomic.Bool
}

func (p *panicky) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.armed.Swap(false) {
		panic("bug in the transport")
	}
	return p.RoundTripper.RoundTrip(r)
}

func TestNode_Get_PanicDoesNotWedgeTheKey(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n := nodes[0]

	t.Run("database read", func(t *testing.T) {
		want := keys.put(string(keyOwnedBy(t, n, n)), []byte("v"))
		p := &panicky{RoundTripper: n.fetcher.http.Transport}
		p.armed.Store(true)
		n.fetcher.http.Transport = p
		if _, _, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable); err == nil || !strings.Contains(err.Error(), "bug in the transport") {
			t.Errorf("get: %v, want the panic as an error", err)
		}
		mustGet(t, n, want)
	})
	t.Run("peer", func(t *testing.T) {
		want := keys.put(string(keyOwnedBy(t, n, nodes[1]))+"", []byte("v"))
		p := &panicky{RoundTripper: n.peerHTTP.Transport}
		p.armed.Store(true)
		n.peerHTTP.Transport = p
		if source := mustGet(t, n, want); source != sourceLoad {
			t.Errorf("source %s, want a load in place of the peer that panicked", source)
		}
	})
	t.Run("choice of the owner", func(t *testing.T) {
		old := n.view.Swap(&view{})
		want := keys.put("owner-panics", []byte("v"))
		mustGet(t, n, want)
		n.view.Store(old)
	})
	t.Run("groupcache itself", func(t *testing.T) {
		want := keys.put("group-panics", []byte("v"))
		flight := &flight{start: n.tick(), done: make(chan struct{})}
		(&tier{node: n.Node}).fly(flight, "group-panics")
		receive(t, "the flight's end", flight.done)
		if !errors.Is(flight.err, errPanic) {
			t.Errorf("flight ended with %v", flight.err)
		}
		mustGet(t, n, want)
	})
}

func TestNode_Get_DeadOwner(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n, owner := nodes[0], nodes[1]
	key := string(keyOwnedBy(t, n, owner))
	owner.server.Close()
	if source := mustGet(t, n, keys.put(key, []byte("v"))); source != sourceLoad {
		t.Errorf("source %s", source)
	}
	if !n.view.Load().peers[owner.server.URL].down.Load() {
		t.Error("a dead owner is still asked")
	}
	if n.counters.peerErrors.Load() != 1 {
		t.Errorf("%d peer errors", n.counters.peerErrors.Load())
	}
}

// A hung owner delays the loads that have begun to ask it, all at the same time,
// and none that begin later, until it moves again.
func TestNode_Get_HungOwnerDelaysOnceThenNothingThenIsBack(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"stream", "new stream", "plain HTTP"} {
		t.Run(way, func(t *testing.T) {
			keys := newFakeKeys()
			db := newFakeDB(t, keys)
			nodes := newTestNodes(t, 2, func(cfg *NodeConfig) {
				cfg.HedgeDelay, cfg.PeerTimeout = 500*time.Millisecond, 2*time.Second
			}, db)
			n, owner := nodes[0], nodes[1]
			owner.plain.Store(way == "plain HTTP")
			owned, burst := ownedKeys(t, n, owner, 2000), 100
			for _, key := range owned {
				keys.put(key, []byte(key))
			}
			get := func(key string) string {
				want, _ := keys.get(key)
				return mustGet(t, n, want)
			}
			next := 1010
			var beats sync.WaitGroup
			asksOwner := func() bool { // in a moment in which the machine lets it answer in time
				n.round(t.Context(), &beats)
				beats.Wait()
				next++
				return get(owned[next]) == sourcePeer
			}
			db.registry.Heartbeat("127.0.0.1", api.Heartbeat{Name: "owner", URL: owner.server.URL})
			if way != "new stream" {
				eventually(t, "the owner is asked", asksOwner)
			}
			owner.hang.set()
			var loads sync.WaitGroup
			for _, key := range owned[:burst] {
				loads.Go(func() {
					if source := get(key); source != sourceLoad {
						t.Errorf("source %s while the owner hangs", source)
					}
				})
			}
			loads.Wait()
			asked := func() uint64 { return n.counters.peerHedges.Load() + n.counters.peerErrors.Load() }
			before := asked()
			if before == 0 {
				t.Error("nobody has noticed that the owner hangs")
			}
			for _, key := range owned[1000:1010] {
				get(key)
			}
			if more := asked() - before; more != 0 {
				t.Errorf("the owner was asked %d times after it had been found silent", more)
			}
			n.round(t.Context(), &beats)
			beats.Wait()
			p := n.view.Load().peers[owner.server.URL]
			if p == nil || !p.down.Load() {
				t.Fatal("the owner is not down though its probe hung")
			}
			owner.hang.release()
			eventually(t, "the owner is back", asksOwner)
		})
	}
}

func ownedKeys(t *testing.T, n, owner *testNode, count int) []string {
	t.Helper()
	var found []string
	for i := 0; len(found) < count; i++ {
		if key := fmt.Sprintf("owned-%d", i); n.view.Load().ring.owner(key) == owner.server.URL {
			found = append(found, key)
		}
	}
	return found
}

func TestNode_Get_OwnerWithoutDatabaseIsNotDead(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db, deadDB := newFakeDB(t, keys), newFakeDB(t, keys)
	deadDB.Close()
	n, owner := newTestNode(t, nil, db), newTestNode(t, nil, deadDB)
	connect(n, owner)
	if source := mustGet(t, n, keys.put(string(keyOwnedBy(t, n, owner)), []byte("v"))); source != sourceLoad {
		t.Errorf("source %s", source)
	}
	if n.view.Load().peers[owner.server.URL].down.Load() {
		t.Error("an owner that answers is held for dead")
	}
}

// Two nodes with different lists, each believing the other to be the owner,
// load the same key at the same time. Whoever is asked by a peer must not ask
// back.
func TestNode_Get_NodesThatBelieveEachOtherTheOwner(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	a, b := nodes[0], nodes[1]
	for _, pair := range [][2]*testNode{{a, b}, {b, a}} {
		v := *pair[0].view.Load()
		v.ring = newRing([]string{pair[1].server.URL})
		pair[0].view.Store(&v)
	}
	for i := range 20 {
		want := keys.put(fmt.Sprint("mutual-", i), []byte("v"))
		absent := kvstore.Key(fmt.Sprint("mutual-absent-", i))
		var callers sync.WaitGroup
		for _, n := range nodes {
			for range 4 {
				callers.Go(func() { mustGet(t, n, want) })
				callers.Go(func() {
					if _, _, err := n.Get(t.Context(), absent, kvstore.Linearizable); !errors.Is(err, kvstore.ErrNotFound) {
						t.Errorf("absent: %v", err)
					}
				})
			}
		}
		callers.Wait()
		if reads := db.readsOf(string(want.meta.Key)); reads > 2 {
			t.Errorf("%d reads of one key by two nodes", reads)
		}
	}
	if a.counters.peerErrors.Load()+b.counters.peerErrors.Load() != 0 {
		t.Error("a peer failed: somebody waited too long")
	}
}

func TestNode_Get_LocalSharesNothing(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n := nodes[0]
	for _, owner := range nodes {
		key := keyOwnedBy(t, n, owner)
		entered, release := make(chan struct{}, 2), make(chan struct{})
		db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
			if r.URL.Query().Get("consistency") == "" {
				entered <- struct{}{}
				<-release
			}
			return false
		})
		result := make(chan error, 1)
		go func() {
			_, _, err := n.Get(t.Context(), key, kvstore.Linearizable)
			result <- err
		}()
		receive(t, "the default load", entered)
		if _, _, err := n.Get(t.Context(), key, kvstore.Local); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("a local read while a default load is in progress: %v", err)
		}
		close(release)
		if err := receive(t, "the default caller", result); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("the default caller: %v", err)
		}
		want := keys.put(string(key), []byte("v"))
		v, source, err := n.Get(t.Context(), key, kvstore.Local)
		if err != nil || source != sourceLoad || v.Meta != want.meta {
			t.Errorf("local: %+v, %s, %v", v, source, err)
		}
		mustGet(t, owner, want)
		if _, source, err := owner.Get(t.Context(), key, kvstore.Local); source != sourceHit || err != nil {
			t.Errorf("a local read of a held key: %s, %v", source, err)
		}
	}
}

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

func TestNode_Get_WrongBytesOfAPeerAreRefused(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	value := []byte("the value")
	for name, lie := range map[string]func(want fakeValue) []byte{
		"value": func(want fakeValue) []byte {
			return append(encodeHeader(want.meta, false), bytes.ToUpper(value)...)
		},
		"whole other key's record": func(want fakeValue) []byte {
			want.meta.Key = "another"
			return append(encodeHeader(want.meta, false), value...)
		},
		"cut short": func(want fakeValue) []byte { return encodeHeader(want.meta, false) },
		"nothing":   func(fakeValue) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var want fakeValue
			liar := newFakeDB(t, keys) // a server will do
			liar.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				w.Header().Set("Content-Type", typeRecord)
				w.Write(lie(want))
				return true
			})
			n.knows([]string{liar.URL})
			for i := 0; ; i++ {
				key := fmt.Sprint(name, i)
				if n.view.Load().ring.owner(key) == liar.URL {
					want = keys.put(key, value)
					break
				}
			}
			if source := mustGet(t, n, want); source != sourceLoad {
				t.Errorf("source %s", source)
			}
		})
	}
}

func TestNode_Get_MemoryStaysBelowTheLimit(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 2, func(cfg *NodeConfig) { cfg.CacheBytes = 1 << 20 }, newFakeDB(t, keys))
	for i := range 60 {
		want := keys.put(fmt.Sprint("big-", i), bytes.Repeat([]byte{byte(i)}, 60<<10))
		for _, n := range nodes {
			mustGet(t, n, want)
		}
	}
	for _, n := range nodes {
		s := n.Stats()
		if s.Bytes == 0 || s.Bytes > s.LimitBytes || s.LimitBytes != 1<<20 {
			t.Errorf("%d of %d bytes held", s.Bytes, s.LimitBytes)
		}
		if s.Gets != 60 || s.Peers != 1 || s.Databases != 1 || s.Role != api.RoleCache || s.DatabaseLoads == 0 || s.PeerLoads == 0 || s.PeerServed == 0 {
			t.Errorf("stats %+v", s)
		}
	}
}

// A key that is hot everywhere is answered everywhere: its owner hears of it
// twice from each other node, however full their memories are.
func TestNode_Get_HotKeyIsNotLimitedByItsOwner(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 3, func(cfg *NodeConfig) { cfg.CacheBytes = 512 << 10 }, newFakeDB(t, keys))
	for _, n := range nodes { // nothing is free
		for _, key := range ownedKeys(t, n, n, 40) {
			mustGet(t, n, keys.put(key, make([]byte, 15<<10)))
		}
		if s := n.Stats(); s.Evictions == 0 {
			t.Fatalf("%d of %d bytes are held and nothing had to go: memory is not scarce", s.Bytes, s.LimitBytes)
		}
	}
	owner := nodes[0]
	hot := keys.put(string(keyOwnedBy(t, nodes[1], owner)), make([]byte, 15<<10))
	served := owner.Stats().PeerServed
	const asks = 100
	for range asks {
		for _, n := range nodes {
			mustGet(t, n, hot)
		}
	}
	if asked := owner.Stats().PeerServed - served; asked != 4 {
		t.Errorf("the owner answered its peers %d times for %d reads of one key, want 2 for each of 2 peers", asked, 2*asks)
	}
	for _, n := range nodes[1:] {
		if s := n.Stats(); s.MirroredHits != asks-2 || s.MirroredBytes == 0 || s.MirroredBytes > s.Bytes || s.Unadmitted != 1 {
			t.Errorf("stats %+v", s)
		}
	}
}

// A node serves all it holds when every database node and every peer is gone,
// and says of the rest that it cannot tell.
func TestNode_Get_EverythingHeldIsServedWithoutAnyDatabase(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	dbs := []*fakeDB{newFakeDB(t, keys), newFakeDB(t, keys)}
	nodes := newTestNodes(t, 2, nil, dbs...)
	n := nodes[0]
	var held []fakeValue
	for i := range 200 {
		v := keys.put(fmt.Sprint("held-", i), fmt.Append(nil, "value ", i))
		mustGet(t, n, v)
		held = append(held, v)
	}
	for _, db := range dbs {
		db.CloseClientConnections()
		db.Close()
	}
	nodes[1].server.Close()
	for _, v := range held {
		if source := mustGet(t, n, v); source != sourceHit {
			t.Errorf("%s came by %s", v.meta.Key, source)
		}
		if v2, ok := n.Held(v.meta.Key); !ok || v2.Meta != v.meta {
			t.Errorf("%s: held %v", v.meta.Key, ok)
		}
	}
	_, _, err := n.Get(t.Context(), "other", kvstore.Linearizable)
	if !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("a key that is not held: %v, want ErrUnavailable", err)
	}
	if _, ok := n.Held("other"); ok {
		t.Error("a key that is not held is held")
	}
	if s := n.Stats(); s.Gets != 601 || s.Hits != 400 || s.Errors != 1 || s.MirroredHits == 0 || s.MirroredHits == s.Hits {
		t.Errorf("stats %+v", s)
	}
}

func TestNode_Get_TooManyLoads(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	n := newTestNode(t, nil, newFakeDB(t, keys))
	n.active = loadsMax
	if _, _, err := n.Get(t.Context(), "k", kvstore.Linearizable); !errors.Is(err, kvstore.ErrOverloaded) {
		t.Errorf("get: %v", err)
	}
	n.active = 0
	mustGet(t, n, keys.put("k", []byte("v")))
}

func TestNode_Get_RefusesBadKeys(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, nil, newFakeDB(t, newFakeKeys()))
	for _, key := range []kvstore.Key{"", "a\x00", kvstore.Key(strings.Repeat("k", 1025))} {
		if _, _, err := n.Get(t.Context(), key, kvstore.Linearizable); !errors.Is(err, kvstore.ErrInvalidKey) {
			t.Errorf("get %.5q: %v", key, err)
		}
	}
}

func TestNode_Close_EndsLoadsAndWaits(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	entered := make(chan struct{})
	db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		close(entered)
		<-r.Context().Done()
		return true
	})
	result := make(chan error, 1)
	go func() {
		_, _, err := n.Get(t.Context(), "k", kvstore.Linearizable)
		result <- err
	}()
	receive(t, "the load", entered)
	n.Close()
	if err := receive(t, "the caller", result); err == nil {
		t.Error("a load outlived Close")
	}
	if _, _, err := n.Get(t.Context(), "k", kvstore.Linearizable); !errors.Is(err, kvstore.ErrClosed) {
		t.Errorf("get after Close: %v", err)
	}
}

func TestNode_PeerHandler_AnswersOnlyPeers(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, nil, newFakeDB(t, newFakeKeys()))
	for target, want := range map[string]int{
		"/peer/ping": 204, "/peer/record?key=YQ": 404, "/peer/record": 400, "/peer/record?key=": 400, "/peer/record?key=*": 400, "/peer/record?key=AA": 400, "/peer/other": 404,
	} {
		resp, err := http.Get(n.server.URL + target)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", target, resp.StatusCode, want)
		}
		if absent := resp.Header.Get("Content-Type") == typeAbsent; absent != (target == "/peer/record?key=YQ") {
			t.Errorf("%s has type %q", target, resp.Header.Get("Content-Type"))
		}
	}
}

func TestNode_Run_JoinsTheRingAndSaysGoodbye(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db, unknown := newFakeDB(t, keys), newFakeDB(t, keys)
	db.registry.cfg.DBs = func() []api.DBNode { return []api.DBNode{{URL: db.URL}, {URL: unknown.URL}} }
	fast := func(cfg *NodeConfig) { cfg.HeartbeatInterval = time.Millisecond }
	nodes := []*testNode{newTestNode(t, fast, db), newTestNode(t, fast, db), newTestNode(t, fast, db)}
	var running sync.WaitGroup
	var stops []context.CancelFunc
	for _, n := range nodes {
		ctx, stop := context.WithCancel(t.Context())
		stops = append(stops, stop)
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	eventually(t, "every node knows the others and the second database", func() bool {
		for _, n := range nodes {
			if len(n.view.Load().peers) != 2 || len(n.databases.all()) != 2 {
				return false
			}
		}
		return true
	})
	eventually(t, "the second database node hears heartbeats", func() bool { return listed(unknown.registry) != "" })
	stops[0]()
	eventually(t, "the goodbye", func() bool {
		for _, c := range db.registry.Caches() {
			if c.URL == nodes[0].server.URL {
				return !c.Healthy
			}
		}
		return false
	})
	stops[1]()
	stops[2]()
	running.Wait()
}

func TestNode_Round_DatabaseRestartsEmpty(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := []*testNode{newTestNode(t, frozen, db), newTestNode(t, frozen, db)}
	beat := func(n *testNode) {
		var beats sync.WaitGroup
		n.round(t.Context(), &beats)
		beats.Wait()
	}
	beat(nodes[0])
	beat(nodes[1])
	beat(nodes[0])
	db.mu.Lock()
	db.registry = NewRegistry(RegistryConfig{})
	db.mu.Unlock()
	beat(nodes[0])
	if peers := len(nodes[0].view.Load().peers); peers != 1 {
		t.Errorf("%d peers just after the database lost its list, want the last known one", peers)
	}
	beat(nodes[1])
	if got := len(db.registry.Caches()); got != 2 {
		t.Errorf("%d caches registered again, want 2", got)
	}
}

func TestStreamedValue_OfEverySize(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	for i, size := range []int{inlineBytesMax, inlineBytesMax + 1, 3 << 19, 40 << 20} {
		body := pattern(size)
		want := keys.put(fmt.Sprint("large-", i), body)
		for _, n := range nodes {
			mustGet(t, n, want)
			v, source, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
			if err != nil {
				t.Fatal(err)
			}
			if _, inline := v.Bytes(); inline != (int64(size) <= n.cfg.CacheBytes/s3fifo.LargestShare-pageBytes) {
				t.Errorf("%d bytes are held after they were read: %v (%s)", size, inline, source)
			}
			checkRanges(t, v, body)
		}
	}
	if s := nodes[0].Stats(); s.Bytes > 6<<20 {
		t.Errorf("%d bytes are held after values of 40 MiB passed", s.Bytes)
	}
}

// A large value is held when it was read to its end, and no other way: from then
// on its ranges and all of it come from memory.
func TestStreamedValue_IsHeldWhenItWasReadWhole(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	want := keys.put("large", pattern(3<<20))
	for _, n := range nodes {
		get := func() *kvstore.Value {
			v, _, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		held := func() bool { _, inline := get().Bytes(); return inline }
		v := get()
		part := v.Open(t.Context())
		if _, err := io.CopyN(io.Discard, part, 2<<20); err != nil {
			t.Fatal(err)
		}
		other := v.Open(t.Context()) // while the first one's bytes are kept
		if _, err := io.Copy(io.Discard, other); err != nil || held() {
			t.Errorf("a second reader's bytes are kept too: %v", err)
		}
		part.Close()
		checkRanges(t, v, want.body)
		if held() {
			t.Error("held after it was read in parts")
		}
		seeking := v.Open(t.Context())
		if _, err := io.CopyN(io.Discard, seeking, 1<<20); err != nil {
			t.Fatal(err)
		}
		seeking.Seek(2<<20, io.SeekStart)
		if _, err := io.Copy(io.Discard, seeking); err != nil || held() {
			t.Errorf("held without its middle: %v", err)
		}
		for _, r := range []io.Closer{other, seeking} {
			r.Close()
		}
		if got := readAll(t, v); !bytes.Equal(got, want.body) || !held() {
			t.Error("not held after it was read whole")
		}
		if n.collecting.bytes != 0 || len(n.collecting.keys) != 0 {
			t.Errorf("%d bytes of %v are still on their way", n.collecting.bytes, n.collecting.keys)
		}
		bounded(t, n.memory, n.cfg.CacheBytes)
	}
	reads := db.readsOf("large")
	for _, n := range nodes {
		mustGet(t, n, want)
		v, _, _ := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
		checkRanges(t, v, want.body)
	}
	if got := db.readsOf("large"); got != reads {
		t.Errorf("the database was read %d times for a value that is held", got-reads)
	}
}

// Of a value that is not held with its bytes, a range costs the database little
// more than the range.
func TestStreamedValue_RangeReadsLittleMore(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, func(cfg *NodeConfig) { cfg.CacheBytes = 1 << 20 }, db)
	want := keys.put("large", pattern(8<<20))
	v, _, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		asked = append(asked, r.Header.Get("Range"))
		return false
	})
	r := v.Open(t.Context())
	defer r.Close()
	r.Seek(5<<20, io.SeekStart)
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(asked); got != fmt.Sprintf("[bytes=%d-%d]", 5<<20, 5<<20+windowSeek-1) {
		t.Errorf("the database was asked %s for 100 bytes", got)
	}
}

// pattern makes bytes in which every offset looks different from its
// neighbours.
func pattern(size int) []byte {
	b := make([]byte, size)
	seed := sha256.Sum256([]byte(fmt.Sprint(size)))
	for i := range b {
		b[i] = seed[i%32] ^ byte(i>>5) ^ byte(i>>13) ^ byte(i>>21)
	}
	return b
}

func checkRanges(t *testing.T, v *kvstore.Value, body []byte) {
	t.Helper()
	r := v.Open(t.Context())
	defer r.Close()
	for _, from := range []int{0, 1, len(body) / 2, len(body) - 17, 1048570} {
		if from >= len(body) {
			continue
		}
		if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, min(100, len(body)-from))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body[from:from+len(got)]) {
			t.Fatalf("range from %d: %v", from, err)
		}
	}
	if end, err := r.Seek(0, io.SeekEnd); err != nil || end != int64(len(body)) {
		t.Errorf("end at %d, %v", end, err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("a seek before the beginning is fine")
	}
}

func TestStreamedValue_DatabaseDiesHalfWay(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"broken connection", "stall", "another value"} {
		t.Run(way, func(t *testing.T) {
			keys := newFakeKeys()
			dying, good := newFakeDB(t, keys), newFakeDB(t, keys)
			n := newTestNode(t, func(cfg *NodeConfig) { cfg.StreamIdle = 3 * time.Second }, dying, good)
			n.databases.begin([]string{dying.URL, good.URL})
			want := keys.put("large", pattern(5<<20))
			v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
			if err != nil {
				t.Fatal(err)
			}
			dying.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				var from, to int
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
				if from < 1<<20 {
					return false
				}
				shown := want
				if way == "another value" {
					shown.meta.SHA256 = kvstore.Digest{1}
				}
				fakeHeader(w, shown)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(want.body)))
				w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(want.body[from : from+12345])
				http.NewResponseController(w).Flush()
				if way == "stall" {
					<-r.Context().Done()
				}
				panic(http.ErrAbortHandler)
			})
			if got := readAll(t, v); !bytes.Equal(got, want.body) {
				t.Error("the value is not whole")
			}
			if good.readsOf("large") == 0 {
				t.Error("the other database was not asked")
			}
		})
	}
}

func TestStreamedValue_AllDatabasesDie(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	want := keys.put("large", pattern(5<<20))
	v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	r := v.Open(t.Context())
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	rest, err := io.ReadAll(r)
	if !errors.Is(err, kvstore.ErrUnavailable) || !strings.Contains(err.Error(), db.URL) {
		t.Errorf("read %d more bytes of %d, then %v", len(rest), len(want.body), err)
	}
}

func TestStreamedValue_WrongBytesAreNeverSeenWhole(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	keys.put("large", pattern(3<<20))
	v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	db.onRequest(func(w http.ResponseWriter, r *http.Request, key string) bool {
		lie, _ := keys.get(key)
		lie.body = bytes.Clone(lie.body)
		lie.body[2<<20]++
		serveFake(w, r, lie)
		return true
	})
	r := v.Open(t.Context())
	defer r.Close()
	got, err := io.ReadAll(r)
	if !errors.Is(err, errDigest) || len(got) >= 3<<20 {
		t.Errorf("read %d bytes of wrong ones, %v", len(got), err)
	}
}

// Once a value was read whole and its digest was right, what is read of it again is
// compared with that, MiB by MiB, and a range's too; nothing is hashed again.
func TestStreamedValue_IsComparedWithWhatWasRight(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, func(cfg *NodeConfig) { cfg.CacheBytes = 1 << 20 }, db)
	want := keys.put("large", pattern(3<<20+17))
	get := func() *kvstore.Value {
		v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	sums := func() *pieceSums { return n.held("large").sums }
	part := get().Open(t.Context())
	defer part.Close()
	if _, err := part.Seek(1, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, part); err != nil || sums().known.Load() != nil {
		t.Fatalf("pieces are known of a value that nobody has read whole: %v", err)
	}
	for range 2 {
		if got := readAll(t, get()); !bytes.Equal(got, want.body) {
			t.Fatal("the value is not whole")
		}
	}
	if known := sums().known.Load(); known == nil || len(*known) != 4 || cap(*known) != 4 {
		t.Fatalf("pieces of 3 MiB and 17 bytes: %v", known)
	}
	bounded(t, n.memory, n.cfg.CacheBytes)
	r := get().Open(t.Context()).(*streamReader)
	r.Close()
	if r.verify.whole != nil {
		t.Error("the digest is computed again")
	}
	checkRanges(t, get(), want.body)

	db.onRequest(func(w http.ResponseWriter, r *http.Request, key string) bool {
		lie, _ := keys.get(key)
		lie.body = bytes.Clone(lie.body)
		lie.body[1<<20+5]++
		serveFake(w, r, lie)
		return true
	})
	for from, right := range map[int64]int64{0: 2 << 20, 12_345: 2 << 20, 1 << 20: 2 << 20} { // before right it must end
		r := get().Open(t.Context())
		defer r.Close()
		if _, err := r.Seek(from, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); !errors.Is(err, errDigest) || from+int64(len(got)) >= right {
			t.Errorf("from %d: read %d bytes, %v", from, len(got), err)
		}
	}
	end := get().Open(t.Context())
	defer end.Close()
	if _, err := end.Seek(2<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(end); err != nil || !bytes.Equal(got, want.body[2<<20:]) {
		t.Errorf("what is right behind what is wrong: %v", err)
	}
}

func TestStreamedValue_ReaderEndsWithItsContext(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	keys.put("large", pattern(5<<20))
	v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := v.Open(ctx)
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the context ended: %v", err)
	}
	r.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("read after Close is fine")
	}
}
