package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// listAll pages through the keys with a prefix and checks what every page
// promises.
func listAll(t testing.TB, s *Store, prefix Key, limit int, limitBytes int64) []Meta {
	t.Helper()
	var all []Meta
	after := Key("")
	for {
		page, err := s.Keys(context.Background(), KeysRequest{Prefix: prefix, After: after, Limit: limit, LimitBytes: limitBytes})
		if err != nil {
			t.Errorf("Keys(%q, after %q): %v", prefix, after, err)
			return nil
		}
		if len(page.Keys) > limit || page.More && len(page.Keys) == 0 {
			t.Errorf("Keys(%q, after %q): %d keys with limit %d, more %v", prefix, after, len(page.Keys), limit, page.More)
			return nil
		}
		for _, m := range page.Keys {
			if m.Key <= after || !strings.HasPrefix(string(m.Key), string(prefix)) {
				t.Errorf("Keys(%q): %q after %q", prefix, m.Key, after)
				return nil
			}
			after = m.Key
		}
		all = append(all, page.Keys...)
		if !page.More {
			return all
		}
	}
}

// followAll reads the records behind a revision to their end.
func followAll(t testing.TB, s *Store, r ChangesRequest) []Change {
	t.Helper()
	var all []Change
	for {
		part, err := s.Changes(r)
		if err != nil {
			t.Errorf("Changes(%+v): %v", r, err)
			return nil
		}
		if len(part.Records) > r.Limit || part.Scanned < part.Newest && part.Scanned <= r.After {
			t.Errorf("Changes(%+v): %d records, scanned to %d of %d", r, len(part.Records), part.Scanned, part.Newest)
			return nil
		}
		all = append(all, part.Records...)
		if part.Scanned >= part.Newest {
			return all
		}
		r.After = part.Scanned
	}
}

