package client

import (
	"encoding/base64"
	"fmt"
	"time"
	"unicode/utf8"
)

// Headers of the API that HTTP itself does not define.
const (
	HeaderRevision = "Oncekv-Revision" // decimal revision of the key's one put
	HeaderPutID    = "Oncekv-Put-Id"   // the caller's name of a put: 1 to 64 visible ASCII bytes
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

// ContentTypeProblem is the media type of every error document (RFC 9457).
const ContentTypeProblem = "application/problem+json"

// The values of Problem.Type. They say more than the status alone, so that an
// error keeps its meaning over the wire; whoever does not know a type goes by
// the status.
const (
	ProblemInvalid          = "urn:oncekv:problem:invalid"            // 400: malformed request, key, parameter or body
	ProblemDigestMismatch   = "urn:oncekv:problem:digest-mismatch"    // 400: the body is not what Repr-Digest says
	ProblemForbidden        = "urn:oncekv:problem:forbidden"          // 403: refused cross-origin request
	ProblemNotFound         = "urn:oncekv:problem:not-found"          // 404: the key is not set
	ProblemNoRoute          = "urn:oncekv:problem:no-route"           // 404: no such resource in this API
	ProblemUnknownMember    = "urn:oncekv:problem:unknown-member"     // 404: no member of that name
	ProblemMethod           = "urn:oncekv:problem:method-not-allowed" // 405
	ProblemConflict         = "urn:oncekv:problem:conflict"           // 409: the key is set to other bytes
	ProblemRefused          = "urn:oncekv:problem:refused"            // 409: a cluster change that must not happen now
	ProblemHistoryChanged   = "urn:oncekv:problem:history-changed"    // 409: a position of another history, or beyond the newest revision of this one
	ProblemGone             = "urn:oncekv:problem:gone"               // 410: the key is set, and its value was retired
	ProblemLengthRequired   = "urn:oncekv:problem:length-required"    // 411
	ProblemPrecondition     = "urn:oncekv:problem:precondition"       // 412: If-None-Match or If-Match is false
	ProblemTooLarge         = "urn:oncekv:problem:too-large"          // 413: over limit_bytes
	ProblemUnsupportedMedia = "urn:oncekv:problem:unsupported-media"  // 415: Content-Encoding
	ProblemRange            = "urn:oncekv:problem:range"              // 416
	ProblemMisdirected      = "urn:oncekv:problem:misdirected"        // 421: Host is not a name of this node
	ProblemOverloaded       = "urn:oncekv:problem:overloaded"         // 429 or 503: definitely not proposed
	ProblemInternal         = "urn:oncekv:problem:internal"           // 500
	ProblemTimeout          = "urn:oncekv:problem:timeout"            // 408: the body stopped coming; nothing was set
	ProblemUnavailable      = "urn:oncekv:problem:unavailable"        // 503: no leader, not ready: definitely not proposed
	ProblemOutcomeUnknown   = "urn:oncekv:problem:outcome-unknown"    // 504: repeat the same put
	ProblemDiskReserve      = "urn:oncekv:problem:disk-reserve"       // 507: a voter's disk is below its reserve
)

// EncodingBase64 is the value of an "encoding" field whose "value" is standard
// base64 with padding. Without the field the value is UTF-8 text.
const EncodingBase64 = "base64"

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

// Change is one line, or one event's data, of GET /changes: the put that set a
// key. With ?values=true it carries the value, if that has ChangeValueBytesMax at
// most, and else Location, the path at which every node serves it.
//
// A line with a type that its reader does not know is no put: it counts its revision
// and goes on.
type Change struct {
	Type string `json:"type,omitempty"` // what happened; empty for a put
	Record
	History  string  `json:"-"` // that Revision is of, as the stream says; empty if it does not
	Value    *string `json:"value,omitempty"`
	Encoding string  `json:"encoding,omitempty"` // EncodingBase64 when the value is not UTF-8
	Location string  `json:"location,omitempty"`
}

// ChangeValueBytesMax is the largest value that travels in GET /changes.
const ChangeValueBytesMax = 1 << 20

// ChangesMark is a line of GET /changes that is no change: it has an Event, and
// no key. As a server-sent event its name is Event and its id Revision.
type ChangesMark struct {
	Event    string `json:"event"`             // EventHeartbeat or EventEnd
	Revision uint64 `json:"revision"`          // everything up to here was sent, or is not of the prefix: go on with ?since=
	History  string `json:"history,omitempty"` // that Revision is of: go on with &history=
	Reason   string `json:"reason,omitempty"`  // of an end
	Detail   string `json:"detail,omitempty"`  // of an end, a sentence
}

// The values of ChangesMark.Event.
const (
	EventHeartbeat = "heartbeat" // nothing new; only streams that follow have it
	EventEnd       = "end"       // the last line of a stream that its node ends
)

// The values of ChangesMark.Reason.
const (
	EndClosing    = "closing"         // the node stops: go on at another
	EndSlow       = "slow"            // the reader was too slow
	EndOverloaded = "overloaded"      // the node has no memory for it now
	EndHistory    = "history-changed" // the node has another history now: ask again, which tells
	EndFailed     = "failed"          // the node cannot read on
)

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

// Origin is where a history ended and another one went on from it.
type Origin struct {
	ID       string `json:"id"`       // of the history, 32 hex digits
	Revision uint64 `json:"revision"` // the last one that both have
	Head     string `json:"head"`     // the history digest there, lower-case hex
}

// History is the identity of what a node holds: the same revision is the same record
// on all nodes that hold the same history.
type History struct {
	ID      string   `json:"id"`                // 32 hex digits
	Parents []Origin `json:"parents,omitempty"` // the histories it went on from, oldest first
}

// Levels are what nodes may write, and understand.
type Levels struct {
	Store   uint64 `json:"store"`   // what the cluster writes: every member understands it
	Program uint64 `json:"program"` // the highest that this node's program understands
}

// Problem is the document of every error answer (RFC 9457). The winner's
// fields are set on 409 and 412 of a put, LimitBytes on 413, and those of the
// history with ProblemHistoryChanged.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	Revision   uint64 `json:"revision,omitempty"`
	SHA256     string `json:"sha256,omitempty"`
	Size       *int64 `json:"size,omitempty"` // a pointer: an empty value's size is shown
	LimitBytes int64  `json:"limit_bytes,omitempty"`

	History string  `json:"history,omitempty"` // the one that there is now
	Parent  *Origin `json:"parent,omitempty"`  // of History, if it went on from another one
	Newest  uint64  `json:"newest,omitempty"`  // revision of History
}

