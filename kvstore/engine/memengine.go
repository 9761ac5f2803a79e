package engine

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/Focinfi/oncekv/internal/writefault"
)

// ErrInjected is the error of an Update that a MemEngine was told to fail.
var ErrInjected = errors.New("injected failure")

// ErrCrashed is what a MemEngine returns after Crash.
var ErrCrashed = errors.New("engine crashed")

// MemEngine is an Engine in memory, for tests and simulation: what Update returned nil for
// survives Crash and Reopen, and an Update can fail just before or after it became
// durable.
type MemEngine struct {
	disk *memDisk

	writer sync.Mutex            // held for a whole Update
	dead   atomic.Pointer[error] // why no call works any more
	hook   func(n int) FailPoint // guarded by writer
	n      int                   // Updates so far; guarded by writer
}

// memDisk is what survives a crash.
type memDisk struct {
	state atomic.Pointer[memState]
}

// memState is one immutable state of all buckets.
type memState [bucketCount][]memPair

// memPair is one key and value; both never change.
type memPair struct{ key, value []byte }

// FailPoint says where an Update fails.
type FailPoint int

const (
	FailNever  FailPoint = iota
	FailBefore           // nothing of it is durable
	FailAfter            // all of it is durable, the caller is told otherwise
)

// NewMemEngine returns an empty engine.
func NewMemEngine() *MemEngine {
	e := &MemEngine{disk: &memDisk{}}
	e.disk.state.Store(&memState{})
	return e
}

// OnUpdate makes hook decide about each later Update, counted from 1 since the engine was
// made or reopened. It runs on the goroutine of Update, which it may hold up.
func (e *MemEngine) OnUpdate(hook func(n int) FailPoint) {
	e.writer.Lock()
	defer e.writer.Unlock()
	e.hook = hook
}

// Crash ends the engine: whatever is in flight is lost, every later call
// returns ErrCrashed.
func (e *MemEngine) Crash() {
	err := error(ErrCrashed)
	e.dead.Store(&err)
}

// Reopen ends the engine like Crash and returns a new one over what was durable.
func (e *MemEngine) Reopen() *MemEngine {
	e.Crash()
	e.writer.Lock() // an Update that is already publishing ends first
	defer e.writer.Unlock()
	return &MemEngine{disk: e.disk}
}

// Copy returns an engine of its own over what is durable now.
func (e *MemEngine) Copy() *MemEngine {
	state := *e.disk.state.Load()
	for b := range state {
		state[b] = slices.Clip(state[b]) // the two append to arrays of their own
	}
	c := NewMemEngine()
	c.disk.state.Store(&state)
	return c
}

// Damage flips one bit of one value in a bucket, chosen by pick(n) < n, while no Update
// runs. It returns false when there is no value.
func (e *MemEngine) Damage(b Bucket, pick func(n int) int) bool {
	e.writer.Lock()
	defer e.writer.Unlock()
	state := *e.disk.state.Load()
	if len(state[b]) == 0 {
		return false
	}
	pairs := slices.Clone(state[b])
	i := pick(len(pairs))
	if len(pairs[i].value) == 0 {
		return false
	}
	value := bytes.Clone(pairs[i].value)
	bit := pick(8 * len(value))
	value[bit/8] ^= 1 << (bit % 8)
	pairs[i].value = value
	state[b] = pairs
	e.disk.state.Store(&state)
	return true
}

// View implements Engine. A snapshot never holds up a writer.
func (e *MemEngine) View(fn func(Tx) error) error {
	if dead := e.dead.Load(); dead != nil {
		return *dead
	}
	return fn(&memTx{state: e.disk.state.Load()})
}

// Update implements Engine.
func (e *MemEngine) Update(fn func(Tx) error) error {
	e.writer.Lock()
	defer e.writer.Unlock()
	if dead := e.dead.Load(); dead != nil {
		return *dead
	}
	e.n++
	point := FailNever
	if e.hook != nil {
		point = e.hook(e.n)
	}
	if point == FailBefore {
		return e.die(writefault.Mark(ErrInjected))
	}
	tx := &memTx{state: e.disk.state.Load(), write: true}
	if err := fn(tx); err != nil {
		return e.die(err)
	}
	next := tx.merged()
	if dead := e.dead.Load(); dead != nil {
		return *dead // Crash came first: this transaction is lost
	}
	e.disk.state.Store(next)
	if point == FailAfter {
		return e.die(writefault.Mark(ErrInjected))
	}
	return nil
}

