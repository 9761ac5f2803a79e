package httpapi

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/kvstore"
)

// Defaults of the configurations.
const (
	defaultMaxValueBytes     = 1 << 30
	defaultBodyIdleTimeout   = 30 * time.Second
	defaultAnswerTimeout     = 10 * time.Second
	defaultJSONBytesInFlight = 64 << 20
	defaultHeartbeat         = 5 * time.Second
	defaultStreamsMax        = 1024

	defaultBatchStreams       = 16
	defaultBatchBytesInFlight = 64 << 20
	defaultSpillBytes         = 64 << 20
	defaultFramedStreams      = 256

	defaultValueBytesInFlight = 256 << 20
	defaultRequestsInFlight   = 8192
)

// DatabaseConfig is what a database node's API stands on. DB, Cluster and
// Registry are required; every other zero value has a default.
type DatabaseConfig struct {
	DB       DB
	Cluster  Cluster
	Registry Registry

	Logger   *slog.Logger // nil: none
	Counters *Counters    // counted into; nil: the handler's own
	Metrics  http.Handler // GET /metrics; nil: no such route
	Traffic  Traffic      // is told of every request; nil: none
	Hosts    Hosts        // the names that requests may use, 421 for others; nil: all
	Hot      Memory       // holds what is read often; nil: nothing does

	MaxValueBytes     int64         // of a value; default 1 GiB
	BodyIdleTimeout   time.Duration // without a byte of a body, either way; default 30 s
	AnswerTimeout     time.Duration // from the end of a request's body to its answer; default 10 s
	JSONBytesInFlight int64         // memory for JSON bodies, lists and values as JSON, in shares (rooms); default 64 MiB

	Heartbeat  time.Duration   // a stream of changes that follows says something so often; default 5 s
	StreamsMax int64           // streams of changes at a time; default 1024
	Closing    <-chan struct{} // closed when the node stops, before its server does: ends its streams with a line that says so; nil: never

	BatchStreams       int    // POST /keys at a time, 429 beyond; default 16
	BatchBytesInFlight int64  // memory for their lines, all together; default 64 MiB, at least 24 MiB
	SpillDir           string // where results wait for a client that does not read yet; os.TempDir()
	SpillBytes         int64  // of each request; default 64 MiB, negative: memory only
	FramedStreams      int    // POST /keys in frames at a time, and as many of POST /keys/get, 429 beyond; default 256

	ValueBytesInFlight int64 // memory for values on their way to readers; default 256 MiB
	RequestsInFlight   int   // of keys, at the same time; default 8192
}

func (cfg *DatabaseConfig) setDefaults() {
	cfg.MaxValueBytes = cmp.Or(cfg.MaxValueBytes, defaultMaxValueBytes)
	cfg.BodyIdleTimeout = cmp.Or(cfg.BodyIdleTimeout, defaultBodyIdleTimeout)
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, defaultAnswerTimeout)
	cfg.JSONBytesInFlight = cmp.Or(cfg.JSONBytesInFlight, defaultJSONBytesInFlight)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, defaultHeartbeat)
	cfg.StreamsMax = cmp.Or(cfg.StreamsMax, defaultStreamsMax)
	cfg.BatchStreams = cmp.Or(cfg.BatchStreams, defaultBatchStreams)
	cfg.BatchBytesInFlight = cmp.Or(cfg.BatchBytesInFlight, defaultBatchBytesInFlight)
	cfg.SpillBytes = cmp.Or(cfg.SpillBytes, defaultSpillBytes)
	cfg.FramedStreams = cmp.Or(cfg.FramedStreams, defaultFramedStreams)
	cfg.ValueBytesInFlight = cmp.Or(cfg.ValueBytesInFlight, defaultValueBytesInFlight)
	cfg.RequestsInFlight = cmp.Or(cfg.RequestsInFlight, defaultRequestsInFlight)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Counters = cmp.Or(cfg.Counters, new(Counters))
}

// CacheConfig is what a cache node's API stands on. Reader, Forward, Stats and
// Ready are required; every other zero value has a default. A Reader that is a
// Holder too is asked for what it holds first.
type CacheConfig struct {
	Reader      Reader
	Forward     http.Handler                // takes puts and lists to a database node and brings the answer back; a *forward.Handler takes small puts as frames
	PeerHandler http.Handler                // answers other cache nodes below /peer/; nil: no such route
	Stats       func() any                  // GET /stats
	Ready       func(context.Context) error // nil when this node can answer; else a sentence about what it waits for
	History     func() kvstore.History      // of all that Reader finds; it never comes back to one that it has left. nil: of none

	Logger   *slog.Logger // nil: none
	Counters *Counters    // Gets, Absences and Errors are counted into; nil: the handler's own
	Metrics  http.Handler // GET /metrics; nil: no such route
	Traffic  Traffic      // is told of every request; nil: none
	Hosts    Hosts        // the names that requests may use, 421 for others; nil: all

	BodyIdleTimeout   time.Duration // without a byte of a body, either way; default 30 s
	AnswerTimeout     time.Duration // for finding a value; default 10 s
	JSONBytesInFlight int64         // memory for values as JSON; default 64 MiB

	Closing <-chan struct{} // closed when the node stops, before its server does: breaks forwarded streams off; nil: never

	ValueBytesInFlight int64 // memory for values on their way to readers; default 256 MiB
	RequestsInFlight   int   // of keys, at the same time; default 8192
}

func (cfg *CacheConfig) setDefaults() {
	cfg.BodyIdleTimeout = cmp.Or(cfg.BodyIdleTimeout, defaultBodyIdleTimeout)
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, defaultAnswerTimeout)
	cfg.JSONBytesInFlight = cmp.Or(cfg.JSONBytesInFlight, defaultJSONBytesInFlight)
	cfg.ValueBytesInFlight = cmp.Or(cfg.ValueBytesInFlight, defaultValueBytesInFlight)
	cfg.RequestsInFlight = cmp.Or(cfg.RequestsInFlight, defaultRequestsInFlight)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Counters = cmp.Or(cfg.Counters, new(Counters))
}

// AdminConfig is what an admin's API stands on. Topology, Page, Forward, Stats
// and Ready are required; every other zero value has a default.
type AdminConfig struct {
	Topology Topology
	Page     Page
	Forward  http.Handler                // takes requests below /api to a database node and brings the answer back
	Stats    func() any                  // GET /stats
	Ready    func(context.Context) error // nil when the admin knows the system; else a sentence about what it waits for

	Logger   *slog.Logger // nil: none
	Counters *Counters    // Errors are counted into; nil: the handler's own
	Metrics  http.Handler // GET /metrics; nil: no such route
	Traffic  Traffic      // is told of every request; nil: none
	Hosts    Hosts        // the names that requests may use, 421 for others; nil: all

	BodyIdleTimeout  time.Duration   // without a byte of a body, either way; default 30 s
	StreamsMax       int64           // event streams at a time; default 1024
	RequestsInFlight int             // of keys, at the same time; default 8192
	Closing          <-chan struct{} // closed when the admin stops, before its server does: ends streams; nil: never
}

func (cfg *AdminConfig) setDefaults() {
	cfg.BodyIdleTimeout = cmp.Or(cfg.BodyIdleTimeout, defaultBodyIdleTimeout)
	cfg.StreamsMax = cmp.Or(cfg.StreamsMax, defaultStreamsMax)
	cfg.RequestsInFlight = cmp.Or(cfg.RequestsInFlight, defaultRequestsInFlight)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Counters = cmp.Or(cfg.Counters, new(Counters))
}
