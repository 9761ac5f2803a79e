package cachetier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/groupcache"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

// idOf is the id of a history with a name of one letter.
func idOf(name string) string { return strings.Repeat("0", 30) + "0" + name }

// historyOf describes a history that went on from others, the oldest first.
func historyOf(name string, parents ...string) *api.History {
	h := &api.History{ID: idOf(name)}
	for _, p := range parents {
		h.Parents = append(h.Parents, api.Origin{ID: idOf(p), Revision: 1})
	}
	return h
}

func TestStanding_Hear(t *testing.T) {
	t.Parallel()
	type step struct {
		after   time.Duration
		told    string // a history and its parents, every second meanwhile
		standAt string
	}
	for name, steps := range map[string][]step{
		"the first is taken":                  {{0, "", ""}, {0, "a", "a"}},
		"one that went on from it":            {{0, "a", "a"}, {0, "b a", "b"}},
		"one that went on from it long ago":   {{0, "a", "a"}, {0, "d a b c", "d"}},
		"a stranger":                          {{0, "a", "a"}, {time.Hour, "a", "a"}, {time.Minute - 1, "b", "a"}, {1, "b", "b"}},
		"a stranger's child":                  {{0, "a", "a"}, {time.Second, "c b", "a"}},
		"its own keeps it":                    {{0, "a", "a"}, {50 * time.Second, "a", "a"}, {50 * time.Second, "b", "a"}, {0, "a", "a"}, {50 * time.Second, "b", "a"}},
		"never back, while both answer":       {{0, "a", "a"}, {0, "b a", "b"}, {0, "a", "b"}, {time.Second, "b a", "b"}, {time.Second, "a", "b"}},
		"never back, when nobody else is":     {{0, "a", "a"}, {0, "b a", "b"}, {time.Hour, "a", "b"}, {time.Hour, "a", "b"}},
		"never back, from a stranger":         {{0, "a", "a"}, {time.Hour, "b", "b"}, {time.Hour, "a", "b"}, {0, "c a b", "c"}, {time.Hour, "b", "c"}},
		"never to where its own came from":    {{0, "b a", "b"}, {time.Hour, "a", "b"}},
		"nor if it hears that later":          {{0, "b", "b"}, {0, "b a", "b"}, {time.Hour, "a", "b"}},
		"the second of two that went on":      {{0, "a", "a"}, {0, "b a", "b"}, {0, "c a", "b"}, {time.Second, "b a", "b"}, {0, "c a", "b"}},
		"who tells none is nobody":            {{0, "a", "a"}, {time.Hour, "", "a"}},
		"a move begins the minute anew":       {{0, "a", "a"}, {time.Hour, "b", "b"}, {time.Second, "c", "b"}},
		"what makes no sense is no history":   {{0, "a", "a"}, {time.Hour, "x", "a"}},
		"nor a parent that makes no sense":    {{0, "a", "a"}, {0, "b x", "a"}},
		"the silence of all moves it nowhere": {{0, "a", "a"}, {time.Hour, "", "a"}, {0, "b", "a"}, {time.Minute - 1, "b", "a"}, {0, "a", "a"}, {time.Second, "b", "a"}},
		"and the minute begins behind it":     {{0, "a", "a"}, {30 * time.Second, "b", "a"}, {time.Hour, "", "a"}, {0, "b", "a"}, {30 * time.Second, "b", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var s standing
			now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
			for i, step := range steps {
				end := now.Add(step.after)
				var told *api.History
				if names := strings.Fields(step.told); len(names) > 0 {
					told = historyOf(names[0], names[1:]...)
				}
				before, why := s.own.ID, ""
				for end.Sub(now) > time.Second {
					now = now.Add(time.Second)
					why += s.hear(historyIn(told), now)
				}
				now = end
				why += s.hear(historyIn(told), now)
				want := kvstore.HistoryID{}
				if step.standAt != "" {
					want, _ = kvstore.ParseHistoryID(idOf(step.standAt))
				}
				if s.own.ID != want || (why != "") != (s.own.ID != before) {
					t.Errorf("step %d: stands at %v because %q, want %q", i, s.own.ID, why, step.standAt)
				}
			}
		})
	}
}

// hears sends one heartbeat to every database node that the cache nodes know.
func hears(t *testing.T, nodes ...*testNode) {
	t.Helper()
	for _, n := range nodes {
		for _, d := range n.databases.all() {
			n.beat(t.Context(), d)
		}
	}
}