// Roles of a member.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
	RoleLearner  = "learner"
	RoleVoter    = "voter" // in AddMember only: what the joiner is to become
)

// Member is one database node as the cluster knows it.
type Member struct {
	ID           string `json:"id"` // hex
	Name         string `json:"name"`
	PeerURL      string `json:"peer_url"`
	ClientURL    string `json:"client_url"`
	Role         string `json:"role"`
	Healthy      bool   `json:"healthy"`
	AppliedIndex uint64 `json:"applied_index"`
	Revision     uint64 `json:"revision"`
}

// Members is the answer of GET /members.
type Members struct {
	Members []Member `json:"members"`
	Leader  string   `json:"leader"` // a member's name; empty when none is known
	Term    uint64   `json:"term"`
	Stale   bool     `json:"stale,omitempty"` // what this node knows, not confirmed by a quorum
	History string   `json:"-"`               // that the node which answered holds, of HeaderHistory
}

// AddMember is the body of POST /members.
type AddMember struct {
	ID        string `json:"id,omitempty"` // hex; the joiner's own
	Name      string `json:"name"`
	PeerURL   string `json:"peer_url"`
	ClientURL string `json:"client_url"`
	Role      string `json:"role,omitempty"` // RoleVoter (default) or RoleLearner
	// Level is the highest level of formats that the joiner's program understands; 0
	// stands for 1. A cluster whose store has a higher one refuses it.
	Level uint64 `json:"level,omitempty"`
}

// TransferLeader is the body of POST /leader.
type TransferLeader struct {
	To string `json:"to"` // a member's name
}

// DBNode is one database node in GET /dbs and in heartbeat answers.
type DBNode struct {
	Name         string `json:"name"`
	URL          string `json:"url"`
	Healthy      bool   `json:"healthy"`
	Role         string `json:"role,omitempty"`
	AppliedIndex uint64 `json:"applied_index"`
	Revision     uint64 `json:"revision"`
	DiskLow      bool   `json:"disk_low,omitempty"`
}

