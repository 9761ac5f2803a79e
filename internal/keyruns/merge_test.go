package keyruns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// madeRuns returns runs of these sizes, oldest first.
func madeRuns(due int, sizes ...int64) []*run {
	var runs []*run
	for i, size := range sizes {
		runs = append(runs, &run{runInfo: runInfo{number: uint64(i + 1), size: size}, due: due})
	}
	return runs
}

func TestPick(t *testing.T) {
	x := &Index{cfg: Config{Factor: 4, MaxRuns: 12}}
	for what, tt := range map[string]struct {
		sizes []int64
		most  int64
		want  string // numbers of the runs, the smallest first
	}{
		"none":                     {nil, -1, ""},
		"few":                      {[]int64{10, 10, 10}, -1, ""},
		"four of one size":         {[]int64{10, 11, 12, 13}, -1, "1 2 3 4"},
		"in any order":             {[]int64{13, 100, 12, 11, 10}, -1, "5 4 3 1"},
		"and all that are smaller": {[]int64{100, 110, 120, 130, 2, 1}, -1, "6 5 1 2 3 4"},
		"the smaller ones first":   {[]int64{100, 110, 120, 130, 4, 3, 2, 2}, -1, "7 8 6 5"},
		"not those of other sizes": {[]int64{1000, 100, 10, 1}, -1, ""},
		"too large":                {[]int64{10, 11, 12, 13}, 45, ""},
		"just not too large":       {[]int64{10, 11, 12, 13}, 46, "1 2 3 4"},
		"the smallest of too many": {[]int64{1e9, 1e8, 1e7, 1e6, 1e5, 1e4, 1e3, 100, 10, 1}, -1, "10 9 8 7"},
		"many":                     {[]int64{1e9, 1e8, 1e7, 1e6, 1e5, 1e4, 1e3, 100, 10}, -1, ""},
	} {
		var got []string
		for _, r := range x.pick(madeRuns(4, tt.sizes...), tt.most) {
			got = append(got, fmt.Sprint(r.number))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
	runs := madeRuns(4, 10, 11, 12, 13)
	runs[2].merging = true
	if x.pick(runs, -1) != nil {
		t.Error("a run is merged twice")
	}
	runs = madeRuns(4, 10, 11, 100)
	runs[2].worn.Store(true)
	if got := x.pick(runs, -1); len(got) != 1 || got[0] != runs[2] {
		t.Error("a run with a damaged filter is not written anew")
	}
	runs = madeRuns(4, 12, 11, 10)
	runs[0].due = 3 // the oldest decides
	if got := x.pick(runs, -1); len(got) != 3 {
		t.Error("the spread does not count")
	}
}

// The number of runs stays small, and merges write in proportion to the logarithm of the
// index's size.
func TestMerge_Levels(t *testing.T) {
	x := openIndex(t, Config{Files: NewMemFiles(), Logger: slog.New(slog.DiscardHandler)})
	most := 0
	for batch := range 150 {
		keys := map[string]uint64{}
		for i := range 100 {
			k := hexKey(batch, i)
			keys[string(k[:])] = 1
		}
		add(t, x, keys, uint64(batch+1))
		for {
			merged, err := x.Merge(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !merged {
				break
			}
		}
		most = max(most, x.Stats().Runs)
	}
	s := x.Stats()
	if s.Keys != 15000 || most > 18 {
		t.Errorf("%d runs, %+v", most, s)
	}
	if twice := float64(s.MergedBytes) / float64(s.AddedBytes); twice > 2.2 {
		t.Errorf("merges write %.1f times what was added", twice)
	}
}

// A large merge yields to a smaller one that becomes due meanwhile.
func TestMerge_GivesWay(t *testing.T) {
	files := NewMemFiles()
	cfg := testConfig(files)
	cfg.MaxRuns = 20
	x := openIndex(t, cfg)
	want := map[string]uint64{}
	made := 0
	more := func(n int) {
		keys := map[string]uint64{}
		for range n {
			made++
			keys[fmt.Sprintf("%d/%x", made*7919%10007, made)] = uint64(made)
		}
		add(t, x, keys, uint64(made))
		maps.Copy(want, keys)
	}
	for range 3 {
		more(6000)
	}
	began := false
	files.OnCall(func(c Call) Fault {
		if c.Op == OpWrite && !began { // of the large merge
			began = true
			for range 3 {
				more(50)
			}
		}
		return Fault{}
	})
	if merged, err := x.Merge(t.Context()); err != nil || !merged {
		t.Fatal(err)
	}
	if s := x.Stats(); s.Merges != 2 {
		t.Errorf("%d merges", s.Merges)
	}
	if s := x.Stats(); s.Runs != 2 {
		t.Errorf("%d runs", s.Runs)
	}
	checkHas(t, x, want)
}

// Reads, additions and merges run at the same time, and no read misses a key.
func TestIndex_Concurrent(t *testing.T) {
	cfg := testConfig(OSFiles(t.TempDir() + "/index"))
	cfg.MergeRate = 1 << 30
	x := openIndex(t, cfg)
	ctx, stop := context.WithCancel(t.Context())
	const batches, n = 30, 300
	var there atomic.Int64
	var group sync.WaitGroup
	group.Go(func() {
		if err := x.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	read := func(seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		for ctx.Err() == nil {
			have := int(there.Load())
			if have == 0 {
				continue
			}
			key := hexKey(r.IntN(have), r.IntN(n))
			if rev, err := x.Find(key[:]); err != nil || rev == 0 {
				t.Errorf("%s: %d, %v", key, rev, err)
				return
			}
			key = hexKey(1000, r.IntN(n))
			if rev, err := x.Find(key[:]); err != nil || rev != 0 {
				t.Errorf("%s: %d, %v", key, rev, err)
				return
			}
			if r.IntN(100) > 0 {
				continue
			}
			have = int(there.Load())
			count := 0
			var last []byte
			if err := x.Ascend(nil, func(key []byte, _ uint64) bool {
				if bytes.Compare(last, key) >= 0 {
					t.Errorf("%q is listed behind %q", key, last)
				}
				last = append(last[:0], key...)
				count++
				return true
			}); err != nil || count < have*n {
				t.Errorf("%d keys are listed, not %d: %v", count, have*n, err)
				return
			}
		}
	}
	group.Go(func() { read(1) })
	group.Go(func() { read(2) })
	group.Go(func() {
		for ctx.Err() == nil {
			if err := x.Verify(ctx, nil); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	for batch := range batches {
		if err := x.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if err := x.Add(ctx, ofKeys(hexKeys(batch, n)), n, testMark(uint64(batch+1))); err != nil {
			t.Fatal(err)
		}
		there.Store(int64(batch + 1))
		if runs := x.Stats().Runs; runs > cfg.MaxRuns {
			t.Errorf("%d runs", runs)
		}
	}
	stop()
	group.Wait()
	if x.Stats().Merges == 0 {
		t.Error("nothing was merged")
	}
	if _, err := x.Merge(t.Context()); err != nil { // which removes what readers had
		t.Fatal(err)
	}
	if names, err := cfg.Files.List(); err != nil || len(names) != x.Stats().Runs+1 {
		t.Errorf("%d runs, and %q, %v", x.Stats().Runs, names, err)
	}
}

// A run stays until its last reader is done, even when the index is closed.
func TestIndex_ReadersKeepRuns(t *testing.T) {
	files := NewMemFiles()
	x := openIndex(t, testConfig(files))
	want := map[string]uint64{}
	for batch := range uint64(3) {
		add(t, x, crashMap(batch+1), batch+1)
		maps.Copy(want, crashMap(batch+1))
	}
	count := func() int {
		names, err := files.List()
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	closed := make(chan struct{})
	read := 0
	if err := x.Ascend(nil, func(key []byte, revision uint64) bool {
		if want[string(key)] != revision {
			t.Fatalf("%q: %d", key, revision)
		}
		switch read++; read {
		case 10:
			if merged, err := x.Merge(t.Context()); err != nil || !merged {
				t.Fatal(err)
			}
			if n := count(); n != 5 { // with the list and what was merged
				t.Errorf("%d files while somebody reads them", n)
			}
		case 20:
			go func() {
				defer close(closed)
				if err := x.Close(); err != nil {
					t.Error(err)
				}
			}()
			<-x.dead
		case 400:
			select {
			case <-closed:
				t.Error("it is closed while somebody reads")
			default:
			}
		}
		return true
	}); err != nil || read != len(want) {
		t.Fatalf("%d keys, %v", read, err)
	}
	<-closed
	if n := count(); n != 2 {
		t.Errorf("%d files when nobody reads them", n)
	}
}

// At Config.MaxRuns Wait waits for merges, if somebody merges.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := NewMemFiles()
		cfg := testConfig(files)
		x := openIndex(t, cfg)
		for i := range cfg.MaxRuns {
			add(t, x, map[string]uint64{fmt.Sprint(i): 1}, uint64(i+1))
		}
		if err := x.Wait(t.Context()); err != nil {
			t.Fatal(err) // nobody merges
		}
		hold := make(chan struct{})
		files.OnCall(func(c Call) Fault {
			if c.Op == OpRename {
				<-hold
			}
			return Fault{}
		})
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- x.Run(ctx) }()
		synctest.Wait()
		soon, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := x.Wait(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at %d runs: %v", x.Stats().Runs, err)
		}
		close(hold)
		if err := x.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if s := x.Stats(); s.Pauses != 2 || s.Runs >= cfg.MaxRuns {
			t.Errorf("%+v", s)
		}
		if err := x.Run(ctx); err == nil {
			t.Error("two run")
		}
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		_ = x.Close()
		if err := x.Wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// A merge that finds no room is tried again and blocks nobody; one whose fsync fails ends the
// index.
func TestRun_Failures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := NewMemFiles()
		cfg := testConfig(files)
		x := openIndex(t, cfg)
		for i := range cfg.MaxRuns {
			add(t, x, map[string]uint64{fmt.Sprint(i): 1}, uint64(i+1))
		}
		var tries atomic.Int32
		var errno atomic.Int32
		errno.Store(int32(syscall.ENOSPC))
		files.OnCall(func(c Call) Fault {
			if c.Op == OpWrite && errno.Load() == int32(syscall.ENOSPC) || c.Op == OpSync && errno.Load() == int32(syscall.EIO) {
				tries.Add(1)
				return Fault{Err: syscall.Errno(errno.Load())}
			}
			return Fault{}
		})
		ran := make(chan error, 1)
		go func() { ran <- x.Run(t.Context()) }()
		time.Sleep(10 * time.Minute)
		if n := tries.Load(); n < 10 || n > 20 {
			t.Errorf("%d tries in ten minutes", n)
		}
		if err := x.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		errno.Store(0)
		time.Sleep(2 * time.Minute)
		if s := x.Stats(); s.Merges == 0 || s.Pauses != 0 {
			t.Errorf("%+v", s)
		}
		errno.Store(int32(syscall.EIO))
		for i := range uint64(4) {
			err := x.Add(t.Context(), inOrder(map[string]uint64{fmt.Sprint("b", i): 1}), 1, testMark(20+i))
			if !errors.Is(err, writefault.Err) {
				t.Errorf("%v", err)
			}
		}
		if err := <-ran; !errors.Is(err, writefault.Err) {
			t.Errorf("%v", err)
		}
		if err := x.Wait(t.Context()); !errors.Is(err, writefault.Err) {
			t.Errorf("%v", err)
		}
	})
}

// If the list may be the old or the new one, the index has ended, whatever the reason.
func TestRun_ListInDoubt(t *testing.T) {
	files := NewMemFiles()
	x := openIndex(t, testConfig(files))
	for i := range 3 {
		add(t, x, map[string]uint64{fmt.Sprint(i): 1}, uint64(i+1))
	}
	renamed := false
	files.OnCall(func(c Call) Fault {
		if renamed = renamed || c.Op == OpRename; renamed && c.Op == OpSyncDir {
			return Fault{Err: syscall.EMFILE}
		}
		return Fault{}
	})
	if err := x.Run(t.Context()); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v", err)
	}
	if err := x.Add(t.Context(), inOrder(map[string]uint64{"b": 1}), 1, testMark(9)); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v", err)
	}
	for seed := range uint64(8) {
		again := openIndex(t, testConfig(files.survivors(seed)))
		if again.Mark() != testMark(3) {
			t.Errorf("mark %v", again.Mark().Revision)
		}
		checkHas(t, again, map[string]uint64{"0": 1, "1": 1, "2": 1})
	}
}

// Merges keep to a rate in bytes a second, which rises when there are many runs.
func TestRun_Rate(t *testing.T) {
	for _, tt := range []struct {
		maxRuns  int
		from, to time.Duration
	}{{24, 900 * time.Millisecond, 1600 * time.Millisecond}, {8, 150 * time.Millisecond, 700 * time.Millisecond}, {4, 0, 20 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			x := openIndex(t, Config{Files: NewMemFiles(), Logger: slog.New(slog.DiscardHandler), Factor: 5, MaxRuns: tt.maxRuns, MergeRate: 1 << 20})
			var size int64
			for seed := range 5 {
				if err := x.Add(t.Context(), ofKeys(hexKeys(seed, 2000)), 2000, testMark(1)); err != nil {
					t.Fatal(err)
				}
			}
			size = x.Stats().Bytes
			ctx, stop := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			began := time.Now()
			go func() { ran <- x.Run(ctx) }()
			for x.Stats().Merges == 0 {
				time.Sleep(time.Millisecond)
			}
			// The bytes are read, written and checked.
			if took := time.Since(began); took < tt.from || took > tt.to {
				t.Errorf("at most %d runs: %v for %d bytes", tt.maxRuns, took, size)
			}
			stop()
			if err := <-ran; err != nil {
				t.Error(err)
			}
			_ = x.Close()
		})
	}
}

// A key in two runs is damage: nobody adds a key twice.
func TestMerge_KeyTwice(t *testing.T) {
	x := openIndex(t, testConfig(NewMemFiles()))
	for i := range uint64(3) {
		add(t, x, map[string]uint64{"same": 1, fmt.Sprint(i): 2}, i+1)
	}
	_, err := x.Merge(t.Context())
	if corrupt, ok := errors.AsType[*CorruptError](err); !ok || !strings.Contains(corrupt.Detail, `"same" is in another run too`) {
		t.Errorf("%v", err)
	}
}
