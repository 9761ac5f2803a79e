package bodies

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// kept opens a store with bodies, the first half counted, and returns their places too.
func kept(t *testing.T, cfg Config, n, size int) (*Store, []Body, []place) {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r := rand.New(rand.NewPCG(7, uint64(n)))
	var all []Body
	var at []place
	for i := range n {
		b := testBody(r, size)
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i < (n+1)/2 {
			if err := s.Count([]Change{{b.Digest, 1}}, Mark{Revision: uint64(i + 1)}); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, b)
		at = append(at, s.table.mem[b.Digest].place)
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, all, at
}

func flipBit(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func wantDamage(t *testing.T, err error, path string) {
	t.Helper()
	damage, ok := errors.AsType[*DamageError](err)
	if !ok || damage.File != path || !strings.Contains(err.Error(), "replace this node") {
		t.Errorf("%v, and not that %s is damaged and what to do", err, path)
	}
}

// Damage of a body that something counts on is found when it is read, and by a scrub.
func TestStore_Scrub_FindsDamage(t *testing.T) {
	header, data := int64(0), int64(headerBytes(100_000))
	for name, flip := range map[string]int64{
		"magic": header, "size": header + 9, "digest": header + 20, "block sum": header + 45,
		"first block": data, "last block": data + 99_999,
	} {
		t.Run(name, func(t *testing.T) {
			s, all, at := kept(t, Config{Dir: t.TempDir()}, 4, 100_000)
			path := segmentPath(s.Dir(), 1)
			flipBit(t, path, at[0].offset+flip)
			if _, err := s.Read(all[1].Digest, nil); err != nil {
				t.Error(err)
			}
			_, err := s.Read(all[0].Digest, nil)
			wantDamage(t, err, path)
			wantDamage(t, s.Scrub(t.Context(), 0, nil), path)
			wantDamage(t, s.Err(), path)
		})
	}
}

// The block sums hide what only the digest shows.
func TestStore_Scrub_ChecksDigest(t *testing.T) {
	s, _, _ := kept(t, Config{Dir: t.TempDir()}, 1, 1000)
	b := testBody(rand.New(rand.NewPCG(1, 9)), 1000)
	b.Digest[0]++
	if _, err := s.Append(b.Digest, b.Data); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil || !s.Hold(b.Digest) {
		t.Fatal(err)
	}
	wantDamage(t, s.Scrub(t.Context(), 0, nil), segmentPath(s.Dir(), 1))
}

// What nothing counts on may be damaged: it is forgotten, and written anew when it comes
// again.
func TestStore_Scrub_ForgetsDamaged(t *testing.T) {
	s, all, at := kept(t, Config{Dir: t.TempDir()}, 4, 100_000)
	flipBit(t, segmentPath(s.Dir(), 1), at[3].offset+5000)
	var done, total int64
	if err := s.Scrub(t.Context(), 0, func(d, all int64) { done, total = d, all }); err != nil {
		t.Fatal(err)
	}
	if s.Has(all[3].Digest) || !s.Has(all[2].Digest) || done != total || total != 4*frameBytes(100_000) {
		t.Errorf("%d of %d bytes", done, total)
	}
	if added, err := s.Append(all[3].Digest, all[3].Data); !added || err != nil {
		t.Error(added, err)
	}
}

// Without a file, or the end of one, a store does not open, nor does a scrub go by.
func TestStore_MissingSegment(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(path string) error
	}{
		"missing":   {os.Remove},
		"truncated": {func(path string) error { return os.Truncate(path, 150_000) }},
		"header":    {func(path string) error { flipBit(t, path, 3); return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), SegmentBytes: 200_000}
			s, all, _ := kept(t, cfg, 8, 100_000)
			path := segmentPath(s.Dir(), 1)
			if name == "missing" {
				// A process that runs has the file still. It finds out at its next start.
				if _, err := s.Read(all[0].Digest, nil); err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := tt.harm(path); err != nil {
				t.Fatal(err)
			}
			_, err := Open(cfg)
			wantDamage(t, err, path)
		})
	}
}

