package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// accesses lets one access of a store to its engines fail, once: one of those that
// come from some place in the program. It counts all, by place.
type accesses struct {
	mu     sync.Mutex
	counts map[string]int
	target string
	nth    int // of the target's accesses
	damage damage
	failed bool
	file   string // that was damaged
}

// damage is what becomes of a value.
type damage byte

const (
	cutHalf damage = iota
	flipFirst
	flipLast
)

// placeNames are the names of places that were seen, by their stacks.
var placeNames sync.Map

// place names who calls: the functions of this package on the stack, up to the fourth,
// and their lines.
func place(what string) string {
	var pcs [48]uintptr
	runtime.Callers(3, pcs[:])
	if name, ok := placeNames.Load(pcs); ok {
		return what + name.(string)
	}
	frames := runtime.CallersFrames(pcs[:])
	name := ""
	for functions := 0; functions < 4; {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/kvstore.") && !strings.Contains(f.File, "_test.go") {
			short := f.Function[strings.LastIndex(f.Function, "/")+1:]
			name += fmt.Sprintf(" < %s:%d", short, f.Line)
			if !strings.Contains(short, ".func") {
				functions++
			}
		}
		if !more {
			break
		}
	}
	placeNames.Store(pcs, name)
	return what + name
}

func (a *accesses) access(what string) error {
	at := place(what)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[at]++
	if at != a.target || a.failed || a.counts[at] < a.nth {
		return nil
	}
	a.failed = true
	return engine.ErrInjected
}

// faultyEngine is an engine.Engine whose accesses may fail.
type faultyEngine struct {
	engine.Engine
	a    *accesses
	name string
}

func (e faultyEngine) View(fn func(engine.Tx) error) error {
	if err := e.a.access("view"); err != nil {
		return err
	}
	return e.Engine.View(func(tx engine.Tx) error { return fn(faultyTx{tx, e.a, e.name}) })
}

func (e faultyEngine) Update(fn func(engine.Tx) error) error {
	return e.Engine.Update(func(tx engine.Tx) error {
		if err := e.a.access("update"); err != nil {
			return err
		}
		return fn(faultyTx{tx, e.a, e.name})
	})
}

func (e faultyEngine) Close() error { return errors.Join(e.a.access("close"), e.Engine.Close()) }

type faultyTx struct {
	engine.Tx
	a    *accesses
	name string
}

func (t faultyTx) Where([]byte) (string, int64) { return t.name, -1 }

func (t faultyTx) Put(b engine.Bucket, key, value []byte) error {
	if err := t.a.access("put to " + b.String()); err != nil {
		return err
	}
	return t.Tx.Put(b, key, value)
}

func (t faultyTx) Delete(b engine.Bucket, key []byte) error {
	if err := t.a.access("delete from " + b.String()); err != nil {
		return err
	}
	return t.Tx.Delete(b, key)
}

// cut is value, or what is left of it once, or another one: what is read there is damaged.
func (t faultyTx) cut(what string, value []byte) []byte {
	if len(value) == 0 || t.a.access("damage: "+what) == nil {
		return value
	}
	t.a.file = t.name
	damaged := bytes.Clone(value)
	switch t.a.damage {
	case cutHalf:
		return damaged[:len(damaged)/2]
	case flipFirst:
		damaged[0] ^= 0x40
	case flipLast:
		damaged[len(damaged)-1] ^= 0x40
	}
	return damaged
}

func (t faultyTx) Get(b engine.Bucket, key []byte) []byte {
	return t.cut("get from "+b.String(), t.Tx.Get(b, key))
}

func (t faultyTx) Seek(b engine.Bucket, from []byte) (key, value []byte) {
	key, value = t.Tx.Seek(b, from)
	return key, t.cut("seek in "+b.String(), value)
}

func (t faultyTx) Ascend(b engine.Bucket, from []byte, fn func(k, v []byte) bool) {
	t.Tx.Ascend(b, from, func(k, v []byte) bool { return fn(k, t.cut("ascend "+b.String(), v)) })
}

// faultyFiles are Files of an index whose calls may fail.
type faultyFiles struct {
	keyruns.Files
	a *accesses
}

func (f faultyFiles) Make() error {
	return errors.Join(f.a.access("make index"), f.Files.Make())
}

