package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/broken"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// answer is a node's answer to one request.
type answer struct {
	status  int
	history string // that it names
	body    []byte
}

func (a answer) String() string {
	return fmt.Sprintf("status %d of history %q: %.500s", a.status, a.history, a.body)
}

// ask sends a request without a body. header is names and values in turn.
func ask(url string, header ...string) (answer, error) {
	return send(http.MethodGet, url, "", header...)
}

// askInHistory is ask for an answer that names its history.
func askInHistory(url string) (answer, error) {
	return ask(url, api.HeaderHistory, strings.Repeat("0", 32))
}

func send(method, url, body string, header ...string) (a answer, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.status, a.history = resp.StatusCode, resp.Header.Get(api.HeaderHistory)
	a.body, err = io.ReadAll(resp.Body)
	return a, err
}

// standsIn waits until a node of any kind reports a history as its own.
func standsIn(t *testing.T, n *clustertest.Process, history string) {
	t.Helper()
	clustertest.Eventually(t, n.Name+" stands in history "+history, func() error {
		var s struct {
			History api.History `json:"history"`
		}
		if err := getJSON(n.URL()+"/stats", &s); err != nil {
			return err
		}
		if s.History.ID != history {
			return fmt.Errorf("it is %q", s.History.ID)
		}
		return nil
	})
}

// historyOf returns the history that a database node reports.
func historyOf(t *testing.T, n *clustertest.Process) api.History {
	t.Helper()
	s, err := n.Stats()
	if err != nil || s.History == nil {
		t.Fatalf("%s tells no history: %v", n.Name, err)
	}
	return *s.History
}

// sets puts new keys, one after the other, and returns their revisions.
func sets(t *testing.T, n *clustertest.Process, value string, keys ...string) (revisions []uint64) {
	t.Helper()
	cl := clustertest.Client(t, n.URL())
	for _, key := range keys {
		a, err := cl.PutBytes(clustertest.WithTimeout(t), key, []byte(value), client.PutOptions{})
		if err != nil || !a.Created {
			t.Fatalf("put %s at %s: %+v, %v", key, n.Name, a, err)
		}
		revisions = append(revisions, a.Revision)
	}
	return revisions
}

// historyReader reads keys through one cache node without a pause. Once an answer has named
// the new history, none may name another, or contain a value of the old one.
type historyReader struct {
	stopC       chan struct{}
	done        chan struct{}
	err         error
	moved       atomic.Bool
	reads, news atomic.Uint64 // answers; those with values of the new history
}

// readHistory starts to read keys. Their values are old in the history before, and fresh in
// the next, if they are set there.
func readHistory(cache *clustertest.Process, before, old, fresh string, keys ...string) *historyReader {
	r := &historyReader{stopC: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		next := "" // the new history, once it was named
		for i := 0; ; i++ {
			select {
			case <-r.stopC:
				return
			default:
			}
			key := keys[i%len(keys)]
			target := cache.URL() + "/key/" + key + []string{"", "?consistency=local"}[i/len(keys)%2]
			moved := r.moved.Load() // before the request
			plain, plainErr := ask(target)
			named, namedErr := askInHistory(target)
			many, manyErr := send(http.MethodPost, cache.URL()+"/keys/get", `{"key":"`+key+`"}`+"\n", "Content-Type", api.ContentTypeNDJSON)
			if plainErr == nil && moved && plain.status == http.StatusOK && string(plain.body) == old {
				r.err = fmt.Errorf("after %d reads %s served %s=%s, though it had moved before", r.reads.Load(), cache.Name, key, old)
				return
			}
			if value := `"` + old + `"`; manyErr == nil && moved && strings.Contains(string(many.body), value) {
				r.err = fmt.Errorf("after %d reads %s served %s among many keys, though it had moved before: %s", r.reads.Load(), cache.Name, key, many.body)
				return
			}
			if namedErr != nil || named.history == "" {
				continue
			}
			r.reads.Add(1)
			switch {
			case named.history == before && next != "":
				r.err = fmt.Errorf("after %d reads %s named history %s again", r.reads.Load(), cache.Name, before)
			case named.history == before && named.status == http.StatusOK && string(named.body) != old:
				r.err = fmt.Errorf("%s served %s=%s under the history before", cache.Name, key, named.body)
			case named.history == before:
			case next != "" && named.history != next:
				r.err = fmt.Errorf("%s named history %s after %s", cache.Name, named.history, next)
			case named.status == http.StatusOK && string(named.body) != fresh:
				r.err = fmt.Errorf("%s served %s=%s under history %s", cache.Name, key, named.body, named.history)
			default:
				next = named.history
				r.moved.Store(true)
				if named.status == http.StatusOK {
					r.news.Add(1)
				}
			}
			if r.err != nil {
				return
			}
		}
	}()
	return r
}

