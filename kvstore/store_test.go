package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

func TestStore_Apply_MatchesModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		log, m := script(t, seed, 120)
		s := mustOpen(t, newMemDisks(), tiny())
		for i := range log {
			mustApply(t, s, &log[i])
		}
		m.check(t, s)
		if err := s.FlushIndex(); err != nil {
			t.Fatal(err)
		}
		m.check(t, s)
		if st := s.Stats(); st.OverlayKeys != 0 || st.PendingBytes != 0 || st.IndexedTo != st.Revision {
			t.Fatalf("after FlushIndex: %+v", st)
		}
	}
}

// Invariants 1 and 5: the outcomes of puts of one key.
func TestStore_Apply_OnceOnly(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	now := time.Unix(1, 0)
	puts := []struct {
		id, value string
		want      Outcome
	}{{"a", "one", Created}, {"a", "one", Created}, {"b", "one", Unchanged}, {"b", "two", Conflict}, {"a", "two", Conflict}}
	index := uint64(0)
	step := func(flush func() error) {
		for i, p := range puts {
			index++
			res, err := applyTo(s, index, 1, [][]byte{testPut("k", p.id, fmt.Sprintf("text/x%d", i), []byte(p.value), now.Add(time.Duration(index)))}, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := asPut(res[0])
			if got.Outcome != p.want || got.Meta.Revision != 1 || got.Meta.PutID != "a" || got.Meta.ContentType != "text/x0" || !got.Meta.Time.Equal(now.Add(1)) {
				t.Fatalf("put %d of %+v: %+v", i, p, got)
			}
		}
		if err := flush(); err != nil {
			t.Fatal(err)
		}
	}
	step(s.Commit)     // pending
	step(s.FlushIndex) // in history, in the memtable
	step(s.Commit)     // in the index
}

func TestStore_Apply_SameKeyTwiceInOneEntry(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	res, err := applyTo(s, 1, 1, [][]byte{
		testPut("k", "a", "", []byte("1"), time.Unix(0, 0)),
		testPut("k", "b", "", []byte("2"), time.Unix(0, 0)),
		testPut("l", "c", "", nil, time.Unix(0, 0)),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if asPut(res[0]).Outcome != Created || asPut(res[1]).Outcome != Conflict || asPut(res[2]).Meta.Revision != 2 {
		t.Fatalf("%+v", res)
	}
	if v, err := s.Get("l"); err != nil || len(readAll(t, v)) != 0 {
		t.Fatalf("empty value: %v", err)
	}
}

func TestStore_Apply_WrongDigestIsRefused(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	cmd := testPut("k", "a", "", []byte("value"), time.Unix(0, 0))
	cmd[len(cmd)-1] ^= 1
	res, err := applyTo(s, 1, 1, [][]byte{cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err, ok := res[0].(error); !ok || !errors.Is(err, ErrValueDamaged) {
		t.Fatalf("got %v", res[0])
	}
}

func TestStore_Apply_IndexBackwardsIsFatal(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	if _, err := applyTo(s, 5, 1, nil, nil); err != nil {
		t.Fatal(err)
	}
	_, err := applyTo(s, 5, 1, nil, nil)
	if err == nil {
		t.Fatal("entry 5 was applied twice")
	}
	if _, gerr := s.Get("k"); gerr != err {
		t.Fatalf("after a fatal error Get returns %v", gerr)
	}
}

func TestStore_Apply_KeepsNothingOfTheCaller(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	cmd, meta := testPut("k", "a", "text/plain", []byte("value"), time.Unix(0, 0)), []byte("meta")
	if _, err := applyTo(s, 1, 1, [][]byte{cmd}, meta); err != nil {
		t.Fatal(err)
	}
	clear(cmd)
	clear(meta)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	v, err := s.Get("k")
	if err != nil || string(readAll(t, v)) != "value" || v.ContentType != "text/plain" {
		t.Fatalf("%+v %v", v, err)
	}
	if _, _, m, _, _ := s.Durable(); string(m) != "meta" {
		t.Fatalf("meta %q", m)
	}
}

func TestStore_Durable_IsOneTransaction(t *testing.T) {
	t.Parallel()
	d := newMemDisks()
	s := mustOpen(t, d, StoreConfig{})
	if err := s.Bootstrap(3, 2, []byte("first"), [16]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap(3, 2, nil, [16]byte{1}); err == nil {
		t.Fatal("a second bootstrap was accepted")
	}
	for i, meta := range []string{"m4", "", "m6"} {
		var b []byte
		if meta != "" {
			b = []byte(meta)
		}
		if _, err := applyTo(s, uint64(4+i), 2, [][]byte{testPut(Key(fmt.Sprint(i)), "a", "", nil, time.Unix(0, 0))}, b); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	index, term, meta, raw, err := s.Durable()
	snap, derr := decodeSnapshot(raw)
	if err != nil || derr != nil || index != 5 || term != 2 || string(meta) != "m4" || snap.rev != 2 || snap.index != 5 {
		t.Fatalf("%d %d %q %+v %v %v", index, term, meta, snap, err, derr)
	}
	s = mustOpen(t, d, StoreConfig{}) // crash: entry 6 is lost, the log gives it again
	if st := s.Stats(); st.AppliedIndex != 5 || st.Revision != 2 {
		t.Fatalf("%+v", st)
	}
}

func TestStore_Resolve(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	now := time.Unix(0, 5)
	id := uploadID{1}
	put, other := testPut("k", "a", "", []byte("v"), now), testPut("k", "b", "", []byte("w"), now)
	open, chunk := openCommand(id, now), testChunk(id, 0, []byte("c"), now)
	cmds := [][]byte{put, other, open, chunk}
	for _, cmd := range cmds {
		if _, decided, err := s.Resolve(cmd); decided || err != nil {
			t.Fatalf("decided before it was applied: %v", err)
		}
	}
	if res, decided, _ := s.Resolve(abandonCommand(id)); !decided || res != (AbandonResult{}) {
		t.Fatalf("abandon of an unknown upload: %v %v", res, decided)
	}
	applied, err := applyTo(s, 1, 1, cmds, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, cmd := range cmds {
		if res, decided, err := s.Resolve(cmd); !decided || err != nil || !sameResult(applied[i], res) {
			t.Fatalf("command %d: resolved %+v %v %v, applied %+v", i, res, decided, err, applied[i])
		}
	}
	if _, decided, _ := s.Resolve(abandonCommand(id)); decided {
		t.Fatal("abandon of an open upload is not decided")
	}
	if _, decided, _ := s.Resolve(testChunk(id, 1, []byte("c"), now)); decided {
		t.Fatal("a chunk that is not there is decided")
	}
	if res, decided, _ := s.Resolve(append(appendCommandHead(nil, commandPut), "junk"...)); !decided || !errors.Is(res.(error), errMalformedCommand) {
		t.Fatalf("junk: %v %v", res, decided)
	}
}

// Chunks of what is not open, early, twice, late; losing seals; incomplete seals.
func TestStore_Apply_Chunks(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	now, index := time.Unix(0, 9), uint64(0)
	do := func(cmd []byte) any {
		t.Helper()
		index++
		res, err := applyTo(s, index, 1, [][]byte{cmd}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if index%3 == 0 {
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		return res[0]
	}
	g := &scriptGen{now: now}
	full, tail := bytes.Repeat([]byte("x"), ChunkBytes), []byte("the end")
	value := append(bytes.Clone(full), tail...)
	seal := func(key Key, id uploadID, v []byte, chunks uint32, put string) []byte {
		cmd := testPut(key, put, "", nil, now)
		b, _ := decodeCommand(cmd)
		m := b.body.meta(0, key)
		m.Size, m.SHA256 = int64(len(v)), sumOf(v)
		return sealCommand(&m, id, chunks)
	}
	refused := func(what string, cmd []byte, want error) {
		t.Helper()
		if err, ok := do(cmd).(error); !ok || !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", what, err, want)
		}
	}
	accepted := func(cmd []byte, want any) {
		t.Helper()
		if res := do(cmd); res != want {
			t.Fatalf("%v, want %T", res, want)
		}
	}
	a := g.newUpload()
	first, last := testChunk(a, 0, full, now), testChunk(a, 1, tail, now)
	refused("a chunk of nothing", first, ErrUploadIncomplete)
	accepted(openCommand(a, now), OpenResult{})
	refused("the second chunk", last, errChunkOrder)
	accepted(first, ChunkResult{})
	accepted(openCommand(a, now), OpenResult{}) // repeats are nothing new
	accepted(first, ChunkResult{})
	accepted(last, ChunkResult{})
	accepted(last, ChunkResult{})
	refused("a chunk behind the last", testChunk(a, 2, tail, now), ErrUploadIncomplete)
	refused("a chunk far behind the last", testChunk(a, 3, tail, now), errChunkOrder)
	if res := asPut(do(seal("big", a, value, 2, "p1"))); res.Outcome != Created {
		t.Fatalf("%+v", res)
	}
	for range 3 { // late repeats, before and after the commit
		refused("opened again", openCommand(a, now), ErrUploadIncomplete)
		refused("a late chunk", last, ErrUploadIncomplete)
	}
	do(abandonCommand(a)) // what a sweeper would do if a repeat had opened it
	if n := s.Stats().OpenUploads; n != 0 {
		t.Fatalf("%d uploads are open", n)
	}
	g.n = 50
	b := g.newUpload()
	do(openCommand(b, now))
	do(testChunk(b, 0, full, now))
	do(testChunk(b, 1, []byte("other"), now))
	if res := asPut(do(seal("big", b, append(bytes.Clone(full), "other"...), 2, "p2"))); res.Outcome != Conflict {
		t.Fatalf("%+v", res)
	}
	if res := asPut(do(seal("big", a, value, 2, "p1"))); res.Outcome != Created {
		t.Fatalf("repeat of the winning seal: %+v", res)
	}
	g.n = 60
	c := g.newUpload()
	do(openCommand(c, now))
	do(testChunk(c, 0, full, now))
	refused("a seal too early", seal("big2", c, value, 2, "p3"), ErrUploadIncomplete)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	v, err := s.Get("big")
	if err != nil || !bytes.Equal(readAll(t, v), value) {
		t.Fatalf("big: %v", err)
	}
	chunks := 0
	if err := s.history.View(func(tx engine.Tx) error {
		tx.Ascend(engine.BucketChunks, nil, func(_, _ []byte) bool { chunks++; return true })
		return nil
	}); err != nil || chunks != 2 {
		t.Fatalf("%d chunks are kept, want the winner's 2; %v", chunks, err)
	}
}

// A dropped upload whose drop is not yet in history must look dropped on every
// replica, whatever it has committed.
func TestStore_Apply_LateOpenAfterDropIsDeterministic(t *testing.T) {
	t.Parallel()
	now, id := time.Unix(0, 0), uploadID{7}
	open, chunk := openCommand(id, now), testChunk(id, 0, []byte("a"), now)
	cmds := [][]byte{open, chunk, abandonCommand(id), chunk, open, chunk}
	for mask := range 1 << len(cmds) {
		d := newMemDisks()
		s := mustOpen(t, d, StoreConfig{})
		for i, cmd := range cmds {
			if _, err := applyTo(s, uint64(i+1), 1, [][]byte{cmd}, nil); err != nil {
				t.Fatal(err)
			}
			if mask&(1<<i) != 0 {
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, d, StoreConfig{})
		if ok, err := s.hasChunk(makeChunkKey(id, 0)); !ok || err != nil || s.Stats().OpenUploads != 1 {
			t.Fatalf("commits %b: chunk there %v, %d uploads, %v", mask, ok, s.Stats().OpenUploads, err)
		}
	}
}

func TestStore_Apply_PausesAtItsBounds(t *testing.T) {
	t.Parallel()
	for _, bound := range []string{"pending", "memtable"} {
		t.Run(bound, func(t *testing.T) {
			d := newMemDisks()
			gate, entered := make(chan struct{}), make(chan struct{}, 100)
			blocked := map[string]string{"pending": "history", "memtable": "index"}[bound]
			opened := false
			d.hook = func(disk string) engine.FailPoint {
				if opened && disk == blocked {
					entered <- struct{}{}
					<-gate
				}
				return engine.FailNever
			}
			cfg := StoreConfig{PendingBytes: 20_000, MemtableBytes: 1 << 20, CommitInterval: time.Hour}
			if bound == "memtable" {
				cfg.PendingBytes, cfg.MemtableBytes = 1<<20, 4000
			}
			s := mustOpen(t, d, cfg)
			opened = true
			stop := startRun(t, s)
			defer stop()
			applied := make(chan int, 10_000)
			go func() {
				defer close(applied)
				for i := range 400 {
					if _, err := applyTo(s, uint64(i+1), 1, [][]byte{testPut(Key(fmt.Sprint("key ", i)), "a", "", make([]byte, 100), time.Unix(0, 0))}, nil); err != nil {
						t.Errorf("apply: %v", err)
						return
					}
					applied <- i
				}
			}()
			<-entered
			waitFor(t, func() bool {
				st := s.Stats()
				return st.PendingBytes >= cfg.PendingBytes || st.OverlayBytes >= cfg.MemtableBytes
			})
			if n := len(applied); n == 400 {
				t.Fatal("Apply never paused")
			}
			st := s.Stats()
			if st.PendingBytes > cfg.PendingBytes+1000 || st.OverlayBytes > cfg.MemtableBytes+1000 {
				t.Fatalf("bounds are overrun: %+v", st)
			}
			if _, err := s.Get("key 0"); err != nil {
				t.Fatalf("reads must go on: %v", err)
			}
			close(gate)
			n := 0
			for range applied {
				n++
			}
			if n != 400 {
				t.Fatalf("%d entries were applied", n)
			}
		})
	}
}

// startRun runs s until stop, which waits for it.
func startRun(t testing.TB, s *Store) (stop func()) {
	t.Helper()
	ctx, cancel := contextWithCancel(t)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	waitFor(t, func() bool { s.mu.RLock(); defer s.mu.RUnlock(); return s.running })
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestStore_Run_CommitsOnTheWayOut(t *testing.T) {
	t.Parallel()
	d := newMemDisks()
	s := mustOpen(t, d, StoreConfig{CommitInterval: time.Hour})
	stop := startRun(t, s)
	if _, err := applyTo(s, 1, 1, [][]byte{testPut("k", "a", "", []byte("v"), time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	stop()
	s = mustOpen(t, d, StoreConfig{})
	if _, err := s.Get("k"); err != nil {
		t.Fatal(err)
	}
}

func TestStore_Run_ReturnsTheFatalError(t *testing.T) {
	t.Parallel()
	for _, disk := range []string{"history", "index"} {
		d, opened := newMemDisks(), false
		d.hook = func(name string) engine.FailPoint {
			if opened && name == disk {
				return engine.FailBefore
			}
			return engine.FailNever
		}
		cfg := tiny()
		cfg.CommitInterval = time.Millisecond
		s := mustOpen(t, d, cfg)
		opened = true
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		var err error
		for i := uint64(1); err == nil; i++ {
			_, err = applyTo(s, i, 1, [][]byte{testPut(Key(fmt.Sprint(i)), "a", "", nil, time.Unix(0, 0))}, nil)
		}
		if rerr := <-done; !errors.Is(rerr, engine.ErrInjected) || rerr != err {
			t.Fatalf("Run returned %v, Apply %v", rerr, err)
		}
		if cerr := s.Commit(); cerr != err {
			t.Fatalf("Commit of a dead store: %v", cerr)
		}
	}
}

func TestStore_ConcurrentReaders(t *testing.T) {
	t.Parallel()
	cfg := tiny()
	cfg.CommitInterval = time.Millisecond
	t.Run("memory", func(t *testing.T) { readWhileApplying(t, mustOpen(t, newMemDisks(), cfg)) })
	t.Run("bbolt", func(t *testing.T) { readWhileApplying(t, openDir(t, t.TempDir(), cfg)) })
}

func readWhileApplying(t *testing.T, s *Store) {
	log, m := script(t, 11, 100)
	stop := startRun(t, s)
	quit := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() { hammer(t, s, m, quit, i) })
	}
	for i := range log {
		mustApply(t, s, &log[i])
		if i%50 == 0 {
			if err := s.FlushIndex(); err != nil {
				t.Error(err)
			}
		}
	}
	close(quit)
	readers.Wait()
	stop()
	m.check(t, s)
}

// hammer reads every key again and again: a key that was seen once must be seen
// ever after, with the winner's bytes.
func hammer(t *testing.T, s *Store, m *model, quit chan struct{}, start int) {
	seen := make(map[Key]bool)
	for i := start; ; i++ {
		select {
		case <-quit:
			return
		default:
		}
		key := m.order[i%len(m.order)]
		v, err := s.Get(key)
		if errors.Is(err, ErrNotFound) && !seen[key] {
			continue
		}
		if err != nil {
			t.Errorf("Get(%q), seen %v: %v", key, seen[key], err)
			return
		}
		seen[key] = true
		if v.Meta != m.keys[key].meta || !bytes.Equal(readAll(t, v), m.keys[key].value) {
			t.Errorf("Get(%q) is not the winner", key)
			return
		}
		s.Stats()
	}
}

func TestStore_DigestAt_Checkpoints(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	m := newModel()
	for i := range uint64(30) {
		e := entry{index: i + 1}
		for j := range 100 {
			e.commands = append(e.commands, testPut(Key(fmt.Sprint(i, "/", j)), "x", "", nil, time.Unix(0, 0)))
		}
		e.want = m.apply(t, e.commands)
		mustApply(t, s, &e)
		if i == 24 {
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, r := range []Revision{0, 1, 1023, 1024, 1025, 2047, 2048, 2500, 2501, 3000} {
		if got, err := s.DigestAt(r); err != nil || got != m.digests[r] {
			t.Fatalf("DigestAt(%d) = %s, %v", r, got, err)
		}
	}
	if _, err := s.DigestAt(3001); !errors.Is(err, errBehind) {
		t.Fatalf("DigestAt(3001): %v", err)
	}
}

func TestStore_OnCommit(t *testing.T) {
	t.Parallel()
	commits := 0
	s := mustOpen(t, newMemDisks(), StoreConfig{OnCommit: func(took time.Duration) {
		commits++
		if took < 0 {
			t.Errorf("a commit took %v", took)
		}
	}})
	for i := range 3 {
		if _, err := applyTo(s, uint64(i+1), 1, [][]byte{testPut(Key(fmt.Sprint(i)), "a", "", nil, time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second has nothing to write
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if commits != 3 {
		t.Errorf("heard of %d commits, want 3", commits)
	}
}

// asPut is what a DB answers to a put with this result of Apply.
func asPut(result any) PutResult {
	if p, ok := result.(*pendingRecord); ok {
		d := p.body()
		return PutResult{Outcome: Created, Meta: d.meta(p.rev, Key(d.key))}
	}
	return result.(PutResult)
}

// A store that is dead answers nothing but why: whoever asks, for whatever, be it in
// memory or not.
func TestStore_Dead_AnswersNothingElse(t *testing.T) {
	t.Parallel()
	db, s, l := newTestDB(t, DBConfig{ChunkRetry: time.Millisecond})
	large := PutRequest{Key: "large", Body: bytes.NewReader(make([]byte, ChunkBytes+1)), Size: -1}
	for _, r := range []PutRequest{put("k", "v"), large} {
		if _, err := db.Put(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	v, err := s.Get("large")
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("some damage")
	_ = s.fail(cause)
	kinds := fmt.Sprint(l.kinds)
	s.pendingBytes, s.running = s.cfg.PendingBytes, true // so that Apply would wait
	one := func(call func(each func(int, error))) (err error) {
		call(func(_ int, e error) { err = e })
		return err
	}
	for what, do := range map[string]func() error{
		"Apply":         func() error { _, err := applyTo(s, 100, 1, nil, nil); return err },
		"Commit":        s.Commit,
		"FlushIndex":    s.FlushIndex,
		"Get":           func() error { _, err := s.Get("k"); return err },
		"Get absent":    func() error { _, err := s.Get("absent"); return err },
		"Keys":          func() error { _, err := s.Keys(t.Context(), KeysRequest{Limit: 1}); return err },
		"Changes":       func() error { _, err := s.Changes(ChangesRequest{Limit: 1}); return err },
		"DigestAt":      func() error { _, err := s.DigestAt(1); return err },
		"DigestAt 0":    func() error { _, err := s.DigestAt(0); return err },
		"Verify":        func() error { return s.Verify(t.Context()) },
		"Read":          func() error { _, err := v.Open(t.Context()).Read(make([]byte, 1)); return err },
		"DB.Get":        func() error { _, err := db.Get(t.Context(), "k", Local); return err },
		"DB.Get absent": func() error { _, err := db.Get(t.Context(), "absent", Linearizable); return err },
		"DB.Keys":       func() error { _, err := db.Keys(t.Context(), KeysRequest{Limit: 1}, Linearizable); return err },
		"DB.Changes":    func() error { _, err := db.Changes(t.Context(), ChangesRequest{Limit: 1}, Linearizable); return err },
		"DB.Put":        func() error { _, err := db.Put(t.Context(), put("new", "v")); return err },
		"DB.Put again":  func() error { _, err := db.Put(t.Context(), put("k", "v")); return err },
		"DB.Put large": func() error {
			_, err := db.Put(t.Context(), PutRequest{Key: "new", Body: bytes.NewReader(make([]byte, ChunkBytes+1)), Size: -1})
			return err
		},
		"DB.GetMany": func() error {
			return one(func(each func(int, error)) {
				db.GetMany([]Key{"k"}, func(i int, _ *Value, err error) { each(i, err) })
			})
		},
		"DB.PutMany": func() error {
			return one(func(each func(int, error)) {
				db.PutMany(t.Context(), []SmallPut{{Key: "new"}}, func(i int, _ PutResult, err error) { each(i, err) })
			})
		},
	} {
		if err := do(); err != cause {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := fmt.Sprint(l.kinds); got != kinds {
		t.Errorf("a dead store's DB proposes: %s, before %s", got, kinds)
	}
}

// Without a Run it is Apply that makes room, for what pends and for keys that are not
// indexed, also when both are at their bounds.
func TestStore_Apply_MakesRoomItself(t *testing.T) {
	t.Parallel()
	for _, pending := range []int64{1, 1000, 1 << 20} {
		s := mustOpen(t, newMemDisks(), StoreConfig{PendingBytes: pending, MemtableBytes: 1000, GenerationBytes: 100})
		for i := range uint64(200) {
			if _, err := applyTo(s, i+1, 1, [][]byte{testPut(Key(fmt.Sprint("key ", i)), "id", "", nil, time.Unix(0, 0))}, nil); err != nil {
				t.Fatal(err)
			}
			const entry = 300
			if st := s.Stats(); st.PendingBytes > pending+entry || st.OverlayBytes > 1000+entry {
				t.Fatalf("after %d entries of less than %d bytes: %+v", i+1, entry, st)
			}
		}
	}
}

// What ends a store is told with what it was about, but for its being closed.
func TestStore_Failed_SaysAtWhat(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		d := newMemDisks()
		s := mustOpen(t, d, StoreConfig{})
		if _, err := applyTo(s, 1, 1, nil, nil); err != nil {
			t.Fatal(err)
		}
		want := "commit to history: " + engine.ErrCrashed.Error()
		if closed {
			want = ErrClosed.Error()
			_ = d.history.Close()
		} else {
			d.history.Crash()
		}
		if err := s.Commit(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
