package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
)

// BoltOptions tune one bbolt file.
type BoltOptions struct {
	// MapBytes is the address space reserved for the file, which costs no memory: bbolt stops
	// every reader while it moves to a larger map. 0 maps what the file needs.
	MapBytes int64
	// FillPages fills pages to the brim: right when keys only ever grow, and
	// when whoever writes makes pages' worth of values.
	FillPages bool
}

// boltEngine is an Engine on one bbolt file.
type boltEngine struct {
	path string
	db   *bbolt.DB
	fill float64

	dead   atomic.Pointer[error] // why no call works any more
	wedged atomic.Bool           // bbolt panicked while writing and may hold its lock
}

// OpenBolt opens the bbolt file at path, and creates it when it is missing. A second
// opener is refused at once. A file that is shorter than its own meta page says, or that
// bbolt cannot read, is a *DamageError. What the file holds is durable when OpenBolt
// returns: a process killed in its fsync may have left it in memory only.
func OpenBolt(path string, opts BoltOptions) (Engine, error) {
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := createBolt(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("open store file: %w", err)
	}
	if err := verifyBoltFile(path); err != nil {
		return nil, err
	}
	e := &boltEngine{path: path, fill: bbolt.DefaultFillPercent}
	if opts.FillPages {
		e.fill = 1.0
	}
	db, err := openBoltFile(path, reservableBytes(opts.MapBytes))
	if err != nil {
		return nil, err
	}
	e.db = db
	if err := errors.Join(syncBolt(db, path), fsync.SyncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return e, nil
}

func syncBolt(db *bbolt.DB, path string) error {
	if err := db.Sync(); err != nil {
		return fmt.Errorf("sync store file %s: %w", path, writefault.Mark(err))
	}
	return nil
}

// Creating ends the name of a file that is being made.
const Creating = ".new"

// createBolt makes an empty file under another name first, so that a crash in
// the middle never leaves a file that looks damaged.
func createBolt(path string) error {
	tmp := path + Creating
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create store file: %w", err)
	}
	db, err := bbolt.Open(tmp, 0o600, bboltOptions(0))
	if err != nil {
		return fmt.Errorf("create store file %s: %w", path, writefault.Mark(err))
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("create store file %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("create store file: %w", err)
	}
	return fsync.SyncDir(filepath.Dir(path))
}

// bboltOptions keeps the free list on disk (opening a large file then takes
// milliseconds) and in a map (the array form degrades on large files). The
// time-out makes a held lock an error instead of a wait.
func bboltOptions(mapBytes int) *bbolt.Options {
	return &bbolt.Options{
		Timeout:         time.Millisecond,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapBytes,
		NoStatistics:    true,
	}
}

func openBoltFile(path string, mapBytes int) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &DamageError{File: path, Offset: -1, Detail: fmt.Sprintf("it cannot be opened: %v", p)}
		}
	}()
	db, err = bbolt.Open(path, 0o600, bboltOptions(mapBytes))
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%s is in use by another process: stop that process, or use another data directory", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, &DamageError{File: path, Offset: 0, Detail: err.Error()}
	case err != nil:
		return nil, fmt.Errorf("open store file %s: %w", path, err)
	}
	return db, nil
}

// View implements Engine.
func (e *boltEngine) View(fn func(Tx) error) error { return e.run(false, fn) }

// Update implements Engine.
func (e *boltEngine) Update(fn func(Tx) error) error {
	err := e.run(true, fn)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("write %s: %w", e.path, err)
	}
	e.dead.CompareAndSwap(nil, &err)
	return *e.dead.Load()
}

