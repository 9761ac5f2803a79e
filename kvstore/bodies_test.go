package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// tidy reclaims all that nothing needs, as if everything was touched long ago.
func (d *memDisks) tidy(t testing.TB) {
	t.Helper()
	d.ahead.Add(int64(time.Hour))
	if err := d.bodies.Reclaim(); err != nil {
		t.Fatal(err)
	}
}

// references returns what records, and rows of open uploads, refer to.
func references(t testing.TB, s *Store) (records []bodies.Change, open map[bodies.Digest]bool) {
	t.Helper()
	open = make(map[bodies.Digest]bool)
	if err := s.history.View(func(tx engine.Tx) error {
		var failed error
		err := ascendRecords(tx, 1, func(rev Revision, raw []byte) bool {
			d, err := decodeRecord(raw, rev)
			if err == nil && d.kind != bodyInline {
				records, err = appendReferences(tx, &d, records)
			}
			failed = err
			return err == nil
		})
		for id := range s.uploads {
			err = errors.Join(err, ascendChunks(tx, id, func(_ chunkKey, ref bodies.Ref) error {
				open[ref.Digest] = true
				return nil
			}))
		}
		return errors.Join(failed, err)
	}); err != nil {
		t.Fatal(err)
	}
	return records, open
}

// wantCounted fails unless each body is counted as often as records refer to it, and
// held if an open upload does: when these counts are taken back the bodies go that no
// upload needs, and no header and no digest with them. s is of no use afterwards.
func wantCounted(t testing.TB, d *memDisks, s *Store) {
	t.Helper()
	if err := errors.Join(s.Commit(), s.Commit()); err != nil { // the second for what the first dropped
		t.Fatal(err)
	}
	before := s.Stats()
	records, open := references(t, s)
	s.Recovered()
	d.tidy(t)
	for _, c := range records {
		if !s.bodies.Has(c.Digest) {
			t.Fatalf("body %s is reclaimed, and a record refers to it", c.Digest)
		}
	}
	for i := range records {
		records[i].By = -1
	}
	if err := s.bodies.Count(records, s.bodies.Mark()); err != nil {
		t.Fatalf("bodies are counted less often than records refer to them: %v", err)
	}
	d.tidy(t)
	for digest := range open {
		if !s.bodies.Has(digest) {
			t.Errorf("body %s of an open upload is reclaimed", digest)
		}
	}
	for _, c := range records {
		if s.bodies.Has(c.Digest) && !open[c.Digest] {
			t.Errorf("body %s is counted more often than records refer to it", c.Digest)
		}
	}
	if after := s.Stats(); after.Digest != before.Digest || after.Revision != before.Revision || s.err() != nil {
		t.Errorf("without bodies the history is %+v, %v; it was %+v", after, s.err(), before)
	}
}

// Equal values are stored once, whatever keys they have, and so are equal chunks.
func TestDB_Put_EqualValuesAreStoredOnce(t *testing.T) {
	t.Parallel()
	for size, distinct := range map[int]int64{
		BodyBytesMin: 1, 100_000: 1, ChunkBytes: 1,
		3*ChunkBytes + 5: 2, // of zeros: full chunks are equal
	} {
		for _, many := range []bool{false, true} {
			if many && size > ChunkBytes {
				continue
			}
			d := newMemDisks()
			s := mustOpen(t, d, StoreConfig{})
			db := NewDB(s, newDirectLog(s), DBConfig{})
			value := make([]byte, size)
			for i := range 10 {
				key := Key(fmt.Sprint("key ", i))
				if many {
					for _, r := range putMany(t, db, SmallPut{Key: key + "a", Value: value}, SmallPut{Key: key + "b", Value: value}) {
						if r.err != nil || r.Outcome != Created {
							t.Fatalf("%+v", r)
						}
					}
					continue
				}
				r := PutRequest{Key: key, Body: bytes.NewReader(value), Size: -1}
				if i%2 == 0 {
					r.Size = int64(size)
				}
				if res, err := db.Put(t.Context(), r); err != nil || res.Outcome != Created {
					t.Fatal(res, err)
				}
			}
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			if st := s.bodies.Stats(); st.Bodies != distinct || st.LiveBytes > distinct*(ChunkBytes+200) || s.Stats().HistoryBytes > 64<<10 {
				t.Errorf("%d bytes, many %v: %+v", size, many, st)
			}
			if err := s.Verify(t.Context()); err != nil {
				t.Error(err)
			}
			wantCounted(t, d, s)
		}
	}
}