func (e *MemEngine) die(err error) error {
	e.dead.CompareAndSwap(nil, &err)
	return *e.dead.Load()
}

// Size implements Engine: the bytes of all keys and values.
func (e *MemEngine) Size() int64 {
	var n int64
	for _, bucket := range e.disk.state.Load() {
		for _, p := range bucket {
			n += int64(len(p.key) + len(p.value))
		}
	}
	return n
}

// Close implements Engine. What was durable can be had again with Reopen.
func (e *MemEngine) Close() error {
	e.die(ErrClosed)
	return nil
}

// memTx is a Tx on one memState, with writes of its own on top.
type memTx struct {
	state  *memState
	write  bool
	writes [bucketCount]map[string][]byte // nil value: deleted
}

// Get implements Tx.
func (t *memTx) Get(b Bucket, key []byte) []byte {
	if v, ok := t.writes[b][string(key)]; ok {
		return v
	}
	pairs := t.state[b]
	if i, ok := findPair(pairs, key); ok {
		return pairs[i].value
	}
	return nil
}

// Seek implements Tx.
func (t *memTx) Seek(b Bucket, from []byte) (key, value []byte) {
	t.Ascend(b, from, func(k, v []byte) bool { key, value = k, v; return false })
	return key, value
}

// Ascend implements Tx.
func (t *memTx) Ascend(b Bucket, from []byte, fn func(k, v []byte) bool) {
	pairs := t.state[b]
	if len(t.writes[b]) > 0 {
		pairs = mergePairs(pairs, t.writes[b])
	}
	i, _ := findPair(pairs, from)
	for ; i < len(pairs) && fn(pairs[i].key, pairs[i].value); i++ {
	}
}

// ReadAhead implements Tx.
func (t *memTx) ReadAhead([]byte) {}

// Put implements Tx.
func (t *memTx) Put(b Bucket, key, value []byte) error {
	return t.set(b, key, append([]byte{}, value...)) // the caller may reuse value later
}

// Delete implements Tx.
func (t *memTx) Delete(b Bucket, key []byte) error { return t.set(b, key, nil) }

func (t *memTx) set(b Bucket, key, value []byte) error {
	if !t.write {
		return errors.New("write in a read-only transaction")
	}
	if t.writes[b] == nil {
		t.writes[b] = make(map[string][]byte)
	}
	t.writes[b][string(key)] = value
	return nil
}

// Where implements Tx.
func (t *memTx) Where([]byte) (string, int64) { return "memory", -1 }

// merged returns the state with the writes of t.
func (t *memTx) merged() *memState {
	next := *t.state
	for b, writes := range t.writes {
		if len(writes) > 0 {
			next[b] = mergePairs(next[b], writes)
		}
	}
	return &next
}

// findPair returns where key is, or would be.
func findPair(pairs []memPair, key []byte) (int, bool) {
	return slices.BinarySearchFunc(pairs, key, func(p memPair, key []byte) int { return bytes.Compare(p.key, key) })
}

// mergePairs returns pairs with writes laid over them. Writes that all lie behind the last
// pair are appended in place: whoever holds pairs does not look past its length.
func mergePairs(pairs []memPair, writes map[string][]byte) []memPair {
	added := make([]memPair, 0, len(writes))
	for k, v := range writes {
		added = append(added, memPair{[]byte(k), v})
	}
	slices.SortFunc(added, func(a, b memPair) int { return bytes.Compare(a.key, b.key) })
	if n := len(pairs); n == 0 || bytes.Compare(pairs[n-1].key, added[0].key) < 0 {
		return appendLive(pairs, added)
	}
	out := make([]memPair, 0, len(pairs)+len(added))
	for _, p := range pairs {
		for len(added) > 0 && bytes.Compare(added[0].key, p.key) < 0 {
			out = appendLive(out, added[:1])
			added = added[1:]
		}
		if len(added) > 0 && bytes.Equal(added[0].key, p.key) {
			p.value = added[0].value
			added = added[1:]
		}
		if p.value != nil {
			out = append(out, p)
		}
	}
	return appendLive(out, added)
}

// appendLive appends the pairs that are not deletions.
func appendLive(out, pairs []memPair) []memPair {
	for _, p := range pairs {
		if p.value != nil {
			out = append(out, p)
		}
	}
	return out
}
