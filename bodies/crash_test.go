package bodies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// world is a store whose directory is copied at moments when it could be cut off, and a
// model of what must be in every copy.
type world struct {
	t     *testing.T
	cfg   Config
	store *Store
	clock atomic.Int64 // ns

	freeze   sync.RWMutex // a copy has all of it; whoever makes something durable a part
	synced   map[string]int64
	removed  map[string]string // links to segments that were unlinked
	named    map[string]bool   // files whose names are durable
	syncLock sync.Mutex        // guards synced, removed and named

	mu      sync.Mutex // a copy has it too
	bodies  map[Digest][]byte
	history [][]Change
	held    map[Digest]int

	crashes int
}

func newWorld(t *testing.T, at func(w *world)) *world {
	w := &world{t: t, synced: map[string]int64{}, removed: map[string]string{}, named: map[string]bool{}, bodies: map[Digest][]byte{}, held: map[Digest]int{}}
	links := t.TempDir()
	w.cfg = Config{
		Dir: t.TempDir(), SegmentBytes: 96 << 10, TableRows: 64,
		Now: func() time.Time { return time.Unix(0, w.clock.Load()) },
		Sync: func(path string) error {
			at(w)
			w.freeze.RLock()
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				w.syncLock.Lock()
				w.synced[path] = info.Size()
				w.syncLock.Unlock()
			} else if path == w.cfg.Dir {
				w.nameAll()
			}
			w.freeze.RUnlock()
			at(w)
			return nil
		},
		step: func(name string) {
			at(w)
			w.freeze.RLock()
			defer w.freeze.RUnlock()
			if name == "unlink" {
				w.syncLock.Lock()
				defer w.syncLock.Unlock()
				for _, path := range segmentFiles(t, w.cfg.Dir) {
					link := filepath.Join(links, filepath.Base(path))
					if _, err := os.Lstat(link); err != nil {
						if err := os.Link(path, link); err != nil {
							t.Error(err)
						}
					}
					w.removed[path] = link
				}
			}
		},
	}
	var err error
	if w.store, err = Open(w.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	return w
}

