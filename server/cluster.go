package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// clusterView implements httpapi's view of the cluster.
type clusterView struct{ d *Database }

// readyTimeout bounds the proof of readiness. It is shorter than the usual timeouts of
// probes.
const readyTimeout = 900 * time.Millisecond

func (v clusterView) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := v.d.node.ReadIndex(ctx); err != nil {
		st := v.d.node.Status()
		switch {
		case len(st.Members) == 0:
			return fmt.Errorf("%s has not formed or joined its cluster yet", st.Name)
		case st.Lacks:
			return fmt.Errorf("%s has lost entries of its log: its leader says that they were acknowledged, so the data directory is an older copy. "+
				"If this stays so, replace the node: remove the member, empty the data directory, join again", st.Name)
		case st.Leader == 0:
			return fmt.Errorf("%s knows no leader", st.Name)
		}
		return fmt.Errorf("%s has not caught up with its leader %s", st.Name, st.LeaderName())
	}
	return nil
}

func (v clusterView) Leads() bool { return v.d.node.Leads() }

func (v clusterView) Members(ctx context.Context, local bool) (api.Members, error) {
	stale := false
	if !local {
		if err := v.d.node.ReadIndex(ctx); err != nil {
			stale = true
		}
	}
	st := v.d.node.Status()
	out := api.Members{Members: []api.Member{}, Leader: st.LeaderName(), Term: st.Term, Stale: stale}
	for _, m := range st.Members {
		out.Members = append(out.Members, v.member(st, m))
	}
	slices.SortFunc(out.Members, func(a, b api.Member) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (v clusterView) member(st raftnode.Status, m raftnode.Member) api.Member {
	out := api.Member{ID: m.ID.String(), Name: m.Name, PeerURL: m.PeerURL, ClientURL: m.ClientURL, Role: api.RoleFollower}
	switch {
	case m.ID == st.Leader:
		out.Role = api.RoleLeader
	case m.Learner:
		out.Role = api.RoleLearner
	}
	if m.ID == st.ID {
		s := v.d.store.Stats()
		out.Healthy, out.AppliedIndex, out.Revision = true, s.AppliedIndex, uint64(s.Revision)
		return out
	}
	stats, fresh := v.d.watch.last(m.ID)
	out.Healthy, out.AppliedIndex, out.Revision = fresh, stats.AppliedIndex, stats.Revision
	return out
}

func (v clusterView) DBs(context.Context) []api.DBNode {
	st := v.d.node.Status()
	out := []api.DBNode{}
	for _, m := range st.Members {
		x := v.member(st, m)
		node := api.DBNode{Name: m.Name, URL: m.ClientURL, Healthy: x.Healthy, Role: x.Role, AppliedIndex: x.AppliedIndex, Revision: x.Revision}
		if m.ID == st.ID {
			node.DiskLow = v.d.disk.low()
		} else {
			stats, _ := v.d.watch.last(m.ID)
			node.DiskLow = stats.DiskLow
		}
		out = append(out, node)
	}
	slices.SortFunc(out, func(a, b api.DBNode) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (v clusterView) AddMember(ctx context.Context, a api.AddMember) (api.Member, bool, error) {
	id, err := raftnode.ParseID(a.ID)
	if err != nil {
		return api.Member{}, false, clusterError(fmt.Errorf("%w; `oncekv serve --join` sends this request itself, with its own id", err))
	}
	m := raftnode.Member{ID: id, Name: a.Name, PeerURL: a.PeerURL, ClientURL: a.ClientURL, Promote: a.Role != api.RoleLearner, Level: a.Level}
	if a.Role != "" && a.Role != api.RoleVoter && a.Role != api.RoleLearner {
		return api.Member{}, false, fmt.Errorf("%w: role %q must be %q or %q", httpapi.ErrBadMember, a.Role, api.RoleVoter, api.RoleLearner)
	}
	added, created, err := v.d.node.AddMember(ctx, m)
	if err != nil {
		return api.Member{}, false, clusterError(err)
	}
	return v.member(v.d.node.Status(), added), created, nil
}

func (v clusterView) RemoveMember(ctx context.Context, name string, force bool) error {
	return clusterError(v.d.node.RemoveMember(ctx, name, force))
}

func (v clusterView) PromoteMember(ctx context.Context, name string) error {
	return clusterError(v.d.node.PromoteMember(ctx, name))
}

func (v clusterView) TransferLeader(ctx context.Context, to string) error {
	return clusterError(v.d.node.TransferLeader(ctx, to))
}

func (v clusterView) Stats(ctx context.Context) api.Stats { return v.d.stats() }

// reserve refuses puts while any voter's disk is below its reserve: that voter could not
// store the entry, and the others would fill up as well.
func (d *Database) reserve() error {
	if d.disk.low() {
		return fmt.Errorf("%w (%s)", kvstore.ErrDiskReserve, d.cfg.Name)
	}
	for _, m := range d.node.Status().Members {
		if m.Learner {
			continue
		}
		if stats, fresh := d.watch.last(m.ID); fresh && stats.DiskLow {
			return fmt.Errorf("%w (%s)", kvstore.ErrDiskReserve, m.Name)
		}
	}
	return nil
}

// replicatedLog lets a kvstore.DB use a raftnode.Node, which does not know kvstore's
// errors.
type replicatedLog struct{ node *raftnode.Node }

func (l replicatedLog) ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error)) {
	l.node.ProposeMany(ctx, commands, func(i int, result any, err error) {
		if err != nil {
			result, err = nil, storeError(err)
		}
		each(i, result, err)
	})
}

func (l replicatedLog) Distribute(ctx context.Context, list []bodies.Body) error {
	if err := l.node.Distribute(ctx, list); err != nil {
		return storeError(err)
	}
	return nil
}

func (l replicatedLog) ReadIndex(ctx context.Context) error {
	if err := l.node.ReadIndex(ctx); err != nil {
		return storeError(err)
	}
	return nil
}

// meaning is an error that keeps its own text and also matches an error of the package that
// has to handle it.
type meaning struct {
	error
	also error
}

func (m meaning) Unwrap() []error { return []error{m.error, m.also} }

// clusterError translates an error of raftnode for httpapi.
func clusterError(err error) error {
	var refused *raftnode.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return meaning{refused, httpapi.ErrRefused}
	case errors.Is(err, raftnode.ErrUnknownMember):
		return meaning{err, httpapi.ErrUnknownMember}
	case errors.Is(err, raftnode.ErrBadMember):
		return meaning{err, httpapi.ErrBadMember}
	}
	return storeError(err)
}

// storeError translates an error of raftnode for a put or a get.
func storeError(err error) error {
	switch {
	case errors.Is(err, raftnode.ErrOverloaded):
		return meaning{err, kvstore.ErrOverloaded}
	case errors.Is(err, raftnode.ErrDiskFull):
		return meaning{err, kvstore.ErrDiskReserve}
	case errors.Is(err, raftnode.ErrLevel):
		return meaning{err, kvstore.ErrLevel}
	case errors.Is(err, raftnode.ErrUnavailable), errors.Is(err, raftnode.ErrStopped), errors.Is(err, raftnode.ErrCommandTooLarge):
		return meaning{err, kvstore.ErrUnavailable}
	}
	return meaning{err, kvstore.ErrOutcomeUnknown}
}

// peerHandler serves raftnode's peers, and tells clients that they want the other port.
func (d *Database) peerHandler() http.Handler {
	peers := d.node.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/raft") || strings.HasPrefix(r.URL.Path, "/oncekv/") {
			peers.ServeHTTP(w, r)
			return
		}
		d.refuseClient(w)
	})
}

// refuseClient answers a client's request. The status is not 404, which would mean that the
// key is not set; an answer to HEAD has nothing but its status.
func (d *Database) refuseClient(w http.ResponseWriter) {
	w.Header().Set("Content-Type", api.ContentTypeProblem)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusMisdirectedRequest)
	_ = json.NewEncoder(w).Encode(api.Problem{ // the client sees a broken body
		Type: api.ProblemNoRoute, Title: "Peer port", Status: http.StatusMisdirectedRequest,
		Detail: fmt.Sprintf("this is the peer port of the database node %s, for database nodes only; clients, cache nodes, the admin and --join use %s", d.cfg.Name, d.public.url),
	})
}
