package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// pullFixture is a sender with small, referred and large values, and an open upload.
type pullFixture struct {
	sender *Store
	taken  takenSnapshot
	m      *model
	refs   []bodies.Ref // of all its bodies, in the order in which they are wanted
}

func newPullFixture(t *testing.T) *pullFixture {
	t.Helper()
	x := &pullFixture{sender: mustOpen(t, newMemDisks(), tiny()), m: newModel()}
	now, sealed, open := time.Unix(0, 0), uploadID{1}, uploadID{2}
	piece := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	large := append(piece('l', ChunkBytes), "end"...)
	meta := Meta{Key: "large", Size: int64(len(large)), SHA256: sumOf(large), ContentType: "a/b", Time: now, PutID: "p"}
	e := entry{index: 1, commands: [][]byte{
		testPut("small", "p", "", piece('s', 10), now),
		testPut("one", "p", "", piece('1', BodyBytesMin), now),
		testPut("two", "p", "", piece('2', 3*BodyBytesMin), now),
		testPut("again", "p", "", piece('1', BodyBytesMin), now),
		openCommand(sealed, now), testChunk(sealed, 0, large[:ChunkBytes], now), testChunk(sealed, 1, large[ChunkBytes:], now), sealCommand(&meta, sealed, 2),
		testPut("three", "p", "", piece('3', BodyBytesMin), now),
		openCommand(open, now), testChunk(open, 0, piece('o', ChunkBytes), now), testChunk(open, 1, piece('p', 7), now),
	}}
	e.want = x.m.apply(t, e.commands)
	mustApply(t, x.sender, &e)
	if err := x.sender.Commit(); err != nil {
		t.Fatal(err)
	}
	var err error
	if x.taken.index, _, x.taken.meta, x.taken.snapshot, err = x.sender.Durable(); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range e.commands {
		if ref, ok := x.sender.Body(cmd); ok && !slices.Contains(x.refs, ref) {
			x.refs = append(x.refs, ref)
		}
	}
	return x
}

func (x *pullFixture) stage(t *testing.T, s *Store) error {
	return s.Stage(t.Context(), x.taken.snapshot, serveFrom(x.sender), bodiesFrom(x.sender))
}

func (x *pullFixture) install(s *Store) error {
	return s.Install(x.taken.index, 7, x.taken.meta, x.taken.snapshot)
}

// here returns how many of the fixture's bodies a store has.
func (x *pullFixture) here(s *Store) (n int) {
	for _, ref := range x.refs {
		if size, ok := s.bodies.Size(ref.Digest); ok && size == ref.Size {
			n++
		}
	}
	return n
}

// reclaimFor lets a store reclaim for so long, in a bubble of synctest.
func reclaimFor(t *testing.T, s *Store, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.bodies.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// A source lacks each body in turn. What it has stays, and another source is asked only
// for what is missing.
func TestStore_Stage_ASourceLacksABody(t *testing.T) {
	t.Parallel()
	x := newPullFixture(t)
	for i, lacking := range x.refs {
		d := newMemDisks()
		s := mustOpen(t, d, tiny())
		err := s.Stage(t.Context(), x.taken.snapshot, serveFrom(x.sender), func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
			refs = slices.DeleteFunc(slices.Clone(refs), func(r bodies.Ref) bool { return r == lacking })
			if len(refs) == 0 {
				return nil
			}
			return bodiesFrom(x.sender)(ctx, refs, each)
		})
		if err == nil || errors.Is(err, errSnapshotBody) || s.err() != nil {
			t.Fatalf("without body %d: %v, the store says %v", i, err, s.err())
		}
		if err := x.install(s); err == nil || s.err() != nil {
			t.Fatalf("installed without body %d: %v, %v", i, err, s.err())
		}
		if i%2 == 0 {
			s = mustOpen(t, d, tiny())
		}
		had := x.here(s)
		var asked []bodies.Ref
		if err := s.Stage(t.Context(), x.taken.snapshot, serveFrom(x.sender), func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
			asked = append(asked, refs...)
			return bodiesFrom(x.sender)(ctx, refs, each)
		}); err != nil {
			t.Fatalf("body %d: %v", i, err)
		}
		if len(asked) != len(x.refs)-had || !slices.Contains(asked, lacking) {
			t.Errorf("body %d: %d bodies were here, and %d of %d are asked for", i, had, len(asked), len(x.refs))
		}
		if err := x.install(s); err != nil {
			t.Fatal(err)
		}
		x.m.check(t, s)
	}
}

