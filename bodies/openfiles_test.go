package bodies

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/shortage"
)

// With two files for many segments everybody reads, writes, syncs and reclaims at once.
func TestStore_OpenFiles(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 30_000, Grace: time.Nanosecond, OpenFiles: 2}
	s, all, _ := kept(t, cfg, 60, 10_000)
	// Two thirds of those that are not counted go, so that segments are copied while they
	// are read.
	var left []Body
	for i, b := range all {
		if !s.Hold(b.Digest) {
			t.Fatal("it is not here")
		}
		if i%3 == 0 {
			left = append(left, b)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var readers, rest sync.WaitGroup
	for i := range 6 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 200 {
				b := left[r.IntN(len(left))]
				if got, err := s.Read(b.Digest, nil); err != nil || !bytes.Equal(got, b.Data) {
					t.Errorf("body %s: %v", b.Digest, err)
				}
				s.files.mu.Lock()
				n, _ := s.files.look()
				s.files.mu.Unlock()
				if n > 3 { // one may have become so, being synced
					t.Errorf("%d segments are open", n)
				}
			}
		})
	}
	until := func(f func(n int) error) {
		rest.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := f(n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(2, 1))
	until(func(int) error {
		b := testBody(r, 10_000)
		_, err := s.Append(b.Digest, b.Data)
		return errors.Join(err, s.Sync(t.Context()))
	})
	until(func(n int) error {
		if n < len(all) && n%3 != 0 {
			s.Release(all[n].Digest)
		}
		return s.Reclaim()
	})
	until(func(int) error { return s.Scrub(t.Context(), 0, nil) })
	readers.Wait()
	stop()
	rest.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(s.files.list); n > 0 {
		t.Errorf("%d segments are open after Close", n)
	}
	if _, err := s.Read(left[0].Digest, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
}

// A read that needs a file while the process may open none fails, and nothing else.
func TestStore_Read_ShortOfFiles(t *testing.T) {
	s, all, at := kept(t, Config{Dir: t.TempDir(), SegmentBytes: 1, OpenFiles: 1}, 4, 1000)
	if at[0].segment == at[1].segment {
		t.Fatal("they are in one segment")
	}
	if _, err := s.Read(all[0].Digest, nil); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Skip(err)
	}
	_, err := s.Read(all[1].Digest, nil)
	_, open := s.Read(all[3].Digest, nil)
	scrubbed := s.Scrub(t.Context(), 0, nil)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !shortage.Is(err) || errors.As(err, new(*DamageError)) || open != nil || !shortage.Is(scrubbed) || s.Err() != nil {
		t.Errorf("reads without files: %v; of the newest: %v; a scrub: %v; the store: %v", err, open, scrubbed, s.Err())
	}
	for _, b := range all {
		if _, err := s.Read(b.Digest, nil); err != nil {
			t.Error(err)
		}
	}
	// A file that somebody removed is damage, when it is opened again.
	if err := os.Remove(segmentPath(s.Dir(), at[0].segment)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Read(all[0].Digest, nil)
	wantDamage(t, err, segmentPath(s.Dir(), at[0].segment))
}
