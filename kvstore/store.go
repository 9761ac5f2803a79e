package kvstore

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Store is the replicated state machine: it applies the committed entries of a
// log, in order, and answers reads. See the package page for how it keeps data.
//
// Apply, Bootstrap and Install belong to one goroutine; every other method is safe for
// concurrent use. After a failed write or a bad checksum every call returns that same
// error.
//
// Locks are taken in the order commitMu or flushMu, applyMu, mu. None but
// applyMu is ever wanted while an engine transaction is open.
type Store struct {
	cfg     StoreConfig
	logger  *slog.Logger
	history engine.Engine
	index   *keyruns.Index
	bodies  *bodies.Store
	owned   bool   // whether Close closes these
	dir     string // of all of it; empty: the caller knows

	resume func() // lets bodies be reclaimed, see Recovered
	pulls  pullPause

	fatal atomic.Pointer[error]
	dead  chan struct{} // closed once fatal is set

	commitMu sync.Mutex // one commit to history at a time
	flushMu  sync.Mutex // one flush of the memtable at a time

	// applyMu is held while an entry is applied, so that whoever holds it sees
	// all of an entry or nothing: a commit must never save half of one.
	applyMu sync.Mutex
	scratch []command  // reused by Apply; guarded by applyMu
	known   []Revision // reused by Apply; guarded by applyMu
	records []byte     // memory for the next records; guarded by applyMu
	chunk   []byte     // memory for a chunk, nil until one came; guarded by applyMu

	dropped []bodies.Digest // chunks that the last commit dropped, still held; guarded by commitMu

	recordBytes int // that the rest of the entry may need, at most; guarded by applyMu

	mu           sync.RWMutex // held for moments, never across an engine call
	applied      appliedState // written with applyMu held too
	durable      appliedState // what history holds
	meta         []byte       // newest meta not yet in history, nil: none
	lineage      History      // its slice never changes; written with applyMu held too
	kept         History      // the lineage that history holds
	pending      []pendingRecord
	ops          []op // what history lacks besides records, in order
	pendingBytes int64
	chunks       map[chunkKey][]byte // rows of chunks not yet in history
	drops        map[uploadID]int    // drops among ops, by upload
	uploads      map[uploadID]*upload
	dirty        map[uploadID]struct{} // uploads that changed since the last commit
	memtable     memtable
	flushAt      int64         // a flush is due when so many bytes of the memtable are frozen
	room         chan struct{} // closed and replaced whenever a bound is released
	running      bool          // whether Run is there to release bounds
	announced    Revision      // the newest revision that followers were woken for
	grown        chan struct{} // closed and replaced when there is a new revision and somebody waits
	watched      atomic.Bool   // whether somebody may; set with mu held for reading

	wakeCommit chan struct{} // capacity 1
	wakeFlush  chan struct{} // capacity 1
}

// pendingRecord is a record that is applied and not yet in history. It never changes. It
// holds nothing that its bytes say: few are read while they pend.
type pendingRecord struct {
	rev    Revision
	record []byte   // as it will be stored
	kept   *derived // what is kept for rev; nil: nothing
}

// body decodes the record.
func (p *pendingRecord) body() body {
	d, err := decodeBody(bodyKind(p.record[0]), p.record[recordPrefixBytes:])
	if err != nil {
		panic("kvstore: a record that was just made does not decode: " + err.Error())
	}
	return d
}

// op is one write that history lacks: the row of a chunk, or, without one, the drop of
// the upload that key is of.
type op struct {
	key chunkKey
	row []byte
}

// pendingOverhead is about what a pending record costs in memory besides its bytes.
const pendingOverhead = 100

func newStore(cfg StoreConfig) *Store {
	return &Store{
		cfg:        cfg,
		logger:     cfg.Logger,
		history:    cfg.History,
		index:      cfg.Index,
		bodies:     cfg.Bodies,
		resume:     cfg.Bodies.Pause(),
		pulls:      pullPause{bodies: cfg.Bodies},
		dead:       make(chan struct{}),
		chunks:     make(map[chunkKey][]byte),
		drops:      make(map[uploadID]int),
		uploads:    make(map[uploadID]*upload),
		dirty:      make(map[uploadID]struct{}),
		memtable:   newMemtable(),
		flushAt:    int64(float64(cfg.MemtableBytes/2) * (1 - 0.9*cfg.Spread())), // the first may come early
		room:       make(chan struct{}),
		grown:      make(chan struct{}),
		wakeCommit: make(chan struct{}, 1),
		wakeFlush:  make(chan struct{}, 1),
	}
}

