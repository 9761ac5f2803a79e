package bodies

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/writefault"
)

func testBody(r *rand.Rand, n int) Body {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return Body{sha256.Sum256(data), data}
}

// Bodies are read as they were written, also after the store was opened again; what
// nothing counts on goes.
func TestStore_KeepsAndForgets(t *testing.T) {
	now := time.Unix(0, 0)
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1 << 20, Now: func() time.Time { return now }}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []Body
	for range 20 {
		b := testBody(r, 1+r.IntN(300_000))
		all = append(all, b)
		for i := range 2 {
			if added, err := s.Append(b.Digest, b.Data); err != nil || added != (i == 0) {
				t.Fatal(added, err)
			}
		}
		if s.Hold(b.Digest) {
			t.Fatal("a body is held before it is durable")
		}
		if err := s.Sync(t.Context()); err != nil || !s.Has(b.Digest) {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, b := range all {
		got, err := s.Read(b.Digest, nil)
		if err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(i, err)
		}
		if i%2 == 0 && !s.Hold(b.Digest) {
			t.Fatal("not held")
		}
	}
	now = now.Add(time.Minute)
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	for i, b := range all {
		if _, err := s.Read(b.Digest, nil); (err == nil) != (i%2 == 0) {
			t.Errorf("body %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Bodies != 10 || st.ReclaimedBytes == 0 {
		t.Errorf("%+v", st)
	}
}

// The name of the directory is durable before a store is open, also if whoever made it was
// killed before that.
func TestOpen_SyncsTheNameOfItsDirectory(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "values")
	named := false
	cfg := Config{Dir: dir, Sync: func(path string) error {
		_, err := os.Stat(dir)
		named = named || path == above && err == nil
		return nil
	}}
	for _, when := range []string{"at first", "again"} {
		named = false
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !named {
			t.Errorf("opened %s, the name of the directory may not be durable", when)
		}
	}
	failed := errors.New("no such disk")
	cfg.Sync = func(path string) error {
		if path == above {
			return failed
		}
		return nil
	}
	if s, err := Open(cfg); !errors.Is(err, failed) || !errors.Is(err, writefault.Err) {
		t.Errorf("opened %v, although its name could not be synced: %v", s, err)
	}
}

// Blocks are read from where one begins, as many as fit.
func TestStore_ReadAt(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := testBody(rand.New(rand.NewPCG(3, 4)), 3*BlockBytes+100)
	if _, err := s.Append(b.Digest, b.Data); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, room, want int }{
		{0, BlockBytes, BlockBytes}, {0, 2*BlockBytes + 99, 2 * BlockBytes}, {0, len(b.Data), len(b.Data)},
		{BlockBytes, 1 << 20, len(b.Data) - BlockBytes}, {3 * BlockBytes, 100, 100}, {3 * BlockBytes, 1000, 100},
	} {
		p := make([]byte, c.room)
		if n, err := s.ReadAt(b.Digest, p, c.off); err != nil || n != c.want || !bytes.Equal(p[:n], b.Data[c.off:c.off+n]) {
			t.Errorf("%d bytes at %d: %d, %v", c.room, c.off, n, err)
		}
	}
	for _, off := range []int{-BlockBytes, 1, 4 * BlockBytes} {
		if _, err := s.ReadAt(b.Digest, make([]byte, BlockBytes), off); err == nil {
			t.Errorf("a block begins at %d", off)
		}
	}
}