// run calls fn in a transaction and turns what a damaged file does to bbolt
// (an assertion, or a fault of the memory map) into a *DamageError.
func (e *boltEngine) run(write bool, fn func(Tx) error) (err error) {
	if dead := e.dead.Load(); dead != nil {
		return *dead
	}
	t := boltTx{engine: e, write: write, inBolt: true} // bbolt's own until fn runs, and again after
	done := false                                      // fn has written all it wanted to: an error is one of the commit
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = t.corrupt(p, 0)
		}
	}()
	body := func(tx *bbolt.Tx) (err error) {
		defer func() {
			if p := recover(); p != nil { // here, where the map cannot move yet
				err = t.corrupt(p, e.db.Info().Data)
			}
			t.inBolt = true
		}()
		t.inBolt = false
		t.tx = tx
		err = fn(&t)
		done = err == nil
		return err
	}
	if write {
		if err = e.db.Update(body); done {
			err = writefault.Mark(err)
		}
	} else {
		err = e.db.View(body)
	}
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Size implements Engine.
func (e *boltEngine) Size() int64 {
	info, err := os.Stat(e.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Close implements Engine.
func (e *boltEngine) Close() error {
	closed := error(ErrClosed)
	e.dead.CompareAndSwap(nil, &closed)
	if e.wedged.Load() {
		return nil // bbolt may hold its own lock for ever; the file is released with the process
	}
	if err := e.db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", e.path, err)
	}
	return nil
}

// boltTx is a Tx on one bbolt transaction.
type boltTx struct {
	engine  *boltEngine
	tx      *bbolt.Tx
	write   bool
	buckets [bucketCount]*bbolt.Bucket

	// inBolt is whether a panic now would be bbolt's. It is never set back by a
	// defer: that would run before the panic is looked at.
	inBolt bool
}

// bucket returns bucket b, nil when nothing was ever put there.
func (t *boltTx) bucket(b Bucket) *bbolt.Bucket {
	if t.buckets[b] == nil {
		t.buckets[b] = t.tx.Bucket([]byte(bucketNames[b]))
	}
	return t.buckets[b]
}

// Get implements Tx.
func (t *boltTx) Get(b Bucket, key []byte) (value []byte) {
	t.inBolt = true
	if bucket := t.bucket(b); bucket != nil {
		value = bucket.Get(key)
	}
	t.inBolt = false
	return value
}

// Seek implements Tx.
func (t *boltTx) Seek(b Bucket, from []byte) (key, value []byte) {
	t.inBolt = true
	if bucket := t.bucket(b); bucket != nil {
		key, value = bucket.Cursor().Seek(from)
	}
	t.inBolt = false
	return key, value
}

// Ascend implements Tx.
func (t *boltTx) Ascend(b Bucket, from []byte, fn func(k, v []byte) bool) {
	t.inBolt = true
	if bucket := t.bucket(b); bucket != nil {
		cursor := bucket.Cursor()
		for k, v := cursor.Seek(from); k != nil; k, v = cursor.Next() {
			t.inBolt = false
			if !fn(k, v) {
				return
			}
			t.inBolt = true
		}
	}
	t.inBolt = false
}

// ReadAhead implements Tx. bbolt tells the kernel that it reads at random, so by
// itself that reads one page at a time.
func (t *boltTx) ReadAhead(value []byte) {
	file := t.tx.Size() // of this transaction; the map is at least as long
	if len(value) == 0 || t.write {
		return
	}
	base := t.engine.db.Info().Data
	off := t.offset(uintptr(unsafe.Pointer(unsafe.SliceData(value))), base)
	if off < 0 || off >= file {
		return
	}
	off -= off % int64(t.engine.db.Info().PageSize)
	if n := min(file-off, readAheadBytes); n > 0 {
		start := unsafe.Add(unsafe.Pointer(unsafe.SliceData(value)), off-int64(uintptr(unsafe.Pointer(unsafe.SliceData(value)))-base))
		readAhead(unsafe.Slice((*byte)(start), n))
	}
}

// Put implements Tx.
func (t *boltTx) Put(b Bucket, key, value []byte) (err error) {
	t.inBolt = true
	bucket := t.bucket(b)
	if bucket == nil {
		bucket, err = t.tx.CreateBucket([]byte(bucketNames[b]))
		t.buckets[b] = bucket
	}
	if err == nil {
		bucket.FillPercent = t.engine.fill
		err = bucket.Put(key, value)
	}
	t.inBolt = false
	if err != nil {
		return fmt.Errorf("bucket %s: %w", b, err)
	}
	return nil
}

// Delete implements Tx.
func (t *boltTx) Delete(b Bucket, key []byte) (err error) {
	t.inBolt = true
	if bucket := t.bucket(b); bucket != nil {
		err = bucket.Delete(key)
	}
	t.inBolt = false
	if err != nil {
		return fmt.Errorf("bucket %s: %w", b, err)
	}
	return nil
}

// Where implements Tx.
func (t *boltTx) Where(value []byte) (string, int64) {
	if len(value) == 0 {
		return t.engine.path, -1
	}
	addr := uintptr(unsafe.Pointer(unsafe.SliceData(value)))
	off := t.offset(addr, t.engine.db.Info().Data)
	if off >= t.engine.Size() {
		off = -1
	}
	return t.engine.path, off
}

// offset turns an address at which reading failed into an offset of the file, which is
// mapped at base; -1 when it cannot be in the map, whose end is not known.
func (t *boltTx) offset(addr, base uintptr) int64 {
	if base == 0 || addr < base || addr-base > math.MaxInt/2 {
		return -1
	}
	return int64(addr - base)
}

// corrupt turns a panic into a *DamageError when bbolt or the memory map, which
// is at base, raised it, and goes on panicking when it was anything else.
func (t *boltTx) corrupt(p any, base uintptr) error {
	off := int64(-1)
	if fault, ok := p.(interface{ Addr() uintptr }); ok { // what SetPanicOnFault panics with
		off = t.offset(fault.Addr(), base)
	}
	if !t.inBolt && off < 0 {
		panic(p)
	}
	if t.write {
		t.engine.wedged.Store(true)
	}
	c := &DamageError{File: t.engine.path, Offset: off, Detail: fmt.Sprintf("reading it failed: %v", p)}
	if size := t.engine.Size(); off >= size {
		c.Detail = fmt.Sprintf("its data ends at %d bytes, before what it refers to", size)
	}
	return c
}
