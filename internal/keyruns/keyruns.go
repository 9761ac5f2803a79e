package keyruns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// MaxKeyBytes is the length of the longest key.
const MaxKeyBytes = 1024

// Mark says how far the index has every key of a history.
type Mark struct {
	Revision uint64
	Digest   [32]byte // history digest at Revision
}

// Config configures an index.
type Config struct {
	Files  Files        // the directory; nobody else uses it
	Logger *slog.Logger // nil: slog.Default()

	MaxRuns   int            // number of runs at which Wait waits; 0: 24
	Factor    int            // number of runs of similar size that are merged; 0: 8
	MergeRate int64          // bytes a second that merges normally read and write; 0: 64 MiB
	Spread    func() float64 // draws from [0,1), so that replicas merge at different times; nil: 0. Never called concurrently
}

// Stats describes an index.
type Stats struct {
	Runs           int
	Bytes          int64   // of all runs on disk
	Keys           uint64  // in all runs
	MemoryBytes    int64   // of filters and fences
	FilterBits     float64 // bits of filters a key
	Added          uint64  // keys, since Open
	AddedBytes     int64   // written by Add, since Open
	MergedBytes    int64   // written by merges, since Open
	Merges         uint64  // since Open
	FalsePositives uint64  // runs that were read for a key they do not have, since Open
	Pauses         uint64  // calls of Wait that waited, since Open
	Merging        bool    // a merge is under way
}

// Index maps keys to revisions. All methods are safe for concurrent use.
type Index struct {
	cfg     Config
	current atomic.Pointer[snapshot] // nil when closed
	buffers sync.Pool                // *[blockBytes]byte
	dead    chan struct{}            // closed when err is set
	due     chan struct{}            // capacity 1: a merge may be due, or a run must be removed

	adding  sync.Mutex // held by an Add
	merging sync.Mutex // held by a merge
	listing sync.Mutex // held while the list changes; locked after the others

	mu      sync.Mutex
	err     error // why no call works any more
	closed  bool
	next    uint64        // number of the next run
	open    int           // runs that are open
	garbage []*run        // runs without readers
	others  []string      // files that no list names
	changed chan struct{} // closed and replaced when one of these changes
	running bool          // a Run runs
	stuck   bool          // a merge has found no room

	mergesNow      atomic.Int32
	added          atomic.Uint64
	addedBytes     atomic.Int64
	mergedBytes    atomic.Int64
	merges         atomic.Uint64
	falsePositives atomic.Uint64
	pauses         atomic.Uint64
}

// snapshot is a list of runs. It does not change while somebody reads it.
type snapshot struct {
	mark Mark
	runs []*run
	refs atomic.Int64 // readers, plus 1 while it is current
}

// Open opens the index in a directory, which it makes if it is missing. It reads filters and
// fences, not runs; it rebuilds a damaged filter from its run, which takes a second for each
// few million keys. It changes no file: the first Add or merge removes what a crash left and
// no list names. A *CorruptError means that the directory must be deleted.
func Open(cfg Config) (*Index, error) {
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	cfg.MaxRuns = cmp.Or(cfg.MaxRuns, 24)
	cfg.Factor = cmp.Or(cfg.Factor, 8)
	cfg.MergeRate = cmp.Or(cfg.MergeRate, 64<<20)
	if cfg.Spread == nil {
		cfg.Spread = func() float64 { return 0 }
	}
	if cfg.Factor < 2 || cfg.MaxRuns < 2 || cfg.MergeRate < 0 {
		return nil, fmt.Errorf("open the index: %d runs, %d merged, %d bytes a second: there must be 2 runs, 2 merged and 1 byte at least", cfg.MaxRuns, cfg.Factor, cfg.MergeRate)
	}
	x := &Index{cfg: cfg, dead: make(chan struct{}), due: make(chan struct{}, 1), changed: make(chan struct{})}
	x.buffers.New = func() any { return new([blockBytes]byte) }
	if err := cfg.Files.Make(); err != nil {
		return nil, fmt.Errorf("make the directory of the index: %w", err)
	}
	l, err := readList(cfg.Files)
	if err != nil {
		return nil, err
	}
	// The last list of an earlier process may not be durable yet. Until it is, files that it
	// does not name must stay.
	if err := cfg.Files.Sync(); err != nil {
		return nil, fmt.Errorf("sync the directory of the index: %w", writefault.Mark(err))
	}
	if x.others, x.next, err = otherFiles(cfg.Files, &l); err != nil {
		return nil, err
	}
	s := &snapshot{mark: l.mark}
	s.refs.Store(1)
	for _, info := range l.runs {
		r, err := openRun(cfg.Files, info)
		if err != nil {
			for _, r := range s.runs {
				_ = r.close()
			}
			return nil, err
		}
		if r.worn.Load() {
			cfg.Logger.Warn("a filter of the index was damaged and is rebuilt; a merge will replace its run", "file", r.path, "offset", r.filterAt(), "keys", r.keys)
		}
		x.begin(r)
		r.refs.Store(1)
		s.runs = append(s.runs, r)
	}
	x.current.Store(s)
	x.signal()
	return x, nil
}