// CacheFigures is what a cache node reports about itself. Counters begin at
// zero with the process.
type CacheFigures struct {
	Gets          uint64 `json:"gets"`           // reads asked of this node by clients
	Hits          uint64 `json:"hits"`           // answered from this node's memory
	MirroredHits  uint64 `json:"mirrored_hits"`  // those of Hits whose record another node owns
	PeerLoads     uint64 `json:"peer_loads"`     // loads answered by the key's owner
	PeerErrors    uint64 `json:"peer_errors"`    // owners that did not answer; the database did
	PeerServed    uint64 `json:"peer_served"`    // requests of other cache nodes answered here
	DatabaseLoads uint64 `json:"database_loads"` // requests sent to database nodes by loads, hedges included
	Absences      uint64 `json:"absences"`       // reads answered "not set"
	Hedges        uint64 `json:"hedges"`         // second requests sent because the first was slow
	PeerHedges    uint64 `json:"peer_hedges"`    // loads that asked the database too because the owner was silent
	Errors        uint64 `json:"errors"`         // reads that failed
	Admissions    uint64 `json:"admissions"`     // records taken into memory
	Unadmitted    uint64 `json:"unadmitted"`     // loaded records not taken in: not asked for often enough, or too large
	Evictions     uint64 `json:"evictions"`      // records let go to make room
	HistoryMoves  uint64 `json:"history_moves"`  // times that this node moved to another history
	HistoryDrops  uint64 `json:"history_drops"`  // records dropped because it did
	Items         int64  `json:"items"`          // records held
	Bytes         int64  `json:"bytes"`          // memory of what is held, overhead included
	MirroredBytes int64  `json:"mirrored_bytes"` // those of Bytes that records of other owners take
	LimitBytes    int64  `json:"limit_bytes"`    // what Bytes may grow to
}

// CacheNode is one cache node in GET /caches and in heartbeat answers.
type CacheNode struct {
	Name     string    `json:"name"`
	URL      string    `json:"url"`
	Healthy  bool      `json:"healthy"`
	LastSeen time.Time `json:"last_seen"`
	Left     bool      `json:"left,omitempty"`    // it said goodbye
	History  string    `json:"history,omitempty"` // in which it stands, 32 hex digits
	CacheFigures
}

// Heartbeat is the body of POST /caches. URL is the node's identity. A database
// node passes over fields that it does not know: the cache node may be newer.
type Heartbeat struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	Leaving bool   `json:"leaving,omitempty"` // goodbye
	History string `json:"history,omitempty"` // in which it stands, 32 hex digits; all that it answers is of that one
	CacheFigures
}

// HeartbeatAnswer tells a cache node whom to work with.
type HeartbeatAnswer struct {
	Caches  []CacheNode `json:"caches"` // the live cache nodes except the one that asks
	DBs     []DBNode    `json:"dbs"`
	History *History    `json:"history,omitempty"` // that the database node holds; nil while it has none
}

// Checkpoint is the history digest at one revision, for comparing replicas.
type Checkpoint struct {
	Revision uint64 `json:"revision"`
	Digest   string `json:"digest"` // lower-case hex
}

// Stats is GET /stats of a database node. Counters begin at zero with the
// process; the other figures are the state now.
type Stats struct {
	Name          string       `json:"name"`
	ID            string       `json:"id"`
	Role          string       `json:"role"`
	Leader        string       `json:"leader"`
	Term          uint64       `json:"term"`
	Ready         bool         `json:"ready"`
	CommitIndex   uint64       `json:"commit_index"`
	AppliedIndex  uint64       `json:"applied_index"`
	DurableIndex  uint64       `json:"durable_index"`
	Revision      uint64       `json:"revision"`
	Digest        string       `json:"digest"`            // of the history up to Revision, lower-case hex
	History       *History     `json:"history,omitempty"` // nil while the node has none
	Level         Levels       `json:"level"`
	Checkpoints   []Checkpoint `json:"checkpoints,omitempty"`
	Keys          uint64       `json:"keys"`
	ValueBytes    int64        `json:"value_bytes"`
	HistoryBytes  int64        `json:"history_bytes"` // file size
	IndexBytes    int64        `json:"index_bytes"`   // of its files
	OverlayBytes  int64        `json:"overlay_bytes"` // memory
	PendingBytes  int64        `json:"pending_bytes"` // memory, applied and not yet in history
	OpenUploads   int          `json:"open_uploads"`
	Index         IndexRuns    `json:"index"`
	Values        ValueFiles   `json:"values"`
	Scrub         Scrub        `json:"scrub"`
	Puts          uint64       `json:"puts"`
	Created       uint64       `json:"created"`
	Unchanged     uint64       `json:"unchanged"`
	Conflicts     uint64       `json:"conflicts"`
	Gets          uint64       `json:"gets"`
	Absences      uint64       `json:"absences"`
	Errors        uint64       `json:"errors"`
	DiskFreeBytes int64        `json:"disk_free_bytes"`
	DiskLow       bool         `json:"disk_low"`
	Version       string       `json:"version"`
	UptimeSeconds float64      `json:"uptime_seconds"`
}

