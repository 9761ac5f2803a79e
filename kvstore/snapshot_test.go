package kvstore

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

type ctxT = context.Context

// A stream that breaks off after any number of bytes is resumed, and each byte
// of progress counts: the pull ends.
func TestStore_Stage_ResumesABrokenStream(t *testing.T) {
	t.Parallel()
	log, m := script(t, 20, 60)
	sender, receiver := twin(t, log, 10)
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	d := receiver()
	cut, tries, bytesRead := int64(100), 0, int64(0)
	fetch := func(ctx ctxT, query string) (io.ReadCloser, error) {
		rc, err := serveFrom(sender)(ctx, query)
		cut += cut/2 + 1
		return &cutReader{rc, cut, &bytesRead}, err
	}
	for ; ; tries++ {
		s := mustOpen(t, d, tiny())
		err := s.Stage(t.Context(), snapshot, fetch, bodiesFrom(sender))
		if err == nil {
			break
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || tries > 60 {
			t.Fatalf("try %d: %v", tries, err)
		}
	}
	if tries < 5 {
		t.Fatalf("%d tries only", tries)
	}
	s := mustOpen(t, d, tiny())
	if err := s.Install(index, 7, meta, snapshot); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
}

// cutReader ends a stream early.
type cutReader struct {
	io.ReadCloser
	left int64
	read *int64
}

func (c *cutReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.EOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	*c.read += int64(n)
	return n, err
}

// bodiesFrom gives what a sender has of bodies.
func bodiesFrom(sender *Store) bodies.Fetch {
	return func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
		if len(refs) == 0 || len(refs) > bodies.FetchMax {
			return fmt.Errorf("%d bodies are asked for at a time", len(refs))
		}
		for _, ref := range refs {
			data, err := sender.bodies.Read(ref.Digest, nil)
			if errors.Is(err, bodies.ErrMissing) {
				continue
			}
			if err == nil {
				err = each(bodies.Body{Digest: ref.Digest, Data: data})
			}
			if err := cmp.Or(err, ctx.Err()); err != nil {
				return err
			}
		}
		return nil
	}
}

// A large value is not pulled again from its start.
func TestStore_Stage_ResumesInsideALargeValue(t *testing.T) {
	t.Parallel()
	sender := mustOpen(t, newMemDisks(), StoreConfig{})
	value := putLarge(t, sender, 1, "big", 16)
	_, _, _, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	d := newMemDisks()
	came, tries := 0, 0
	for ; ; tries++ {
		s, left := mustOpen(t, d, StoreConfig{}), 5
		err := s.Stage(t.Context(), snapshot, serveFrom(sender), func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
			return bodiesFrom(sender)(ctx, refs, func(b bodies.Body) error {
				if left--; left < 0 {
					return io.ErrUnexpectedEOF
				}
				came++
				return each(b)
			})
		})
		if err == nil {
			break
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || tries > 5 {
			t.Fatal(err)
		}
	}
	if came != 16 || tries != 3 {
		t.Fatalf("%d bodies came for a value of 16, in %d tries", came, tries+1)
	}
	s := mustOpen(t, d, StoreConfig{})
	if err := s.Install(1, 1, nil, snapshot); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get("big"); err != nil || !bytes.Equal(readAll(t, v), value) {
		t.Fatalf("big: %v", err)
	}
}

