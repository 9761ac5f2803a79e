package kvstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// Log is the replicated log a DB proposes to. Its methods are safe for concurrent use.
type Log interface {
	// ProposeMany proposes commands, in one entry of the log if they fit. Before it returns it
	// calls each once for every command, with what Store.Apply answered on this node. The
	// commands must not be modified afterwards. Errors wrap ErrUnavailable, ErrLevel or
	// ErrOverloaded (definitely not proposed) or ErrOutcomeUnknown, as which any other error
	// counts.
	ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error))
	// Distribute returns nil when every body is durable on this node, at the leader, and at a
	// majority of the voters: then a command may refer to it. Bodies that are there already
	// cost little. Their bytes must never be modified again. Nothing is proposed, so every
	// error is definite; it wraps ErrUnavailable, ErrOverloaded or ErrDiskReserve.
	Distribute(ctx context.Context, list []bodies.Body) error
	// ReadIndex returns nil when everything that was committed before the call
	// began is applied on this node.
	ReadIndex(ctx context.Context) error
}

// DBConfig sets the limits of a DB. The zero value is good.
type DBConfig struct {
	MaxValueBytes int64         // largest value; default 1 GiB, at most 64 GiB
	InFlightBytes int64         // memory for bodies being read or proposed, and as much for the values of PutMany; default 64 MiB, at least 2 MiB
	BodyGrace     time.Duration // how long a body may be slow while others wait for memory; default 5 s
	InFlightWait  time.Duration // how long a put waits for such memory; default 1 s
	ChunkRetry    time.Duration // how long a large put retries a chunk that was not accepted; default 10 s
	UploadIdle    time.Duration // an upload that nobody shows to live for so long is dropped; default 1 min
	SweepInterval time.Duration // how often Run looks for such uploads; default 10 s
	Reserve       func() error  // nil or an error wrapping ErrDiskReserve; asked before anything is proposed
	Logger        *slog.Logger
	Now           func() time.Time // default time.Now
	Rand          io.Reader        // default crypto/rand; must be safe for concurrent use
}