func (f faultyFiles) Create(name string) (keyruns.File, error) {
	if err := f.a.access("create in index"); err != nil {
		return nil, err
	}
	file, err := f.Files.Create(name)
	return &faultyFile{file, f.a, f.Path(name)}, err
}

func (f faultyFiles) Open(name string) (keyruns.File, error) {
	if err := f.a.access("open in index"); err != nil {
		return nil, err
	}
	file, err := f.Files.Open(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f.a, f.Path(name)}, nil
}

func (f faultyFiles) Rename(from, to string) error {
	if err := f.a.access("rename in index"); err != nil {
		return err
	}
	return f.Files.Rename(from, to)
}

func (f faultyFiles) List() ([]string, error) {
	if err := f.a.access("list index"); err != nil {
		return nil, err
	}
	return f.Files.List()
}

func (f faultyFiles) Sync() error { return errors.Join(f.a.access("sync index"), f.Files.Sync()) }

type faultyFile struct {
	keyruns.File
	a    *accesses
	path string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.a.access("write to index"); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) Sync() error {
	return errors.Join(f.a.access("sync in index"), f.File.Sync())
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.a.access("view of index"); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if n > 0 && f.a.access("damage: read index") != nil {
		f.a.file = f.path
		switch f.a.damage {
		case cutHalf:
			clear(p[n/2 : n])
		case flipFirst:
			p[0] ^= 0x40
		case flipLast:
			p[n-1] ^= 0x40
		}
	}
	return n, err
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

// open opens a store on d through faulty engines, as OpenStoreDir does.
func (a *accesses) open(t testing.TB, d *memDisks, scratch bool) (*Store, error) {
	d.lives++
	d.history, d.index = d.history.Reopen(), d.index.Reopen(d.lives)
	cfg := tiny()
	cfg.CommitBytes, cfg.MemtableBytes, cfg.GenerationBytes, cfg.CheckpointRevisions = 4000, 1000, 250, 8
	var err error
	if cfg.Index, err = openIndexIn(faultyFiles{d.index, a}); err != nil {
		return nil, err
	}
	cfg.Bodies = d.openBodies(t)
	cfg.History = faultyEngine{d.history, a, historyFile}
	if scratch {
		cfg.OpenScratch = func() (Scratch, error) { return &faultyScratch{a: a}, a.access("open scratch") }
	}
	cfg.OpenStaging = func() (engine.Engine, error) {
		d.staging = d.staging.Reopen()
		return faultyEngine{d.staging, a, stagingFile}, a.access("open staging")
	}
	cfg.RemoveStaging = func() error {
		if err := a.access("remove staging"); err != nil {
			return err
		}
		d.staging = engine.NewMemEngine()
		return nil
	}
	s, err := OpenStore(cfg)
	if err != nil {
		return nil, err
	}
	return s, s.dropOldStaging(os.Args[0]) // any file: that there is one
}

// life is what a replica goes through: entries, snapshots of another one, of which
// only the last is installed, more entries, an index that is interrupted, and one that
// is lost, and reads of everything.
type life struct {
	log    []entry
	m      *model
	sender *Store
	taken  map[int]takenSnapshot // by entries
}

// What a life's snapshots have of the log.
const (
	lifeOwn    = 8  // entries that the replica has when the first comes
	lifeFirst  = 14 // pulled, but the replica gets beyond it otherwise
	lifeBeyond = 20
	lifeMiddle = 30 // pulled when the last is there already
	lifeLast   = 40
	lifeMore   = 52
)

// lifeHistory is whose log that is.
var lifeHistory = [16]byte{1}

func newLife(t *testing.T) *life {
	l := &life{m: newModel(), taken: map[int]takenSnapshot{}}
	l.log, _ = scriptOf(t, 31, 60, 1)
	id, now := uploadID{0xee}, time.Unix(1, 0)
	value := []byte("a chunk that came long before its seal")
	late := Meta{Key: "late", Size: int64(len(value)), SHA256: sumOf(value), ContentType: "a/b", Time: now, PutID: "p"}
	for i := range l.log {
		e := &l.log[i]
		e.index += 10
		switch {
		case i == 3:
			e.commands = append(e.commands, openCommand(id, now), testChunk(id, 0, value, now))
		case i == lifeMore+2:
			e.commands = append(e.commands, sealCommand(&late, id, 1))
		case i%4 == 0: // so that blocks get full
			e.commands = append(e.commands, testPut(Key(fmt.Sprint("wide/", i)), "p", "", bytes.Repeat([]byte{byte(i)}, 5000), now))
		}
		e.want = l.m.apply(t, e.commands)
	}
	cfg := tiny()
	cfg.CheckpointRevisions = 8
	l.sender = mustOpen(t, newMemDisks(), cfg)
	if err := l.sender.Bootstrap(5, 7, []byte("where the log begins"), lifeHistory); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{lifeFirst, lifeMiddle, lifeLast} {
		if err := runLog(t, l.sender, l.log[:n]); err != nil {
			t.Fatal(err)
		}
		index, _, meta, snapshot, err := l.sender.Durable()
		if err != nil {
			t.Fatal(err)
		}
		l.taken[n] = takenSnapshot{index, meta, snapshot}
	}
	return l
}

func (l *life) live(t *testing.T, d *memDisks, a *accesses) error {
	s, err := a.open(t, d, true)
	if err != nil {
		return err
	}
	if s.Stats().AppliedIndex == 0 {
		if err := s.Bootstrap(5, 7, []byte("where the log begins"), lifeHistory); err != nil {
			return err
		}
	}
	if s.Stats().AppliedIndex < l.taken[lifeLast].index {
		if err := l.pull(t, s, d, a); err != nil {
			return err
		}
		if s, err = a.open(t, d, true); err != nil {
			return err
		}
	}
	if err := runLog(t, s, l.log[:lifeMore]); err != nil {
		return err
	}
	s.mu.Lock()
	s.memtable.freeze(&s.applied.derived)
	s.mu.Unlock()
	if err := s.flushFrozen(&stopAfter{context.Background(), 1}); err != nil {
		return err
	}
	if err := runLog(t, s, l.log[:lifeMore+1]); err != nil {
		return err
	}
	if s, err = a.open(t, d, true); err != nil {
		return err
	}
	if err := runLog(t, s, l.log); err != nil {
		return err
	}
	if err := errors.Join(s.FlushIndex(), s.Close()); err != nil {
		return err
	}
	for _, scratch := range []bool{false, true} {
		d.index = keyruns.NewMemFiles()
		if s, err = a.open(t, d, scratch); err != nil {
			return err
		}
		if err := l.read(t, s); err != nil {
			return err
		}
	}
	if err := l.send(t, s); err != nil {
		return err
	}
	return s.Close()
}

// pull pulls snapshots, and installs the last.
func (l *life) pull(t *testing.T, s *Store, d *memDisks, a *accesses) error {
	fetch := serveFrom(l.sender)
	if err := runLog(t, s, l.log[:lifeOwn]); err != nil {
		return err
	}
	if err := s.Stage(t.Context(), l.taken[lifeFirst].snapshot, fetch, testFetch); err != nil {
		return err
	}
	if err := runLog(t, s, l.log[:lifeBeyond]); err != nil {
		return err
	}
	last := l.taken[lifeLast]
	var read int64
	err := s.Stage(t.Context(), last.snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
		rc, err := fetch(ctx, query)
		return &cutReader{rc, 30000 - read, &read}, err
	}, testFetch)
	if _, corrupt := errors.AsType[*CorruptError](err); err != nil && (corrupt || errors.Is(err, engine.ErrInjected) || !errors.Is(err, io.ErrUnexpectedEOF)) {
		return err
	}
	if s, err = a.open(t, d, true); err != nil {
		return err
	}
	for _, n := range []int{lifeLast, lifeMiddle, lifeLast} {
		if err := s.Stage(t.Context(), l.taken[n].snapshot, fetch, testFetch); err != nil {
			return err
		}
		if err := runLog(t, s, l.log[:lifeBeyond+2]); err != nil {
			return err
		}
	}
	return s.Install(last.index, 7, last.meta, last.snapshot)
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
	for i := range l.log {
		for j, cmd := range l.log[i].commands {
			result, decided, err := s.Resolve(cmd)
			if err != nil {
				return err
			}
			if want, set := l.log[i].want[j].(PutResult); set && (!decided || asPut(result).Meta != want.Meta) {
				t.Fatalf("command %d of entry %d was answered with %+v, and now with %+v, %v", j, l.log[i].index, want, result, decided)
			}
		}
	}
	return s.Verify(t.Context())
}