// waitFor waits until a counter of the reader has grown by n.
func (r *historyReader) waitFor(t *testing.T, what string, counter *atomic.Uint64, n uint64) {
	t.Helper()
	from := counter.Load()
	clustertest.Eventually(t, fmt.Sprintf("%d more %s", n, what), func() error {
		select {
		case <-r.done:
			t.Fatal(r.err)
		default:
		}
		if got := counter.Load() - from; got < n {
			return fmt.Errorf("%d of them", got)
		}
		return nil
	})
}

// stop ends the reading, and fails the test if something was wrong.
func (r *historyReader) stop(t *testing.T) {
	t.Helper()
	close(r.stopC)
	<-r.done
	if r.err != nil {
		t.Error(r.err)
	}
}

// watching is a concurrent watch of the Go client.
type watching struct {
	seen  atomic.Uint64
	ended chan error
}

func watchWith(t *testing.T, opts client.ChangesOptions, urls ...string) *watching {
	w := &watching{ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cl := clustertest.Client(t, urls...)
	opts.Follow = true
	go func() {
		for c, err := range cl.Changes(ctx, opts) {
			if err != nil {
				w.ended <- err
				return
			}
			w.seen.Store(c.Revision)
		}
		w.ended <- errors.New("the walk ended without a word")
	}()
	return w
}

// copyData makes a data directory a copy of another one.
func copyData(t *testing.T, to, from string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

// forcedFrom starts a node on its data with --force-new-cluster, and removes the flag.
func forcedFrom(t *testing.T, n *clustertest.Process) {
	t.Helper()
	usual := n.Args
	n.Args = append(usual[:len(usual):len(usual)], "--force-new-cluster", "--yes")
	n.Start()
	n.WaitReady()
	n.Args = usual
}

// movedOnce checks that a cache node has logged and counted one move.
func movedOnce(t *testing.T, cache *clustertest.Process, from, to string) {
	t.Helper()
	s, err := cacheStats(cache)
	if err != nil || s.HistoryMoves != 1 {
		t.Errorf("%s has moved %d times, %v", cache.Name, s.HistoryMoves, err)
	}
	var said []string
	for line := range strings.Lines(cache.Log()) {
		if strings.Contains(line, "moved to another history") {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], from) || !strings.Contains(said[0], to) {
		t.Errorf("%s has said %d times that it moved: %q", cache.Name, len(said), said)
	}
}

// A cluster is restored from a copy that is older than acknowledged puts, and gets other
// values under the same revisions. Everybody who has read the old ones notices.
func TestHistories_Restore(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 2)
	p.StartAll()
	n1, caches := p.DBs[0], p.Caches
	sets(t, n1, "same", "first")
	clustertest.SameHistory(t, p.DBs...)
	n1.Terminate()
	early := filepath.Join(t.TempDir(), "early")
	copyData(t, early, n1.Dir)
	n1.Start()
	n1.WaitReady()
	before := historyOf(t, n1)
	var stats api.Stats
	if stats, _ = n1.Stats(); stats.Revision != 1 || len(before.Parents) != 0 {
		t.Fatalf("revision %d of history %+v", stats.Revision, before)
	}
	head := stats.Digest
	keys := []string{"k", "other", "gone"}
	if got := sets(t, n1, "old", keys...); !slices.Equal(got, []uint64{2, 3, 4}) {
		t.Fatalf("revisions %v", got)
	}
	clustertest.SameHistory(t, p.DBs...)

	// Everybody reads it.
	for _, c := range caches {
		standsIn(t, c, before.ID)
		for range 2 { // that it is held
			for _, key := range keys {
				if a, err := askInHistory(c.URL() + "/key/" + key); err != nil || string(a.body) != "old" || a.history != before.ID {
					t.Fatalf("%s: %v, %v", c.Name, a, err)
				}
			}
		}
	}
	ways := []*clustertest.Process{n1, caches[0], caches[1]}
	at := api.Position{Revision: 4, History: before.ID}
	tokens := map[*clustertest.Process]string{}
	var walks []*watching
	var shows []*clustertest.Process
	for _, via := range ways {
		var page api.KeysPage
		if err := getJSON(via.URL()+"/keys?limit=2", &page); err != nil || page.Next == "" {
			t.Fatalf("a page of keys at %s: %+v, %v", via.Name, page, err)
		}
		tokens[via] = page.Next
		walks = append(walks, watchWith(t, client.ChangesOptions{}, via.URL()))
		show := clustertest.NewProcess(t, bin, "watch-"+via.Name, "", "watch", "--since", "0", "--json", "--endpoints", via.URL())
		show.Start()
		shows = append(shows, show)
	}
	for i := range ways {
		clustertest.Eventually(t, "the watchers of "+ways[i].Name+" have seen everything", func() error {
			if seen, shown := walks[i].seen.Load(), shows[i].Log(); seen != 4 || !strings.Contains(shown, `"position":"`+at.String()+`"`) {
				return fmt.Errorf("revision %d, and\n%s", seen, shown)
			}
			return nil
		})
	}
	var readers []*historyReader
	for _, c := range caches {
		readers = append(readers, readHistory(c, before.ID, "old", "new", keys...))
	}

	for _, d := range p.DBs {
		d.Kill9()
	}
	copyData(t, n1.Dir, early)
	forcedFrom(t, n1)
	if got := sets(t, n1, "new", "k", "other"); !slices.Equal(got, []uint64{2, 3}) {
		t.Fatalf("revisions %v", got)
	}
	now := historyOf(t, n1)
	parent := api.Origin{ID: before.ID, Revision: 1, Head: head}
	if now.ID == before.ID || !reflect.DeepEqual(now.Parents, []api.Origin{parent}) {
		t.Fatalf("the new history is %+v; want parent %+v", now, parent)
	}

	for i, c := range caches {
		standsIn(t, c, now.ID)
		readers[i].waitFor(t, "reads of the new history", &readers[i].news, 50)
	}
	for _, via := range ways {
		a, err := send(http.MethodPut, via.URL()+"/key/k", "old")
		var winner api.Problem
		if err = errors.Join(err, json.Unmarshal(a.body, &winner)); err != nil {
			t.Fatal(err)
		}
		if a.status != http.StatusConflict || winner.Type != api.ProblemConflict || winner.Revision != 2 || winner.SHA256 != digestOf("new") || a.history != now.ID {
			t.Errorf("put k=old through %s: %v", via.Name, a)
		}
		if a, err = ask(via.URL() + "/key/gone"); err != nil || a.status != http.StatusNotFound {
			t.Errorf("%s has a key that was set in the old history only: %v, %v", via.Name, a, err)
		}
		refusesPositions(t, via, at, tokens[via], now.ID, parent)
	}
	for i, via := range ways {
		// Watches that ran meanwhile, and one that comes back with its noted position.
		late := watchWith(t, client.ChangesOptions{Since: at.Revision, History: at.History}, via.URL())
		for _, w := range []*watching{walks[i], late} {
			err := receive(t, "the end of a walk", w.ended)
			var changed *client.HistoryChangedError
			if !errors.Is(err, api.ErrHistoryChanged) || !errors.As(err, &changed) {
				t.Fatalf("a walk through %s ended with %v", via.Name, err)
			}
			if changed.History != now.ID || changed.Asked != at || changed.Common() != 1 || changed.Parent == nil || *changed.Parent != parent {
				t.Errorf("a walk through %s ended with %+v", via.Name, changed)
			}
		}
		back := clustertest.NewProcess(t, bin, "watch-again-"+via.Name, "", "watch", "--since", at.String(), "--endpoints", via.URL())
		back.Start()
		for _, w := range []*clustertest.Process{shows[i], back} {
			if code, said := w.Wait(), w.Log(); code != 7 || !strings.Contains(said, "the history is "+now.ID+" now, no longer "+before.ID) ||
				!strings.Contains(said, "up to revision 1 still exists") || !strings.Contains(said, "--since 1."+now.ID) {
				t.Errorf("%s ended with code %d and said:\n%s", w.Name, code, said)
			}
		}
		// The message's advice works.
		on := clustertest.NewProcess(t, bin, "watch-on-"+via.Name, "", "watch", "--since", "1."+now.ID, "--values", "--limit", "2", "--endpoints", via.URL())
		on.Start()
		if code, said := on.Wait(), on.Log(); code != 0 || said != "2 k 3 bytes new\n3 other 3 bytes new\n" {
			t.Errorf("%s ended with code %d and said:\n%s", on.Name, code, said)
		}
		var listed error
		for _, err := range clustertest.Client(t, via.URL()).Keys(clustertest.WithTimeout(t), client.KeysOptions{History: before.ID}) {
			listed = err
		}
		if !errors.Is(listed, api.ErrHistoryChanged) {
			t.Errorf("a listing of the old history through %s ended with %v", via.Name, listed)
		}
	}
	for i, c := range caches {
		readers[i].waitFor(t, "reads of the new history", &readers[i].news, 50)
		readers[i].stop(t)
		movedOnce(t, c, before.ID, now.ID)
	}
}

func digestOf(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:])
}