// begin counts an open run.
func (x *Index) begin(r *run) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open++
	r.due = max(x.cfg.Factor-int(x.cfg.Spread()*float64(x.cfg.Factor/4+1)), 2)
}

// signal wakes Run.
func (x *Index) signal() {
	select {
	case x.due <- struct{}{}:
	default:
	}
}

// changedLocked wakes everybody who waits for a change. mu is held.
func (x *Index) changedLocked() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// failure returns why the index has ended.
func (x *Index) failure() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// fail ends the index for writers, and returns err.
func (x *Index) fail(err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
		close(x.dead)
	}
	return err
}

// acquire returns the current list. The caller must release it.
func (x *Index) acquire() (*snapshot, error) {
	for {
		s := x.current.Load()
		if s == nil {
			return nil, ErrClosed
		}
		if n := s.refs.Load(); n > 0 && s.refs.CompareAndSwap(n, n+1) {
			return s, nil
		}
	}
}

func (x *Index) release(s *snapshot) {
	if s.refs.Add(-1) > 0 {
		return
	}
	for _, r := range s.runs {
		if r.refs.Add(-1) == 0 {
			x.mu.Lock()
			x.garbage = append(x.garbage, r)
			x.changedLocked()
			x.mu.Unlock()
			x.signal()
		}
	}
}