// logTo makes a node's log a buffer of lines from warnings on.
func logTo(b *bytes.Buffer) func(*NodeConfig) {
	return func(cfg *NodeConfig) {
		cfg.Logger = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
}

// standsAt fails unless a node stands in a history.
func standsAt(t *testing.T, n *testNode, name string) {
	t.Helper()
	if got := n.History().ID.String(); got != idOf(name) {
		t.Fatalf("the node stands in history %s, not %s", got, idOf(name))
	}
}

// The restore that the issue describes: the same revision and other keys and values,
// at the same database node. All that was held of the old history is gone at once.
func TestNode_Move_DropsAll(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	db.becomes(historyOf("a"), keys)
	var log bytes.Buffer
	n := newTestNode(t, logTo(&log), db)
	hears(t, n)
	standsAt(t, n, "a")
	old := []fakeValue{keys.put("k", []byte("old")), keys.put("gone", []byte("old too")), keys.put("large", bytes.Repeat([]byte("o"), inlineBytesMax+1))}
	for range 2 {
		for _, v := range old {
			mustGet(t, n, v)
		}
	}
	if got := mustGet(t, n, old[2]); got != sourceHit || n.memory.Stats().Items != 3 {
		t.Fatalf("%d are held, the large one from %s", n.memory.Stats().Items, got)
	}
	after := newFakeKeys()
	now := []fakeValue{after.put("k", []byte("new")), after.put("large", bytes.Repeat([]byte("n"), inlineBytesMax+1))}
	db.becomes(historyOf("b", "a"), after)
	hears(t, n)
	standsAt(t, n, "b")
	if s := n.Stats(); s.Items != 0 || s.HistoryMoves != 1 || s.HistoryDrops != 3 || s.History.ID != idOf("b") {
		t.Errorf("figures after the move: %+v", s)
	}
	if v, found := n.Held("k"); found {
		t.Errorf("%v is still held", v.Meta)
	}
	for _, v := range now {
		if got := mustGet(t, n, v); got != sourceLoad {
			t.Errorf("the first read of %s after the move is from %s", v.meta.Key, got)
		}
		if got := mustGet(t, n, v); v.meta.Size <= inlineBytesMax && got != sourceHit {
			t.Errorf("the second read of %s after the move is from %s", v.meta.Key, got)
		}
	}
	if _, _, err := n.Get(t.Context(), "gone", kvstore.Linearizable); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("a key that is not set in the new history: %v", err)
	}
	hears(t, n)
	if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 1 || !strings.Contains(lines[0], idOf("b")) || !strings.Contains(lines[0], idOf("a")) || !strings.Contains(lines[0], "records=3") {
		t.Errorf("its log has\n%s", log.String())
	}
	bounded(t, n.memory, n.cfg.CacheBytes)
}

// Two halves of a cluster live on beside each other. A cache node that hears both has
// one history, and asks nobody of the other.
func TestNode_Move_TwoHalves(t *testing.T) {
	t.Parallel()
	left, right := newFakeKeys(), newFakeKeys()
	a, b := newFakeDB(t, left), newFakeDB(t, right)
	a.becomes(historyOf("a"), left)
	b.becomes(historyOf("a"), left)
	now := time.Now()
	var log bytes.Buffer
	n := newTestNode(t, func(cfg *NodeConfig) {
		logTo(&log)(cfg)
		cfg.now = func() time.Time { return now }
	}, a, b)
	hears(t, n)
	b.becomes(historyOf("b", "a"), right)
	hears(t, n)
	standsAt(t, n, "b")
	for i := range 5 {
		now = now.Add(time.Hour)
		hears(t, n)
		standsAt(t, n, "b")
		key := string(rune('p' + i))
		left.put(key, []byte("left"))
		if got := mustGet(t, n, right.put(key, []byte("right"))); got != sourceLoad {
			t.Errorf("%s from %s", key, got)
		}
	}
	if n.counters.moves.Load() != 1 {
		t.Errorf("%d moves", n.counters.moves.Load())
	}
	reads := 0
	for i := range 5 {
		reads += a.readsOf(string(rune('p' + i)))
	}
	if reads != 0 {
		t.Errorf("%d reads of the half that it has left", reads)
	}
	if said := log.String(); strings.Count(said, "a database node has another history") != 1 || !strings.Contains(said, "database="+a.URL+" history="+idOf("a")) {
		t.Errorf("of the other half its log has\n%s", said)
	}
	// Its own half is gone: the other is where it came from.
	b.Close()
	now = now.Add(time.Hour)
	hears(t, n)
	standsAt(t, n, "b")
	if _, _, err := n.Get(t.Context(), "absent", kvstore.Linearizable); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("a read with no database node of its history: %v", err)
	}
	if err := n.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), idOf("a")) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("ready: %v", err)
	}
	want, _ := right.get("p")
	if got := mustGet(t, n, want); got != sourceHit {
		t.Errorf("what is held is from %s", got)
	}
}