// A body whose segment the table names and nobody has is damage, not a missing body.
func TestStore_Scrub_MissingSegment(t *testing.T) {
	s, all, _ := kept(t, Config{Dir: t.TempDir(), SegmentBytes: 200_000}, 8, 100_000)
	s.mu.Lock()
	seg := s.segments[1]
	delete(s.segments, 1)
	s.mu.Unlock()
	_, err := s.Read(all[0].Digest, nil)
	wantDamage(t, err, seg.path)
	wantDamage(t, s.Scrub(t.Context(), 0, nil), seg.path)
	s.mu.Lock()
	s.segments[1] = seg
	s.mu.Unlock()
}

// A copy that finds damage, or does not find a body, leaves the file as it is.
func TestStore_Reclaim_FindsDamage(t *testing.T) {
	for name, flip := range map[string]int64{"data": 70_000, "header": 20} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(0, 0)
			s, all, at := kept(t, Config{Dir: t.TempDir(), SegmentBytes: 500_000, Now: func() time.Time { return now }}, 8, 100_000)
			for i := range 4 { // of the five in the first segment
				if i != 1 {
					if err := s.Count([]Change{{all[i].Digest, -1}}, Mark{Revision: uint64(5 + i)}); err != nil {
						t.Fatal(err)
					}
				}
			}
			path := segmentPath(s.Dir(), 1)
			flipBit(t, path, at[1].offset+flip)
			now = now.Add(time.Minute)
			err := s.Reclaim()
			if name == "header" {
				if err == nil {
					_, err = s.Read(all[1].Digest, nil)
				}
			}
			wantDamage(t, err, path)
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

// After a write or an fsync that failed nothing more is written.
func TestStore_WriteFault(t *testing.T) {
	for _, name := range []string{"write", "sync"} {
		t.Run(name, func(t *testing.T) {
			var broken bool
			cfg := Config{Dir: t.TempDir(), Sync: func(path string) error {
				if broken && strings.HasSuffix(path, segmentSuffix) {
					return syscall.EIO
				}
				return nil
			}}
			s, all, at := kept(t, cfg, 2, 1000)
			b := testBody(rand.New(rand.NewPCG(1, 3)), 1000)
			var err error
			if name == "write" {
				readOnly, openErr := os.Open(s.newest.path)
				if openErr != nil {
					t.Fatal(openErr)
				}
				defer s.newest.file.Close()
				s.newest.file = readOnly
				_, err = s.Append(b.Digest, b.Data)
			} else {
				broken = true
				if _, err := s.Append(b.Digest, b.Data); err != nil {
					t.Fatal(err)
				}
				err = s.Sync(t.Context())
			}
			if !errors.Is(err, writefault.Err) || !errors.Is(s.Err(), writefault.Err) || s.Has(b.Digest) {
				t.Errorf("%v, then %v", err, s.Err())
			}
			broken = false
			info, statErr := os.Stat(segmentPath(s.Dir(), 1))
			if statErr != nil {
				t.Fatal(statErr)
			}
			_, err = s.Append(b.Digest, b.Data)
			for what, err := range map[string]error{
				"append": err, "sync": s.Sync(t.Context()), "reclaim": s.Reclaim(), "checkpoint": s.Checkpoint(t.Context()),
			} {
				if !errors.Is(err, writefault.Err) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if after, err := os.Stat(segmentPath(s.Dir(), 1)); err != nil || after.Size() != info.Size() {
				t.Errorf("it was written: %d, then %d bytes, %v", info.Size(), after.Size(), err)
			}
			if _, err := s.Read(all[0].Digest, nil); err != nil || at[0].segment != 1 {
				t.Error(err)
			}
		})
	}
}
