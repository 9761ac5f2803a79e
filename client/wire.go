package client

// KeysPage is the body of GET /keys: set keys in byte order, without their
// times. Next is what ?after= takes to go on, empty on the last page.
type KeysPage struct {
	Keys []Record `json:"keys"`
	Next string   `json:"next,omitempty"`
}

// Change is one line, or one event's data, of GET /changes: the put that set a
// key. With ?values=true it carries the value, if that has ChangeValueBytesMax at
// most, and else Location, the path at which every node serves it.
type Change struct {
	Record
	Value    *string `json:"value,omitempty"`
	Encoding string  `json:"encoding,omitempty"` // EncodingBase64 when the value is not UTF-8
	Location string  `json:"location,omitempty"`
}

// ChangeValueBytesMax is the largest value that travels in GET /changes.
const ChangeValueBytesMax = 1 << 20

// ChangesMark is a line of GET /changes that is no change: it has an Event, and
// no key. As a server-sent event its name is Event and its id Revision.
type ChangesMark struct {
	Event    string `json:"event"`            // EventHeartbeat or EventEnd
	Revision uint64 `json:"revision"`         // everything up to here was sent, or is not of the prefix: go on with ?since=
	Reason   string `json:"reason,omitempty"` // of an end
	Detail   string `json:"detail,omitempty"` // of an end, a sentence
}

// The values of ChangesMark.Event.
const (
	EventHeartbeat = "heartbeat" // nothing new; only streams that follow have it
	EventEnd       = "end"       // the last line of a stream that its node ends
)

// The values of ChangesMark.Reason.
const (
	EndClosing    = "closing"    // the node stops: go on at another
	EndSlow       = "slow"       // the reader was too slow
	EndOverloaded = "overloaded" // the node has no memory for it now
	EndFailed     = "failed"     // the node cannot read on
)

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

// ContentTypeNDJSON is the media type of POST /keys, one JSON object a line.
const ContentTypeNDJSON = "application/x-ndjson"

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