// A database node is another one between two heartbeats.
func TestNode_Get_TakesNoAnswerOfAnotherHistory(t *testing.T) {
	t.Parallel()
	own, strange := newFakeKeys(), newFakeKeys()
	good, changed := newFakeDB(t, own), newFakeDB(t, strange)
	good.becomes(historyOf("a"), own)
	changed.becomes(historyOf("a"), own)
	for _, c := range []kvstore.Consistency{kvstore.Linearizable, kvstore.Local} {
		n := newTestNode(t, frozen, changed, good)
		changed.becomes(historyOf("a"), own)
		hears(t, n)
		n.databases.all()[slices.IndexFunc(n.databases.all(), func(d *database) bool { return d.url == good.URL })].outrun(time.Hour)
		changed.becomes(historyOf("b"), strange)
		strange.put("k", []byte("wrong"))
		want := own.put("k", []byte("right"))
		v, _, err := n.Get(t.Context(), "k", c)
		if err != nil || v.SHA256 != want.meta.SHA256 {
			t.Errorf("consistency %d: %+v, %v", c, v, err)
		}
		// Its absence says nothing either.
		if changed.readsOf("absent") != 0 {
			t.Fatal("it was asked before")
		}
		own.put("only-here", []byte("right"))
		changed.becomes(historyOf("a"), own)
		hears(t, n)
		changed.becomes(historyOf("b"), strange)
		if _, _, err := n.Get(t.Context(), "only-here", c); err != nil {
			t.Errorf("consistency %d: %v", c, err)
		}
	}
	if changed.readsOf("k") == 0 || changed.readsOf("only-here") == 0 {
		t.Error("the node with another history was not asked")
	}
}

// The first answer may come before the first heartbeat does.
func TestNode_Get_LearnsTheHistoryFromAnAnswer(t *testing.T) {
	t.Parallel()
	keys, other := newFakeKeys(), newFakeKeys()
	a, b := newFakeDB(t, keys), newFakeDB(t, other)
	a.becomes(historyOf("a"), keys)
	b.becomes(historyOf("b"), other)
	n := newTestNode(t, nil, a, b)
	for i := range 20 {
		key := string(rune('a' + i))
		value, wrong := keys.put(key, []byte("a's "+key)), other.put(key, []byte("b's "+key))
		v, _, err := n.Get(t.Context(), kvstore.Key(key), kvstore.Linearizable)
		if err != nil {
			t.Fatal(err)
		}
		want := value
		if n.History().ID.String() == idOf("b") {
			want = wrong
		}
		if v.SHA256 != want.meta.SHA256 {
			t.Fatalf("%s is of the other history", key)
		}
	}
	if n.counters.moves.Load() != 0 {
		t.Errorf("%d moves", n.counters.moves.Load())
	}
}

// A load began in the old history and ends in the new: whoever waits for it gets the
// new value, and the old one is not held.
func TestNode_Move_LoadUnderWay(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, inlineBytesMax + 1} {
		old, after := newFakeKeys(), newFakeKeys()
		db := newFakeDB(t, old)
		db.becomes(historyOf("a"), old)
		n := newTestNode(t, nil, db)
		hears(t, n)
		was, want := old.put("k", bytes.Repeat([]byte("o"), size)), after.put("k", bytes.Repeat([]byte("n"), size))
		entered, release := make(chan struct{}), make(chan struct{})
		var first atomic.Bool
		db.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
			if first.Swap(true) {
				return false
			}
			close(entered)
			<-release
			serveFake(w, r, was) // with the header of before
			return true
		})
		got := make(chan kvstore.Digest)
		go func() {
			v, _, err := n.Get(context.Background(), "k", kvstore.Linearizable)
			if err != nil {
				t.Error(err)
				close(got)
				return
			}
			got <- v.SHA256
		}()
		receive(t, "the load", entered)
		db.becomes(historyOf("b", "a"), after)
		hears(t, n)
		if digest := receive(t, "the value", got); digest != want.meta.SHA256 {
			t.Errorf("%d bytes: the caller got the value of the old history", size)
		}
		close(release)
		mustGet(t, n, want)
	}
}

