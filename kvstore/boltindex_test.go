package kvstore

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Random flushes into a real index, many block splits, then everything is compared.
func TestStoreDir_RandomFlushes(t *testing.T) {
	dir := t.TempDir()
	cfg := StoreConfig{MemtableBytes: 200000, GenerationBytes: 50000, CommitBytes: 100000, PendingBytes: 300000}
	s, err := OpenStoreDir(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	seen := map[Key]bool{}
	idx := uint64(0)
	for range 250 {
		var cmds [][]byte
		base := r.IntN(1 << 16)
		for j := range 150 {
			var k Key
			switch r.IntN(4) {
			case 0:
				k = Key(fmt.Sprintf("%08x", r.Uint32()))
			case 1:
				k = Key(fmt.Sprintf("seq/%06d/%04d", base, j))
			case 2:
				k = Key(fmt.Sprintf("p/%0*d", 1+r.IntN(1000), r.IntN(1000)))
			default:
				k = Key(fmt.Sprintf("%c", 1+r.IntN(200)))
			}
			if seen[k] || k.Validate() != nil {
				continue
			}
			seen[k] = true
			cmds = append(cmds, testPut(k, "id", "", make([]byte, r.IntN(80)), time.Unix(0, 0)))
		}
		idx++
		if _, err := applyTo(s, idx, 1, cmds, nil); err != nil {
			t.Fatal(err)
		}
		if r.IntN(60) == 0 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = OpenStoreDir(dir, cfg); err != nil {
				t.Fatal(err)
			}
			// what was not committed is gone
			idx = s.Stats().AppliedIndex
			seen = map[Key]bool{}
			page := KeysRequest{Limit: 5000, LimitBytes: 1 << 30}
			for {
				p, err := s.Keys(t.Context(), page)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range p.Keys {
					if seen[m.Key] || m.Key <= page.After {
						t.Fatalf("%q twice or out of order", m.Key)
					}
					seen[m.Key] = true
					page.After = m.Key
				}
				if !p.More {
					break
				}
			}
			if Revision(len(seen)) != s.Stats().Revision {
				t.Fatalf("%d keys, revision %d", len(seen), s.Stats().Revision)
			}
		}
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	for k := range seen {
		if _, err := s.Get(k); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
		if _, err := s.Get(k + "!"); err != ErrNotFound && !seen[k+"!"] {
			t.Fatalf("%q!: %v", k, err)
		}
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(len(seen), s.Stats().IndexBytes, s.Stats().HistoryBytes)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
