package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
)

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
	// Stats returns this node's figures.
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

// members answers /members and /leader.
type members struct {
	cluster   Cluster
	idle      time.Duration
	answer    time.Duration
	documents *jsonBodies
}

func (m *members) list(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery, "consistency")
	if err != nil {
		return err
	}
	local, err := q.word("consistency", "local")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), m.answer)
	defer cancel()
	all, err := m.cluster.Members(ctx, local)
	if err != nil {
		return problemFor(reading, err)
	}
	all.Members = present(all.Members)
	return writeJSON(newPacedWriter(w, m.idle), http.StatusOK, &all)
}

func (m *members) add(w http.ResponseWriter, r *http.Request) error {
	var joiner api.AddMember
	release, err := m.documents.decode(w, r, &joiner)
	defer release()
	if err != nil {
		return err
	}
	if err := checkJoiner(&joiner); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), m.answer)
	defer cancel()
	member, created, err := m.cluster.AddMember(ctx, joiner)
	if err != nil {
		return err
	}
	if created {
		return writeJSON(newPacedWriter(w, m.idle), http.StatusCreated, &member)
	}
	return writeJSON(newPacedWriter(w, m.idle), http.StatusOK, &member)
}

// checkJoiner refuses what is plainly missing and fills in the default role;
// the cluster judges the rest.
func checkJoiner(m *api.AddMember) error {
	switch {
	case m.Name == "":
		return invalid(`the JSON body has no "name"; it is the joining node's --name`)
	case m.PeerURL == "":
		return invalid(`the JSON body has no "peer_url"; it is where the other nodes reach the joining one`)
	case m.ClientURL == "":
		return invalid(`the JSON body has no "client_url"; it is where clients reach the joining node`)
	}
	switch m.Role {
	case "":
		m.Role = api.RoleVoter
	case api.RoleVoter, api.RoleLearner:
	default:
		return invalid(`"role" is %q; it takes %q (the default) or %q`, m.Role, api.RoleVoter, api.RoleLearner)
	}
	return nil
}

func (m *members) remove(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery, "force")
	if err != nil {
		return err
	}
	force, err := q.truth("force")
	if err != nil {
		return err
	}
	name := chi.URLParam(r, "name")
	return m.change(w, r, "removed", name, func(ctx context.Context) error {
		return m.cluster.RemoveMember(ctx, name, force)
	})
}

func (m *members) promote(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "name")
	return m.change(w, r, "promoted", name, func(ctx context.Context) error {
		return m.cluster.PromoteMember(ctx, name)
	})
}

func (m *members) lead(w http.ResponseWriter, r *http.Request) error {
	var move api.TransferLeader
	release, err := m.documents.decode(w, r, &move)
	defer release()
	if err != nil {
		return err
	}
	if move.To == "" {
		return invalid(`the JSON body has no "to"; it is the name of the member that is to lead`)
	}
	return m.change(w, r, "leader", move.To, func(ctx context.Context) error {
		return m.cluster.TransferLeader(ctx, move.To)
	})
}

// change makes one change of the cluster and answers {"<done>": "<name>"}.
func (m *members) change(w http.ResponseWriter, r *http.Request, done, name string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(r.Context(), m.answer)
	defer cancel()
	if err := do(ctx); err != nil {
		return err
	}
	return writeJSON(newPacedWriter(w, m.idle), http.StatusOK, map[string]string{done: name})
}

// present makes an empty list of an absent one: [] in JSON, never null.
func present[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