// A reader of a large value reads on when the node moves, and what he reads is not held.
func TestNode_Move_LargeValueOnItsWay(t *testing.T) {
	t.Parallel()
	old, after := newFakeKeys(), newFakeKeys()
	a, b := newFakeDB(t, old), newFakeDB(t, after)
	a.becomes(historyOf("a"), old)
	n := newTestNode(t, nil, a, b)
	b.becomes(historyOf("b", "a"), after)
	n.beat(t.Context(), n.databases.all()[slices.IndexFunc(n.databases.all(), func(d *database) bool { return d.url == a.URL })])
	standsAt(t, n, "a")
	was, want := old.put("k", bytes.Repeat([]byte("o"), inlineBytesMax+1)), after.put("k", bytes.Repeat([]byte("n"), inlineBytesMax+1))
	v, _, err := n.Get(t.Context(), "k", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	r := v.Open(t.Context())
	defer r.Close()
	begun := make([]byte, 10)
	if _, err := io.ReadFull(r, begun); err != nil {
		t.Fatal(err)
	}
	hears(t, n)
	standsAt(t, n, "b")
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(begun, rest...), was.body) {
		t.Errorf("%d bytes, %v", len(begun)+len(rest), err)
	}
	if n.memory.Stats().Items != 0 {
		t.Error("what was read of the old history is held")
	}
	mustGet(t, n, want)
}

// A peer that stands in another history is not asked, and is again when it has come
// there too.
func TestNode_Move_PeersOfAnotherHistory(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		old, after := newFakeKeys(), newFakeKeys()
		db, stays := newFakeDB(t, old), newFakeDB(t, old)
		db.becomes(historyOf("a"), old)
		stays.becomes(historyOf("a"), old)
		nodes := newTestNodes(t, 2, nil, db, stays)
		ahead, behind := nodes[0], nodes[1]
		hears(t, nodes...)
		behind.plain.Store(plain)
		knowsAgain(t, nodes...)
		key := keyOwnedBy(t, ahead, behind)
		was, want := old.put(string(key), []byte("old")), after.put(string(key), []byte("new"))
		mustGet(t, behind, was)
		if got := mustGet(t, ahead, was); got != sourcePeer {
			t.Fatalf("plain %v: the owner's record is from %s", plain, got)
		}
		db.becomes(historyOf("b", "a"), after)
		hears(t, ahead)
		served := behind.counters.peerServed.Load()
		for range 2 {
			mustGet(t, ahead, want)
		}
		// It is not asked even by who takes it for up.
		ahead.view.Load().peers[behind.server.URL].answers()
		other := otherKeyOwnedBy(t, ahead, behind, key)
		old.put(string(other), []byte("old"))
		mustGet(t, behind, mustHave(old, other))
		mustGet(t, ahead, after.put(string(other), []byte("new")))
		if got := behind.counters.peerServed.Load(); got != served {
			t.Errorf("plain %v: a peer of another history has served %d records", plain, got-served)
		}
		probes(t, ahead)
		if owner := ahead.view.Load().ring.owner(string(key)); owner != ahead.server.URL {
			t.Errorf("plain %v: %s owns the key, though it stands in another history", plain, owner)
		}
		hears(t, behind)
		standsAt(t, behind, "b")
		probes(t, ahead, behind)
		third := otherKeyOwnedBy(t, ahead, behind, key, other)
		if got := mustGet(t, ahead, after.put(string(third), []byte("new"))); got != sourcePeer {
			t.Errorf("plain %v: both stand in the new history, and the record is from %s", plain, got)
		}
	}
}

// knowsAgain makes each of two nodes take the other for up, as heartbeats and probes do.
func knowsAgain(t *testing.T, nodes ...*testNode) {
	t.Helper()
	connect(nodes...)
	probes(t, nodes...)
}

// probes asks all peers whether they are up.
func probes(t *testing.T, nodes ...*testNode) {
	t.Helper()
	for _, n := range nodes {
		for _, p := range n.view.Load().peers {
			p.probe(t.Context())
		}
	}
}

func mustHave(keys *fakeKeys, key kvstore.Key) fakeValue {
	v, _ := keys.get(string(key))
	return v
}

// otherKeyOwnedBy is keyOwnedBy for one more key.
func otherKeyOwnedBy(t *testing.T, n, owner *testNode, than ...kvstore.Key) kvstore.Key {
	t.Helper()
	for i := range 10_000 {
		key := kvstore.Key(strings.Repeat("x", i%7+1) + time.Duration(i).String())
		if n.view.Load().ring.owner(string(key)) == owner.server.URL && !slices.Contains(than, key) {
			return key
		}
	}
	t.Fatal("no other key of that owner among 10,000")
	return ""
}