// withDefaults fills in what is zero.
func (c DBConfig) withDefaults() DBConfig {
	setDefault(&c.MaxValueBytes, 1<<30)
	setDefault(&c.InFlightBytes, 64<<20)
	setDefault(&c.BodyGrace, 5*time.Second)
	setDefault(&c.InFlightWait, time.Second)
	setDefault(&c.ChunkRetry, 10*time.Second)
	setDefault(&c.UploadIdle, time.Minute)
	setDefault(&c.SweepInterval, 10*time.Second)
	c.MaxValueBytes = min(c.MaxValueBytes, chunksMax*ChunkBytes)
	c.InFlightBytes = max(c.InFlightBytes, 2*ChunkBytes)
	if c.Reserve == nil {
		c.Reserve = func() error { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

// Consistency chooses how sure an absence is. A found value is always right.
type Consistency int

const (
	Linearizable Consistency = iota // absence is confirmed by the cluster
	Local                           // absence on this node is enough
)

// DB sets and gets keys: a Store behind a replicated log. It is safe for
// concurrent use.
type DB struct {
	store   *Store
	log     Log
	cfg     DBConfig
	intake  *intake
	buffers sync.Pool // *[]byte of discardBytes, for bodies that are only hashed
}

// discardBytes is the buffer of a body that is only hashed.
const discardBytes = 16 << 10

// NewDB returns a DB over store, whose commands come back through log.
func NewDB(store *Store, log Log, cfg DBConfig) *DB {
	cfg = cfg.withDefaults()
	return &DB{
		store:   store,
		log:     log,
		cfg:     cfg,
		intake:  newIntake(cfg.InFlightBytes, cfg.BodyGrace),
		buffers: sync.Pool{New: func() any { b := make([]byte, discardBytes); return &b }},
	}
}

// Get returns the value of key. A found value is always right and returned at once. With
// Linearizable, ErrNotFound is returned only after this node has applied everything that
// was committed before the call. Other errors: ErrInvalidKey, those of Log.ReadIndex, and
// fatal ones.
func (db *DB) Get(ctx context.Context, key Key, c Consistency) (*Value, error) {
	v, err := db.store.Get(key)
	if c == Local || !errors.Is(err, ErrNotFound) {
		return v, err
	}
	if err := db.log.ReadIndex(ctx); err != nil {
		return nil, fmt.Errorf("confirm that the key is not set: %w", err)
	}
	return db.store.Get(key)
}

// GetMany looks several keys up on this node, as Get does with Local, and calls each for
// every key, with its place in keys, in any order. It is much cheaper than as many Gets.
//
// The Value, and what its Bytes returns, are valid until each returns; Open of a streamed
// value stays valid. each runs inside a read transaction: it must neither block nor use
// the store. A fatal error goes to every key that had no answer yet.
func (db *DB) GetMany(keys []Key, each func(i int, v *Value, err error)) {
	db.store.getMany(keys, each)
}

// Confirm returns nil when this node has applied everything that was committed before the
// call. One Confirm makes any number of absences linearizable: of keys that were asked for
// before it began and are looked up after it returned. Errors are those of Log.ReadIndex.
func (db *DB) Confirm(ctx context.Context) error {
	if err := db.log.ReadIndex(ctx); err != nil {
		return fmt.Errorf("confirm that keys are not set: %w", err)
	}
	return nil
}

// propose proposes one command, and returns what the log answered.
func (db *DB) propose(ctx context.Context, command []byte) (result any, err error) {
	db.log.ProposeMany(ctx, [][]byte{command}, func(_ int, r any, e error) { result, err = r, e })
	return result, err
}

// Run drops uploads whose proposer has gone, until ctx ends, and returns nil then.
// Dropping goes through the log: one node that runs it is enough, and all may.
func (db *DB) Run(ctx context.Context) error {
	ticker := time.NewTicker(db.cfg.SweepInterval)
	defer ticker.Stop()
	quiet := make(map[uploadID]quietUpload)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			db.sweep(ctx, quiet)
		}
	}
}

// quietUpload is what Run saw of an open upload.
type quietUpload struct {
	uploadLife
	sweeps int64 // in a row that found it so
}

// sweep proposes to abandon every upload that is idle for too long. It counts sweeps,
// because clocks may be wrong or be set, and only while this node was not cut off:
// otherwise nobody could show it that an upload lives.
func (db *DB) sweep(ctx context.Context, quiet map[uploadID]quietUpload) {
	open := db.store.openUploads()
	for id, life := range open {
		q := quiet[id]
		if q.uploadLife != life {
			q = quietUpload{uploadLife: life}
		}
		q.sweeps++
		quiet[id] = q
	}
	for id := range quiet {
		if _, ok := open[id]; !ok {
			delete(quiet, id)
		}
	}
	if len(open) == 0 {
		return
	}
	// A node that is behind has seen no sign of life either: first it catches up.
	if err := db.log.ReadIndex(ctx); err != nil {
		db.cfg.Logger.Debug("idle uploads are not dropped yet", "error", err)
		clear(quiet)
		return // the next rounds count anew
	}
	open = db.store.openUploads()
	for _, id := range sortedUploads(open) {
		// It was quiet from the first sweep that found it so to the last.
		if q := quiet[id]; q.uploadLife != open[id] || time.Duration(q.sweeps-1)*db.cfg.SweepInterval < db.cfg.UploadIdle {
			continue
		}
		if _, err := db.propose(ctx, abandonCommand(id)); err != nil {
			db.cfg.Logger.Debug("idle upload is not dropped yet", "upload", id, "error", err)
			return
		}
		db.cfg.Logger.Info("idle upload dropped", "upload", id, "bytes", open[id].bytes)
	}
}

// Keys is Store.Keys. With Linearizable it shows every put that was acknowledged before
// the call. For a history that this node does not know it asks the log with Local too, so
// that a node that is only behind never says *HistoryChangedError.
func (db *DB) Keys(ctx context.Context, r KeysRequest, c Consistency) (page KeysPage, err error) {
	err = db.ask(ctx, c, "list keys", r.History, 0, func(Consistency) error {
		page, err = db.store.Keys(ctx, r)
		return err
	})
	return page, err
}

// Changes is Store.Changes. With Linearizable, Newest counts every put that was
// acknowledged before the call; what follows up to there may be read with Local. An After
// beyond Newest is a *HistoryChangedError with Linearizable only, and for a history that
// this node does not know it asks the log with Local too: a node that is only behind never
// says it.
func (db *DB) Changes(ctx context.Context, r ChangesRequest, c Consistency) (changes Changes, err error) {
	err = db.ask(ctx, c, "list changes", r.History, r.After, func(c Consistency) error {
		if changes, err = db.store.Changes(r); err == nil && c == Linearizable && r.After > changes.Newest {
			return errBehind
		}
		return err
	})
	return changes, err
}

// ask calls read when this node is as far as c wants. If read says that the node may
// be behind, it is called once more when the log has been asked; if the node is not
// behind then, there is no such history, or it is not so long.
func (db *DB) ask(ctx context.Context, c Consistency, what string, history HistoryID, since Revision, read func(c Consistency) error) error {
	if c != Local {
		if err := db.log.ReadIndex(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	err := read(c)
	switch {
	case !errors.Is(err, errBehind):
		return err
	case c == Linearizable:
		db.store.mu.RLock()
		defer db.store.mu.RUnlock()
		return db.store.historyChangedLocked(history, since)
	}
	return db.ask(ctx, Linearizable, what, history, since, read)
}

// Advanced is Store.Advanced.
func (db *DB) Advanced(after Revision) <-chan struct{} { return db.store.Advanced(after) }

// History is Store.History.
func (db *DB) History() History { return db.store.History() }
