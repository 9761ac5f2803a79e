package bodies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func pathNumber(t *testing.T, path string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The figures agree with what the files occupy, whatever was put and died.
func TestStore_Stats_Du(t *testing.T) {
	var now time.Time
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 4 << 20, Now: func() time.Time { return now }}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	r := rand.New(rand.NewPCG(6, 6))
	var alive []Body
	var live int64
	for round := range 6 {
		for range 40 {
			b := testBody(r, 1+r.IntN(200_000))
			if _, err := s.Append(b.Digest, b.Data); err != nil {
				t.Fatal(err)
			}
			if err := s.Sync(t.Context()); err != nil || !s.Hold(b.Digest) {
				t.Fatal(err)
			}
			live += frameBytes(len(b.Data))
			alive = append(alive, b)
		}
		agree(t, s, cfg.Dir, live)
		r.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
		for range len(alive) * (round + 1) / 8 {
			b := alive[len(alive)-1]
			alive = alive[:len(alive)-1]
			s.Release(b.Digest)
			live -= frameBytes(len(b.Data))
		}
		agree(t, s, cfg.Dir, live)
		now = now.Add(time.Minute)
		for range 1 + round {
			if err := s.Reclaim(); err != nil {
				t.Fatal(err)
			}
			agree(t, s, cfg.Dir, live)
		}
	}
	for _, b := range alive {
		s.Release(b.Digest)
	}
	now = now.Add(time.Minute)
	for range 2 {
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Segments != 0 || st.Bodies != 0 || st.LiveBytes != 0 || st.DeadBytes != 0 || len(segmentFiles(t, cfg.Dir)) != 0 {
		t.Errorf("nothing is alive, and %+v", st)
	}
}

func agree(t *testing.T, s *Store, dir string, live int64) {
	t.Helper()
	for range 2 { // room for the next bodies goes when none come for a while
		if err := s.trimNewest(); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"-ck", "--"}, segmentFiles(t, dir)...)
	out, err := exec.Command("du", args...).Output()
	if err != nil {
		t.Skip(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	kib, err := strconv.ParseInt(strings.Fields(lines[len(lines)-1])[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if sum := st.LiveBytes + st.DeadBytes; st.LiveBytes != live || float64(sum) < 0.95*float64(kib<<10) || float64(sum) > 1.05*float64(kib<<10) {
		t.Errorf("du says %d KiB, and %d bytes are alive: %+v", kib, live, st)
	}
}

// A segment of which less than half is left is copied aside; half of one stays.
func TestStore_Reclaim_Copies(t *testing.T) {
	var now time.Time
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1 << 20, Now: func() time.Time { return now }}
	s, all, at := kept(t, cfg, 60, 100_000)
	for i, b := range all {
		if at[i].segment == 1 && at[i].offset > 400_000 || at[i].segment == 2 && at[i].offset > 700_000 {
			if err := s.Count([]Change{{b.Digest, -1}}, Mark{Revision: uint64(100 + i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	now = now.Add(time.Minute)
	for range 8 {
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	for number, want := range []bool{1: false, 2: true, 3: true} {
		if number > 0 && exists(segmentPath(cfg.Dir, uint32(number))) != want {
			t.Errorf("segment %d is there: %v", number, !want)
		}
	}
	for i, b := range all[:30] {
		dead := at[i].segment == 1 && at[i].offset > 400_000 || at[i].segment == 2 && at[i].offset > 700_000
		if _, err := s.Read(b.Digest, nil); (err == nil) == dead {
			t.Errorf("body %d in %+v: %v", i, at[i], err)
		}
	}
	if err := s.Scrub(t.Context(), 0, nil); err != nil {
		t.Error(err)
	}
}

// What a process had forgotten, and not given back when it was killed, the next one
// gives back.
func TestStore_Reclaim_AfterKill(t *testing.T) {
	var now time.Time
	killed := ""
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1 << 20, Now: func() time.Time { return now }}
	cfg.step = func(name string) {
		if name == "punch" && killed == "" {
			killed = t.TempDir()
			if out, err := exec.Command("cp", "-a", cfg.Dir+"/.", killed).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	s, all, at := kept(t, cfg, 30, 100_000)
	for i, b := range all[:4] {
		if err := s.Count([]Change{{b.Digest, -1}}, Mark{Revision: uint64(100 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	if err := s.Reclaim(); err != nil || killed == "" {
		t.Fatal(err)
	}
	cfg.Dir, cfg.step = killed, nil
	next, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	before, err := occupied(next.segments[at[0].segment].path)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := next.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	after, err := occupied(next.segments[at[0].segment].path)
	if err != nil || before-after < 4*90_000 {
		t.Errorf("%d, then %d bytes, %v", before, after, err)
	}
	for i, b := range all[4:] {
		if got, err := next.Read(b.Digest, nil); i < 11 && (err != nil || !bytes.Equal(got, b.Data)) {
			t.Errorf("body %d: %v", i+4, err)
		}
	}
}

// A segment whose last body was written anew, because it was damaged, is unlinked when
// that is durable.
func TestStore_Reclaim_WrittenAnew(t *testing.T) {
	var now time.Time
	killed := ""
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 90_000, Now: func() time.Time { return now }}
	cfg.step = func(name string) {
		if name == "unlinked" {
			killed = filepath.Join(t.TempDir(), "values")
			if err := os.CopyFS(killed, os.DirFS(cfg.Dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, all, at := kept(t, cfg, 4, 100_000)
	flipBit(t, segmentPath(cfg.Dir, at[3].segment), at[3].offset+50_000)
	for _, b := range []Body{all[3], testBody(rand.New(rand.NewPCG(1, 1)), 1)} {
		if added, err := s.Append(b.Digest, b.Data); err != nil || !added {
			t.Fatal(added, err)
		}
	}
	if err := s.Reclaim(); err != nil || killed == "" || exists(segmentPath(cfg.Dir, at[3].segment)) {
		t.Fatal(err)
	}
	cfg.Dir, cfg.step = killed, nil
	next, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if got, err := next.Read(all[3].Digest, nil); err != nil || !bytes.Equal(got, all[3].Data) {
		t.Error(err)
	}
}

// What a cut of the power left between two bodies is in the way of nothing. Bytes in a
// body that look like a body behind it are not taken for one.
func TestStore_Reclaim_BehindGap(t *testing.T) {
	var now time.Time
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1 << 20, Now: func() time.Time { return now }}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	r := rand.New(rand.NewPCG(8, 8))
	torn, kept := testBody(r, 50_000), testBody(r, 200_000)
	// In torn is what looks like a frame that covers the rest of it and the next body; it
	// is not punched, because it is in one block with the header.
	looksAt := int64(segmentHeaderBytes+headerBytes(len(torn.Data))) + 8
	copy(torn.Data[8:], (&segment{number: 1}).frameHeader(Digest{}, 300_000, make([]byte, 4*blocks(300_000)), looksAt))
	torn.Digest = sha256.Sum256(torn.Data)
	last := testBody(r, 200_000)
	for _, b := range []Body{torn, kept, last, testBody(r, MaxBytes), testBody(r, 1)} {
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(t.Context()); err != nil || !s.Hold(kept.Digest) || !s.Hold(last.Digest) {
		t.Fatal(err)
	}
	zeros := make([]byte, headerBytes(len(torn.Data)))
	if _, err := s.segments[1].file.WriteAt(zeros, int64(segmentHeaderBytes)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	for range 3 {
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	if exists(segmentPath(cfg.Dir, 1)) {
		t.Error("the segment was not copied")
	}
	for _, b := range []Body{kept, last} {
		if got, err := s.Read(b.Digest, nil); err != nil || !bytes.Equal(got, b.Data) {
			t.Error(err)
		}
	}
}

// Readers do not notice that segments are copied and unlinked.
func TestStore_Read_WhileCopied(t *testing.T) {
	var mu sync.Mutex
	var now time.Time
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1 << 20, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}
	s, all, _ := kept(t, cfg, 120, 50_000)
	var readers sync.WaitGroup
	stop := make(chan struct{})
	readers.Go(func() {
		for k := 0; !stopped(stop); k++ {
			if !s.Has(all[(k%6)*10].Digest) {
				t.Errorf("body %d is not here", (k%6)*10)
				return
			}
		}
	})
	for i := range 3 {
		readers.Go(func() {
			for k := i; !stopped(stop); k++ {
				if _, err := s.Read(all[(k%6)*10].Digest, nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i, b := range all[:60] {
		if i%10 != 0 {
			if err := s.Count([]Change{{b.Digest, -1}}, Mark{Revision: uint64(200 + i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	for range 8 {
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	if exists(segmentPath(cfg.Dir, 1)) || exists(segmentPath(cfg.Dir, 2)) {
		t.Error("nothing was copied")
	}
}

// Who has found where a body is, and reads when the file was unlinked, reads the copy.
func TestStore_Read_AfterUnlink(t *testing.T) {
	var now time.Time
	s, all, at := kept(t, Config{Dir: t.TempDir(), SegmentBytes: 500_000, Now: func() time.Time { return now }}, 8, 100_000)
	for i := range 4 {
		if i != 1 {
			if err := s.Count([]Change{{all[i].Digest, -1}}, Mark{Revision: uint64(5 + i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	now = now.Add(time.Minute)
	var calls []place
	err := s.at(all[1].Digest, func(seg *segment, at place) error {
		if calls = append(calls, at); len(calls) == 1 {
			if err := s.Reclaim(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := seg.read(all[1].Digest, at, 0, at.size, nil)
		return err
	})
	if err != nil || len(calls) != 2 || calls[0] != at[1] {
		t.Error(calls, err)
	}
}

// A pacer spends its rate and no more, and does not wait for a context that ended.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{rate: 1 << 20}
		from := time.Now()
		for range 30 {
			p.spend(t.Context(), 1<<20)
		}
		if took := time.Since(from); took < 29*time.Second || took > 31*time.Second {
			t.Errorf("30 MiB at 1 MiB a second took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		from = time.Now()
		p.spend(ctx, 1<<30)
		if took := time.Since(from); took > 0 {
			t.Errorf("a context that ended was waited for %v", took)
		}
	})
}

// Run gives back what dies, and ends with its context.
func TestStore_Run(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1 << 20, Grace: time.Nanosecond, Round: time.Millisecond}
	s, all, _ := kept(t, cfg, 20, 100_000)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for s.Stats().Bodies > int64(len(all)/2) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
