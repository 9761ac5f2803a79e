package adminui

import (
	"time"

	"github.com/Focinfi/oncekv/api"
)

// State is what the admin knows of the system at one moment. It is the data of
// an event of GET /events.
type State struct {
	Time    time.Time `json:"time"`
	Version string    `json:"version"` // of the admin

	Health Health `json:"health"`
	Leader string `json:"leader"` // a member's name, empty when none is known
	Term   uint64 `json:"term"`
	Stale  bool   `json:"stale"` // the list of members is older than 5 s, or no leader is known

	Revision   uint64       `json:"revision"` // these five are those of the most advanced node
	Keys       uint64       `json:"keys"`
	ValueBytes int64        `json:"value_bytes"`
	History    *api.History `json:"history"` // null while it has none
	Level      api.Levels   `json:"level"`

	Rates   Rates    `json:"rates"`
	Members []Member `json:"members"` // by name
	Caches  []Cache  `json:"caches"`  // by name
}

// Health is the state in words.
type Health struct {
	Level    string   `json:"level"`    // LevelOK, …
	Sentence string   `json:"sentence"` // one line about all of it
	Problems []string `json:"problems"` // a sentence each, the worst first; also what is no fault, but worth knowing
	Voters   string   `json:"voters"`   // how many there are, and how many may fail; "" when no member is known
}

// The values of Health.Level.
const (
	LevelOK       = "ok"
	LevelWarning  = "warning"  // everything works, and less than planned may fail
	LevelCritical = "critical" // something does not work
	LevelUnknown  = "unknown"  // no database node has answered yet
)

// Rates are requests a second over the last seconds, of all nodes together.
type Rates struct {
	Puts      float64  `json:"puts"`
	Created   float64  `json:"created"`
	Conflicts float64  `json:"conflicts"`
	Gets      float64  `json:"gets"` // asked by clients, wherever they were answered
	Absences  float64  `json:"absences"`
	Errors    float64  `json:"errors"`
	HitRatio  *float64 `json:"hit_ratio"` // of reads at cache nodes, 0 to 1; null when there were none
}

// History is what an event stream begins with.
type History struct {
	Points []Point `json:"points"` // one a second, oldest first
}

// Point is one second of the charts.
type Point struct {
	Time     time.Time `json:"time"`
	Revision uint64    `json:"revision"`
	Rates
}

// The values of Status.
const (
	StatusUp       = "up"
	StatusStarting = "starting" // it answers, and cannot do all of its work yet
	StatusDown     = "down"
)

// Condition is how a node is, as the admin itself sees it.
type Condition struct {
	Status string    `json:"status"`           // StatusUp, …
	Since  time.Time `json:"since"`            // of a node that is down: its last answer
	Reason string    `json:"reason,omitempty"` // when it is not up
}

// Member is a database node.
type Member struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	URL     string `json:"url"`
	PeerURL string `json:"peer_url"`
	Role    string `json:"role"` // api.RoleLeader, …
	Condition
	Healthy bool       `json:"healthy"` // as the cluster itself sees it
	Lag     uint64     `json:"lag"`     // entries committed and not applied here yet
	Rates   NodeRates  `json:"rates"`
	Stats   *api.Stats `json:"stats"` // its last answer; null when it never answered

	outOfTouch bool // it answers, and knows no leader although there is one
}

// Cache is a cache node.
type Cache struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	Condition
	Left  bool            `json:"left"`  // down because it was stopped
	Share float64         `json:"share"` // of all keys, owned by this node; 0 to 1
	Rates CacheRates      `json:"rates"`
	Stats *api.CacheStats `json:"stats"` // its last answer; null when it never answered
}

// NodeRates are requests a second at one database node.
type NodeRates struct {
	Puts float64 `json:"puts"`
	Gets float64 `json:"gets"`
}

// CacheRates are requests a second at one cache node.
type CacheRates struct {
	Gets     float64  `json:"gets"`
	HitRatio *float64 `json:"hit_ratio"`
}