// believed are places that look at no value, but whether there is one, or at its key;
// or hand on one that says nothing to the store: the meta bytes of its owner.
var believed = []string{
	"damage: ascend chunks < kvstore.deleteChunks:",
	"damage: ascend records < kvstore.appendRecords:",
	"damage: get from chunks < kvstore.(*Store).hasChunk.",
	"damage: get from chunks < kvstore.(*stager).leadingChunks.",
	"damage: get from state < kvstore.(*Store).Durable.",
}

// repaired tells of places where a failure may be answered with what is right: what
// was pulled is pulled again.
func repaired(at string) bool {
	look := strings.HasPrefix(at, "damage") || strings.HasPrefix(at, "view")
	return look && strings.Contains(at, "(*Store).dropOldStaging:") ||
		strings.HasPrefix(at, "damage") && (strings.Contains(at, "(*Store).pulledTo:") || strings.Contains(at, "(*Store).pullIsWhole:") || strings.HasPrefix(at, "damage: get from state < kvstore.readProgress."))
}

// elsewhere tells of places where damage is found by somebody else, who does not know
// the file: the receiver of a chunk, or whoever compares a staged snapshot.
func elsewhere(at string) bool {
	return strings.HasPrefix(at, "damage: get from chunks < kvstore.(*Store).chunkFrame.") || strings.HasPrefix(at, "damage: get from state < kvstore.readProgress.")
}