// nameAll notes that the names in the directory are durable.
func (w *world) nameAll() {
	entries, err := os.ReadDir(w.cfg.Dir)
	if err != nil {
		w.t.Error(err)
	}
	w.syncLock.Lock()
	defer w.syncLock.Unlock()
	for _, e := range entries {
		w.named[filepath.Join(w.cfg.Dir, e.Name())] = true
	}
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// put appends a body, syncs, and holds it.
func (w *world) put(b Body) {
	for held := false; !held; held = w.store.Hold(b.Digest) { // Grace may be over at any time
		if _, err := w.store.Append(b.Digest, b.Data); err != nil {
			w.t.Error(err)
			return
		}
		if err := w.store.Sync(context.Background()); err != nil {
			w.t.Error(err)
			return
		}
	}
	w.mu.Lock()
	w.bodies[b.Digest] = b.Data
	w.held[b.Digest]++
	w.mu.Unlock()
}

// count has the history refer to a body, or no longer. turn makes the calls of Count
// have the order of the history.
func (w *world) count(turn *sync.Mutex, changes ...Change) {
	turn.Lock()
	defer turn.Unlock()
	w.mu.Lock()
	w.history = append(w.history, changes)
	mark := Mark{Revision: uint64(len(w.history))}
	w.mu.Unlock()
	if err := w.store.Count(changes, mark); err != nil {
		w.t.Error(err)
	}
}

func (w *world) release(d Digest) {
	w.mu.Lock()
	if w.held[d]--; w.held[d] == 0 {
		delete(w.held, d)
	}
	w.mu.Unlock()
	w.store.Release(d)
}

// alive returns what must be there; mu is held.
func (w *world) alive() map[Digest]int {
	counts := map[Digest]int{}
	for _, changes := range w.history {
		for _, c := range changes {
			if counts[c.Digest] += c.By; counts[c.Digest] == 0 {
				delete(counts, c.Digest)
			}
		}
	}
	return counts
}

// crash copies the directory in several ways in which a cut may leave it, and checks
// what a store makes of each.
func (w *world) crash(r *rand.Rand, ways ...string) {
	w.freeze.Lock()
	defer w.freeze.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crashes++
	for _, way := range ways {
		dir := filepath.Join(w.t.TempDir(), "values")
		w.copyTo(dir, way, r)
		if err := w.verify(dir); err != nil {
			w.t.Errorf("crash %d, %s: %v", w.crashes, way, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) copyTo(dir, way string, r *rand.Rand) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	entries, err := os.ReadDir(w.cfg.Dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(w.cfg.Dir, e.Name())
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.syncLock.Lock()
		synced, named := min(int64(len(data)), w.synced[path]), w.named[path]
		w.syncLock.Unlock()
		if way == "power cut" && !named {
			continue
		}
		if strings.HasSuffix(path, segmentSuffix) {
			data = cutOff(data, synced, way, r)
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), data, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	if way != "unlink undone" {
		return
	}
	for path, link := range w.removed {
		data, err := os.ReadFile(link)
		if err != nil {
			w.t.Fatal(err)
		}
		if to := filepath.Join(dir, filepath.Base(path)); !exists(to) {
			if err := os.WriteFile(to, data, 0o600); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// cutOff does to what was never synced what a cut of the power may do.
func cutOff(data []byte, synced int64, way string, r *rand.Rand) []byte {
	tail := data[synced:]
	switch way {
	case "power cut":
		return data[:synced+int64(r.IntN(len(tail)+1))]
	case "garbage":
		for i := 0; i < len(tail); i += 1 + r.IntN(4096) {
			tail[i] = byte(r.Uint32())
		}
	case "holes":
		for i := 0; i < len(tail); i += 4096 * (1 + r.IntN(3)) {
			clear(tail[i:min(len(tail), i+4096)])
		}
		return append(data, make([]byte, r.IntN(10_000))...)
	}
	return data
}

// verify opens a copy, counts again what it does not know, and compares. mu is held.
func (w *world) verify(dir string) error {
	cfg := w.cfg
	cfg.Dir, cfg.step = dir, nil
	cfg.Sync = func(string) error { return nil }
	var late time.Duration
	cfg.Now = func() time.Time { return time.Unix(0, 0).Add(late) }
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	from := s.Mark().Revision
	if from > uint64(len(w.history)) {
		return fmt.Errorf("%d of %d records are counted", from, len(w.history))
	}
	for i, changes := range w.history[from:] {
		if err := s.Count(changes, Mark{Revision: from + uint64(i) + 1}); err != nil {
			return err
		}
	}
	counts := w.alive()
	for d := range w.held {
		if !s.Hold(d) {
			return fmt.Errorf("body %s, which was held, is not here", d)
		}
	}
	for range 3 { // all that nothing needs is gone then
		late += time.Hour
		if err := s.sweep(context.Background()); err != nil {
			return err
		}
		if err := s.Reclaim(); err != nil {
			return err
		}
	}
	need := maps.Clone(counts)
	for d := range w.held {
		need[d]++
	}
	var live int64
	for d := range need {
		got, err := s.Read(d, nil)
		if err != nil || !bytes.Equal(got, w.bodies[d]) || !s.Has(d) {
			return fmt.Errorf("body %s: %w", d, err)
		}
		live += frameBytes(len(got))
	}
	if st := s.Stats(); st.Bodies != int64(len(need)) || st.LiveBytes != live {
		return fmt.Errorf("%+v, and not %d bodies in %d bytes", st, len(need), live)
	}
	return s.Scrub(context.Background(), 0, nil)
}

// A process may be killed, or the power cut, before and after every step that makes
// something durable or gives something back: nothing that was durable and needed is lost.
func TestStore_CrashAtEveryStep(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 14))
	ways := []string{"kill", "power cut", "garbage", "holes", "unlink undone"}
	w := newWorld(t, func(w *world) {
		if w.store != nil {
			i := r.IntN(len(ways))
			w.crash(r, ways[i], ways[(i+1)%len(ways)])
		}
	})
	var turn sync.Mutex
	var all []Body
	for i := range 24 {
		b := testBody(r, 1+r.IntN(20_000))
		all = append(all, b)
		w.put(b)
		w.count(&turn, Change{b.Digest, 1})
		if i%2 == 0 {
			w.release(b.Digest)
		}
		if i%8 == 7 {
			if err := w.store.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, b := range all { // most of the first segments, and some of the others
		if i < 12 && i%5 != 0 || i%3 == 0 {
			w.count(&turn, Change{b.Digest, -1})
			if i%2 == 1 {
				w.release(b.Digest)
			}
		}
	}
	before := w.store.Stats()
	for range 3 {
		w.clock.Add(int64(time.Minute))
		if err := w.store.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	after := w.store.Stats()
	if w.crashes < 50 || after.Segments >= before.Segments || after.ReclaimedBytes == 0 || len(w.removed) == 0 {
		t.Errorf("%d crashes, %+v, then %+v", w.crashes, before, after)
	}
	w.crash(r, "kill")
}

// Several goroutines append, count, release and read while bodies die and segments are
// copied; the process is killed, or the power cut, at random.
func TestStore_KilledAtRandom(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { killAtRandom(t, seed) })
	}
}

func killAtRandom(t *testing.T, seed uint64) {
	ways := []string{"kill", "power cut", "garbage", "holes"}
	var steps atomic.Int64
	w := newWorld(t, func(w *world) {
		if n := uint64(steps.Add(1)); w.store != nil && n%40 == 0 {
			w.crash(rand.New(rand.NewPCG(seed, n)), ways[n/40%4])
		}
	})
	var turn sync.Mutex
	var users, others sync.WaitGroup
	stop := make(chan struct{})
	for i := range uint64(4) {
		users.Go(func() { w.use(rand.New(rand.NewPCG(seed, i)), &turn) })
	}
	others.Go(func() {
		for !stopped(stop) {
			w.clock.Add(int64(20 * time.Second))
			if err := w.store.sweep(t.Context()); err != nil {
				t.Error(err)
			}
			if err := w.store.Reclaim(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	others.Go(func() {
		for !stopped(stop) {
			if err := w.store.Scrub(t.Context(), 0, nil); err != nil {
				t.Error(err)
				return
			}
		}
	})
	users.Wait()
	close(stop)
	others.Wait()
	w.crash(rand.New(rand.NewPCG(seed, 98)), "kill")
	if st := w.store.Stats(); w.crashes < 3 || st.ReclaimedBytes == 0 {
		t.Errorf("%d crashes, %+v", w.crashes, st)
	}
}

func stopped(stop chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

func (w *world) use(r *rand.Rand, turn *sync.Mutex) {
	var mine []Body
	for range 40 {
		if w.t.Failed() {
			return
		}
		switch {
		case r.IntN(5) < 3 || len(mine) == 0:
			b := testBody(r, 1+r.IntN(16_000))
			w.put(b)
			w.count(turn, Change{b.Digest, 1})
			w.release(b.Digest)
			mine = append(mine, b)
		case r.IntN(3) == 0:
			b := mine[r.IntN(len(mine))]
			if got, err := w.store.Read(b.Digest, nil); err != nil || !bytes.Equal(got, b.Data) {
				w.t.Errorf("body %s: %v", b.Digest, err)
			}
		default:
			i := r.IntN(len(mine))
			b := mine[i]
			mine = slices.Delete(mine, i, i+1)
			w.count(turn, Change{b.Digest, -1})
			if r.IntN(4) == 0 { // and again, which finds it or writes it anew
				w.put(b)
				w.count(turn, Change{b.Digest, 1})
				w.release(b.Digest)
				mine = append(mine, b)
			}
		}
	}
}
