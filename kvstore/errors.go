package kvstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Errors of a request that could never succeed.
var (
	ErrInvalidKey         = errors.New("invalid key")
	ErrInvalidContentType = errors.New("invalid content type") // over 255 bytes, or no media type
	ErrInvalidPutID       = errors.New("invalid put id")       // not 1 to 64 visible ASCII characters
	ErrInvalidMeta        = errors.New("invalid metadata")     // that MakeUserMeta refuses, or a principal that a record cannot name
	ErrTooLarge           = errors.New("value too large")      // what a *TooLargeError is
	// ErrDigestMismatch: the body does not have the digest of the request. Nothing was set.
	ErrDigestMismatch = errors.New("the body does not have the SHA-256 digest that was sent with it")
	// ErrBodyRead: the body broke off, or had another length than announced. Nothing was set.
	ErrBodyRead = errors.New("the body could not be read to its end")
)

// Errors of a request that found no value or could not be served now.
var (
	ErrNotFound = errors.New("key is not set")
	// ErrGone: the key stays set and its value will never be read again. No record says so yet.
	ErrGone = errors.New("the value was retired and is gone")
	// ErrOverloaded: a limit of bytes in flight is reached, and the put was not proposed.
	ErrOverloaded = errors.New("overloaded: too many bytes in flight; repeat the request after a pause")
	// ErrUnavailable: there is no leader to propose to. The put did not set the key.
	ErrUnavailable = errors.New("unavailable: the cluster has no leader that this node can reach; repeat the request")
	// ErrLevel: it needs a higher level than the store has. The put was not proposed.
	ErrLevel = errors.New("not every member runs a version that knows this; nothing was set")
	// ErrOutcomeUnknown: a put was proposed and its outcome did not arrive in time.
	ErrOutcomeUnknown = errors.New("outcome unknown: the put may or may not have won; repeat the same put to find out")
	ErrDiskReserve    = errors.New("a voter's disk is below its reserve: free space on it or add space; reads go on")
	// ErrClosed is returned by every call on a closed store or engine.
	ErrClosed = engine.ErrClosed
)

// Errors between replicas, and results of Apply, which are the same on every replica.
var (
	// errBehind: the store does not have an entry, a revision or a history yet. Ask another
	// member, or ask again later.
	errBehind = errors.New("this store has not applied what was asked for")
	// errSnapshotBody is wrapped by Store.Stage. Staging is empty again: pull from another member.
	errSnapshotBody = errors.New("the pulled snapshot is damaged")
	// ErrDiverged: two stores disagree about a revision both have. This one must not serve.
	ErrDiverged = errors.New("this store's history differs from the cluster's: replace this node")

	errMalformedCommand = errors.New("malformed command")
	// ErrUploadIncomplete refuses a seal whose upload is not open or lacks chunks, a chunk of
	// an upload that is not open or has its last one, and the opening of a sealed upload.
	ErrUploadIncomplete = errors.New("the upload is not open or not complete")
	// errChunkOrder refuses a chunk that came too early. It may be proposed again.
	errChunkOrder = errors.New("the chunk before this one is not there yet")
	// ErrValueDamaged: a bit flipped in the memory of the node that proposed the value. Nothing was set.
	ErrValueDamaged   = errors.New("the value was damaged on its way into the log")
	ErrTooManyUploads = errors.New("too many open uploads")
)

// TooLargeError says that a value is over the limit. errors.Is(err, ErrTooLarge)
// holds for it.
type TooLargeError struct {
	LimitBytes int64
}

// Error names the limit.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("value too large: the limit is %d bytes", e.LimitBytes)
}

// Is reports whether target is ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// CorruptError says that stored data cannot be trusted. It is fatal: the store
// that returned it answers nothing else from then on.
type CorruptError struct {
	File   string // path of the damaged file
	Offset int64  // byte offset of the damage in File, -1 when not known
	Detail string // what was found there and what was expected
}

// Error names the file, the offset and what to do.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s; %s", (*engine.DamageError)(e), corruptAdvice(e.File))
}

// corruptAt returns a *CorruptError about what was read, nil: about all of the file.
func corruptAt(tx engine.Tx, raw []byte, detail string) error {
	file, off := tx.Where(raw)
	return &CorruptError{File: file, Offset: off, Detail: detail}
}

// corruptFile returns a *CorruptError about all of an engine's file.
func corruptFile(e engine.Engine, detail string) error {
	return e.View(func(tx engine.Tx) error { return corruptAt(tx, nil, detail) })
}

// storeError says what an error of an engine is here: damage gets its advice.
func storeError(err error) error {
	if d, damaged := errors.AsType[*engine.DamageError](err); damaged {
		return fmt.Errorf("%s%w", strings.TrimSuffix(err.Error(), d.Error()), (*CorruptError)(d))
	}
	return err
}

// corruptAdvice says what to do about a damaged file of a store's directory.
func corruptAdvice(file string) string {
	switch name := filepath.Base(file); {
	case name == indexDir, filepath.Base(filepath.Dir(file)) == indexDir:
		return "delete the directory " + indexDir + ": it is rebuilt from history at the next start"
	case name == stagingFile:
		return "delete " + stagingFile + ": it is pulled again from another member"
	}
	return "restore this node by replacing it: remove it from the cluster, clear its data directory, join it again"
}

// The files of a store's directory.
const (
	historyFile = "history.db"
	indexDir    = "index" // of package keyruns
	stagingFile = "staging.db"
	scratchFile = "sort.tmp"
	valuesDir   = "values" // of package bodies

	oldIndexFile = "index.db" // the index of versions before index/
)