// IndexRuns are the figures of the index of a database node: sorted runs of keys, each
// with a filter that knows of nearly every key that is not set without a look at the disk.
type IndexRuns struct {
	Runs             int     `json:"runs"`
	Keys             uint64  `json:"keys"`                // those of the newest revisions are not in it yet
	FilterBitsPerKey float64 `json:"filter_bits_per_key"` // in memory; 0 without keys
	MergedBytes      int64   `json:"merged_bytes"`        // written by merges since the process began
	FalsePositives   uint64  `json:"false_positives"`     // looks at the disk for a key that was not there, since the process began
	Pauses           uint64  `json:"pauses"`              // times that a flush waited for merges, since the process began
}

// ValueFiles are the figures of the files in which a database node keeps the bytes of
// large values, each once. LiveBytes and DeadBytes together are what those files take
// on disk.
type ValueFiles struct {
	Bodies         int64 `json:"bodies"`          // pieces of up to 1 MiB, each kept once
	LiveBytes      int64 `json:"live_bytes"`      // needed by a value, an open upload or the log
	DeadBytes      int64 `json:"dead_bytes"`      // needed by nothing, and not given back yet
	ReclaimedBytes int64 `json:"reclaimed_bytes"` // given back to the file system since the process began
	Segments       int   `json:"segments"`        // files
}

// Scrub says how far a database node is that reads all it keeps, to find damage before
// somebody asks for the data, and how the last time ended that did.
type Scrub struct {
	Running         bool       `json:"running"`
	Fraction        float64    `json:"fraction"`              // 0 to 1, of the one that is running; 0 when none is
	LastEnd         *time.Time `json:"last_end,omitempty"`    // nil: none has ended yet
	LastTookSeconds float64    `json:"last_took_seconds"`     // 0: none has ended yet
	LastResult      string     `json:"last_result,omitempty"` // "ok", or the damage that was found
}

// ScrubOK is Scrub.LastResult when everything was in order.
const ScrubOK = "ok"

// CacheStats is GET /stats of a cache node.
type CacheStats struct {
	Name          string  `json:"name"`
	URL           string  `json:"url"`
	Role          string  `json:"role"` // always RoleCache
	Ready         bool    `json:"ready"`
	Peers         int     `json:"peers"`     // other cache nodes in the ring
	Databases     int     `json:"databases"` // database nodes known
	Version       string  `json:"version,omitempty"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	// History is the one in which it stands, without parents: all that it answers is
	// of that one. nil until a database node has told one.
	History *History `json:"history,omitempty"`
	CacheFigures

	// How long the last 256 loads took that owners answered, and those that
	// database nodes did: the median and the 99th percentile. 0: there was none.
	PeerP50Seconds     float64 `json:"peer_p50_seconds"`
	PeerP99Seconds     float64 `json:"peer_p99_seconds"`
	DatabaseP50Seconds float64 `json:"database_p50_seconds"`
	DatabaseP99Seconds float64 `json:"database_p99_seconds"`
}

// AdminStats is GET /stats of an admin.
type AdminStats struct {
	Name          string  `json:"name"`
	URL           string  `json:"url"`
	Role          string  `json:"role"` // always RoleAdmin
	Ready         bool    `json:"ready"`
	Members       int     `json:"members"` // database nodes known
	Caches        int     `json:"caches"`  // cache nodes known
	Down          int     `json:"down"`    // of both, those that died
	Version       string  `json:"version,omitempty"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

// RoleAdmin is the role of an admin in AdminStats.
const RoleAdmin = "admin"

// Owner is the answer of GET /owner of an admin: the cache node that loads a key
// for all others.
type Owner struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// RoleCache is the role of a cache node in CacheStats.
const RoleCache = "cache"

// JSONKey splits a key into the two fields that carry it in JSON: text when
// the key is UTF-8, base64 otherwise; the other is empty.
func JSONKey(key string) (text, b64 string) {
	if utf8.ValidString(key) {
		return key, ""
	}
	return "", base64.StdEncoding.EncodeToString([]byte(key))
}

// RawKey joins what JSONKey split. Exactly one of the two must be given.
func RawKey(text, b64 string) (string, error) {
	switch {
	case text != "" && b64 != "":
		return "", fmt.Errorf(`%w: both "key" and "key_base64" are given; send one of them`, ErrInvalid)
	case b64 == "":
		return text, nil
	}
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return "", fmt.Errorf(`%w: "key_base64" is not standard base64: %w`, ErrInvalid, err)
	}
	return string(raw), nil
}