// putLarge puts a value of so many different chunks by one entry, and commits.
func putLarge(t testing.TB, s *Store, index uint64, key Key, chunks uint32) []byte {
	t.Helper()
	var id uploadID
	copy(id[:], key)
	now := time.Unix(0, 0)
	value := make([]byte, chunks*ChunkBytes)
	cmds := [][]byte{openCommand(id, now)}
	for n := range chunks {
		chunk := value[n*ChunkBytes : (n+1)*ChunkBytes]
		for i := range chunk[:64] {
			chunk[i] = key[i%len(key)] + byte(n)
		}
		cmds = append(cmds, testChunk(id, n, chunk, now))
	}
	meta := Meta{Key: key, Size: int64(len(value)), SHA256: sumOf(value), ContentType: "a/b", Time: now, PutID: "p"}
	results, err := applyTo(s, index, 1, append(cmds, sealCommand(&meta, id, chunks)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if err, refused := r.(error); refused {
			t.Fatal(err)
		}
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestStore_Stage_RefusesADamagedStream(t *testing.T) {
	t.Parallel()
	log, m := script(t, 21, 40)
	sender, receiver := twin(t, log, 10)
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 1, 5, 9, 13, 60, 200, 1500} {
		d := receiver()
		s := mustOpen(t, d, tiny())
		err := s.Stage(t.Context(), snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
			var b bytes.Buffer
			if err := sender.Serve(ctx, query, &b); err != nil {
				return nil, err
			}
			b.Bytes()[at] ^= 0x40
			return io.NopCloser(&b), nil
		}, bodiesFrom(sender))
		if !errors.Is(err, errSnapshotBody) {
			t.Fatalf("bit flipped at %d: %v", at, err)
		}
		if err := s.Install(index, 7, meta, snapshot); err == nil {
			t.Fatal("a snapshot that was not staged was installed")
		}
		if err := catchUp(t, s, index, meta, snapshot, sender); err != nil {
			t.Fatal(err)
		}
		m.check(t, s)
	}
}

// A sender with other records under sound checksums is found out by the digest.
func TestStore_Stage_VerifiesTheDigest(t *testing.T) {
	t.Parallel()
	log, _ := script(t, 22, 40)
	other, _ := script(t, 23, 40)
	sender, receiver := twin(t, log, 0)
	liar, _ := twin(t, other, 0)
	_, _, _, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	snap, _ := decodeSnapshot(snapshot)
	if liar.Stats().Revision < snap.rev || liar.Stats().AppliedIndex < snap.index {
		other, _ = script(t, 23, 80)
		liar, _ = twin(t, other, 0)
	}
	if err := mustOpen(t, receiver(), tiny()).Stage(t.Context(), snapshot, serveFrom(liar), bodiesFrom(liar)); !errors.Is(err, errSnapshotBody) {
		t.Fatalf("got %v", err)
	}
}

// Chunks of other sizes may make the same value, but readers look where each
// chunk has to begin.
func TestStore_Stage_ChunksOfOtherSizes(t *testing.T) {
	t.Parallel()
	sender, id, now := mustOpen(t, newMemDisks(), tiny()), uploadID{1}, time.Unix(0, 0)
	value := bytes.Repeat([]byte("0123456789abcdef"), ChunkBytes/16+10)
	pieces := func(cut int) [][]byte {
		return [][]byte{testChunk(id, 0, value[:cut], now), testChunk(id, 1, value[cut:], now)}
	}
	meta := Meta{Key: "big", Size: int64(len(value)), SHA256: sumOf(value), ContentType: "a/b", Time: now, PutID: "p"}
	if _, err := applyTo(sender, 1, 1, slices.Concat([][]byte{openCommand(id, now)}, pieces(ChunkBytes), [][]byte{sealCommand(&meta, id, 2)}), nil); err != nil {
		t.Fatal(err)
	}
	if err := sender.Commit(); err != nil {
		t.Fatal(err)
	}
	_, _, _, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	var honest bytes.Buffer
	q := query{kind: queryRecords, index: 1, through: 1}
	if err := sender.Serve(t.Context(), q.String(), &honest); err != nil {
		t.Fatal(err)
	}
	kind, record, err := readItem(bufio.NewReader(&honest), new(itemRoom))
	if err != nil {
		t.Fatal(err)
	}
	stream := appendItem(nil, kind, nil, record)
	for _, piece := range pieces(ChunkBytes - 5) {
		key, row := rowOf(t, piece)
		stream = appendItem(stream, itemChunk, key[:], row)
	}
	stream = appendItem(stream, itemEnd, nil, nil)
	s := mustOpen(t, newMemDisks(), tiny())
	err = s.Stage(t.Context(), snapshot, func(ctxT, string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stream)), nil }, testFetch)
	if !errors.Is(err, errSnapshotBody) {
		t.Fatalf("got %v", err)
	}
	if err := s.Stage(t.Context(), snapshot, serveFrom(sender), bodiesFrom(sender)); err != nil {
		t.Fatalf("an honest sender: %v", err)
	}
}