// receive returns a value that must come.
func receive[T any](t *testing.T, what string, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(clustertest.Patience):
		t.Fatalf("not within %v: %s", clustertest.Patience, what)
	}
	return got
}

// refusesPositions asks for what follows a position of another history, in every way there is.
func refusesPositions(t *testing.T, via *clustertest.Process, at api.Position, token, history string, parent api.Origin) {
	t.Helper()
	since := fmt.Sprintf("/changes?since=%d", at.Revision)
	events := []string{"Accept", "text/event-stream"}
	for _, q := range []struct {
		target string
		header []string
	}{
		{since + "&history=" + at.History, nil},
		{since + "&follow=true&history=" + at.History, nil},
		{since + "&history=" + history, nil}, // there is no such revision
		{since, nil},
		{since + "&follow=true", nil},
		{"/changes?since=1&history=" + at.History, nil}, // both have it
		{"/changes", append(events, "Last-Event-ID", at.String())},
		{"/changes?since=0", append(events, "Last-Event-ID", at.String())},
		{"/changes", append(events, "Last-Event-ID", "4")},
		{"/keys?limit=2&after=" + token, nil},
		{"/keys?history=" + at.History, nil},
	} {
		a, err := ask(via.URL()+q.target, q.header...)
		var said api.Problem
		if err = errors.Join(err, json.Unmarshal(a.body, &said)); err != nil {
			t.Fatalf("%s%s %q: %v: %v", via.Name, q.target, q.header, err, a)
		}
		if a.status != http.StatusConflict || a.history != history || said.Type != api.ProblemHistoryChanged || said.History != history || said.Parent == nil || *said.Parent != parent || said.Newest != 3 {
			t.Errorf("%s%s %q: %v", via.Name, q.target, q.header, a)
		}
	}
	// A number alone belongs to the current history.
	if a, err := ask(via.URL() + "/changes?since=2"); err != nil || a.status != http.StatusOK || a.history != history || !strings.Contains(string(a.body), `"other"`) {
		t.Errorf("%s/changes?since=2: %v, %v", via.Name, a, err)
	}
}