// What is wrong with a body is told from what is missing.
func TestStore_Stage_WrongBodies(t *testing.T) {
	t.Parallel()
	x := newPullFixture(t)
	other := []byte("nobody asked for this")
	for name, fetch := range map[string]bodies.Fetch{
		"not asked for": func(_ ctxT, _ []bodies.Ref, each func(bodies.Body) error) error {
			return each(bodies.Body{Digest: bodies.Digest(sumOf(other)), Data: other})
		},
		"of another size": func(_ ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
			return each(bodies.Body{Digest: refs[0].Digest, Data: make([]byte, refs[0].Size-1)})
		},
	} {
		d := newMemDisks()
		s := mustOpen(t, d, tiny())
		if err := s.Stage(t.Context(), x.taken.snapshot, serveFrom(x.sender), fetch); !errors.Is(err, errSnapshotBody) || s.err() != nil || d.staging.Size() > 0 {
			t.Errorf("a body %s: %v; the store says %v, staging has %d bytes", name, err, s.err(), d.staging.Size())
		}
		if err := x.stage(t, s); err != nil {
			t.Errorf("a body %s, and then an honest source: %v", name, err)
		}
	}
}

// The sender drops an upload between its rows and their bodies.
func TestStore_Stage_UploadGoneBetweenRowsAndBodies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newPullFixture(t)
		x.sender.Recovered()
		s := mustOpen(t, newMemDisks(), tiny())
		last := x.refs[len(x.refs)-1]
		drop := entry{index: 2, commands: [][]byte{abandonCommand(uploadID{2})}}
		again := entry{index: 3, commands: [][]byte{testPut("later", "p", "", nil, time.Unix(0, 0))}}
		dropped := false
		err := s.Stage(t.Context(), x.taken.snapshot, serveFrom(x.sender), func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
			if slices.Contains(refs, last) && !dropped {
				dropped = true
				for _, e := range []entry{drop, again} {
					if _, err := applyTo(x.sender, e.index, 7, e.commands, nil); err != nil {
						return err
					}
					if err := x.sender.Commit(); err != nil {
						return err
					}
				}
				reclaimFor(t, x.sender, time.Minute)
				if n := x.here(x.sender); n != len(x.refs)-2 {
					return fmt.Errorf("the sender has %d bodies", n)
				}
			}
			return bodiesFrom(x.sender)(ctx, refs, each)
		})
		if err != nil || !dropped {
			t.Fatalf("%v, dropped: %v", err, dropped)
		}
		if err := x.install(s); err != nil {
			t.Fatal(err)
		}
		for _, e := range []entry{drop, again} {
			e.want = x.m.apply(t, e.commands)
			mustApply(t, s, &e)
		}
		x.m.check(t, s)
	})
}

