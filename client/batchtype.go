package client

import "time"

// ContentTypeBatch is the media type of the binary form of POST /keys and POST
// /keys/get: frames that carry one put, get or answer each, so that many calls
// of a program share a request. A node that does not know it answers with
// another type.
const ContentTypeBatch = "application/vnd.oncekv.batch"

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
