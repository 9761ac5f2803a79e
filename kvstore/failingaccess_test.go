package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// accesses lets one access of a store to its engines fail, once: the first that
// comes from some place in the program. It notes all places.
type accesses struct {
	mu     sync.Mutex
	from   map[string]bool
	target string
	failed bool
}

// place names who calls: the functions of this package on the stack, and their lines.
func place(what string) string {
	var pcs [40]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	parts := []string{what}
	for len(parts) < 8 && (len(parts) < 2 || !strings.HasPrefix(what, "damage")) {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/kvstore.") && !strings.Contains(f.File, "_test.go") && !strings.Contains(f.File, "memengine.go") {
			parts = append(parts, fmt.Sprintf("%s:%d", f.Function[strings.LastIndex(f.Function, "/")+1:], f.Line))
		}
		if !more {
			break
		}
	}
	return strings.Join(parts, " < ")
}

func (a *accesses) access(what string) error {
	at := place(what)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.from[at] = true
	if at != a.target || a.failed {
		return nil
	}
	a.failed = true
	return ErrInjected
}

// faultyEngine is an Engine whose accesses may fail.
type faultyEngine struct {
	Engine
	a *accesses
}

func (e faultyEngine) View(fn func(Tx) error) error {
	if err := e.a.access("view"); err != nil {
		return err
	}
	return e.Engine.View(func(tx Tx) error { return fn(faultyTx{tx, e.a}) })
}

func (e faultyEngine) Update(fn func(Tx) error) error {
	return e.Engine.Update(func(tx Tx) error { return fn(faultyTx{tx, e.a}) })
}

func (e faultyEngine) Close() error { return errors.Join(e.a.access("close"), e.Engine.Close()) }

type faultyTx struct {
	Tx
	a *accesses
}

func (t faultyTx) Put(b Bucket, key, value []byte) error {
	if err := t.a.access("put to " + b.String()); err != nil {
		return err
	}
	return t.Tx.Put(b, key, value)
}

func (t faultyTx) Delete(b Bucket, key []byte) error {
	if err := t.a.access("delete from " + b.String()); err != nil {
		return err
	}
	return t.Tx.Delete(b, key)
}

// cut is value, or half of it once: what is read there is damaged.
func (a *accesses) cut(what string, value []byte) []byte {
	if len(value) == 0 || a.access(what) == nil {
		return value
	}
	return value[:len(value)/2]
}

func (t faultyTx) Get(b Bucket, key []byte) []byte {
	return t.a.cut("damage: get from "+b.String(), t.Tx.Get(b, key))
}

func (t faultyTx) Seek(b Bucket, from []byte) (key, value []byte) {
	key, value = t.Tx.Seek(b, from)
	return key, t.a.cut("damage: seek in "+b.String(), value)
}

func (t faultyTx) Ascend(b Bucket, from []byte, fn func(k, v []byte) bool) {
	t.Tx.Ascend(b, from, func(k, v []byte) bool { return fn(k, t.a.cut("damage: ascend "+b.String(), v)) })
}

// faultyScratch is a Scratch whose accesses may fail.
type faultyScratch struct {
	memScratch
	a *accesses
}

func (s *faultyScratch) Write(p []byte) (int, error) {
	if err := s.a.access("write scratch"); err != nil {
		return 0, err
	}
	return s.memScratch.Write(p)
}

func (s *faultyScratch) ReadAt(p []byte, off int64) (int, error) {
	if err := s.a.access("read scratch"); err != nil {
		return 0, err
	}
	return s.memScratch.ReadAt(p, off)
}

func (s *faultyScratch) Close() error {
	return errors.Join(s.memScratch.Close(), s.a.access("close scratch"))
}

// open opens a store on d through faulty engines.
func (a *accesses) open(d *memDisks) (*Store, error) {
	d.history, d.index = d.history.Reopen(), d.index.Reopen()
	cfg := tiny()
	cfg.CommitBytes = 4000
	cfg.History, cfg.Index = faultyEngine{d.history, a}, faultyEngine{d.index, a}
	cfg.OpenScratch = func() (Scratch, error) { return &faultyScratch{a: a}, a.access("open scratch") }
	cfg.OpenStaging = func() (Engine, error) {
		d.staging = d.staging.Reopen()
		return faultyEngine{d.staging, a}, a.access("open staging")
	}
	cfg.RemoveStaging = func() error {
		if err := a.access("remove staging"); err != nil {
			return err
		}
		d.staging = NewMemEngine()
		return nil
	}
	return OpenStore(cfg)
}

// life is what a replica goes through: entries, a snapshot of another one, more
// entries, a lost index, and reads of everything.
type life struct {
	log      []entry
	half     []entry
	m        *model
	sender   *Store
	index    uint64
	meta     []byte
	snapshot []byte
}