func TestStore_Stage_GoesOnWithANewerSnapshot(t *testing.T) {
	t.Parallel()
	log, m := script(t, 24, 80)
	sender, receiver := twin(t, log[:40], 5)
	_, _, _, first, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	d := receiver()
	s := mustOpen(t, d, tiny())
	if err := s.Stage(t.Context(), first, serveFrom(sender), bodiesFrom(sender)); err != nil {
		t.Fatal(err)
	}
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	index, _, meta, second, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	old, _ := decodeSnapshot(first)
	err = s.Stage(t.Context(), second, func(ctx ctxT, raw string) (io.ReadCloser, error) {
		if q, err := parseQuery(raw); err != nil || q.kind == queryRecords && q.after < old.rev {
			t.Errorf("pulled again after revision %d: %v", q.after, err)
		}
		return serveFrom(sender)(ctx, raw)
	}, bodiesFrom(sender))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(index, 7, meta, second); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
}

// Anybody can offer a snapshot: to look at it costs nothing. To install it does.
func TestStore_Diverged_IsFatalOnlyWhenInstalled(t *testing.T) {
	t.Parallel()
	a, b := mustOpen(t, newMemDisks(), tiny()), mustOpen(t, newMemDisks(), tiny())
	for i, s := range []*Store{a, b} {
		if _, err := applyTo(s, uint64(1+i), 1, [][]byte{testPut("k", fmt.Sprint(i), "", nil, time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	_, _, _, snapshot, err := b.Durable()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Stage(t.Context(), snapshot, serveFrom(b), bodiesFrom(b)); !errors.Is(err, ErrDiverged) {
		t.Fatalf("got %v", err)
	}
	if _, err := a.Get("k"); err != nil {
		t.Fatalf("a store that was offered another history: %v", err)
	}
	if err := a.Install(9, 1, nil, snapshot); !errors.Is(err, ErrDiverged) {
		t.Fatalf("installed: %v", err)
	}
	if _, err := a.Get("k"); !errors.Is(err, ErrDiverged) {
		t.Fatalf("a diverged store still answers: %v", err)
	}
}

func TestStore_Serve_BehindIsRefused(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), tiny())
	q := query{kind: queryRecords, index: 5, through: 3}
	var out bytes.Buffer
	if err := s.Serve(t.Context(), q.String(), &out); !errors.Is(err, errBehind) || out.Len() > 0 {
		t.Fatalf("%v, %d bytes", err, out.Len())
	}
	for _, bad := range []string{"", "kind=x", "kind=records&index=a", "kind=chunks&index=1&chunk=0&upload=zz", "%"} {
		if err := s.Serve(t.Context(), bad, &out); err == nil {
			t.Fatalf("query %q was accepted", bad)
		}
	}
}

// The sender dropped an open upload that the snapshot names: its chunks are not
// missed, and the receiver drops it at the same entry.
func TestStore_Stage_UploadGoneAtTheSender(t *testing.T) {
	t.Parallel()
	now, id := time.Unix(0, 0), uploadID{3}
	open := entry{index: 1, commands: [][]byte{openCommand(id, now), testChunk(id, 0, []byte("x"), now), testPut("k", "p", "", []byte("v"), now)}}
	drop := entry{index: 2, commands: [][]byte{abandonCommand(id)}}
	sender := mustOpen(t, newMemDisks(), tiny())
	m := newModel()
	open.want = m.apply(t, open.commands)
	drop.want = m.apply(t, drop.commands)
	mustApply(t, sender, &open)
	if err := sender.Commit(); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, sender, &drop)
	if err := sender.Commit(); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, newMemDisks(), tiny())
	if err := catchUp(t, s, index, meta, snapshot, sender); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().OpenUploads; n != 1 {
		t.Fatalf("%d open uploads after the install", n)
	}
	mustApply(t, s, &drop)
	m.check(t, s)
}