// The bytes of a put that lost, of an upload that lost, and of one that was abandoned
// are given back; the chunks of one that was dropped only after one more commit, for
// history may go back by one.
func TestStore_Reclaim_LosersAndAbandoned(t *testing.T) {
	t.Parallel()
	d, now := newMemDisks(), time.Unix(1, 0)
	s := mustOpen(t, d, tiny())
	s.Recovered()
	value := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	lost, abandoned := uploadID{1}, uploadID{2}
	seal := Meta{Key: "k", Size: 20_000, SHA256: sumOf(value(3, 20_000)), ContentType: "a/b", Time: now, PutID: "p"}
	for i, cmd := range [][]byte{
		testPut("k", "one", "", value(1, BodyBytesMin), now), testPut("k", "two", "", value(2, BodyBytesMin), now),
		openCommand(lost, now), testChunk(lost, 0, value(3, 20_000), now),
		openCommand(abandoned, now), testChunk(abandoned, 0, value(4, 30_000), now),
	} {
		applyOne(t, s, uint64(i+1), cmd)
	}
	has := func(b byte, n int) bool { return s.bodies.Has(bodies.Digest(sumOf(value(b, n)))) }
	want := func(when string, all ...bool) {
		t.Helper()
		d.tidy(t)
		got := []bool{has(1, BodyBytesMin), has(2, BodyBytesMin), has(3, 20_000), has(4, 30_000)}
		if fmt.Sprint(got) != fmt.Sprint(all) {
			t.Errorf("%s there are %v, want %v", when, got, all)
		}
	}
	want("before a commit", true, false, true, true)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	want("after a commit", true, false, true, true)
	applyOne(t, s, 7, sealCommand(&seal, lost, 1))
	applyOne(t, s, 8, abandonCommand(abandoned))
	want("after they were dropped", true, false, true, true)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	want("with a commit", true, false, true, true)
	if err := s.Commit(); err != nil { // nothing was applied since
		t.Fatal(err)
	}
	want("with one more", true, false, false, false)
	if st := s.bodies.Stats(); st.ReclaimedBytes == 0 {
		t.Errorf("%+v", st)
	}
	wantCounted(t, d, s)
}