// Close ends the store and what OpenStoreDir opened, after Run has ended. The log gives
// what was applied and not committed again after a restart.
func (s *Store) Close() error {
	_ = s.fail(ErrClosed)
	s.pulls.close()
	if !s.owned {
		return nil
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	return errors.Join(s.history.Close(), s.index.Close(), s.bodies.Close())
}

// Bodies returns where the values of BodyBytesMin and more are.
func (s *Store) Bodies() *bodies.Store { return s.bodies }

// Recovered says that whoever drives the store holds the bodies that its log needs:
// from now on those that nobody needs may go. Before, none does.
func (s *Store) Recovered() { s.resume() }

// err returns why the store is dead, nil while it lives.
func (s *Store) err() error {
	if p := s.fatal.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes err the answer to everything from now on, unless the store is
// dead already, and returns the error that is.
func (s *Store) fail(err error) error {
	if s.fatal.CompareAndSwap(nil, &err) {
		close(s.dead)
		if !errors.Is(err, ErrClosed) {
			s.logger.Error("the store is stopping", "error", err)
		}
	}
	return s.err()
}

// failed returns err, after making it fatal if it says that an engine or its
// data cannot be trusted.
func (s *Store) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrClosed) {
		return s.fail(err)
	}
	return s.fail(fmt.Errorf("%s: %w", what, err))
}

// wake sends to a channel of capacity 1 unless a wake-up waits there already.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// releaseLocked lets every Apply that waits for room look again. mu is held.
func (s *Store) releaseLocked() {
	close(s.room)
	s.room = make(chan struct{})
}

// Stats are a store's figures at one moment.
type Stats struct {
	AppliedIndex uint64 // last entry of the log that was applied
	DurableIndex uint64 // last entry that history holds
	Revision     Revision
	Digest       Digest // history digest at Revision
	Keys         int64
	ValueBytes   int64 // sum of the sizes of all values
	HistoryBytes int64 // of the history file
	IndexBytes   int64 // of the index
	IndexedTo    Revision
	OverlayKeys  int64
	OverlayBytes int64 // estimate of the memory of keys not yet in the index
	PendingBytes int64 // estimate of the memory of what history lacks
	OpenUploads  int
	Index        keyruns.Stats
}

// Stats returns the store's figures. It works on a dead store too.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	at := s.applied.derived
	st := Stats{
		AppliedIndex: s.applied.index,
		DurableIndex: s.durable.index,
		Revision:     at.rev,
		Keys:         int64(at.rev),
		ValueBytes:   at.valueBytes,
		IndexedTo:    s.memtable.indexedRev,
		OverlayKeys:  int64(s.memtable.len()),
		OverlayBytes: s.memtable.bytes,
		PendingBytes: s.pendingBytes,
		OpenUploads:  len(s.uploads),
	}
	s.mu.RUnlock()
	st.Digest = at.digest()
	st.HistoryBytes = s.history.Size()
	st.Index = s.index.Stats()
	st.IndexBytes = st.Index.Bytes
	return st
}

// announceLocked wakes those who wait for a revision, if there is a new one.
// mu is held.
func (s *Store) announceLocked() {
	if s.applied.rev == s.announced {
		return
	}
	s.announced = s.applied.rev
	if s.watched.Swap(false) {
		close(s.grown)
		s.grown = make(chan struct{})
	}
}

// Advanced returns a channel that is closed when there is a revision behind after, or
// earlier, at any new one: look and ask again. When the store dies it may stay open:
// Changes tells.
func (s *Store) Advanced(after Revision) <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.applied.rev > after {
		now := make(chan struct{})
		close(now)
		return now
	}
	s.watched.Store(true)
	return s.grown
}

func (s *Store) durableState() appliedState {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.durable
}

// durableHistory returns where history stands, and its identity then.
func (s *Store) durableHistory() (appliedState, History) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.durable, s.kept
}

// Position returns the newest revision: how far this store's history goes.
func (s *Store) Position() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return uint64(s.applied.rev)
}

// indexedRevision looks key up in the index, 0 when it is not there.
func (s *Store) indexedRevision(key []byte) (Revision, error) {
	rev, err := s.index.Find(key)
	if err != nil {
		return 0, indexError(err)
	}
	return Revision(rev), nil
}

// indexError says what an error of the index is here.
func indexError(err error) error {
	if d, damaged := errors.AsType[*keyruns.CorruptError](err); damaged {
		return &CorruptError{File: d.File, Offset: d.Offset, Detail: d.Detail}
	}
	if errors.Is(err, keyruns.ErrClosed) {
		return ErrClosed
	}
	return err
}

// corruptIndex is the error of an index that says what history does not.
func (s *Store) corruptIndex(detail string) error {
	return &CorruptError{File: s.index.Path(), Offset: -1, Detail: detail}
}

// wrongIndex is the error of an index that gives a key the revision of another.
// The record is sound and names its revision, so the index is wrong.
func (s *Store) wrongIndex(rev Revision, key Key, other string) error {
	return s.corruptIndex(fmt.Sprintf("it says that revision %d is key %q, but that is key %q", rev, key, other))
}

// openUploads returns the life of each open upload by now.
func (s *Store) openUploads() map[uploadID]uploadLife {
	s.mu.RLock()
	defer s.mu.RUnlock()
	open := make(map[uploadID]uploadLife, len(s.uploads))
	for id, u := range s.uploads {
		open[id] = u.uploadLife
	}
	return open
}
