package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

type manyAnswer struct {
	PutResult
	err error
}

// putMany calls PutMany, and makes sure that every put has one answer.
func putMany(t testing.TB, db *DB, puts ...SmallPut) []manyAnswer {
	t.Helper()
	answers := make([]manyAnswer, len(puts))
	told := make([]int, len(puts))
	db.PutMany(t.Context(), puts, func(i int, r PutResult, err error) {
		answers[i] = manyAnswer{r, err}
		told[i]++
	})
	for i, n := range told {
		if n != 1 {
			t.Fatalf("put %d of %q has %d answers", i, puts[i].Key, n)
		}
	}
	return answers
}

// TestDB_PutMany_IsPutForEach: whatever is in a call, each put is decided as if it
// were alone.
func TestDB_PutMany_IsPutForEach(t *testing.T) {
	t.Parallel()
	db, s, l := newTestDB(t, DBConfig{})
	if _, err := db.Put(t.Context(), put("old", "one")); err != nil {
		t.Fatal(err)
	}
	wrong := sumOf([]byte("else"))
	right := sumOf([]byte("new value"))
	before := l.count(commandPut)
	got := putMany(t, db,
		SmallPut{Key: "new", Value: []byte("new value"), ContentType: "text/css", PutID: "mine", SHA256: &right},
		SmallPut{Key: "old", Value: []byte("one")},
		SmallPut{Key: "old", Value: []byte("two")},
		SmallPut{Key: "", Value: []byte("x")},
		SmallPut{Key: "bad type", ContentType: "no type"},
		SmallPut{Key: "bad id", PutID: "a b"},
		SmallPut{Key: "bad digest", Value: []byte("x"), SHA256: &wrong},
		SmallPut{Key: "old", Value: []byte("one"), SHA256: &wrong},
		SmallPut{Key: "large", Value: make([]byte, ChunkBytes+1)},
		SmallPut{Key: "empty"},
	)
	if r := got[0]; r.err != nil || r.Outcome != Created || r.Meta.ContentType != "text/css" || r.Meta.PutID != "mine" || r.Meta.SHA256 != right || r.Meta.Revision != 2 {
		t.Errorf("new: %+v", r)
	}
	if r := got[1]; r.err != nil || r.Outcome != Unchanged || r.Meta.Revision != 1 {
		t.Errorf("the same again: %+v", r)
	}
	if r := got[2]; r.err != nil || r.Outcome != Conflict || r.Meta.SHA256 != sumOf([]byte("one")) {
		t.Errorf("other bytes: %+v", r)
	}
	for i, want := range map[int]error{3: ErrInvalidKey, 4: ErrInvalidContentType, 5: ErrInvalidPutID, 6: ErrDigestMismatch, 7: ErrDigestMismatch, 8: ErrTooLarge} {
		if !errors.Is(got[i].err, want) {
			t.Errorf("put %d: %v, want %v", i, got[i].err, want)
		}
	}
	if r := got[9]; r.err != nil || r.Outcome != Created || r.Meta.Size != 0 || r.Meta.ContentType != DefaultContentType || r.Meta.PutID == "" {
		t.Errorf("empty: %+v", r)
	}
	if n := l.count(commandPut) - before; n != 2 {
		t.Errorf("%d proposals, want those of the two keys that were not set", n)
	}
	for key, want := range map[Key]string{"new": "new value", "old": "one", "empty": ""} {
		v, err := s.Get(key)
		if err != nil || string(readAll(t, v)) != want {
			t.Errorf("%s: %v", key, err)
		}
	}
	// The same id wins again, another does not.
	again := putMany(t, db, SmallPut{Key: "new", Value: []byte("new value"), PutID: "mine"}, SmallPut{Key: "new", Value: []byte("new value"), PutID: "other"})
	if again[0].Outcome != Created || again[1].Outcome != Unchanged {
		t.Errorf("repeated: %+v", again)
	}
}

// TestDB_PutMany_InSteps: more than goes together, with keys that occur twice.
func TestDB_PutMany_InSteps(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{InFlightBytes: 2 << 20})
	var puts []SmallPut
	for i := range 40 {
		puts = append(puts, SmallPut{Key: Key(fmt.Sprint(i % 30)), Value: bytes.Repeat([]byte{byte(i % 30)}, 200<<10)})
	}
	created := 0
	for i, r := range putMany(t, db, puts...) {
		if r.err != nil || r.Outcome == Conflict {
			t.Fatalf("put %d: %+v", i, r)
		}
		if r.Outcome == Created {
			created++
		}
	}
	if created != 30 || s.Stats().Revision != 30 {
		t.Errorf("%d created, revision %d, want 30", created, s.Stats().Revision)
	}
	wantAllFree(t, db)
}

// failingLog answers every second proposal with an error.
type failingLog struct {
	*directLog
	err error
}

func (l *failingLog) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	for i, cmd := range cmds {
		if i%2 == 1 {
			each(i, nil, l.err)
			continue
		}
		result, err := l.Propose(ctx, cmd)
		each(i, result, err)
	}
}

func TestDB_PutMany_Errors(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	db := NewDB(s, &failingLog{newDirectLog(s), errors.New("strange")}, DBConfig{})
	got := putMany(t, db, SmallPut{Key: "a"}, SmallPut{Key: "b"}, SmallPut{Key: "c"})
	if got[0].err != nil || !errors.Is(got[1].err, ErrOutcomeUnknown) || got[2].err != nil {
		t.Errorf("%+v", got)
	}
	full := NewDB(s, newDirectLog(s), DBConfig{Reserve: func() error { return ErrDiskReserve }})
	got = putMany(t, full, SmallPut{Key: "a"}, SmallPut{Key: "new"})
	if got[0].err != nil || got[0].Outcome != Unchanged || !errors.Is(got[1].err, ErrDiskReserve) {
		t.Errorf("with a full disk: %+v", got)
	}
	long := SmallPut{Key: Key(strings.Repeat("k", MaxKeyBytes+1))}
	if got := putMany(t, db, long); !errors.Is(got[0].err, ErrInvalidKey) {
		t.Errorf("long key: %+v", got)
	}
	putMany(t, db)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := putMany(t, db, SmallPut{Key: "z"}); !errors.Is(got[0].err, ErrClosed) {
		t.Errorf("closed: %+v", got)
	}
}