// An answer of the old history is on its way from a peer when a node moves.
func TestNode_Move_AnswerOfAPeerOnItsWay(t *testing.T) {
	t.Parallel()
	old, after := newFakeKeys(), newFakeKeys()
	db := newFakeDB(t, old)
	db.becomes(historyOf("a"), old)
	nodes := newTestNodes(t, 2, nil, db)
	hears(t, nodes...)
	knowsAgain(t, nodes...)
	ahead, behind := nodes[0], nodes[1]
	key := keyOwnedBy(t, ahead, behind)
	was, want := old.put(string(key), []byte("old")), after.put(string(key), []byte("new"))
	mustGet(t, ahead, mustPutOwned(t, old, ahead, behind, key)) // there is a stream
	mustGet(t, behind, was)
	behind.hang.set()
	got := make(chan error, 1)
	go func() {
		v, _, err := ahead.Get(context.Background(), key, kvstore.Linearizable)
		if err == nil && v.SHA256 != want.meta.SHA256 {
			err = errors.New("the value of the old history")
		}
		got <- err
	}()
	eventually(t, "the question is on its way", func() bool {
		p := ahead.view.Load().peers[behind.server.URL]
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.current == nil {
			return false
		}
		return p.current.calls.Open() > 0
	})
	db.becomes(historyOf("b", "a"), after)
	hears(t, ahead)
	if err := receive(t, "the value", got); err != nil {
		t.Error(err)
	}
	behind.hang.release()
	mustGet(t, ahead, want)
	if n := ahead.counters.peerErrors.Load() + ahead.counters.errors.Load(); n > 1 {
		t.Errorf("%d errors", n)
	}
}

func mustPutOwned(t *testing.T, keys *fakeKeys, n, owner *testNode, than kvstore.Key) fakeValue {
	t.Helper()
	return keys.put(string(otherKeyOwnedBy(t, n, owner, than)), []byte("one more"))
}

// Whoever does not name the history of a node gets nothing from it.
func TestNode_PeerHandler_RefusesOtherHistories(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	db.becomes(historyOf("a"), keys)
	n := newTestNode(t, nil, db)
	hears(t, n)
	mustGet(t, n, keys.put("k", []byte("v")))
	for path, header := range map[string]http.Header{peerRecord + "?key=aw": {}, peerStream: {"Connection": {"Upgrade"}, "Upgrade": {streamProtocol}}} {
		for _, history := range []string{"", idOf("b"), "nonsense", idOf("a")} {
			req, err := http.NewRequest(http.MethodGet, n.server.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = header.Clone()
			if history != "" {
				req.Header.Set(api.HeaderHistory, history)
			}
			resp, err := n.peerHTTP.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if refused := resp.StatusCode == http.StatusConflict; refused != (history != idOf("a")) || resp.Header.Get(api.HeaderHistory) != idOf("a") {
				t.Errorf("%s for history %q: %s, of history %s", path, history, resp.Status, resp.Header.Get(api.HeaderHistory))
			}
		}
	}
}

// groupcache shares loads by key, and knows no histories: a load of the one that a node
// has left must not end one of the next.
func TestTier_LoadsOfTwoErasAreNotShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		getter := func(ctx context.Context, _ string, _ groupcache.Sink) error {
			e := flightFrom(ctx).era
			<-release // like a load that does not see at once that its context has ended
			return errors.New(e.text())
		}
		group := fmt.Sprintf("two eras %p", release) // groupcache keeps it when the test runs again
		n := &Node{log: slog.New(slog.DiscardHandler), cfg: NodeConfig{LoadTimeout: time.Minute}, memory: s3fifo.New[*record](1 << 20)}
		loads := &tier{group: newGroup(group, getter, groupcache.NoPeers{}), node: n}
		t.Cleanup(func() { forgetGroup(loads.group) })
		flights := map[string]*flight{}
		for _, name := range []string{"a", "b", "c"} {
			id, err := kvstore.ParseHistoryID(idOf(name))
			if err != nil {
				t.Fatal(err)
			}
			_, f, err := loads.join(newEra(t.Context(), id), "key", nil)
			if err != nil {
				t.Fatal(err)
			}
			flights[idOf(name)] = f
			synctest.Wait() // its load is under way, or waits
		}
		close(release)
		for id, f := range flights {
			<-f.done
			if f.err == nil || f.err.Error() != id {
				t.Errorf("the load of %s ended with that of %v", id, f.err)
			}
		}
	})
}