// cacheOf prepares a cache node that is given nodes.
func cacheOf(t *testing.T, program, name string, nodes ...*clustertest.Process) *clustertest.Process {
	addr := clustertest.FreeAddr(t)
	return clustertest.NewProcess(t, program, name, addr, "cache", "--name", name, "--listen", addr, "--nodes", strings.Join(clustertest.URLs(nodes...), ","))
}

// hearAgain waits until each database node has received some more heartbeats of a cache node
// in a history.
func hearAgain(t *testing.T, cache *clustertest.Process, history string, dbs ...*clustertest.Process) {
	t.Helper()
	heard, last := make([]int, len(dbs)), make([]time.Time, len(dbs))
	clustertest.Eventually(t, cache.Name+" is heard", func() error {
		for i, db := range dbs {
			var list []api.CacheNode
			if err := getJSON(db.URL()+"/caches", &list); err != nil {
				return err
			}
			at := slices.IndexFunc(list, func(n api.CacheNode) bool { return n.URL == cache.URL() && n.History == history })
			if at >= 0 && list[at].LastSeen.After(last[i]) {
				heard[i], last[i] = heard[i]+1, list[at].LastSeen
			}
		}
		if slices.Min(heard) < 4 {
			return fmt.Errorf("%v times", heard)
		}
		return nil
	})
}

