package cachetier

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/kvstore"
)

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
