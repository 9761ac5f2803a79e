package api

// Headers of the API that HTTP itself does not define.
const (
	HeaderRevision = "Oncekv-Revision" // decimal revision of the key's one put
	HeaderPutID    = "Oncekv-Put-Id"   // the caller's name of a put; see CheckPutID
	HeaderTime     = "Oncekv-Time"     // RFC 3339 with nanoseconds; Last-Modified keeps whole seconds only
	HeaderCache    = "Oncekv-Cache"    // hit, peer or load, on answers of cache nodes
	HeaderRole     = "Oncekv-Role"     // RoleLeader, on the leader's answers to GET /ping and to POST /keys in frames
	HeaderHistory  = "Oncekv-History"  // 32 hex digits: the history that revisions of the answer are of; absent while a node has none
	HeaderBy       = "Oncekv-By"       // the principal that put the value; absent in a cluster that is open to all

	// HeaderMetaPrefix is followed by a name: the header's value is what the put gave
	// that name. Names have lower-case letters, digits and '-', however the header
	// is written.
	HeaderMetaPrefix = "Oncekv-Meta-"
)

// ContentTypeFrames is the media type of the binary form of POST /keys and POST
// /keys/get: frames that carry one put, get or answer each, so that many calls
// of a program share a request. A node that does not know it answers with
// another type.
const ContentTypeFrames = "application/vnd.oncekv.batch"

// ContentTypeNDJSON is the media type of POST /keys, one JSON object a line.
const ContentTypeNDJSON = "application/x-ndjson"

// ContentTypeProblem is the media type of every error document (RFC 9457).
const ContentTypeProblem = "application/problem+json"

// EncodingBase64 is the value of an "encoding" field whose "value" is standard
// base64 with padding. Without the field the value is UTF-8 text.
const EncodingBase64 = "base64"