func newLife(t *testing.T) *life {
	l := &life{}
	l.log, l.m = scriptOf(t, 31, 60, 2)
	l.half = l.log[:40]
	l.sender = mustOpen(t, newMemDisks(), tiny())
	if err := runLog(t, l.sender, l.half); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.index, _, l.meta, l.snapshot, err = l.sender.Durable(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *life) live(t *testing.T, d *memDisks, a *accesses) error {
	s, err := a.open(d)
	if err != nil {
		return err
	}
	if s.Stats().AppliedIndex < l.index {
		if err := runLog(t, s, l.half[:15]); err != nil {
			return err
		}
		if err := catchUp(t, s, l.index, l.meta, l.snapshot, l.sender); err != nil {
			return err
		}
	}
	if err := runLog(t, s, l.log); err != nil {
		return err
	}
	if err := errors.Join(s.FlushIndex(), s.Close()); err != nil {
		return err
	}
	d.index = NewMemEngine()
	if s, err = a.open(d); err != nil {
		return err
	}
	if err := l.read(t, s); err != nil {
		return err
	}
	if err := l.send(t, s); err != nil {
		return err
	}
	return s.Close()
}

// send has a new replica pull everything from s; what it gets must be right.
func (l *life) send(t *testing.T, s *Store) error {
	index, _, meta, snapshot, err := s.Durable()
	if err != nil {
		return err
	}
	to := mustOpen(t, newMemDisks(), tiny())
	if err := catchUp(t, to, index, meta, snapshot, s); err != nil {
		return err
	}
	return errors.Join(l.read(t, to), to.Close())
}

// read reads everything in every way; what it gets without an error must be right.
func (l *life) read(t *testing.T, s *Store) error {
	for _, key := range slices.Sorted(maps.Keys(l.m.keys)) {
		want := l.m.keys[key]
		v, err := s.Get(key)
		if err != nil {
			return err
		}
		got := new(bytes.Buffer)
		r := v.Open(t.Context())
		_, err = got.ReadFrom(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if v.Meta != want.meta || !bytes.Equal(got.Bytes(), want.value) {
			t.Fatalf("Get(%q) = %+v with %d bytes, want %+v", key, v.Meta, got.Len(), want.meta)
		}
	}
	page, err := s.Keys(t.Context(), KeysRequest{Limit: 1000, LimitBytes: 1 << 20})
	if err != nil {
		return err
	}
	if len(page.Keys) != len(l.m.keys) {
		t.Fatalf("%d keys are listed, want %d", len(page.Keys), len(l.m.keys))
	}
	var records []Change
	for after, newest := Revision(0), Revision(1); after < newest; {
		c, err := s.Changes(ChangesRequest{After: after, Limit: 1000, LimitBytes: 1 << 20})
		if err != nil {
			return err
		}
		records, after, newest = append(records, c.Records...), c.Scanned, c.Newest
	}
	l.m.checkChanges(t, records, 0, "", false)
	for r := range l.m.digests {
		digest, err := s.DigestAt(Revision(r))
		if err != nil {
			return err
		}
		if digest != l.m.digests[r] {
			t.Fatalf("DigestAt(%d) = %s, want %s", r, digest, l.m.digests[r])
		}
	}
	return s.Verify(t.Context())
}

// believed are places that look at no value (deleteChunks), or hand on one that says
// nothing to the store: the meta bytes of its owner.
var believed = []string{
	"damage: ascend chunks < kvstore.deleteChunks:",
	"damage: get from state < kvstore.(*Store).Durable.",
}

// Every place in the program that looks into an engine, or writes to one, is once
// told that it failed; or gets half of a value. That is never passed over: whoever
// asked hears of it, what is answered is right, and a store that starts anew comes to
// the right end.
func TestStore_EveryAccess_FailsOnce(t *testing.T) {
	l := newLife(t)
	clean := &accesses{from: map[string]bool{}}
	if err := l.live(t, newMemDisks(), clean); err != nil {
		t.Fatal(err)
	}
	places := slices.Sorted(maps.Keys(clean.from))
	if len(places) < 50 {
		t.Fatalf("only %d places look into an engine: %q", len(places), places)
	}
	t.Logf("%d places", len(places))
	for _, at := range places {
		if slices.ContainsFunc(believed, func(b string) bool { return strings.HasPrefix(at, b) }) {
			continue
		}
		d, a := newMemDisks(), &accesses{from: map[string]bool{}, target: at}
		err := l.live(t, d, a)
		if !a.failed {
			continue // it depends on what runs at the same time
		}
		if damaged := strings.HasPrefix(at, "damage"); err == nil || !damaged && !errors.Is(err, ErrInjected) {
			t.Errorf("%s: the failure is answered with %v", at, err)
		}
		if strings.HasPrefix(at, "damage") {
			continue
		}
		if err := l.live(t, d, &accesses{from: map[string]bool{}}); err != nil {
			t.Errorf("%s: the next life: %v", at, err)
		}
	}
}
