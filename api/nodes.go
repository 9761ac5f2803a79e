package api

import "time"

// Levels are what nodes may write, and understand.
type Levels struct {
	Store   uint64 `json:"store"`   // what the cluster writes: every member understands it
	Program uint64 `json:"program"` // the highest that this node's program understands
}

// Roles of a member.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
	RoleLearner  = "learner"
	RoleVoter    = "voter" // in AddMember only: what the joiner is to become
)

// RoleCache is the role of a cache node in CacheStats.
const RoleCache = "cache"

// RoleAdmin is the role of an admin in AdminStats.
const RoleAdmin = "admin"

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
// process; all other fields are the state now.
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

// IndexRuns are the metrics of the index of a database node: sorted runs of keys, each
// with a filter that knows of nearly every key that is not set without a look at the disk.
type IndexRuns struct {
	Runs             int     `json:"runs"`
	Keys             uint64  `json:"keys"`                // those of the newest revisions are not in it yet
	FilterBitsPerKey float64 `json:"filter_bits_per_key"` // in memory; 0 without keys
	MergedBytes      int64   `json:"merged_bytes"`        // written by merges since the process began
	FalsePositives   uint64  `json:"false_positives"`     // looks at the disk for a key that was not there, since the process began
	Pauses           uint64  `json:"pauses"`              // times that a flush waited for merges, since the process began
}

// ValueFiles are the metrics of the files in which a database node keeps the bytes of
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

// Owner is the answer of GET /owner of an admin: the cache node that loads a key
// for all others.
type Owner struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}
