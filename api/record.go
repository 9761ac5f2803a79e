package api

import "time"

// Record is what the API says about a set key besides its bytes. A key that
// is not UTF-8 is in KeyBase64 and Key is empty.
type Record struct {
	Key         string     `json:"key,omitempty"`
	KeyBase64   string     `json:"key_base64,omitempty"`
	Revision    uint64     `json:"revision"`
	SHA256      string     `json:"sha256"` // lower-case hex of the value's SHA-256
	Size        int64      `json:"size"`   // bytes
	ContentType string     `json:"content_type,omitempty"`
	Time        *time.Time `json:"time,omitempty"` // the proposer's clock, UTC

	By   string            `json:"by,omitempty"`   // the principal that put it; empty in a cluster that is open to all
	Meta map[string]string `json:"meta,omitempty"` // names and values that the put gave
}

// RawKey returns the key's bytes, whichever field holds them.
func (r Record) RawKey() (string, error) { return RawKey(r.Key, r.KeyBase64) }

// Document is a record with its value: GET /key/{key}?format=json.
type Document struct {
	Record
	Value    string `json:"value"`
	Encoding string `json:"encoding,omitempty"` // EncodingBase64 when the value is not UTF-8
}

// KeysPage is the body of GET /keys: set keys in byte order, without their
// times. Next is what ?after= takes to go on, empty on the last page.
type KeysPage struct {
	Keys []Record `json:"keys"`
	Next string   `json:"next,omitempty"`
}

// PutDocument is the body of POST /key. A pointer tells an absent field from
// an empty one: exactly one of Key and KeyBase64 is given, and Value always.
type PutDocument struct {
	Key         *string `json:"key,omitempty"`
	KeyBase64   *string `json:"key_base64,omitempty"`
	Value       *string `json:"value"`
	Encoding    string  `json:"encoding,omitempty"`
	ContentType string  `json:"content_type,omitempty"`

	Meta map[string]string `json:"meta,omitempty"` // names and values to keep with the value
}

// PutAnswer is the body of a put's 200 and 201: the key as it is set now.
type PutAnswer struct {
	Key       string `json:"key,omitempty"`
	KeyBase64 string `json:"key_base64,omitempty"`
	Revision  uint64 `json:"revision"`
	SHA256    string `json:"sha256"`
	Size      int64  `json:"size"`
	Created   bool   `json:"created"` // this put (or an earlier try of it, told by its id) is the one that won
	History   string `json:"-"`       // that Revision is of, of HeaderHistory
}

// RawKey returns the key's bytes, whichever field holds them.
func (a PutAnswer) RawKey() (string, error) { return RawKey(a.Key, a.KeyBase64) }

// What became of one line of POST /keys.
const (
	BatchCreated   = "created"   // this line set the key
	BatchUnchanged = "unchanged" // the key was set to the same bytes
	BatchConflict  = "conflict"  // the key was set to other bytes, and stays so
	BatchInvalid   = "invalid"   // the line can never be put as it is; nothing was proposed
	BatchFailed    = "failed"    // nothing was proposed; the same line may be sent again
	BatchUnknown   = "unknown"   // it may or may not take effect; sending the same line again is safe and tells
	BatchError     = "error"     // not a line's result: the stream ends here, before its input did
)

// BatchResult is one line of the answer to POST /keys. The request's lines are
// of type PutDocument; those that are not blank have one result each, in their
// order. Revision, SHA256 and Size are those of what the key is set to, where
// that is known.
//
// A last line with BatchError says why the stream ended early: Line is the
// number of the first line of the request that has no result. Nothing of it or
// of those after it was proposed.
type BatchResult struct {
	Key       string `json:"key,omitempty"`
	KeyBase64 string `json:"key_base64,omitempty"`
	Status    string `json:"status"`
	Revision  uint64 `json:"revision,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
	Size      *int64 `json:"size,omitempty"` // a pointer: an empty value's size is shown
	Type      string `json:"type,omitempty"` // with BatchError: a problem type
	Line      uint64 `json:"line,omitempty"` // with BatchError, counted from 1, blank lines included
	Detail    string `json:"detail,omitempty"`
}

// GetDocument is one line of POST /keys/get: exactly one of the two is given.
type GetDocument struct {
	Key       *string `json:"key,omitempty"`
	KeyBase64 *string `json:"key_base64,omitempty"`
}

// What became of one line of POST /keys/get. BatchInvalid, BatchFailed and
// BatchError mean what they mean in POST /keys.
const (
	GetFound  = "found"
	GetAbsent = "absent" // the key is not set
)

// GetResult is one line of the answer to POST /keys/get: one for each line of
// the request that is not blank, in their order. With GetFound it is the record
// with its value, or for a value over 64 KiB with Location, the path at which
// every node serves it.
type GetResult struct {
	Key         string            `json:"key,omitempty"`
	KeyBase64   string            `json:"key_base64,omitempty"`
	Status      string            `json:"status"`
	Revision    uint64            `json:"revision,omitempty"`
	SHA256      string            `json:"sha256,omitempty"`
	Size        *int64            `json:"size,omitempty"` // a pointer: an empty value's size is shown
	ContentType string            `json:"content_type,omitempty"`
	Time        *time.Time        `json:"time,omitempty"`
	By          string            `json:"by,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
	Value       *string           `json:"value,omitempty"`
	Encoding    string            `json:"encoding,omitempty"` // EncodingBase64 when the value is not UTF-8
	Location    string            `json:"location,omitempty"`
	Cache       string            `json:"cache,omitempty"` // hit, peer or load on a cache node
	Type        string            `json:"type,omitempty"`  // with BatchInvalid, BatchFailed and BatchError: a problem type
	Line        uint64            `json:"line,omitempty"`  // with BatchError: the first line without a result
	Detail      string            `json:"detail,omitempty"`
}