// Two halves of a cluster live beside each other: the old members, and a cluster forced from a
// copy of one of them. A cache node that hears both moves once, to the half that continues its
// own history, and never back, not even when that half is away.
func TestHistories_CacheBetweenHalves(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	n1 := p.DBs[0]
	sets(t, n1, "old", "k", "other")
	clustertest.SameHistory(t, p.DBs...)
	before := historyOf(t, n1)
	for _, d := range p.DBs {
		d.Kill9()
	}
	addr, peer := clustertest.FreeAddr(t), clustertest.FreeAddr(t)
	copied := filepath.Join(t.TempDir(), "copied")
	copyData(t, copied, n1.Dir)
	half := clustertest.NewProcess(t, bin, "n1", addr, "serve", "--name", "n1", "--listen", addr, "--peer-listen", peer, "--data-dir", copied)
	forcedFrom(t, half)
	now := historyOf(t, half)
	sets(t, half, "new", "late")
	stays := cacheOf(t, bin, "stays", append([]*clustertest.Process{half}, p.DBs...)...)
	stays.Start()
	standsIn(t, stays, now.ID)
	for _, key := range []string{"late", "k"} {
		if a, err := askInHistory(stays.URL() + "/key/" + key); err != nil || a.status != http.StatusOK || a.history != now.ID {
			t.Fatalf("%s: %v, %v", key, a, err)
		}
	}
	half.Terminate()

	for _, d := range p.DBs {
		d.Start()
	}
	p.WaitReady()
	moves := cacheOf(t, bin, "moves", append([]*clustertest.Process{half}, p.DBs...)...)
	moves.Start()
	standsIn(t, moves, before.ID)
	sets(t, n1, "old", "late")
	hearAgain(t, stays, now.ID, p.DBs...)
	hearAgain(t, moves, before.ID, p.DBs...)
	// It serves what it holds, and asks nobody of the half that it has left.
	if a, err := askInHistory(stays.URL() + "/key/late"); err != nil || string(a.body) != "new" || a.history != now.ID {
		t.Errorf("what is held: %v, %v", a, err)
	}
	for _, way := range []struct{ method, target string }{
		{http.MethodGet, "/key/other"}, {http.MethodPut, "/key/nowhere"}, {http.MethodGet, "/keys"}, {http.MethodGet, "/readyz"},
	} {
		if a, err := send(way.method, stays.URL()+way.target, ""); err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("%s %s, while all that answer are of the half before: %v, %v", way.method, way.target, a, err)
		}
	}

	readers := []*historyReader{readHistory(moves, before.ID, "old", "new", "late"), readHistory(stays, before.ID, "old", "new", "late")}
	readers[0].waitFor(t, "reads", &readers[0].reads, 20)
	if readers[0].moved.Load() {
		t.Error("the cache node has moved while the half of before was alone")
	}
	half.Start()
	half.WaitReady()
	standsIn(t, moves, now.ID)
	for _, r := range readers {
		r.waitFor(t, "reads of the new half", &r.news, 20)
	}
	for i, c := range []*clustertest.Process{moves, stays} {
		clustertest.Eventually(t, c.Name+" takes a put", func() error { // the other half may not have been heard again yet
			a, err := send(http.MethodPut, c.URL()+"/key/by-"+c.Name, "x")
			if err == nil && (a.status != http.StatusCreated && a.status != http.StatusOK || a.history != now.ID) {
				err = fmt.Errorf("%v", a)
			}
			return err
		})
		hearAgain(t, c, now.ID, append([]*clustertest.Process{half}, p.DBs...)...)
		readers[i].waitFor(t, "reads of the new half", &readers[i].news, 20)
		readers[i].stop(t)
	}
	// Both halves are unchanged, except for the puts that each has taken.
	clustertest.SameHistory(t, p.DBs...)
	for _, d := range p.DBs {
		if got := historyOf(t, d); !reflect.DeepEqual(got, before) {
			t.Errorf("%s has history %+v", d.Name, got)
		}
		for _, c := range []*clustertest.Process{moves, stays} {
			if a, err := ask(d.URL() + "/key/by-" + c.Name); err != nil || a.status != http.StatusNotFound {
				t.Errorf("%s has a put that %s took in the new half: %v, %v", d.Name, c.Name, a, err)
			}
		}
	}
	movedOnce(t, moves, before.ID, now.ID)
	if s, err := cacheStats(stays); err != nil || s.HistoryMoves != 0 {
		t.Errorf("the cache node that was in the new half has moved %d times, %v", s.HistoryMoves, err)
	}
}

