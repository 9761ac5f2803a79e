package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// honestStream is what a sender answers to one query of a pull.
type honestStream struct {
	query string
	items []streamItem
}

// honestStreams are those of a whole pull.
func (x *stageFixture) honestStreams(t *testing.T) (all []honestStream) {
	t.Helper()
	err := mustOpen(t, x.disks(), tiny()).Stage(t.Context(), x.snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
		var b bytes.Buffer
		if err := x.sender.Serve(ctx, query, &b); err != nil {
			return nil, err
		}
		items, _ := itemsOf(t, b.Bytes())
		all = append(all, honestStream{query, items})
		return io.NopCloser(&b), nil
	}, bodiesFrom(x.sender))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// watchedContext ends when it was asked so many times.
type watchedContext struct {
	context.Context
	left int
}

func (c *watchedContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// brokenWriter fails once.
type brokenWriter struct {
	left, late int
	ctx        *watchedContext
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 || w.ctx.left < 0 {
		w.late++
	}
	if w.left == 0 {
		return 0, engine.ErrInjected
	}
	return len(p), nil
}

// A sender whose receiver is gone says so, and reads and sends nothing more.
func TestStore_Serve_EndsWithItsReceiver(t *testing.T) {
	t.Parallel()
	fixtures := stageFixtures(t)
	open, id := mustOpen(t, newMemDisks(), tiny()), uploadID{7}
	if _, err := applyTo(open, 1, 1, [][]byte{openCommand(id, time.Unix(0, 0)), testChunk(id, 0, make([]byte, ChunkBytes), time.Unix(0, 0)), testChunk(id, 1, []byte("x"), time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	upload := query{kind: queryChunks, index: 1, upload: id}
	serve := func(s *Store, query string) {
		t.Helper()
		for n := 0; ; n++ {
			ctx := &watchedContext{t.Context(), n}
			w := &brokenWriter{left: 1 << 30, ctx: ctx}
			if err := s.Serve(ctx, query, w); err == nil && w.late == 0 {
				break
			} else if !errors.Is(err, context.Canceled) || w.late > 0 || s.err() != nil {
				t.Fatalf("%s: its context ends at check %d: %v, and %d more writes", query, n, err, w.late)
			}
		}
		for n := 1; ; n++ {
			w := &brokenWriter{left: n, ctx: &watchedContext{t.Context(), 1 << 30}}
			if err := s.Serve(w.ctx, query, w); err == nil && w.late == 0 && w.left > 0 {
				break
			} else if !errors.Is(err, engine.ErrInjected) || w.late > 0 || s.err() != nil {
				t.Fatalf("%s: write %d fails: %v, and %d more writes", query, n, err, w.late)
			}
		}
	}
	for _, x := range fixtures {
		for _, stream := range x.honestStreams(t) {
			serve(x.sender, stream.query)
		}
	}
	serve(open, upload.String())
}

// lateEngine knows how often it was read after a context ended.
type lateEngine struct {
	engine.Engine
	ctx  *watchedContext
	late *int
}

func (e lateEngine) View(fn func(engine.Tx) error) error {
	if e.ctx.left < 0 {
		*e.late++
	}
	return e.Engine.View(fn)
}

// Verify ends with its context, reads nothing more, and the store lives on.
func TestStore_Verify_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, x := range stageFixtures(t) {
		for n := 0; ; n++ {
			d := &memDisks{history: x.sender.history.(*engine.MemEngine).Copy(), index: keyruns.NewMemFiles(), staging: engine.NewMemEngine()}
			s := mustOpen(t, d, tiny())
			if err := s.FlushIndex(); err != nil {
				t.Fatal(err)
			}
			ctx, late := &watchedContext{t.Context(), n}, 0
			s.history = lateEngine{s.history, ctx, &late}
			d.index.OnCall(func(c keyruns.Call) keyruns.Fault {
				if c.Op == keyruns.OpRead && ctx.left < 0 {
					late++
				}
				return keyruns.Fault{}
			})
			if err := s.Verify(ctx); err == nil && late == 0 {
				break
			} else if !errors.Is(err, context.Canceled) || late > 0 || s.err() != nil {
				t.Fatalf("its context ends at check %d: %v, %d more reads, and the store says %v", n, err, late, s.err())
			}
		}
	}
}

// failingTx fails at one of its writes.
type failingTx struct {
	engine.Tx
	left int
}

func (t *failingTx) next() error {
	if t.left--; t.left == 0 {
		return engine.ErrInjected
	}
	return nil
}

func (t *failingTx) Put(b engine.Bucket, key, value []byte) error {
	return errors.Join(t.next(), t.Tx.Put(b, key, value))
}

func (t *failingTx) Delete(b engine.Bucket, key []byte) error {
	return errors.Join(t.next(), t.Tx.Delete(b, key))
}

// Many pulled records are several blocks, and checkpoints: each write may fail.
func TestWriteRecords_EveryWriteFails(t *testing.T) {
	t.Parallel()
	var records []pendingRecord
	var at derived
	for i, raw := range testRecords(1, 9000, 9000, 300, 9000, 9000, 9000) {
		d, err := decodeRecord(raw, Revision(i+1))
		if err != nil {
			t.Fatal(err)
		}
		at.advance(leafOf(d.header), &d)
		records = append(records, pendingRecord{Revision(i + 1), raw, at.keep(2)})
	}
	for n := 1; ; n++ {
		e := engine.NewMemEngine()
		writeTestRecords(t, e, 0, testRecords(1, 100), false) // is in the way
		tx := &failingTx{left: n}
		err := e.Update(func(inner engine.Tx) error {
			tx.Tx = inner
			return writeRecords(tx, records, false)
		})
		if tx.left > 0 {
			if err != nil || n < 8 {
				t.Errorf("%d writes: %v", n-1, err)
			}
			return
		}
		if !errors.Is(err, engine.ErrInjected) {
			t.Errorf("write %d fails: %v", n, err)
		}
	}
}

// What is applied and not yet in history is sent too.
func TestStore_Serve_CommitsBefore(t *testing.T) {
	t.Parallel()
	s, id := mustOpen(t, newMemDisks(), tiny()), uploadID{7}
	if _, err := applyTo(s, 1, 1, [][]byte{openCommand(id, time.Unix(0, 0)), testChunk(id, 0, []byte("x"), time.Unix(0, 0)), testPut("k", "p", "", nil, time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	q := query{kind: queryChunks, index: 1, upload: id}
	if err := s.Serve(t.Context(), q.String(), &b); err != nil {
		t.Fatal(err)
	}
	if items, _ := itemsOf(t, b.Bytes()); len(items) != 2 {
		t.Errorf("%d items for one chunk", len(items))
	}
}

// The chunks of open uploads may be gone at the sender: without one a stream is sound. So
// is one without its last record: it is asked for anew.
func mayLack(s honestStream, i int) bool {
	if s.items[i].kind == itemRecord {
		return i > 0 && s.items[i+1].kind == itemEnd
	}
	q, err := parseQuery(s.query)
	return err == nil && q.kind == queryChunks && s.items[i].kind == itemChunk
}

// Every item of a pull is damaged, lost, of another kind or the last that comes, once.
// The receiver says so at once and takes none of it; an honest sender then need not
// send again what came before.
func TestStore_Stage_EveryFrame(t *testing.T) {
	t.Parallel()
	harms := map[string]func(items []streamItem, i int) ([]streamItem, io.Reader){
		"damaged": func(items []streamItem, i int) ([]streamItem, io.Reader) {
			f := streamItem{items[i].kind, bytes.Clone(items[i].payload)}
			f.payload[len(f.payload)-1] ^= 1
			items[i] = f
			return items, nil
		},
		"lost": func(items []streamItem, i int) ([]streamItem, io.Reader) {
			return slices.Delete(items, i, i+1), nil
		},
		"of no known kind": func(items []streamItem, i int) ([]streamItem, io.Reader) {
			items[i].kind = 'z'
			return items, nil
		},
		"empty": func(items []streamItem, i int) ([]streamItem, io.Reader) {
			items[i].payload = nil
			return items, nil
		},
		"the end": func(items []streamItem, i int) ([]streamItem, io.Reader) { return items[:i], nil },
		"out of reach": func(items []streamItem, i int) ([]streamItem, io.Reader) {
			return items[:i], iotest.ErrReader(engine.ErrInjected)
		},
	}
	wants := map[string]error{"the end": io.ErrUnexpectedEOF, "out of reach": engine.ErrInjected}
	for _, x := range stageFixtures(t) {
		streams := x.honestStreams(t)
		total := 0
		for n, stream := range streams {
			for i, f := range stream.items {
				for name, harm := range harms {
					broken := wants[name] != nil
					if f.kind == itemEnd && !broken || name == "lost" && mayLack(stream, i) {
						continue
					}
					x.pullHarmed(t, fmt.Sprintf("stream %d, item %d is %s", n, i, name), stream.query, total+i, broken, func() ([]byte, io.Reader, error) {
						items, rest := harm(slices.Clone(stream.items), i)
						var b []byte
						for _, f := range items {
							b = appendItem(b, f.kind, nil, f.payload)
						}
						if rest == nil {
							rest = bytes.NewReader(nil)
						}
						want := wants[name]
						if want == nil {
							want = errSnapshotBody
						}
						return b, rest, want
					})
				}
			}
			x.pullHarmed(t, fmt.Sprintf("stream %d does not come", n), stream.query, total, true, func() ([]byte, io.Reader, error) { return nil, nil, engine.ErrInjected })
			total += len(stream.items)
		}
	}
}

// pullHarmed pulls with one stream in place of an honest one; no reader: nothing comes.
// before is how many items come before the harm.
func (x *stageFixture) pullHarmed(t *testing.T, what, harmed string, before int, resumed bool, harm func() ([]byte, io.Reader, error)) {
	t.Helper()
	d := x.disks()
	s := mustOpen(t, d, tiny())
	b, rest, want := harm()
	sent := 0
	fetch := func(ctx ctxT, query string) (io.ReadCloser, error) {
		var honest bytes.Buffer
		if err := x.sender.Serve(ctx, query, &honest); err != nil {
			return nil, err
		}
		items, _ := itemsOf(t, honest.Bytes())
		sent += len(items)
		return io.NopCloser(&honest), nil
	}
	err := s.Stage(t.Context(), x.snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
		switch {
		case query != harmed:
			return fetch(ctx, query)
		case rest == nil:
			return nil, engine.ErrInjected
		}
		return io.NopCloser(io.MultiReader(bytes.NewReader(b), rest)), nil
	}, bodiesFrom(x.sender))
	if !errors.Is(err, want) || s.err() != nil {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
	if !resumed && d.staging.Size() > 0 {
		t.Fatalf("%s: staging keeps what was damaged", what)
	}
	total := 0
	for _, stream := range x.honestStreams(t) {
		total += len(stream.items)
	}
	sent = 0
	if err := s.Stage(t.Context(), x.snapshot, fetch, bodiesFrom(x.sender)); err != nil {
		t.Fatalf("%s: an honest sender is refused: %v", what, err)
	}
	if resumed && sent > total-before+3 { // a record comes again with all of its two chunks, and a portion more has an end
		t.Fatalf("%s: %d items come, of %d, and %d had come before", what, sent, total, before)
	}
	if err := s.Install(x.index, 7, x.meta, x.snapshot); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	x.half.check(t, s)
}

// measuredEngine knows the bytes of its largest transaction.
type measuredEngine struct {
	engine.Engine
	updates, largest int
}

func (e *measuredEngine) Update(fn func(engine.Tx) error) error {
	e.updates++
	return e.Engine.Update(func(tx engine.Tx) error {
		m := &measuredTx{Tx: tx}
		err := fn(m)
		e.largest = max(e.largest, m.bytes)
		return err
	})
}

type measuredTx struct {
	engine.Tx
	bytes int
}

func (t *measuredTx) Put(b engine.Bucket, key, value []byte) error {
	t.bytes += len(value)
	return t.Tx.Put(b, key, value)
}

// A pull asks for some MiB of bodies at a time, and writes little besides them; so does an
// install.
func TestStore_Stage_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	const chunks = 21
	id, now := uploadID{1}, time.Unix(0, 0)
	cmds, h := [][]byte{openCommand(id, now)}, sha256.New()
	for n := range uint32(chunks) {
		chunk := make([]byte, ChunkBytes)
		chunk[0] = byte(n)
		cmds = append(cmds, testChunk(id, n, chunk, now))
		h.Write(chunk)
	}
	meta := Meta{Key: "big", Size: chunks * ChunkBytes, SHA256: Digest(h.Sum(nil)), ContentType: "a/b", Time: now, PutID: "p"}
	sender := mustOpen(t, newMemDisks(), StoreConfig{})
	for index, commands := range [][][]byte{cmds, {sealCommand(&meta, id, chunks)}} {
		if _, err := applyTo(sender, uint64(index+1), 1, commands, nil); err != nil {
			t.Fatal(err)
		}
		if err := sender.Commit(); err != nil {
			t.Fatal(err)
		}
		_, _, _, snapshot, err := sender.Durable()
		if err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		history := &measuredEngine{Engine: s.history}
		s.history = history
		open, measured := s.cfg.OpenStaging, &measuredEngine{}
		s.cfg.OpenStaging = func() (engine.Engine, error) {
			area, err := open()
			measured.Engine = area
			return measured, err
		}
		asked := 0
		if err := s.Stage(t.Context(), snapshot, serveFrom(sender), func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
			asked++
			if len(refs)*ChunkBytes > fetchBytes {
				t.Errorf("%d bodies of 1 MiB are asked for at a time", len(refs))
			}
			return bodiesFrom(sender)(ctx, refs, each)
		}); err != nil {
			t.Fatal(err)
		}
		if asked != 3 || measured.largest > 8<<10 || measured.updates > 6 {
			t.Errorf("entry %d: asked %d times, %d transactions, the largest of %d bytes", index+1, asked, measured.updates, measured.largest)
		}
		if err := s.Install(uint64(index+1), 1, nil, snapshot); err != nil {
			t.Fatal(err)
		}
		if history.largest > 8<<10 || history.updates > 6 {
			t.Errorf("entry %d: an install of %d transactions, the largest of %d bytes", index+1, history.updates, history.largest)
		}
	}
}

// itemReader gives one item at a time, and asks before each.
type itemReader struct {
	items  [][]byte
	before func()
}

func (r *itemReader) Read(p []byte) (int, error) {
	if len(r.items) == 0 {
		return 0, io.EOF
	}
	r.before()
	n := copy(p, r.items[0])
	if r.items[0] = r.items[0][n:]; len(r.items[0]) == 0 {
		r.items = r.items[1:]
	}
	return n, nil
}

// A crash in the middle of a pull costs no more than some batches of it.
func TestStore_Stage_ACrashCostsSomeBatches(t *testing.T) {
	t.Parallel()
	const records = 40
	cfg := tiny()
	cfg.CommitBytes = 1000
	sender := mustOpen(t, newMemDisks(), cfg)
	for i := range records {
		if _, err := applyTo(sender, uint64(i+1), 1, [][]byte{testPut(Key(fmt.Sprint(i)), "p", "", make([]byte, 1500), time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := sender.Commit(); err != nil {
		t.Fatal(err)
	}
	_, _, _, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	d, came := newMemDisks(), 0
	s := mustOpen(t, d, cfg)
	err = s.Stage(t.Context(), snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
		var b bytes.Buffer
		if err := sender.Serve(ctx, query, &b); err != nil {
			return nil, err
		}
		items, _ := itemsOf(t, b.Bytes())
		r := &itemReader{}
		for _, f := range items {
			r.items = append(r.items, appendItem(nil, f.kind, nil, f.payload))
		}
		r.before = func() {
			_, p, err := readProgress(d.staging)
			if err != nil {
				t.Error(err)
			}
			if came-int(p.last.rev) > stageBatches {
				t.Errorf("%d records came, and a crash leaves %d", came, p.last.rev)
			}
			if itemKind(r.items[0][0]) == itemRecord {
				came++
			}
		}
		return io.NopCloser(r), nil
	}, bodiesFrom(sender))
	if err != nil || came != records {
		t.Fatalf("%d records came: %v", came, err)
	}
}

// A staging area that is damaged is dropped, and one that cannot be dropped is told of.
func TestStore_Stage_ADamagedAreaIsDropped(t *testing.T) {
	t.Parallel()
	x := stageFixtures(t)[0]
	for _, removable := range []bool{true, false} {
		s := mustOpen(t, x.disks(), tiny())
		open, remove := s.cfg.OpenStaging, s.cfg.RemoveStaging
		damaged := true
		s.cfg.OpenStaging = func() (engine.Engine, error) {
			if damaged {
				return nil, &CorruptError{File: stagingFile, Offset: -1, Detail: "a test"}
			}
			return open()
		}
		s.cfg.RemoveStaging = func() error {
			if !removable {
				return engine.ErrInjected
			}
			damaged = false
			return remove()
		}
		err := s.Stage(t.Context(), x.snapshot, serveFrom(x.sender), bodiesFrom(x.sender))
		if removable && err != nil || !removable && !errors.Is(err, engine.ErrInjected) {
			t.Errorf("removable %v: %v", removable, err)
		}
	}
}

// A pull that goes nowhere any more, since the log brought what it was for, leaves
// nothing to the next one.
func TestStore_Stage_StartsOverFromNothing(t *testing.T) {
	t.Parallel()
	id, now := uploadID{1}, time.Unix(0, 0)
	big := Meta{Key: "big", Size: 1, SHA256: sumOf([]byte("x")), ContentType: "a/b", Time: now, PutID: "p"}
	entries := [][][]byte{
		{openCommand(id, now), testChunk(id, 0, []byte("x"), now), sealCommand(&big, id, 1)},
		{testPut("second", "p", "", nil, now)},
		{testPut("third", "p", "", nil, now)},
	}
	d := newMemDisks()
	sender, s := mustOpen(t, newMemDisks(), tiny()), mustOpen(t, d, tiny())
	apply := func(to *Store, from, last int) []byte {
		t.Helper()
		for i := from; i <= last; i++ {
			if _, err := applyTo(to, uint64(i), 7, entries[i-1], nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := to.Commit(); err != nil {
			t.Fatal(err)
		}
		_, _, _, snapshot, err := to.Durable()
		if err != nil {
			t.Fatal(err)
		}
		return snapshot
	}
	chunks := func() (n int) {
		if err := d.staging.View(func(tx engine.Tx) error {
			tx.Ascend(engine.BucketChunks, nil, func(_, _ []byte) bool { n++; return true })
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	stage := func(snapshot []byte, want int) {
		t.Helper()
		if err := s.Stage(t.Context(), snapshot, serveFrom(sender), bodiesFrom(sender)); err != nil {
			t.Fatal(err)
		}
		if d.staging = d.staging.Reopen(); chunks() != want {
			t.Errorf("it leaves %d chunks, want %d", chunks(), want)
		}
	}
	stage(apply(sender, 1, 1), 1)
	apply(s, 1, 2)
	stage(apply(sender, 2, 3), 0)
}

// What is no snapshot is refused, and ends nothing.
func TestStore_Snapshot_NoneIsRefused(t *testing.T) {
	t.Parallel()
	x := stageFixtures(t)[0]
	s := mustOpen(t, x.disks(), tiny())
	for n := range x.snapshot {
		if err := s.Stage(t.Context(), x.snapshot[:n], serveFrom(x.sender), bodiesFrom(x.sender)); err == nil {
			t.Fatalf("%d of %d bytes are staged", n, len(x.snapshot))
		}
		if err := s.Install(x.index, 7, x.meta, x.snapshot[:n]); err == nil {
			t.Fatalf("%d of %d bytes are installed", n, len(x.snapshot))
		}
	}
	if s.err() != nil {
		t.Fatal(s.err())
	}
}
