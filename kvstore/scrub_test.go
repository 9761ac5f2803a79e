package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A scrub reads everything once, at the rate that it is given, and says how far it is.
func TestStore_Scrub(t *testing.T) {
	t.Parallel()
	log, _ := script(t, 3, 60)
	s := mustOpen(t, newMemDisks(), tiny())
	for i := range log {
		mustApply(t, s, &log[i])
	}
	if err := errors.Join(s.Commit(), s.FlushIndex()); err != nil {
		t.Fatal(err)
	}
	var last, total int64
	if err := s.Scrub(t.Context(), 0, func(done, of int64) {
		if done < last || done > of {
			t.Errorf("%d of %d bytes are done, after %d", done, of, last)
		}
		last, total = done, of
	}); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); last < st.ValueBytes || last < total*9/10 {
		t.Errorf("%d of %d bytes were read in the end; the values have %d", last, total, st.ValueBytes)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Scrub(ctx, 1, nil); !errors.Is(err, context.Canceled) || s.err() != nil {
		t.Errorf("its request ended: %v, %v", err, s.err())
	}
}

// However many values have a body, a scrub reads it once, at its rate. It waits for
// what it reads, so the time that it takes says how much that is.
func TestStore_Scrub_EachBodyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		db := NewDB(s, newDirectLog(s), DBConfig{})
		data := bytes.Repeat([]byte("so"), 3*ChunkBytes/4)
		for n := range 10 {
			for size, name := range map[int]string{ChunkBytes: "one", len(data): "large"} {
				key := Key(fmt.Sprintf("%s-%d", name, n))
				if _, err := db.Put(t.Context(), PutRequest{Key: key, Body: bytes.NewReader(data[:size]), Size: int64(size)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(s.Commit(), s.FlushIndex()); err != nil {
			t.Fatal(err)
		}
		const rate = 64 << 10
		begin, last := time.Now(), int64(0)
		if err := s.Scrub(t.Context(), rate, func(done, _ int64) { last = done }); err != nil {
			t.Fatal(err)
		}
		st := s.Stats()
		want := st.HistoryBytes + st.IndexBytes + int64(len(data))
		if read := int64(time.Since(begin).Seconds() * rate); read < want*9/10 || read > want*11/10 || last < want*9/10 || last > want*11/10 {
			t.Errorf("it read %d bytes and says %d; its files and its two bodies have %d", read, last, want)
		}
	})
}

// A body that is not there, or has not the size that its record says, is found by its
// record, without a look at its bytes.
func TestStore_Scrub_References(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*body){
		"missing":      func(d *body) { d.sum[0] ^= 1 },
		"another size": func(d *body) { d.size-- },
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, newMemDisks(), StoreConfig{})
			data := bytes.Repeat([]byte("so"), BodyBytesMin)
			if err := supply(s.bodies, registerBody(data)); err != nil {
				t.Fatal(err)
			}
			d := body{kind: bodyReferred, size: int64(len(data)), sum: sumOf(data)}
			if err := s.verifyReferences(t.Context(), 1, &d); err != nil {
				t.Fatal(err)
			}
			spoil(&d)
			if _, ok := errors.AsType[*CorruptError](s.verifyReferences(t.Context(), 1, &d)); !ok {
				t.Error("it says nothing")
			}
		})
	}
}

// Scrub finds a byte that changed in a body, which Verify, that reads a body for each
// value that has it, finds too; and says how far it is.
func TestStore_Scrub_DamagedBody(t *testing.T) {
	t.Parallel()
	for how, look := range map[string]func(*Store) error{
		"Verify": func(s *Store) error { return s.Verify(t.Context()) },
		"Scrub": func(s *Store) error {
			records := false
			err := s.Scrub(t.Context(), 0, func(_, _ int64) { records = true })
			if !records {
				t.Errorf("it read a body for the record that has it: %v", err)
			}
			return err
		},
	} {
		t.Run(how, func(t *testing.T) {
			disks := newMemDisks()
			s := mustOpen(t, disks, StoreConfig{})
			data := bytes.Repeat([]byte("large"), 20<<10)
			m := Meta{Key: "k", SHA256: sumOf(data), Size: int64(len(data)), ContentType: DefaultContentType, PutID: "p", Time: time.Unix(1, 0)}
			registerBody(data)
			results, err := applyTo(s, 1, 1, [][]byte{referCommand(&m)}, nil)
			if refused, ok := results[0].(error); err != nil || ok {
				t.Fatal(refused, err)
			}
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			var at [][2]int64
			if err := s.Scrub(t.Context(), 0, func(done, total int64) { at = append(at, [2]int64{done, total}) }); err != nil {
				t.Fatal(err)
			}
			if last := at[len(at)-1]; last[0] > last[1] || last[0] < int64(len(data)) {
				t.Errorf("it was at %v", at)
			}
			segment := filepath.Join(s.bodies.Dir(), "00000001.values")
			b, err := os.ReadFile(segment)
			if err != nil {
				t.Fatal(err)
			}
			b[bytes.Index(b, data)+77_000] ^= 1
			if err := os.WriteFile(segment, b, 0o600); err != nil {
				t.Fatal(err)
			}
			var corrupt *CorruptError
			if err := look(s); !errors.As(err, &corrupt) || corrupt.File != segment {
				t.Fatalf("it says %v", err)
			}
		})
	}
}