// Every place in the program that looks into an engine, or writes to one, is once
// told that it failed; or gets half of a value. That is never passed over: whoever
// asked hears of it, what is answered is right, and a store that starts anew comes to
// the right end.
func TestStore_EveryAccess_FailsOnce(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	clean := &accesses{counts: map[string]int{}}
	if err := l.live(t, newMemDisks(), clean); err != nil {
		t.Fatal(err)
	}
	places := slices.Sorted(maps.Keys(clean.counts))
	if len(places) < 50 {
		t.Fatalf("only %d places look into an engine: %q", len(places), places)
	}
	t.Logf("%d places", len(places))
	for i, at := range places {
		if slices.ContainsFunc(believed, func(b string) bool { return strings.HasPrefix(at, b) }) {
			continue
		}
		n, damaged := clean.counts[at], strings.HasPrefix(at, "damage")
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			l.fail(t, &accesses{target: at, nth: 1})
			a := &accesses{target: at, nth: n/2 + 1, damage: flipFirst}
			if strings.HasPrefix(at, "damage: ascend") {
				a.nth = 1 // others may be where it ends, by their keys
			}
			if damaged || n > 2 {
				l.fail(t, a)
			}
			if strings.HasPrefix(at, "damage") && strings.Contains(at, " records <") {
				l.fail(t, &accesses{target: at, nth: n, damage: flipLast})
			}
		})
	}
}

// fail lives with an access that fails, and once more.
func (l *life) fail(t *testing.T, a *accesses) {
	d := newMemDisks()
	a.counts = map[string]int{}
	err := l.live(t, d, a)
	if !a.failed {
		return // it depends on what runs at the same time
	}
	damaged := strings.HasPrefix(a.target, "damage")
	c, corrupt := errors.AsType[*CorruptError](err)
	switch {
	case err == nil && a.damage == flipLast: // of a record that nobody wanted
	case err == nil && !repaired(a.target):
		t.Errorf("%s, access %d: nobody hears of it", a.target, a.nth)
	case err != nil && !damaged && !errors.Is(err, engine.ErrInjected) && !strings.Contains(err.Error(), engine.ErrInjected.Error()):
		t.Errorf("%s, access %d: the failure is answered with %v", a.target, a.nth, err)
	case err != nil && damaged && !(corrupt && c.File == a.file) && !elsewhere(a.target):
		t.Errorf("%s, access %d: the damage is answered with %v", a.target, a.nth, err)
	case a.damage != cutHalf: // one life more of each place is enough
		return
	}
	if err := l.live(t, d, &accesses{counts: map[string]int{}}); err != nil {
		t.Errorf("%s: the next life: %v", a.target, err)
	}
}
