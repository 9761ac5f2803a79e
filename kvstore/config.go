package kvstore

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// StoreConfig says where a store keeps its data and how much memory it uses.
// Zero limits get good defaults.
type StoreConfig struct {
	History engine.Engine  // the truth
	Index   *keyruns.Index // derived from History; may be empty, is then rebuilt

	// Bodies keeps the values of BodyBytesMin and more. It is this store's alone, but
	// for those who append and hold.
	Bodies *bodies.Store

	// OpenStaging opens the area where a snapshot is pulled to, and RemoveStaging drops it.
	// It survives restarts. Without them Stage and Install cannot be used.
	OpenStaging   func() (engine.Engine, error)
	RemoveStaging func() error

	// OpenScratch makes an empty file to sort keys in, when there are more of them than fit
	// into memory. Without it a missing index is rebuilt one memtable at a time.
	OpenScratch func() (Scratch, error)

	Logger *slog.Logger

	// OnCommit hears how long each commit to history took; nil: nobody.
	OnCommit func(took time.Duration)

	PendingBytes    int64         // applied, not yet in history; Apply pauses when full; default 64 MiB
	CommitBytes     int64         // commit to history when so much pends; default 8 MiB, at most PendingBytes/2
	CommitInterval  time.Duration // commit at least so often; default 500 ms
	MemtableBytes   int64         // keys not yet in the index; Apply pauses when full; default 64 MiB
	GenerationBytes int64         // part of the memtable that is indexed as one; default 16 MiB, at most MemtableBytes/4

	// CheckpointRevisions is for tests: the distance of the revisions whose history digest is
	// kept, the same for the whole life of a store. Default CheckpointRevisions.
	CheckpointRevisions Revision
	// Spread draws numbers between 0 and 1, by which replicas flush at different times: when
	// all flush at once, every put waits. It must be quick and safe for concurrent use. nil:
	// flushes come as late as memory allows.
	Spread func() float64
}

// withDefaults fills in what is zero and checks the rest.
func (c StoreConfig) withDefaults() (StoreConfig, error) {
	if c.History == nil || c.Index == nil || c.Bodies == nil {
		return c, errors.New("open store: History, Index and Bodies are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Spread == nil {
		c.Spread = func() float64 { return 0 }
	}
	if c.OnCommit == nil {
		c.OnCommit = func(time.Duration) {}
	}
	setDefault(&c.PendingBytes, 64<<20)
	setDefault(&c.CommitBytes, 8<<20)
	setDefault(&c.CommitInterval, 500*time.Millisecond)
	setDefault(&c.MemtableBytes, 64<<20)
	setDefault(&c.GenerationBytes, 16<<20)
	if c.CheckpointRevisions == 0 {
		c.CheckpointRevisions = CheckpointRevisions
	}
	c.CommitBytes = min(c.CommitBytes, c.PendingBytes/2)
	c.GenerationBytes = min(c.GenerationBytes, c.MemtableBytes/4)
	return c, nil
}

// setDefault gives a limit that was not set, or makes no sense, its default.
func setDefault[T int | int64 | time.Duration](limit *T, value T) {
	if *limit <= 0 {
		*limit = value
	}
}

// Scratch is a file for data that nobody misses after a crash.
type Scratch interface {
	io.Writer
	io.ReaderAt
	// Close drops the file.
	Close() error
}

// CheckpointRevisions is the distance of the revisions whose history digest
// every store keeps, so that replicas can be compared cheaply.
const CheckpointRevisions Revision = 1024