// From the beginning of a pull until its bodies are counted none is forgotten; if nobody
// goes on for ten minutes, all are, and come again.
func TestStore_Stage_KeepsBodies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait time.Duration
		kept bool
	}{
		"some minutes": {9 * time.Minute, true},
		"too long":     {11 * time.Minute, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newPullFixture(t)
			s := mustOpen(t, newMemDisks(), tiny())
			s.Recovered()
			left := 3
			if err := s.Stage(t.Context(), x.taken.snapshot, serveFrom(x.sender), func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
				return bodiesFrom(x.sender)(ctx, refs, func(b bodies.Body) error {
					if left--; left < 0 {
						return io.ErrUnexpectedEOF
					}
					return each(b)
				})
			}); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			for had := 3; had <= len(x.refs); had += len(x.refs) - 3 {
				reclaimFor(t, s, c.wait)
				if n := x.here(s); c.kept && n != had || !c.kept && n != 0 {
					t.Fatalf("%s: of %d bodies %d are left", name, had, n)
				}
				if err := x.stage(t, s); err != nil {
					t.Fatal(err)
				}
			}
			reclaimFor(t, s, c.wait)
			if err := x.install(s); (err == nil) != c.kept || s.err() != nil {
				t.Fatalf("%s: %v, the store says %v", name, err, s.err())
			}
			if !c.kept {
				if err := errors.Join(x.stage(t, s), x.install(s)); err != nil {
					t.Fatal(err)
				}
			}
			reclaimFor(t, s, time.Hour)
			x.m.check(t, s)
			if n := x.here(s); n != len(x.refs) {
				t.Errorf("%s: of %d bodies that count %d are left", name, len(x.refs), n)
			}
			if err := s.Verify(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A store that is opened with a pull to go on with keeps what was pulled, for some
// minutes.
func TestStoreDir_KeepsBodiesOfAPull(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{9 * time.Minute, 11 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			x := newPullFixture(t)
			dir := t.TempDir()
			s := openDir(t, dir, tiny())
			if err := errors.Join(x.stage(t, s), s.Close()); err != nil {
				t.Fatal(err)
			}
			s = openDir(t, dir, tiny())
			s.Recovered()
			reclaimFor(t, s, wait)
			want := len(x.refs)
			if wait > pullWait {
				want = 0
			}
			if n := x.here(s); n != want {
				t.Errorf("after %v %d of %d bodies are left, want %d", wait, n, len(x.refs), want)
			}
			if err := errors.Join(x.stage(t, s), x.install(s)); err != nil {
				t.Fatal(err)
			}
			x.m.check(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A process is killed after each write of an install. The next one finishes it, and what
// the history refers to stays.
func TestStore_Install_KilledBeforeItCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newPullFixture(t)
		killed, cfg := 0, tiny()
		cfg.CommitBytes = 150
		for n := 1; killed == n-1; n++ {
			d := newMemDisks()
			s := mustOpen(t, d, cfg)
			if err := x.stage(t, s); err != nil {
				t.Fatal(err)
			}
			left := n
			d.hook = func(disk string) engine.FailPoint {
				if disk == "remove" {
					return engine.FailNever
				}
				if left--; left == 0 {
					killed = n
					return engine.FailAfter
				}
				return engine.FailNever
			}
			s, err := d.open(t, cfg)
			if err == nil {
				err = x.install(s)
			}
			if (err != nil) != (killed == n) {
				t.Fatalf("write %d: %v", n, err)
			}
			d.hook = nil
			s = mustOpen(t, d, cfg)
			if s.Stats().AppliedIndex < x.taken.index {
				if err := errors.Join(x.stage(t, s), x.install(s)); err != nil {
					t.Fatal(err)
				}
			}
			s.Recovered()
			reclaimFor(t, s, time.Hour)
			x.m.check(t, s)
			if got := s.bodies.Mark(); got.Revision != uint64(s.Stats().Revision) {
				t.Errorf("write %d: counted up to revision %d", n, got.Revision)
			}
		}
		if killed < 3 {
			t.Errorf("an install writes %d times", killed)
		}
	})
}

// A body that was pulled, and that nothing counts on yet, was damaged on the disk: it is
// fetched again.
func TestStore_Stage_ADamagedBodyComesAgain(t *testing.T) {
	t.Parallel()
	x := newPullFixture(t)
	s := mustOpen(t, newMemDisks(), tiny())
	chunk := x.refs[2]
	p := bodyPuller{store: s.bodies, fetch: bodiesFrom(x.sender)}
	if err := p.bring(t.Context(), slices.Values(x.refs)); err != nil {
		t.Fatal(err)
	}
	damageBody(t, s.bodies, chunk.Digest)
	if _, err := s.bodies.Read(chunk.Digest, nil); err == nil {
		t.Fatal("it is not damaged")
	}
	if err := errors.Join(x.stage(t, s), x.install(s)); err != nil {
		t.Fatal(err)
	}
	x.m.check(t, s)
}

// damageBody flips a bit of a body on the disk.
func damageBody(t *testing.T, in *bodies.Store, d bodies.Digest) {
	t.Helper()
	data, err := in.Read(d, nil)
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(in.Dir(), "*.values"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(file, data); at >= 0 {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteAt([]byte{data[len(data)/2] ^ 1}, int64(at+len(data)/2))
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("body %s is in no segment", d)
}
