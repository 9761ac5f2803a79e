package bodies

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	// MaxBytes is the size of the largest body.
	MaxBytes = 1 << 20
	// BlockBytes is the size of what is checked by itself: every block of a body but
	// the last.
	BlockBytes = 64 << 10
)

// Digest is the SHA-256 of a body, and its name.
type Digest [sha256.Size]byte

// String returns the digest in hex.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// Ref names a body.
type Ref struct {
	Digest Digest
	Size   int // bytes, 1 to MaxBytes
}

// Body is a body with its bytes.
type Body struct {
	Digest Digest
	Data   []byte
}

// Change is one more or one less record that refers to a body.
type Change struct {
	Digest Digest
	By     int
}

// Mark says up to where a history is counted: its newest revision, and what identifies
// it up to there. The zero Mark is that of an empty one.
type Mark struct {
	Revision uint64
	Head     [32]byte
}

// Errors of a store.
var (
	// ErrMissing: a body is not here.
	ErrMissing = errors.New("the body is not here")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the store of bodies is closed")
)

// DamageError says that a file is not what was written.
type DamageError struct {
	File   string
	Offset int64 // -1: all of it
	Detail string
}

// Error says where.
func (e *DamageError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s is damaged: %s", e.File, e.Detail)
	}
	return fmt.Sprintf("%s is damaged at offset %d: %s", e.File, e.Offset, e.Detail)
}

// Config says how a store works. Only Dir is needed.
type Config struct {
	Dir          string        // is made when it is missing
	SegmentBytes int64         // a segment that is longer gets nothing more; default 256 MiB
	Grace        time.Duration // how long a body stays that nobody counts on; default 10 s
	Round        time.Duration // how often Run reclaims; default 5 s
	OpenFiles    int           // segments that are open at once, besides the newest and those that are not durable; default 32
	TableRows    int           // rows of the table in memory, of each kind; default 32,768: 30 MiB at most
	ReclaimRate  int64         // bytes a second that Run copies at most, of segments and of the table; it gives back four times as many; default 32 MiB
	Logger       *slog.Logger
	Now          func() time.Time // default time.Now; must not go back
	// Sync makes durable what is at a path, a file or a directory; default: an fsync,
	// of a segment that is open an fdatasync.
	Sync func(path string) error

	step func(name string) // for tests; see Store.step
}

// Stats are figures of a store.
type Stats struct {
	Bodies         int64 // that are here
	LiveBytes      int64 // of bodies that are counted or held, and their headers
	DeadBytes      int64 // that the segments occupy besides, by the file system's count, without room for the next bodies
	ReclaimedBytes int64 // given back since the store was opened
	Segments       int
}
