package bodies

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// smallDisk mounts a file system of some bytes.
func smallDisk(t *testing.T, size string) string {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no small file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a full disk an append fails, and nothing else. When bodies died there is room again.
func TestStore_Append_FullDisk(t *testing.T) {
	now := time.Unix(0, 0)
	cfg := Config{Dir: smallDisk(t, "4m"), SegmentBytes: 1 << 20, Now: func() time.Time { return now }}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	r := rand.New(rand.NewPCG(2, 4))
	var in []Body
	fill := func() {
		for i := 0; ; i++ {
			b := testBody(r, 20_000+r.IntN(100_000))
			before := s.Stats()
			_, err := s.Append(b.Digest, b.Data)
			if err == nil {
				if err := s.Sync(t.Context()); err != nil || !s.Hold(b.Digest) {
					t.Fatal(err)
				}
				in = append(in, b)
				continue
			}
			if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, writefault.Err) || s.Err() != nil {
				t.Fatal(err)
			}
			if after := s.Stats(); after != before || s.Has(b.Digest) {
				t.Fatalf("%+v, then %+v", before, after)
			}
			for _, path := range segmentFiles(t, cfg.Dir) {
				info, err := os.Stat(path)
				seg := s.segment(uint32(pathNumber(t, path)))
				if err != nil || seg == nil || info.Size() != seg.size() {
					t.Fatalf("%s has bytes of a body that has no room: %v", path, err)
				}
			}
			return
		}
	}
	fill()
	small := testBody(r, 1) // that has room, and is written where the other one was
	if _, err := s.Append(small.Digest, small.Data); err == nil {
		if err := s.Sync(t.Context()); err != nil || !s.Hold(small.Digest) {
			t.Fatal(err)
		}
		in = append(in, small)
	}
	for _, b := range in[:len(in)/2] {
		s.Release(b.Digest)
	}
	in = in[len(in)/2:]
	now = now.Add(time.Minute)
	for range 4 {
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	if s.Stats().ReclaimedBytes < 1<<20 {
		t.Errorf("%+v", s.Stats())
	}
	had := len(in)
	fill()
	if len(in) < had+10 {
		t.Errorf("%d bodies have room where %d died", len(in)-had, had)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	for _, b := range in {
		if got, err := s.Read(b.Digest, nil); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(err)
		}
	}
}
