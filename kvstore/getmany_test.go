package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestDB_GetMany: what one call finds is what as many Gets find, wherever the
// records are: in the index, committed and in the memtable, pending, in chunks.
func TestDB_GetMany(t *testing.T) {
	t.Parallel()
	// A memtable of few keys, so that some of the first are in the index alone.
	s := mustOpen(t, newMemDisks(), StoreConfig{MemtableBytes: 800, GenerationBytes: 70})
	l := newDirectLog(s)
	db := NewDB(s, l, DBConfig{})
	stop := startRun(t, s)
	set := func(prefix string, count, size int) (keys []Key) {
		for i := range count {
			key := Key(fmt.Sprintf("%s/%d", prefix, i))
			value := strings.Repeat(string(rune('a'+i)), size)
			if _, err := db.Put(t.Context(), put(key, value)); err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
		return keys
	}
	keys := set("indexed", 12, 10)
	waitFor(t, func() bool { return s.Stats().DurableIndex == s.Stats().AppliedIndex && s.Stats().IndexedTo > 0 })
	stop()
	keys = append(keys, set("committed", 3, 20)...)
	keys = append(keys, set("committed large", 3, ChunkBytes+1)...)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	keys = append(keys, set("pending", 3, 30)...)
	keys = append(keys, set("pending large", 3, ChunkBytes+2)...)
	keys = append(keys, "absent", "", "a\x00b", keys[0], "absent")

	seen := make(map[int]bool)
	db.GetMany(keys, func(i int, v *Value, err error) {
		if seen[i] {
			t.Errorf("key %d is told twice", i)
		}
		seen[i] = true
		if err != nil {
			v = nil
		}
		compareWithGet(t, db, keys[i], v, err)
	})
	if len(seen) != len(keys) {
		t.Errorf("%d of %d keys are told", len(seen), len(keys))
	}
	if l.reads != 0 {
		t.Errorf("%d rounds of ReadIndex for local reads", l.reads)
	}
}

func compareWithGet(t *testing.T, db *DB, key Key, v *Value, err error) {
	t.Helper()
	want, wantErr := db.Get(t.Context(), key, Local)
	if (wantErr == nil) != (err == nil) || wantErr != nil && wantErr.Error() != err.Error() {
		t.Errorf("%q: error %v, Get says %v", key, err, wantErr)
	}
	if err != nil || wantErr != nil {
		return
	}
	if v.Meta != want.Meta {
		t.Errorf("%q: %+v, Get says %+v", key, v.Meta, want.Meta)
	}
	got, _ := io.ReadAll(v.Open(t.Context()))
	wanted, _ := io.ReadAll(want.Open(t.Context()))
	if !bytes.Equal(got, wanted) || int64(len(got)) != v.Size {
		t.Errorf("%q: %d bytes, Get has %d", key, len(got), len(wanted))
	}
}

// TestDB_GetMany_Closed: an error is told for every key.
func TestDB_GetMany_Closed(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	told := 0
	db.GetMany([]Key{"a", "b"}, func(_ int, _ *Value, err error) {
		if told++; !errors.Is(err, ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
	if told != 2 {
		t.Errorf("told %d times", told)
	}
}

// TestDB_Confirm asks the log once, and passes its error on.
func TestDB_Confirm(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{})
	if err := db.Confirm(t.Context()); err != nil || l.reads != 1 {
		t.Errorf("%d rounds, %v", l.reads, err)
	}
}

func BenchmarkDB_GetMany(b *testing.B) {
	db, s, _ := newTestDB(b, DBConfig{})
	var keys []Key
	for i := range 256 {
		key := Key(fmt.Sprintf("bench/%026d", i))
		if _, err := db.Put(b.Context(), put(key, strings.Repeat("v", 256))); err != nil {
			b.Fatal(err)
		}
		keys = append(keys, key)
	}
	if err := s.Commit(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		db.GetMany(keys, func(_ int, v *Value, err error) {
			if err != nil {
				b.Fatal(err)
			}
		})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(keys)), "ns/key")
}

// TestStore_FoundInANewerIndex: a key may be set, made durable and indexed between the look
// at what pends and that into the index. What the index says is in history then.
func TestStore_FoundInANewerIndex(t *testing.T) {
	log, m := script(t, 33, 60)
	s := openDir(t, t.TempDir(), StoreConfig{})
	before := s.recent()
	for i := range log {
		mustApply(t, s, &log[i])
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	keys, revs := m.order, make([]Revision, len(m.order))
	if _, err := s.find(keys, revs); err != nil {
		t.Fatal(err)
	}
	metas, err := s.metas(before, keys, revs)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range keys {
		if metas[i].Key != key || metas[i].SHA256 != m.keys[key].meta.SHA256 {
			t.Errorf("key %q: %+v", key, metas[i])
		}
	}
}
