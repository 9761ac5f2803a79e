package kvstore

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/Focinfi/oncekv/bodies"
)

// largeValue puts a value of several chunks, whose blocks are all different.
func largeValue(t *testing.T) (d *memDisks, s *Store, v *Value, want []byte) {
	t.Helper()
	d = newMemDisks()
	s = mustOpen(t, d, StoreConfig{})
	want = make([]byte, 2*ChunkBytes+3*bodies.BlockBytes+17)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(want); err != nil {
		t.Fatal(err)
	}
	if _, err := NewDB(s, newDirectLog(s), DBConfig{}).Put(t.Context(), PutRequest{Key: "large", Body: bytes.NewReader(want), Size: int64(len(want))}); err != nil {
		t.Fatal(err)
	}
	v, err := s.Get("large")
	if err != nil {
		t.Fatal(err)
	}
	return d, s, v, want
}

// However a large value is read, in pieces of any size and from anywhere, its bytes are
// those that were put.
func TestChunkReader_AnyPiecesFromAnywhere(t *testing.T) {
	t.Parallel()
	_, _, v, want := largeValue(t)
	from := v.Open(t.Context())
	defer from.Close()
	r := rand.New(rand.NewPCG(5, 6))
	sizes := []int{1, 4096, bodies.BlockBytes - 1, bodies.BlockBytes, bodies.BlockBytes + 1, 5 * bodies.BlockBytes, ChunkBytes, 3 * ChunkBytes}
	at := 0
	for range 3000 {
		switch r.IntN(4) {
		case 0:
			at = r.IntN(len(want))
		case 1:
			at = r.IntN(len(want)/bodies.BlockBytes+1) * bodies.BlockBytes
		}
		if _, err := from.Seek(int64(at), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, sizes[r.IntN(len(sizes))])
		n, err := from.Read(p)
		if at == len(want) && err == io.EOF {
			at = 0
			continue
		}
		if err != nil || n == 0 || !bytes.Equal(p[:n], want[at:at+n]) {
			t.Fatalf("%d bytes from %d on: %d, %v", len(p), at, n, err)
		}
		at += n
	}
}

// Nothing of a damaged block is read, in whatever pieces; what is before it is.
func TestChunkReader_DamagedBlock(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{1000, bodies.BlockBytes, 4 * bodies.BlockBytes} {
		d, s, v, want := largeValue(t)
		const damaged = ChunkBytes + 8*bodies.BlockBytes
		files, err := filepath.Glob(filepath.Join(d.values, "*.values"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		b[bytes.Index(b, want[damaged:damaged+64])+70] ^= 1
		if err := os.WriteFile(files[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		from := v.Open(t.Context())
		defer from.Close()
		got := make([]byte, 0, len(want))
		for err == nil {
			var n int
			n, err = from.Read(got[len(got):min(cap(got), len(got)+piece)])
			got = got[:len(got)+n]
		}
		if _, corrupt := errors.AsType[*CorruptError](err); !corrupt || s.err() == nil {
			t.Errorf("in pieces of %d: %v", piece, err)
		}
		if len(got) != damaged || !bytes.Equal(got, want[:damaged]) {
			t.Errorf("in pieces of %d: read %d bytes before the damaged block at %d", piece, len(got), damaged)
		}
	}
}