// checkLists compares lists of s with the model, which has the same keys.
func (m *model) checkLists(t testing.TB, s *Store, limit int) {
	t.Helper()
	for _, prefix := range []Key{"", "key/", "key/1", "key/077", "nothing", "zzz"} {
		var want []Key
		for key := range m.keys {
			if strings.HasPrefix(string(key), string(prefix)) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		got := listAll(t, s, prefix, limit, 1<<20)
		if len(got) != len(want) {
			t.Fatalf("Keys(%q) lists %d keys, want %d", prefix, len(got), len(want))
		}
		for i, meta := range got {
			if meta != m.keys[want[i]].meta {
				t.Fatalf("Keys(%q): %+v, want %+v", prefix, meta, m.keys[want[i]].meta)
			}
		}
		m.checkChanges(t, followAll(t, s, ChangesRequest{Prefix: prefix, Limit: limit, LimitBytes: 1 << 20, Values: limit%2 == 0}), 0, prefix, limit%2 == 0)
	}
}

// checkChanges compares records behind a revision with the model's.
func (m *model) checkChanges(t testing.TB, got []Change, after Revision, prefix Key, values bool) {
	t.Helper()
	for _, key := range m.order[after:] {
		if !strings.HasPrefix(string(key), string(prefix)) {
			continue
		}
		if len(got) == 0 {
			t.Fatalf("changes after %d of %q end before %q", after, prefix, key)
		}
		want := m.keys[key]
		inline := got[0].Value != nil
		if got[0].Meta != want.meta || inline && string(got[0].Value) != string(want.value) || !values && inline || values && !inline && len(want.value) <= ChunkBytes && want.meta.ContentType != "video/mp4" {
			t.Fatalf("changes of %q: %+v, value %v, want %+v", prefix, got[0].Meta, inline, want.meta)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		t.Fatalf("changes after %d of %q go on with %q", after, prefix, got[0].Key)
	}
}

// TestStore_Lists: lists are right whatever part of the keys is committed and
// indexed.
func TestStore_Lists(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), tiny())
	log, m := scriptOf(t, 21, 120, 2)
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range log {
		mustApply(t, s, &log[i])
		if rng.IntN(10) == 0 {
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, limit := range []int{1, 2, 7, 1000} {
		m.checkLists(t, s, limit)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	m.checkLists(t, s, 9)
	m.checkLists(t, s, 1000)
}

// TestStore_Lists_Concurrent: no key is missed or doubled, and no revision,
// while puts, commits and flushes go on.
func TestStore_Lists_Concurrent(t *testing.T) {
	t.Parallel()
	cfg := tiny()
	cfg.CommitInterval = time.Millisecond
	t.Run("memory", func(t *testing.T) { listWhileApplying(t, mustOpen(t, newMemDisks(), cfg)) })
	t.Run("bbolt", func(t *testing.T) { listWhileApplying(t, openDir(t, t.TempDir(), cfg)) })
}

func listWhileApplying(t *testing.T, s *Store) {
	const entries, perEntry = 100, 16
	stop := startRun(t, s)
	m := newModel()
	var log []entry
	for i := range entries {
		e := entry{index: uint64(i + 1)}
		for j := range perEntry {
			n := i*perEntry + j
			key := Key(fmt.Sprintf("%c/%07d", 'a'+n%3, n*7919%10_000_019))
			e.commands = append(e.commands, testPut(key, fmt.Sprint("id", n), "", fmt.Appendf(nil, "value of %s", key), time.Unix(int64(n), 0)))
		}
		e.want = m.apply(t, e.commands)
		log = append(log, e)
	}
	quit := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 3 {
		readers.Go(func() { listAgainAndAgain(t, s, m, quit, uint64(i)) })
	}
	readers.Go(func() { follow(t, s, m) })
	for i := range log {
		mustApply(t, s, &log[i])
		if i%20 == 0 {
			if err := s.FlushIndex(); err != nil {
				t.Error(err)
			}
		}
	}
	close(quit)
	readers.Wait()
	stop()
	m.checkLists(t, s, 64)
}

// listAgainAndAgain lists and compares with what was set before and after.
func listAgainAndAgain(t *testing.T, s *Store, m *model, quit chan struct{}, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	for {
		select {
		case <-quit:
			return
		default:
		}
		prefix := []Key{"", "a/", "b/00", "c/"}[rng.IntN(4)]
		before := s.Stats().Revision
		seen := make(map[Key]bool)
		for _, meta := range listAll(t, s, prefix, 1+rng.IntN(300), 1<<20) {
			if meta != m.keys[meta.Key].meta {
				t.Errorf("listed %+v, want %+v", meta, m.keys[meta.Key].meta)
				return
			}
			seen[meta.Key] = true
		}
		for _, key := range m.order[:before] {
			if strings.HasPrefix(string(key), string(prefix)) && !seen[key] {
				t.Errorf("%q, revision %d, is not in a list that began at revision %d", key, m.keys[key].meta.Revision, before)
				return
			}
		}
	}
}

// follow reads all of history as it grows, without polling.
func follow(t *testing.T, s *Store, m *model) {
	at := Revision(0)
	for at < Revision(len(m.order)) {
		part, err := s.Changes(ChangesRequest{After: at, Limit: 50, LimitBytes: 1 << 20, Values: true})
		if err != nil {
			t.Error(err)
			return
		}
		for _, c := range part.Records {
			want := m.keys[m.order[at]]
			if at++; c.Meta != want.meta || string(c.Value) != string(want.value) {
				t.Errorf("revision %d is %+v with %q, want %+v", at, c.Meta, c.Value, want.meta)
				return
			}
		}
		if at != part.Scanned {
			t.Errorf("%d records came, scanned are %d", at, part.Scanned)
			return
		}
		if at < part.Newest || at == Revision(len(m.order)) {
			continue
		}
		select {
		case <-s.Advanced(at):
		case <-time.After(patience):
			t.Errorf("nobody said that there is more than revision %d", at)
			return
		}
	}
}

func TestStore_Keys_Bounds(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	var commands [][]byte
	for i := range 100 {
		commands = append(commands, testPut(Key(fmt.Sprintf("%02d", i)+strings.Repeat("k", 800)), "id", "", nil, time.Unix(0, 0)))
	}
	if _, err := applyTo(s, 1, 1, commands, nil); err != nil {
		t.Fatal(err)
	}
	for _, where := range []struct {
		name string
		move func() error
	}{{"pending", func() error { return nil }}, {"in history", s.Commit}, {"in the index", s.FlushIndex}} {
		if err := where.move(); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			limit int
			bytes int64
			want  int
		}{{10, 1 << 20, 10}, {1000, 10_000, 10}, {1000, 0, 1}, {0, 1 << 20, 1}, {100, 1 << 20, 100}, {99, 1 << 20, 99}} {
			page, err := s.Keys(t.Context(), KeysRequest{Limit: tt.limit, LimitBytes: tt.bytes})
			if err != nil || len(page.Keys) != tt.want || page.More != (tt.want < 100) {
				t.Errorf("%s, limits %d and %d: %d keys, more %v, %v; want %d", where.name, tt.limit, tt.bytes, len(page.Keys), page.More, err, tt.want)
			}
			part, err := s.Changes(ChangesRequest{Limit: tt.limit, LimitBytes: tt.bytes})
			if err != nil || len(part.Records) != tt.want || part.Scanned != Revision(tt.want) || part.Newest != 100 {
				t.Errorf("%s, limits %d and %d: %d changes to %d, %v; want %d", where.name, tt.limit, tt.bytes, len(part.Records), part.Scanned, err, tt.want)
			}
		}
	}
	if part, err := s.Changes(ChangesRequest{After: 200, Limit: 1}); err != nil || len(part.Records) != 0 || part.Scanned != 200 || part.Newest != 100 {
		t.Errorf("changes after the end: %+v, %v", part, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.Keys(ended, KeysRequest{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// TestStore_Keys_LargeRecordsShortenPages: records are verified whole, so a page
// reads no more than some MiB of them, and no less.
func TestStore_Keys_LargeRecordsShortenPages(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	const size = BodyBytesMin - 1
	const n = pageHistoryBytes/size + 200
	value := make([]byte, size)
	for i := range n {
		if _, err := applyTo(s, uint64(i+1), 1, [][]byte{testPut(Key(fmt.Sprintf("%06d", i)), "id", "", value, time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	page, err := s.Keys(t.Context(), KeysRequest{Limit: 5000, LimitBytes: 1 << 20})
	if err != nil || len(page.Keys) < pageHistoryBytes/(size+200) || len(page.Keys) >= n || !page.More {
		t.Fatalf("%d of %d keys, more %v, %v", len(page.Keys), n, page.More, err)
	}
	if got := len(listAll(t, s, "", 5000, 1<<20)); got != n {
		t.Errorf("%d keys in all pages, want %d", got, n)
	}
	if got := followAll(t, s, ChangesRequest{Prefix: "0", Limit: 5000, LimitBytes: 1 << 20}); len(got) != n {
		t.Errorf("%d changes, want %d", len(got), n)
	}
}

// TestStore_Keys_SortedCopyGrows: a generation is sorted anew only when enough
// was added, and what was added since is seen all the same.
func TestStore_Keys_SortedCopyGrows(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	for i := range 4 * unsortedMin {
		key := Key(fmt.Sprintf("%06d", i*7919%1_000_003))
		if _, err := applyTo(s, uint64(i+1), 1, [][]byte{testPut(key, "id", "", nil, time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
		if i%97 == 0 {
			if got := len(listAll(t, s, "", 10_000, 1<<20)); got != i+1 {
				t.Fatalf("%d keys, want %d", got, i+1)
			}
		}
	}
	if n := len(s.memtable.active.sorted); n < 2*unsortedMin {
		t.Errorf("%d keys are sorted", n)
	}
}

func TestStore_Lists_DeadStore(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keys(t.Context(), KeysRequest{Limit: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("Keys: %v", err)
	}
	if _, err := s.Changes(ChangesRequest{Limit: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("Changes: %v", err)
	}
}

func TestStore_Advanced(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	isClosed := func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	first := s.Advanced(0)
	if _, err := applyTo(s, 1, 1, nil, nil); err != nil {
		t.Fatal(err)
	}
	if isClosed(first) {
		t.Error("an entry without a put woke a follower")
	}
	if _, err := applyTo(s, 2, 1, [][]byte{testPut("k", "id", "", nil, time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	if !isClosed(first) || !isClosed(s.Advanced(0)) || isClosed(s.Advanced(1)) {
		t.Error("the first revision is there, the second is not")
	}
}

func TestDB_Lists_AreConfirmed(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{})
	if _, err := db.Put(t.Context(), put("k", "v")); err != nil {
		t.Fatal(err)
	}
	for i, c := range []Consistency{Local, Linearizable} {
		page, err := db.Keys(t.Context(), KeysRequest{Limit: 10, LimitBytes: 1 << 20}, c)
		if err != nil || len(page.Keys) != 1 || page.Keys[0].Key != "k" || page.More {
			t.Errorf("Keys: %+v, %v", page, err)
		}
		part, err := db.Changes(t.Context(), ChangesRequest{Limit: 10, LimitBytes: 1 << 20, Values: true}, c)
		if err != nil || len(part.Records) != 1 || string(part.Records[0].Value) != "v" {
			t.Errorf("Changes: %+v, %v", part, err)
		}
		if l.reads != 2*i {
			t.Errorf("consistency %d: %d rounds", c, l.reads)
		}
	}
	<-db.Advanced(0)
}

// Whoever lists keys and goes away is not worked for any more, and nothing is wrong
// with the store then.
func TestStore_Keys_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := newMemDisks()
	s := mustOpen(t, d, StoreConfig{})
	if _, err := applyTo(s, 1, 1, [][]byte{testPut("k", "id", "", nil, time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	d.history.Crash() // and who reads it now fails
	if _, err := s.Keys(&stopAfter{t.Context(), 1}, KeysRequest{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("gone before history is read: %v", err)
	}
	d.index.Crash() // the same
	if _, err := s.Keys(&stopAfter{t.Context(), 0}, KeysRequest{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("gone before the index is read: %v", err)
	}
	if err := s.err(); err != nil {
		t.Error(err)
	}
}
