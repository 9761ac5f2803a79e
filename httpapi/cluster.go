package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/kvstore"
)

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

// listFresh is how long an encoded list of cache nodes is answered again, unless a
// heartbeat comes: requests that come together share its bytes.
const listFresh = 100 * time.Millisecond

// nodes answers /caches and /dbs.
type nodes struct {
	cluster  Cluster
	registry Registry
	history  func() kvstore.History
	idle     time.Duration
	memory   *budget.Budget // of lists on their way
	beats    *jsonBodies

	mu   sync.Mutex
	list []byte // GET /caches as JSON; nil: to be made
	made time.Time
}

func (n *nodes) caches(w http.ResponseWriter, r *http.Request) error {
	body, err := n.encoded()
	if err != nil {
		return err
	}
	return n.write(w, r, n.memory, body)
}

// encoded returns the list of cache nodes.
func (n *nodes) encoded() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.list != nil && time.Since(n.made) < listFresh {
		return n.list, nil
	}
	body, err := marshal(present(n.registry.Caches()))
	n.list, n.made = body, time.Now()
	return body, err
}

// write answers with JSON, at the client's pace; what the client does not take at
// once counts as memory.
func (n *nodes) write(w http.ResponseWriter, r *http.Request, memory *budget.Budget, body []byte) error {
	paced := newPacedWriter(w, n.idle)
	if len(body) > pieceBytes/2 { // what fits the socket's buffer is not waited for
		release, err := paced.hold(r, memory, int64(len(body)))
		defer release()
		if err != nil {
			return err
		}
	}
	return writeBody(paced, http.StatusOK, contentTypeJSON, body)
}

func (n *nodes) heartbeat(w http.ResponseWriter, r *http.Request) error {
	var beat api.Heartbeat
	release, err := n.beats.decode(w, r, &beat)
	defer release()
	if err != nil {
		return err
	}
	if beat.URL == "" {
		return invalid(`the JSON body has no "url"; it is where the cache node is reached, and its identity`)
	}
	if beat.URL, err = nodeurl.Parse(beat.URL); err != nil {
		return invalid(`"url" in the JSON body: %v`, err)
	}
	if err := nodeurl.CheckName(beat.Name); err != nil {
		return invalid(`"name" in the JSON body: %v`, err)
	}
	answer := n.registry.Heartbeat(hostOf(r), beat)
	n.mu.Lock()
	n.list = nil
	n.mu.Unlock()
	answer.Caches, answer.DBs = present(answer.Caches), present(answer.DBs)
	answer.History = HistoryDocument(n.history())
	body, err := marshal(&answer)
	if err != nil {
		return err
	}
	return n.write(w, r, n.beats.small, body)
}

func (n *nodes) dbs(w http.ResponseWriter, r *http.Request) error {
	body, err := marshal(present(n.cluster.DBs(r.Context())))
	if err != nil {
		return err
	}
	return n.write(w, r, n.memory, body)
}
