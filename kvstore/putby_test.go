package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Who put a value, and what was said about it, comes back with it wherever it is
// shown, and from wherever it is kept.
func TestDB_PutBy_ComesBackEverywhere(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{})
	said := mustMeta(map[string]string{"origin": "camera 3", "checked": ""})
	want := make(map[Key]Meta)
	for key, r := range map[Key]PutRequest{
		"small":   {Body: strings.NewReader("v"), Size: 1},
		"middle":  {Body: bytes.NewReader(make([]byte, smallPutBytes+1)), Size: smallPutBytes + 1},
		"unknown": {Body: strings.NewReader("v"), Size: -1},
		"large":   {Body: bytes.NewReader(make([]byte, 2*ChunkBytes)), Size: 2 * ChunkBytes},
	} {
		r.Key, r.By, r.UserMeta = key, "alice@example.org", said
		res, err := db.Put(t.Context(), r)
		if err != nil || res.Outcome != Created {
			t.Fatalf("%s: %+v %v", key, res, err)
		}
		want[key] = res.Meta
	}
	for _, a := range putMany(t, db, SmallPut{Key: "many 1", By: "alice@example.org", UserMeta: said}, SmallPut{Key: "many 2", Value: []byte("v"), By: "alice@example.org", UserMeta: said}) {
		if a.err != nil || a.Outcome != Created {
			t.Fatalf("%+v", a)
		}
		want[a.Meta.Key] = a.Meta
	}
	for key, m := range want {
		if m.By != "alice@example.org" || m.UserMeta != said {
			t.Errorf("%s: the answer says %+v", key, m)
		}
	}
	for _, where := range []func() error{func() error { return nil }, s.Commit, s.FlushIndex} {
		if err := where(); err != nil {
			t.Fatal(err)
		}
		wantMetas(t, s, want)
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantMetas compares what every way to read says of the keys.
func wantMetas(t *testing.T, s *Store, want map[Key]Meta) {
	t.Helper()
	got := make(map[string]Meta)
	keys := make([]Key, 0, len(want))
	for key := range want {
		keys = append(keys, key)
		v, err := s.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		got["Get "+string(key)] = v.Meta
	}
	s.getMany(keys, func(i int, v *Value, err error) {
		if err != nil {
			t.Fatal(err)
		}
		got["GetMany "+string(keys[i])] = v.Meta
	})
	for _, m := range listAll(t, s, "", 100, 1<<20) {
		got["Keys "+string(m.Key)] = m
	}
	for _, c := range followAll(t, s, ChangesRequest{Limit: 100, LimitBytes: 1 << 20}) {
		got["Changes "+string(c.Key)] = c.Meta
	}
	if len(got) != 4*len(want) {
		t.Fatalf("%d answers for %d keys", len(got), len(want))
	}
	for what, m := range got {
		if m != want[m.Key] {
			t.Errorf("%s: %+v, want %+v", what, m, want[m.Key])
		}
	}
}

// The first put of a key stays with all that it said: what another one of the same
// bytes says is not kept.
func TestDB_PutBy_TheFirstStays(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{})
	first := put("k", "v")
	first.By, first.PutID, first.UserMeta = "alice", "first", mustMeta(map[string]string{"n": "1"})
	created, err := db.Put(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	other := func(id, value string) PutRequest {
		r := put("k", value)
		r.By, r.PutID, r.ContentType, r.UserMeta = "bob", id, "a/b", mustMeta(map[string]string{"n": "2"})
		return r
	}
	for i, c := range []struct {
		r    PutRequest
		want Outcome
	}{{other("second", "v"), Unchanged}, {other("first", "v"), Created}, {other("second", "w"), Conflict}} {
		// As one that finds the key set, and as one that lost in the log.
		m := newMeta(&c.r, created.Meta.Time, c.r.Size)
		var value bytes.Buffer
		_, _ = value.ReadFrom(c.r.Body)
		c.r.Body, m.SHA256 = bytes.NewReader(value.Bytes()), sumOf(value.Bytes())
		cmd := putCommandHeader(&m)
		results, err := applyTo(s, uint64(i+10), 1, [][]byte{append(cmd, value.Bytes()...)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		found, err := db.Put(t.Context(), c.r)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range []PutResult{asPut(results[0]), found} {
			if got.Outcome != c.want || got.Meta != created.Meta {
				t.Errorf("put %d: %+v, want %v of %+v", i, got, c.want, created.Meta)
			}
		}
		db.log.(*directLog).index = uint64(i + 10)
	}
}

// A name that no header could carry is refused before anything is proposed.
func TestDB_PutBy_RefusesNamesThatNoRecordCanHave(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{})
	for by, ok := range map[string]bool{
		"a": true, "CN=Some Body, O=x": true, strings.Repeat("~", byBytesMax): true,
		strings.Repeat("~", byBytesMax+1): false, "a\nb": false, "é": false, " a": false, "a ": false, "\x7f": false,
	} {
		before := l.count(commandPut)
		r := put(Key(fmt.Sprintf("one %x", by)), "v")
		r.By = by
		_, err := db.Put(t.Context(), r)
		many := putMany(t, db, SmallPut{Key: Key(fmt.Sprintf("many %x", by)), By: by})[0].err
		for _, err := range []error{err, many} {
			if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalidMeta) {
				t.Errorf("%q: %v", by, err)
			}
		}
		if proposed := l.count(commandPut) - before; (proposed == 0) == ok {
			t.Errorf("%q: %d proposals", by, proposed)
		}
	}
}

// What metadata takes counts where memory is bounded: in pages, and in the steps of
// PutMany.
func TestUserMeta_CountsInBounds(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{})
	full := mustMeta(map[string]string{"n": strings.Repeat("v", userMetaBytesMax-1)})
	puts := make([]SmallPut, 2*ChunkBytes/full.Bytes())
	for i := range puts {
		puts[i] = SmallPut{Key: Key(fmt.Sprintf("%05d", i)), UserMeta: full}
	}
	places := make([]int, len(puts))
	for i := range places {
		places[i] = i
	}
	if n, size := together(puts, places); n != ChunkBytes/full.Bytes() || size > ChunkBytes {
		t.Errorf("a step has %d of %d puts, with %d bytes", n, len(puts), size)
	}
	for _, a := range putMany(t, db, puts[:20]...) {
		if a.err != nil {
			t.Fatal(a.err)
		}
	}
	const bound = 5 * userMetaBytesMax
	page, err := s.Keys(t.Context(), KeysRequest{Limit: 20, LimitBytes: bound})
	if err != nil || len(page.Keys) == 0 || len(page.Keys) > 5 || !page.More {
		t.Errorf("a page of keys has %d (%v)", len(page.Keys), err)
	}
	changes, err := s.Changes(ChangesRequest{Limit: 20, LimitBytes: bound})
	if err != nil || len(changes.Records) == 0 || len(changes.Records) > 5 {
		t.Errorf("a page of changes has %d (%v)", len(changes.Records), err)
	}
}
