package oncetest

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// Store is a store of keys that are set once. Its methods are safe for concurrent use.
//
// Errors match those of package api. ErrNotFound: the key is not set. ErrInvalid: a key,
// content type, put id or metadata that no store accepts. ErrDigestMismatch: the value does
// not match Put.SHA256. A losing put returns a *LostError. errors.ErrUnsupported: the store
// lacks the capability.
type Store interface {
	// Lacks returns what this store cannot do; nil: it can do everything.
	Lacks() []Capability

	// Put sets a key, or returns why not. It reads p.Value until it returns.
	Put(ctx context.Context, p Put) (Result, error)

	// Get returns a key's record and value. The caller closes the value.
	Get(ctx context.Context, key string) (Record, io.ReadCloser, error)

	// Stat is Get without the value.
	Stat(ctx context.Context, key string) (Record, error)

	// List yields the set keys in byte order. An error is the last element.
	List(ctx context.Context, r ListRange) iter.Seq2[Record, error]

	// Changes yields the records above a revision, in the order of revisions, of keys with
	// a prefix. It ends at the newest. An error is the last element.
	Changes(ctx context.Context, since uint64, prefix string) iter.Seq2[Record, error]
}

// Capability is something that not every store can do.
type Capability string

// The capabilities.
const (
	IfAbsent Capability = "if-absent" // Put.IfAbsent
	Keep     Capability = "keep"      // Put.Keep
	Listing  Capability = "list"      // Store.List
	Walking  Capability = "changes"   // Store.Changes
)

// Put is a request to set a key.
type Put struct {
	Key         string
	Value       io.ReadSeeker     // from its start; nil: empty
	ContentType string            // empty: application/octet-stream
	PutID       string            // empty: one that is not used again
	Meta        map[string]string // kept with the value
	SHA256      *Digest           // digest the value must have; nil: any
	IfAbsent    bool              // a key that is set at all is a *LostError, unless this put id set it
	Keep        bool              // other bytes are no error: the winner stays, Created is false
}

// Digest is a SHA-256 digest.
type Digest [32]byte

// String returns d in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Result is the answer to a put that did not fail. All but Created describes the winner,
// which may be another put.
type Result struct {
	Created  bool // this put, or an earlier one with the same id, set the key
	Revision uint64
	SHA256   Digest
	Size     int64
}

// Record is what a store says about a set key.
type Record struct {
	Key         string
	Revision    uint64
	SHA256      Digest
	Size        int64
	ContentType string
	Time        time.Time // lists may leave it out
	Meta        map[string]string
}

// ListRange says which keys to list.
type ListRange struct {
	Prefix string // only keys that begin so; empty: all
	After  string // only keys behind this one; empty: from the first
	Page   int    // keys to fetch at a time, which must not change what is listed; 0: the store chooses
}

// LostError means that another put had set the key. It matches api.ErrExists and, unless
// Strict, api.ErrConflict.
type LostError struct {
	Winner Result // Created is false
	Strict bool   // the put was IfAbsent, so that its bytes may be the same
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the key is set since revision %d (sha256 %v, %d bytes)", e.Winner.Revision, e.Winner.SHA256, e.Winner.Size)
}

// Is reports whether the error is of the kind target.
func (e *LostError) Is(target error) bool {
	return target == api.ErrExists || target == api.ErrConflict && !e.Strict
}