// What staging shows after a failed write may not be on its disk: nothing goes on
// from there, not even a later pull.
func TestStore_Stage_FailedWriteIsFatal(t *testing.T) {
	t.Parallel()
	log, _ := script(t, 20, 60)
	sender, receiver := twin(t, log, 10)
	_, _, _, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	d := receiver()
	s := mustOpen(t, d, tiny())
	failing := true
	d.hook = func(disk string) engine.FailPoint {
		if failing && disk == "staging" {
			return engine.FailAfter
		}
		return engine.FailNever
	}
	if err := s.Stage(t.Context(), snapshot, serveFrom(sender), bodiesFrom(sender)); !errors.Is(err, engine.ErrInjected) {
		t.Fatalf("with a disk that fails: %v", err)
	}
	failing = false
	if err := s.Stage(t.Context(), snapshot, serveFrom(sender), bodiesFrom(sender)); !errors.Is(err, engine.ErrInjected) {
		t.Errorf("a later pull: %v", err)
	}
	if err := s.Commit(); !errors.Is(err, engine.ErrInjected) {
		t.Errorf("a commit: %v", err)
	}
}

// A sender gives records in portions, each with its end, and never none: bodies are
// fetched between them.
func TestStore_Serve_Portions(t *testing.T) {
	t.Parallel()
	cfg := tiny()
	cfg.CommitBytes = 4000
	sender := mustOpen(t, newMemDisks(), cfg)
	var cmds [][]byte
	for i := range 30 {
		cmds = append(cmds, testPut(Key(fmt.Sprint(i)), "p", "", make([]byte, 900), time.Unix(0, 0)))
	}
	cmds = append(cmds, testPut("large", "p", "", make([]byte, 9000), time.Unix(0, 0)))
	if _, err := applyTo(sender, 1, 1, cmds, nil); err != nil {
		t.Fatal(err)
	}
	portions := 0
	for after := Revision(0); after < 31; portions++ {
		var b bytes.Buffer
		q := query{kind: queryRecords, index: 1, after: after, through: 31}
		if err := sender.Serve(t.Context(), q.String(), &b); err != nil {
			t.Fatal(err)
		}
		size := b.Len()
		items, whole := itemsOf(t, b.Bytes())
		if !whole || len(items) < 2 || len(items) > 2 && size > 2000+9100 {
			t.Fatalf("after revision %d: %d items of %d bytes, whole: %v", after, len(items), size, whole)
		}
		for _, f := range items[:len(items)-1] {
			if rev, _ := keyRevision(f.payload[:8]); f.kind != itemRecord || rev != after+1 {
				t.Fatalf("revision %d comes after %d", rev, after)
			}
			after++
		}
	}
	if portions < 10 {
		t.Errorf("31 records come in %d portions", portions)
	}
}

// A sender that gives no end of records has them asked for anew, so that a receiver holds
// some at a time.
func TestStore_Stage_APortionWithoutEnd(t *testing.T) {
	t.Parallel()
	log, m := randomLog(t, 5, 60)
	sender, receiver := twin(t, log, 0)
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := tiny()
	cfg.CommitBytes = 2000
	s, queries := mustOpen(t, receiver(), cfg), 0
	if err := s.Stage(t.Context(), snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
		queries++
		return serveFrom(sender)(ctx, query)
	}, bodiesFrom(sender)); err != nil {
		t.Fatal(err)
	}
	if queries < 3 {
		t.Errorf("all came with %d queries", queries)
	}
	if err := s.Install(index, 7, meta, snapshot); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
}