// sweep closes the runs without readers, and removes those that no list names. The next Open
// deals with files that it cannot remove.
func (x *Index) sweep() {
	x.mu.Lock()
	garbage := x.garbage
	x.garbage = nil
	x.mu.Unlock()
	for _, r := range garbage {
		if err := r.close(); err != nil {
			x.cfg.Logger.Warn("could not close a run of the index", "file", r.path, "error", err)
		}
		if !r.gone.Load() {
			continue
		}
		if err := x.cfg.Files.Remove(runName(r.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			x.cfg.Logger.Warn("could not remove a run of the index that is not needed any more; the next start removes it", "file", r.path, "error", err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open -= len(garbage)
	x.changedLocked()
}

// removeOthers removes the files that no list named when the index was opened. The caller has
// checked by now that the directory really is this index.
func (x *Index) removeOthers() {
	x.listing.Lock() // the temporary list may be among them
	defer x.listing.Unlock()
	x.mu.Lock()
	others := x.others
	x.others = nil
	x.mu.Unlock()
	for _, name := range others {
		if err := x.cfg.Files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			x.cfg.Logger.Warn("could not remove a file that the list of the index does not name; the next start tries again", "file", x.cfg.Files.Path(name), "error", err)
		}
	}
	if len(others) > 0 {
		x.cfg.Logger.Info("removed files that the list of the index does not name", "files", len(others))
	}
}

// replace makes a new list durable and current: without some runs, and with one more if that
// is not nil. The new run is durable except for its name. An error that is writefault.Err has
// ended the index; any other error leaves everything as it was.
func (x *Index) replace(without []*run, with *run, mark func(Mark) Mark) error {
	x.listing.Lock()
	defer x.listing.Unlock()
	if err := x.failure(); err != nil {
		return err
	}
	old, err := x.acquire()
	if err != nil {
		return err
	}
	defer x.release(old)
	if with != nil {
		if err := x.cfg.Files.Sync(); err != nil {
			return writefault.Mark(err)
		}
	}
	s := &snapshot{mark: mark(old.mark)}
	s.refs.Store(1)
	for _, r := range old.runs {
		if !slices.Contains(without, r) {
			s.runs = append(s.runs, r)
		}
	}
	if with != nil {
		x.begin(with)
		s.runs = append(s.runs, with)
	}
	x.mu.Lock()
	l := list{mark: s.mark, next: x.next}
	x.mu.Unlock()
	for _, r := range s.runs {
		l.runs = append(l.runs, r.runInfo)
	}
	if replaced, err := writeList(x.cfg.Files, &l); err != nil {
		if replaced {
			_ = x.fail(err)
		}
		if with != nil {
			x.mu.Lock()
			x.open--
			x.mu.Unlock()
		}
		return err
	}
	for _, r := range s.runs {
		r.refs.Add(1)
	}
	for _, r := range without {
		r.gone.Store(true)
	}
	x.current.Store(s)
	x.release(old) // it is no longer current
	x.mu.Lock()
	x.changedLocked()
	x.mu.Unlock()
	x.signal()
	return nil
}

// number returns the number of a new run.
func (x *Index) number() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.next++
	return x.next - 1
}

// Mark returns how far the index has every key; the zero Mark if it is closed.
func (x *Index) Mark() Mark {
	s, err := x.acquire()
	if err != nil {
		return Mark{}
	}
	defer x.release(s)
	return s.mark
}

// Path returns the directory's name for errors.
func (x *Index) Path() string { return x.cfg.Files.Path("") }

// Find returns the revision of a key, 0 if the index does not have it. A *CorruptError means
// that the index must be deleted.
func (x *Index) Find(key []byte) (revision uint64, err error) {
	s, err := x.acquire()
	if err != nil {
		return 0, err
	}
	defer x.release(s)
	hash := keyHash(key)
	var all byte
	for _, r := range s.runs { // as filter.touch does
		all += r.filter.line(hash)[0]
	}
	runtime.KeepAlive(all)
	for _, r := range s.runs {
		if !r.filter.has(hash) {
			continue
		}
		buf := x.buffers.Get().(*[blockBytes]byte)
		revision, err = r.find(key, buf[:])
		x.buffers.Put(buf)
		if revision != 0 || err != nil {
			return revision, err
		}
		x.falsePositives.Add(1)
	}
	return 0, nil
}

// Ascend calls fn for the keys from from on, in byte order, until fn returns false. The bytes
// of key are valid only inside fn. Ascend does not see concurrent additions. fn must not call
// Close.
func (x *Index) Ascend(from []byte, fn func(key []byte, revision uint64) (more bool)) error {
	s, err := x.acquire()
	if err != nil {
		return err
	}
	defer x.release(s)
	var h runsReader
	for _, r := range s.runs {
		rd := newRunReader(r, runReadBlocks, nil)
		ok, err := rd.seek(from)
		if err != nil {
			return err
		}
		if ok {
			h.push(rd)
		}
	}
	for len(h) > 0 {
		if !fn(h[0].key(), h[0].revision()) {
			return nil
		}
		if err := h.advance(); err != nil {
			return err
		}
	}
	return nil
}

// Add adds n keys, in byte order, none of which the index has, and moves the mark. Both are
// durable when it returns nil. An error that is writefault.Err, or a *CorruptError, ends the
// index, and the keys may or may not have been added; any other error leaves everything as it
// was. If keys yields another number of keys than n, nothing is added: a caller that fails to
// read its keys just stops yielding.
func (x *Index) Add(ctx context.Context, keys iter.Seq2[[]byte, uint64], n int, end Mark) error {
	x.adding.Lock()
	defer x.adding.Unlock()
	if err := x.failure(); err != nil {
		return err
	}
	x.removeOthers()
	move := func(Mark) Mark { return end }
	if n == 0 {
		for key := range keys {
			return fmt.Errorf("add to the index: no key was announced, and %q came", key)
		}
		return x.ended("move the mark of the index", x.replace(nil, nil, move))
	}
	number := x.number()
	w, err := createRun(x.cfg.Files, number, stampOfAdded(number, x.Mark(), end), uint64(n), func(int) error {
		return errors.Join(ctx.Err(), x.failure())
	})
	if err != nil {
		return x.ended("add to the index", err)
	}
	r, err := func() (*run, error) {
		for key, revision := range keys {
			if err := w.add(key, revision); err != nil {
				return nil, err
			}
		}
		if w.keys != uint64(n) {
			return nil, fmt.Errorf("%d keys were announced, %d came", n, w.keys)
		}
		return w.finish()
	}()
	if err == nil {
		err = x.replace(nil, r, move)
	}
	if err != nil {
		err = x.ended("add to the index", err)
		w.discard(x.failure() == nil)
		return err
	}
	x.added.Add(uint64(n))
	x.addedBytes.Add(r.size)
	x.sweep()
	return nil
}

// ended adds what failed to err. After a failed write, and after damage, it ends the index.
func (x *Index) ended(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	if _, corrupt := errors.AsType[*CorruptError](err); corrupt || errors.Is(err, writefault.Err) {
		return x.fail(err)
	}
	return err
}

// Wait returns when there are fewer than Config.MaxRuns runs, or nobody can change that: no
// Run is running, or the disk has no room for a merge. Callers that keep adding keys call it.
// It returns ctx's error, or the one that ended the index.
func (x *Index) Wait(ctx context.Context) error {
	waited := false
	for {
		s, err := x.acquire()
		if err != nil {
			return err
		}
		runs := len(s.runs)
		x.release(s)
		x.mu.Lock()
		err, free, changed := x.err, !x.running || x.stuck, x.changed
		x.mu.Unlock()
		if s := x.current.Load(); s == nil || len(s.runs) != runs { // before changed was taken
			continue
		}
		if err != nil || free || runs < x.cfg.MaxRuns {
			return err
		}
		if !waited {
			waited = true
			x.pauses.Add(1)
		}
		select {
		case <-changed:
		case <-x.dead:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stats returns the index's statistics.
func (x *Index) Stats() Stats {
	t := Stats{
		Added:          x.added.Load(),
		AddedBytes:     x.addedBytes.Load(),
		MergedBytes:    x.mergedBytes.Load(),
		Merges:         x.merges.Load(),
		FalsePositives: x.falsePositives.Load(),
		Pauses:         x.pauses.Load(),
		Merging:        x.mergesNow.Load() > 0,
	}
	s, err := x.acquire()
	if err != nil {
		return t
	}
	defer x.release(s)
	filters := 0
	for _, r := range s.runs {
		t.Runs++
		t.Bytes += r.size
		t.Keys += r.keys
		t.MemoryBytes += r.memory()
		filters += len(r.filter)
	}
	if t.Keys > 0 {
		t.FilterBits = 8 * float64(filters) / float64(t.Keys)
	}
	return t
}

// Close ends the index: merges and additions under way fail, and Close waits for them and for
// all readers. It returns ErrClosed if the index was closed already.
func (x *Index) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return ErrClosed
	}
	x.closed = true
	x.mu.Unlock()
	_ = x.fail(ErrClosed)
	x.adding.Lock()
	x.merging.Lock()
	s := x.current.Swap(nil)
	x.merging.Unlock()
	x.adding.Unlock()
	x.release(s)
	for {
		x.sweep()
		x.mu.Lock()
		left, garbage, changed := x.open, len(x.garbage), x.changed
		x.mu.Unlock()
		if left == 0 {
			return nil
		}
		if garbage == 0 {
			<-changed
		}
	}
}
