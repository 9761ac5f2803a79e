package httpapi

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// DB sets, gets and lists keys; *kvstore.DB is one. Its methods are called
// concurrently.
type DB interface {
	Lister
	// Put sets a key, or says what it is set to. It reads the body to its end
	// before anything can take effect, and does not keep it after it returned.
	// Errors are those of kvstore; one it does not know counts as
	// kvstore.ErrOutcomeUnknown.
	Put(ctx context.Context, r kvstore.PutRequest) (kvstore.PutResult, error)
	// PutMany is Put for many small values. It calls each once for every one,
	// one call at a time, before it returns. The values are not kept.
	PutMany(ctx context.Context, puts []kvstore.SmallPut, each func(i int, r kvstore.PutResult, err error))
	// Get returns the value of a key, or kvstore.ErrNotFound.
	Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, error)
	// GetMany looks keys up on this node alone. It calls each once for every
	// one, with a value that is valid inside of it, or kvstore.ErrNotFound, or
	// another error of Get. each does not block.
	GetMany(keys []kvstore.Key, each func(i int, v *kvstore.Value, err error))
	// Confirm returns nil when everything that was committed before the call is
	// applied here: GetMany's absences are linearizable then.
	Confirm(ctx context.Context) error
}

var _ DB = (*kvstore.DB)(nil)

// Lister lists what is set; *kvstore.DB is one. Its methods are called
// concurrently. With kvstore.Linearizable a list shows every put that was
// acknowledged before the call.
type Lister interface {
	// Keys returns a page of the set keys, in byte order.
	Keys(ctx context.Context, r kvstore.KeysRequest, c kvstore.Consistency) (kvstore.KeysPage, error)
	// Changes returns some records behind a revision, in order.
	Changes(ctx context.Context, r kvstore.ChangesRequest, c kvstore.Consistency) (kvstore.Changes, error)
	// Advanced returns a channel that is closed, at the latest, when there is a
	// revision behind after.
	Advanced(after kvstore.Revision) <-chan struct{}
	// History returns which history this node holds, a zero one while it holds none.
	// It is called for most requests, and is cheap.
	History() kvstore.History
}

// Reader finds values. kvstore's DB is one through NewDatabase; a cache node
// brings its own.
type Reader interface {
	// Get returns the value of a key and where it was found: "hit", "peer" or
	// "load" on a cache node. It returns kvstore.ErrNotFound for a key that is
	// not set, and the other errors of kvstore with their meaning there. It is
	// called concurrently.
	Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (v *kvstore.Value, source string, err error)
}

// Holder is a Reader that can tell at once whether it holds a value. A found
// value never changes, so a held one is right.
type Holder interface {
	// Held returns the value of a key if it is in memory. It does not wait.
	Held(key kvstore.Key) (v *kvstore.Value, found bool)
}

// Memory is a Holder of values that were found elsewhere. Its methods are called
// concurrently.
type Memory interface {
	Holder
	// Hold may keep a value that was found. It keeps nothing that belongs to the
	// caller.
	Hold(v *kvstore.Value)
}

// Cluster is what a database node knows of its cluster and can change in it.
// All methods are called concurrently and return when ctx ends. Errors are
// ErrUnknownMember, ErrBadMember, ErrRefused, or kvstore.ErrUnavailable,
// kvstore.ErrOverloaded and kvstore.ErrOutcomeUnknown, each wrapped or not.
type Cluster interface {
	// Members lists the members, confirmed by a quorum unless local is set.
	// Without a quorum it answers what this node knows, with Stale set.
	Members(ctx context.Context, local bool) (api.Members, error)
	// AddMember adds a member; created is false when the same name and id was
	// there already. Another id under a known name is ErrRefused.
	AddMember(ctx context.Context, m api.AddMember) (added api.Member, created bool, err error)
	// RemoveMember removes a member; force overrides the guard of the quorum.
	RemoveMember(ctx context.Context, name string, force bool) error
	// PromoteMember makes a learner a voter.
	PromoteMember(ctx context.Context, name string) error
	// TransferLeader hands leadership to a voter.
	TransferLeader(ctx context.Context, to string) error
	// DBs lists the database nodes as this one sees them.
	DBs(ctx context.Context) []api.DBNode
	// Stats returns this node's metrics.
	Stats(ctx context.Context) api.Stats
	// Leads reports whether this node leads, as far as it knows. It is cheap.
	Leads() bool
	// Ready returns nil when a leader is known and this node has caught up, or
	// a sentence about what it waits for.
	Ready(ctx context.Context) error
}

// Registry keeps the live cache nodes. Its methods are called concurrently.
type Registry interface {
	// Heartbeat notes that a cache node lives (or leaves) and returns its peers.
	// from is the address it came from, without a port.
	Heartbeat(from string, h api.Heartbeat) api.HeartbeatAnswer
	// Caches lists the cache nodes heard lately.
	Caches() []api.CacheNode
}

// Topology is what an admin knows of the whole system. Its methods are called
// concurrently and, but for Next, return at once.
type Topology interface {
	// DBs and Caches list the nodes.
	DBs() []api.DBNode
	Caches() []api.CacheNode
	// Owner returns the live cache node that owns a key; false when none lives.
	Owner(key kvstore.Key) (api.CacheNode, bool)
	// History returns what an event stream begins with: the last minutes, as a
	// JSON document.
	History() any
	// Next returns the newest state as a JSON document on one line, and its
	// number, when that is not after; else it waits until there is another. Its
	// only error is that of ctx.
	Next(ctx context.Context, after uint64) (state []byte, number uint64, err error)
}

// Page is the files of the admin's web page.
type Page interface {
	http.Handler
	// Has reports whether there is a file at a path: the document's is /.
	Has(path string) bool
}

// Hosts knows by which names a node may be asked. It is called for every request,
// concurrently.
type Hosts interface {
	// Allows reports whether a request with this Host may be answered.
	Allows(host string) bool
}

// everyHost allows every name: for a handler behind another one that has checked it.
type everyHost struct{}

func (everyHost) Allows(string) bool { return true }

// Traffic hears of every request, for metrics. Its methods and what Route
// returns are called concurrently and must be quick.
type Traffic interface {
	// Route returns what is told of the requests of one method and path of the
	// API, such as GET and /key/{key}: the status, 0 for an answer that was
	// broken off, and the time from the request's header to the answer's end.
	// It is called once for each when the handler is made.
	Route(method, pattern string) func(status int, took time.Duration)
	// InFlight is told 1 when a request begins and -1 when it ends.
	InFlight(change int)
}

// reported is what Traffic.Route returns.
type reported = func(status int, took time.Duration)

// Counters count what a database node's clients asked for since the process
// began. The zero value is ready; safe for concurrent use; must not be copied.
type Counters struct {
	Puts      atomic.Uint64 // puts that were decided: Created + Unchanged + Conflicts
	Created   atomic.Uint64 // puts that won, repeats of a winner's put id included
	Unchanged atomic.Uint64 // puts of a key that was set to the same bytes
	Conflicts atomic.Uint64 // puts of a key that was set to other bytes, kept ones included
	Gets      atomic.Uint64 // reads of a key that were answered, GET and HEAD
	Absences  atomic.Uint64 // those of Gets that were answered "not set"
	Errors    atomic.Uint64 // answers with a status of 500 or more, and answers broken off
}