// hurried is a program whose cache nodes wait for less than a minute.
var hurried = broken.Control{File: "cachetier/era.go", Old: "const historyPatience = time.Minute\n", New: "const historyPatience = 5 * time.Second\n"}

const hurriedPatience = 5 * time.Second

// A cache node that hears an unrelated cluster moves there after its own has not answered for
// long. It does not move because it did not ask itself.
func TestHistories_CacheWhoseNodesAreGone(t *testing.T) {
	t.Parallel()
	own, other := clustertest.NewProcesses(t, bin, 1, 0).DBs[0], clustertest.NewProcesses(t, bin, 1, 0).DBs[0]
	for _, n := range []*clustertest.Process{own, other} {
		n.Start()
	}
	own.WaitReady()
	other.WaitReady()
	from, to := historyOf(t, own).ID, historyOf(t, other).ID
	sets(t, own, "old", "k", "gone")
	sets(t, other, "new", "k")
	other.Signal(syscall.SIGSTOP)
	cache := cacheOf(t, changedProgram(t, hurried), "c1", own, other)
	cache.Start()
	standsIn(t, cache, from)
	other.Signal(syscall.SIGCONT)
	r := readHistory(cache, from, "old", "new", "k", "gone")

	// Both answer.
	stayed := func(why string) {
		t.Helper()
		if r.moved.Load() {
			t.Fatalf("the cache node has moved %s; its log:\n%s", why, cache.Log())
		}
	}
	began := time.Now()
	for time.Since(began) < hurriedPatience+hurriedPatience/2 {
		hearAgain(t, cache, from, other)
	}
	r.waitFor(t, "reads", &r.reads, 10)
	stayed("though its own node answers")

	// The cache node itself stood still, and hears the other cluster first when it continues.
	cache.Signal(syscall.SIGSTOP)
	own.Signal(syscall.SIGSTOP)
	stopped := time.Now()
	clustertest.Eventually(t, "the cache node was stopped for longer than it waits", func() error {
		if d := time.Since(stopped); d < hurriedPatience+time.Second {
			return fmt.Errorf("for %v", d)
		}
		return nil
	})
	cache.Signal(syscall.SIGCONT)
	clustertest.Eventually(t, "it is heard again", func() error {
		var list []api.CacheNode
		if err := getJSON(other.URL()+"/caches", &list); err != nil {
			return err
		}
		if len(list) != 1 || !list[0].Healthy {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	own.Signal(syscall.SIGCONT)
	r.waitFor(t, "reads", &r.reads, 10)
	stayed("because it had stood still")

	own.Kill9()
	killed := time.Now()
	standsIn(t, cache, to)
	if d := time.Since(killed); d < hurriedPatience/2 {
		t.Errorf("it has moved %v after its own node was gone", d)
	}
	r.waitFor(t, "reads of the other history", &r.news, 10)
	own.Start() // and it is there again
	own.WaitReady()
	hearAgain(t, cache, to, own)
	r.waitFor(t, "reads of the other history", &r.news, 10)
	r.stop(t)
	movedOnce(t, cache, from, to)
	if a, err := ask(cache.URL() + "/key/gone"); err != nil || a.status != http.StatusNotFound {
		t.Errorf("a key of the history before: %v, %v", a, err)
	}
}

// oneHistory waits until nodes are ready, and checks that they have one history and accept
// puts for it.
func oneHistory(t *testing.T, nodes ...*clustertest.Process) api.History {
	t.Helper()
	for _, n := range nodes {
		n.WaitReady()
	}
	first := historyOf(t, nodes[0])
	for _, n := range nodes {
		if got := historyOf(t, n); !reflect.DeepEqual(got, first) {
			t.Fatalf("%s has history %+v, and %s %+v", n.Name, got, nodes[0].Name, first)
		}
		if status, body := putStatus(n, "by-"+n.Name, "x"); status != http.StatusCreated {
			t.Fatalf("put at %s: %d %s", n.Name, status, body)
		}
	}
	if len(first.ID) != 32 || len(first.Parents) != 0 {
		t.Errorf("the new history is %+v", first)
	}
	clustertest.SameHistory(t, nodes...)
	return first
}

// waitsForFounders waits until a founder has said which node it misses. Meanwhile it takes
// part in nothing.
func waitsForFounders(t *testing.T, n *clustertest.Process, missing string) {
	t.Helper()
	clustertest.Eventually(t, n.Name+" waits for "+missing, func() error {
		if log := n.Log(); !n.Running() || !strings.Contains(log, "waiting for the other members") || !strings.Contains(log, missing) {
			return fmt.Errorf("its log:\n%s", log)
		}
		return nil
	})
	if status, _ := putStatus(n, "too-early", "x"); status == http.StatusOK || status == http.StatusCreated {
		t.Errorf("%s has taken a put, though it belongs to no cluster", n.Name)
	}
}

// A founder with data from before the first release founds nothing, and the others wait for
// it.
func TestHistories_FounderOfBefore(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	if err := clustertest.Unpack(filepath.Join(fixtureDir, "level-0-stopped.tar.gz"), n1.Dir); err != nil {
		t.Fatal(err)
	}
	n2.Start()
	n3.Start()
	staysRefused(t, n1)
	waitsForFounders(t, n2, "n1")
	waitsForFounders(t, n3, "n1")
	if err := os.RemoveAll(n1.Dir); err != nil {
		t.Fatal(err)
	}
	n1.Start()
	oneHistory(t, n1, n2, n3)
}

// Founders with different lists form nothing, and say so.
func TestHistories_FoundersWithOtherLists(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	usual := slices.Clone(n3.Args)
	setFlag(n3, "--initial-cluster", "n1=http://"+n1.Peer+",n3=http://"+n3.Peer)
	for _, n := range p.DBs {
		n.Start()
	}
	// A founder that hears of another list before it has promised anything says so and ends;
	// one that hears too late waits.
	told := 0
	for _, n := range []*clustertest.Process{n1, n3, n2} {
		clustertest.Eventually(t, n.Name+" has said why it forms nothing", func() error {
			log := n.Log()
			if strings.Contains(log, "formed a cluster") {
				t.Fatalf("%s has formed a cluster; its log:\n%s", n.Name, log)
			}
			if n.Running() && !strings.Contains(log, "waiting for the other members") {
				return fmt.Errorf("its log:\n%s", log)
			}
			return nil
		})
		if n.Running() {
			continue
		}
		told++
		if code, log := n.Wait(), n.Log(); code == 0 || !strings.Contains(log, "was started with --initial-cluster") || !strings.Contains(log, "all must be the same") {
			t.Errorf("%s ended with code %d and said:\n%s", n.Name, code, log)
		}
	}
	if told == 0 {
		t.Error("nobody has said that the lists differ")
	}
	for _, n := range p.DBs {
		if n.Running() {
			n.Kill9()
		}
	}
	n3.Args = usual
	for _, n := range p.DBs {
		n.Start()
	}
	oneHistory(t, n1, n2, n3)
}

// Founders of different versions found a cluster of the lowest level.
func TestHistories_FoundersOfDifferentLevels(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	n2 := p.DBs[1]
	n2.Bin = changedProgram(t, laterProgram...)
	for _, n := range p.DBs {
		n.Start()
	}
	first := oneHistory(t, p.DBs...)
	for _, n := range p.DBs {
		s, err := n.Stats()
		want := api.Levels{Store: 1, Program: 1}
		if n == n2 {
			want.Program = 2
		}
		if err != nil || s.Level != want {
			t.Errorf("%s has level %+v, %v; want %+v", n.Name, s.Level, err, want)
		}
	}
	if status, body := putStatus(n2, "later/k", "x"); status != http.StatusServiceUnavailable || !strings.Contains(body, "level 2") {
		t.Errorf("a put that needs the later level: %d %s", status, body)
	}
	// The founders always say so, even to the later version alone.
	for _, n := range p.DBs {
		n.Kill9()
		n.Bin = n2.Bin
	}
	for _, n := range p.DBs {
		n.Start()
	}
	p.WaitReady()
	for _, n := range p.DBs {
		standsIn(t, n, first.ID)
	}
}

// Founders that are killed again and again, at any moment of the founding, form one cluster
// with one history.
func TestHistories_FoundersKilled(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	kills, partly := 0, 0
	for range 5 {
		p := clustertest.NewProcesses(t, bin, 3, 0)
		f := &foundings{t: t, nodes: p.DBs, known: map[string]founding{}}
		for f.look() < len(p.DBs) {
			if n := p.DBs[random.IntN(len(p.DBs))]; n.Running() && random.IntN(2) == 0 {
				n.Kill9()
				kills++
			} else if !n.Running() {
				n.Start()
			}
			if formed := f.look(); 0 < formed && formed < len(p.DBs) {
				partly++
			}
			// Any moment will do; this spreads the kills over the time of the founding.
			<-time.After(time.Duration(random.IntN(150)) * time.Millisecond)
		}
		for _, n := range p.DBs {
			if n.Running() {
				n.Kill9()
			}
			n.Start()
		}
		history := oneHistory(t, p.DBs...)
		if f.look(); !strings.HasPrefix(history.ID, f.cluster) {
			t.Errorf("cluster %s has history %s", f.cluster, history.ID)
		}
		for _, n := range p.DBs {
			n.Kill9()
		}
	}
	t.Logf("%d kills; at %d moments some belonged to the cluster and others did not", kills, partly)
}

// founding is what a node's identity says of its cluster.
type founding struct {
	ID        string          `json:"id"`
	Birth     json.RawMessage `json:"birth"`
	ClusterID string          `json:"cluster_id"`
	Founders  json.RawMessage `json:"founders"`
}

// foundings watches the identities of founders.
type foundings struct {
	t                 *testing.T
	nodes             []*clustertest.Process
	known             map[string]founding
	cluster, founders string // of the first that belonged to one
}

// look returns how many founders belong to the cluster. A founder's own identity never
// changes, and all belong to the same cluster of the same founders.
func (f *foundings) look() (formed int) {
	f.t.Helper()
	for _, n := range f.nodes {
		b, err := os.ReadFile(filepath.Join(n.Dir, "identity"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var is founding
		if err = errors.Join(err, json.Unmarshal(b, &is)); err != nil {
			f.t.Fatal(err)
		}
		was, seen := f.known[n.Name]
		f.known[n.Name] = is
		if seen && (is.ID != was.ID || string(is.Birth) != string(was.Birth)) {
			f.t.Fatalf("what %s brings was %s of id %s, and is %s of %s", n.Name, was.Birth, was.ID, is.Birth, is.ID)
		}
		if is.ClusterID == "" {
			continue
		}
		formed++
		if f.cluster == "" {
			f.cluster, f.founders = is.ClusterID, string(is.Founders)
		}
		if is.ClusterID != f.cluster || string(is.Founders) != f.founders {
			f.t.Fatalf("%s belongs to cluster %s of %s, others to %s of %s", n.Name, is.ClusterID, is.Founders, f.cluster, f.founders)
		}
	}
	return formed
}

// A node that is killed again and again while it forces a new cluster forces exactly one: its
// history has one parent, which is complete.
func TestHistories_ForcedAndKilled(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	n := clustertest.NewProcesses(t, bin, 1, 0).DBs[0]
	n.Start()
	n.WaitReady()
	sets(t, n, "old", "a", "b", "c")
	s, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	parents := []api.Origin{{ID: s.History.ID, Revision: s.Revision, Head: s.Digest}}
	n.Terminate()
	data := filepath.Join(t.TempDir(), "data")
	copyData(t, data, n.Dir)
	usual := n.Args
	forces := append(usual[:len(usual):len(usual)], "--force-new-cluster", "--yes")
	kills := 0
	for range 6 {
		copyData(t, n.Dir, data)
		for n.Args = forces; ; {
			n.Start()
			if kill := random.IntN(3) > 0; kill {
				<-time.After(time.Duration(random.IntN(120)) * time.Millisecond) // until any moment
				n.Kill9()
				kills++
				continue
			}
			clustertest.Eventually(t, "it is ready, or has ended", func() error {
				if !n.Running() {
					return nil
				}
				a, err := ask(n.URL() + "/readyz")
				if err == nil && a.status != http.StatusOK {
					err = fmt.Errorf("%v", a)
				}
				return err
			})
			if n.Running() {
				break
			}
			if code, log := n.Wait(), n.Log(); code != 2 || !strings.Contains(log, "done already") {
				t.Fatalf("it ended with code %d and said:\n%s", code, log)
			}
			n.Args = usual
			n.Start()
			n.WaitReady()
			break
		}
		if got := historyOf(t, n); got.ID == parents[0].ID || !reflect.DeepEqual(got.Parents, parents) {
			t.Fatalf("the history is %+v; want parents %+v", got, parents)
		}
		mustHave(t, map[string]string{"a": "old", "b": "old", "c": "old"}, n)
		n.Kill9()
	}
	t.Logf("%d kills", kills)
}
