package api

import "errors"

// The kinds of failure, the same on both sides of the wire: errors.Is works
// with them on every error of this package.
var (
	// ErrInvalid: the request is malformed (400, 411, 415) or not allowed (403, 405, 421).
	ErrInvalid = errors.New("request refused as invalid")
	// ErrDigestMismatch: bytes are not what their digest says. Nothing was set; what was read must not be used.
	ErrDigestMismatch = errors.New("bytes do not match their digest")
	// ErrNotFound: the key (or the member) does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the key is set to other bytes, which cannot be changed. See ConflictError.
	ErrConflict = errors.New("key is set to other bytes")
	// ErrExists: the key is set; every ConflictError is also this.
	ErrExists = errors.New("key is set already")
	// ErrGone: the key is set, and its value was retired. It will never be read again.
	ErrGone = errors.New("value retired and gone")
	// ErrHistoryChanged: what was read before may not be what is there now. See HistoryChangedError.
	ErrHistoryChanged = errors.New("history changed")
	// ErrRefused: the cluster does not make this change now; the detail says why.
	ErrRefused = errors.New("change refused")
	// ErrTooLarge: the value is over the server's limit.
	ErrTooLarge = errors.New("value too large")
	// ErrOverloaded: too much in flight. Definitely not done.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnavailable: no endpoint could serve, or none has a leader. Definitely not done.
	ErrUnavailable = errors.New("unavailable")
	// ErrOutcomeUnknown: the request may or may not have been carried out. Repeating the same put (same key, bytes and put id) is safe.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrDiskReserve: a voter's disk is below its reserve. Definitely not done.
	ErrDiskReserve = errors.New("disk reserve reached")
	// ErrServer: an answer this API does not have (500, a proxy's page).
	ErrServer = errors.New("unexpected answer")
)