// However much of what the bodies know a crash takes, and if it is history that goes
// back: each body is counted as often as records refer to it.
func TestStore_Open_CountsWhatIsNotCounted(t *testing.T) {
	t.Parallel()
	log, m := script(t, 12, 80)
	for name, crash := range map[string]func(t *testing.T, d *memDisks, s *Store){
		"nothing is counted durably": func(*testing.T, *memDisks, *Store) {},
		"all is": func(t *testing.T, _ *memDisks, s *Store) {
			if err := s.bodies.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"the table is gone": func(t *testing.T, d *memDisks, s *Store) {
			if err := s.bodies.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			gone := 0
			for _, name := range []string{"table", "*.table"} {
				files, err := filepath.Glob(filepath.Join(d.values, name))
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					gone++
					if err := os.Remove(f); err != nil {
						t.Fatal(err)
					}
				}
			}
			if gone == 0 {
				t.Fatal("there is no table")
			}
		},
		"the index is gone": func(_ *testing.T, d *memDisks, _ *Store) { d.index = keyruns.NewMemFiles() },
	} {
		t.Run(name, func(t *testing.T) {
			d := newMemDisks()
			s := mustOpen(t, d, tiny())
			for i := range log {
				mustApply(t, s, &log[i])
				if i%7 == 0 {
					if err := s.Commit(); err != nil {
						t.Fatal(err)
					}
				}
				if i == len(log)/2 {
					if err := s.bodies.Checkpoint(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			crash(t, d, s)
			s = mustOpen(t, d, tiny())
			m.check(t, s)
			if err := s.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantCounted(t, d, s)
		})
	}
	t.Run("history goes back", func(t *testing.T) {
		for back := 1; back < len(log); back += 7 {
			d := newMemDisks()
			s := mustOpen(t, d, tiny())
			var before *engine.MemEngine
			for i := range log {
				if i == len(log)-back {
					before = d.history.Copy()
				}
				mustApply(t, s, &log[i])
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.bodies.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.history, d.index = before, keyruns.NewMemFiles()
			s = mustOpen(t, d, tiny())
			if err := runLog(t, s, log); err != nil {
				t.Fatal(err)
			}
			m.check(t, s)
			wantCounted(t, d, s)
		}
	})
}

// A body that the state needs and that is missing, or damaged, ends the store with a
// sentence that names the file.
func TestStore_Get_OfABodyThatIsDamaged(t *testing.T) {
	t.Parallel()
	value := bytes.Repeat([]byte("0123456789abcdef"), ChunkBytes/16)
	for name, read := range map[string]func(s *Store) error{
		"Get": func(s *Store) error { _, err := s.Get("one"); return err },
		"Get of chunks": func(s *Store) error {
			v, err := s.Get("large")
			if err == nil {
				_, err = v.Open(context.Background()).Read(make([]byte, 1))
			}
			return err
		},
		"GetMany": func(s *Store) (err error) {
			s.getMany([]Key{"one"}, func(_ int, _ *Value, e error) { err = e })
			return err
		},
		"Changes": func(s *Store) error {
			_, err := s.Changes(ChangesRequest{Limit: 10, LimitBytes: 1 << 30, Values: true})
			return err
		},
		"Verify": func(s *Store) error { return s.Verify(context.Background()) },
		"Scrub":  func(s *Store) error { return s.Scrub(context.Background(), 0, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newMemDisks()
			s := mustOpen(t, d, StoreConfig{})
			db := NewDB(s, newDirectLog(s), DBConfig{})
			for key, n := range map[Key]int{"one": ChunkBytes, "large": 2 * ChunkBytes} {
				if _, err := db.Put(t.Context(), PutRequest{Key: key, Body: bytes.NewReader(bytes.Repeat(value, 2)[:n]), Size: int64(n)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := read(s); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(d.values, "*.values"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			b[bytes.Index(b, value[:64])+100] ^= 1
			if err := os.WriteFile(files[0], b, 0o600); err != nil {
				t.Fatal(err)
			}
			err = read(s)
			corrupt, ok := errors.AsType[*CorruptError](err)
			if !ok || corrupt.File != files[0] || corrupt.Offset < 0 || s.err() == nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// An entry whose body is not here ends the store: whoever gives entries sees to it.
func TestStore_Apply_OfABodyThatIsMissing(t *testing.T) {
	t.Parallel()
	id, now := uploadID{1}, time.Unix(1, 0)
	for name, cmds := range map[string][][]byte{
		"refer": {testPut("k", "p", "", bytes.Repeat([]byte("never here"), BodyBytesMin/10+1), now)},
		"chunk": {openCommand(id, now), testChunk(id, 0, []byte("never here"), now)},
	} {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		_, err := s.Apply(1, 1, cmds, nil)
		if _, corrupt := errors.AsType[*CorruptError](err); !corrupt || s.err() == nil || !strings.Contains(err.Error(), "is missing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A reference that tells another size than its body has is refused, by all alike.
func TestStore_Apply_ReferenceOfAnotherSize(t *testing.T) {
	t.Parallel()
	id, now := uploadID{1}, time.Unix(1, 0)
	data := bytes.Repeat([]byte("x"), BodyBytesMin+1)
	ref := registerBody(data)
	ref.Size--
	m := Meta{Key: "k", Size: BodyBytesMin, SHA256: sumOf(data), ContentType: "a/b", Time: now, PutID: "p"}
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	applyOne(t, s, 1, openCommand(id, now))
	for i, cmd := range [][]byte{referCommand(&m), chunkCommand(id, 0, now, ref)} {
		if err, _ := applyOne(t, s, uint64(i+2), cmd).(error); !errors.Is(err, ErrValueDamaged) {
			t.Errorf("command %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Revision != 0 || s.uploads[id].bytes != 0 {
		t.Errorf("%+v", st)
	}
}

// What takes long to propose is not reclaimed meanwhile.
func TestDB_Put_KeepsABodyUntilItIsProposed(t *testing.T) {
	t.Parallel()
	d := newMemDisks()
	s := mustOpen(t, d, StoreConfig{})
	s.Recovered()
	l := newDirectLog(s)
	l.hook = func([]byte) error { d.tidy(t); return nil }
	db := NewDB(s, l, DBConfig{})
	for _, size := range []int{BodyBytesMin, 300_000, 3 * ChunkBytes} {
		if r, err := db.Put(t.Context(), PutRequest{Key: Key(fmt.Sprint(size)), Body: bytes.NewReader(make([]byte, size)), Size: -1}); err != nil || r.Outcome != Created {
			t.Errorf("%d bytes: %+v, %v", size, r, err)
		}
	}
}

// Whatever a log says of bodies that it did not distribute, nothing was proposed, and
// the answer is definite.
func TestDB_Put_NotDistributed(t *testing.T) {
	t.Parallel()
	strange := errors.New("strange")
	for _, cause := range []error{ErrUnavailable, ErrOverloaded, ErrDiskReserve, strange, context.Canceled} {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		l := &undistributed{newDirectLog(s), cause}
		db := NewDB(s, l, DBConfig{ChunkRetry: time.Millisecond})
		for _, size := range []int{BodyBytesMin, 300_000, 3 * ChunkBytes} {
			_, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(make([]byte, size)), Size: int64(size)})
			wantUndistributed(t, err, cause)
		}
		for _, r := range putMany(t, db, SmallPut{Key: "k", Value: make([]byte, BodyBytesMin)}) {
			wantUndistributed(t, r.err, cause)
		}
		if l.count(commandRefer)+l.count(commandChunk)+l.count(commandSeal) > 0 {
			t.Errorf("proposed: %v", l.kinds)
		}
		wantAllFree(t, db)
		wantNoHolders(t, db)
	}
}

func wantUndistributed(t *testing.T, err, cause error) {
	t.Helper()
	switch want := cause; {
	case errors.Is(err, ErrOutcomeUnknown):
		t.Errorf("%v: the outcome is said to be unknown", err)
	case cause != ErrOverloaded && cause != ErrDiskReserve:
		want = ErrUnavailable
		fallthrough
	default:
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// undistributed is a log that distributes nothing.
type undistributed struct {
	*directLog
	cause error
}

func (l *undistributed) Distribute(context.Context, []bodies.Body) error { return l.cause }
