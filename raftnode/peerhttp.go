package raftnode

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// Paths of the peer listener beside rafthttp's.
const (
	snapshotPath  = "/oncekv/snapshot"
	membersPath   = "/oncekv/members"
	bodiesPath    = "/oncekv/bodies"
	historyPath   = "/oncekv/history"
	clusterHeader = "Oncekv-Cluster"
)

// Handler serves the other members. It works before Run, except for raft's part.
func (n *Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+nodehttp.IdentityPath, n.serveIdentity)
	mux.HandleFunc("GET "+snapshotPath, n.sameCluster(n.serveSnapshot))
	mux.HandleFunc("GET "+historyPath, n.sameCluster(n.serveHistory))
	mux.HandleFunc("POST "+membersPath, n.sameCluster(n.serveMembers))
	if n.cfg.Bodies != nil {
		mux.HandleFunc("POST "+bodiesPath, n.sameCluster(n.takeBodies))
		mux.HandleFunc("GET "+bodiesPath, n.sameCluster(n.serveBodies))
	}
	mux.HandleFunc(rafthttp.RaftPrefix, n.serveRaft)
	mux.HandleFunc(rafthttp.RaftPrefix+"/", n.serveRaft)
	return n.paceBodies(mux)
}

func (n *Node) serveRaft(w http.ResponseWriter, r *http.Request) {
	if f, ended := n.endedCluster(r.Header.Get(clusterIDHeader)); ended {
		// rafthttp reports the status as a removal, if it sees a version; askForEnd finds
		// out more.
		w.Header().Set("X-Server-Version", version.Version)
		http.Error(w, fmt.Sprintf("%s forced a new cluster on %s; this one has ended", f.By, f.when()), http.StatusGone)
		return
	}
	h := n.raftHTTP.Load()
	if h == nil {
		http.Error(w, "this node does not take part in its cluster yet", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}

func (n *Node) serveIdentity(w http.ResponseWriter, r *http.Request) {
	id := n.identity.Load()
	st := n.status.Load()
	a := introduction{Name: id.Name, ID: id.ID, ClientURL: n.cfg.ClientURL, ClusterID: id.ClusterID, Members: st.Members, Gone: n.knowsGone(r), Forced: *n.forced.Load(), Level: n.cfg.Level, StoreLevel: st.Level}
	if len(id.Forced) == 0 { // else they founded the cluster that ended
		a.Founders = id.Founders
	}
	if id.ClusterID == 0 {
		a.Birth = id.Birth
		a.Initial = n.cfg.InitialCluster
		if n.cfg.Join != nil {
			a.Initial = nil
		}
	}
	writeJSON(w, http.StatusOK, a)
}

// sameCluster refuses the requests of another cluster's members.
func (n *Node) sameCluster(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if id := n.identity.Load().ClusterID; id == 0 || r.Header.Get(clusterHeader) != id.String() {
			http.Error(w, "this node belongs to another cluster", http.StatusPreconditionFailed)
			return
		}
		w.Header().Set(clusterHeader, r.Header.Get(clusterHeader)) // so that the other side knows who answers
		next(w, r)
	}
}

// serveSnapshot streams what another node's Stage asks for.
func (n *Node) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	index, err := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	if err != nil {
		http.Error(w, "index is not a number", http.StatusBadRequest)
		return
	}
	if have := n.progress.index(); have < index {
		http.Error(w, fmt.Sprintf("this node has applied entry %d only", have), http.StatusServiceUnavailable)
		return
	}
	paced := newPacedWriter(w, pullIdle)
	defer paced.end()
	if err := n.sm.Serve(r.Context(), r.URL.RawQuery, paced); err != nil {
		n.logger.Info("sending snapshot data broke off", "to", r.RemoteAddr, "err", err)
		if paced.started {
			panic(http.ErrAbortHandler) // the receiver must see a broken body
		}
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// changeRequest is a membership change on its way to the leader.
type changeRequest struct {
	Op     string `json:"op"` // add, remove, promote, transfer
	Name   string `json:"name,omitempty"`
	Force  bool   `json:"force,omitempty"`
	Member Member `json:"member,omitzero"`
}

type changeAnswer struct {
	Member  Member `json:"member,omitzero"`
	Created bool   `json:"created,omitempty"`
	Kind    string `json:"kind,omitempty"` // of the error
	Error   string `json:"error,omitempty"`
}

// errorKinds are the errors that survive the way between nodes.
var errorKinds = map[string]error{
	"refused": ErrRefused, "unknown-member": ErrUnknownMember, "bad-member": ErrBadMember,
	"unavailable": ErrUnavailable, "unknown-outcome": ErrOutcomeUnknown, "stopped": ErrStopped,
}

func (a *changeAnswer) setError(err error) {
	a.Error = err.Error()
	for kind, e := range errorKinds {
		if errors.Is(err, e) {
			a.Kind = kind
		}
	}
}

// remoteError keeps the sentence and the kind of an error of another node.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func (a changeAnswer) err() error {
	switch {
	case a.Error == "":
		return nil
	case a.Kind == "refused":
		return &RefusedError{Reason: a.Error}
	}
	return &remoteError{a.Error, cmp.Or(errorKinds[a.Kind], ErrOutcomeUnknown)}
}

func (n *Node) serveMembers(w http.ResponseWriter, r *http.Request) {
	var req changeRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a, err := n.changeHere(r.Context(), req)
	if err != nil {
		a.setError(err)
	}
	writeJSON(w, http.StatusOK, a)
}

// ask sends a request to another member of a cluster.
func ask(ctx context.Context, client *http.Client, cluster ID, method, url string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set(clusterHeader, cluster.String())
	return client.Do(req)
}

// answeredBy reports whether an answer is that of a member of a cluster.
func answeredBy(resp *http.Response, cluster ID) bool {
	return resp.Header.Get(clusterHeader) == cluster.String()
}

const changeAnswerBytesMax = 1 << 20

// askLeader sends a change to the leader's peer listener.
func (n *Node) askLeader(ctx context.Context, url string, req changeRequest) (changeAnswer, error) {
	var a changeAnswer
	body, err := json.Marshal(req)
	if err != nil {
		return a, fmt.Errorf("encode the change: %w", err)
	}
	cluster := n.identity.Load().ClusterID
	// By a connection of its own: on one that was left idle, and is closed over there
	// by now, nobody could tell whether the change was carried out.
	resp, err := ask(ctx, n.changeClient, cluster, http.MethodPost, url+membersPath, bytes.NewReader(body))
	if dial := new(net.OpError); errors.As(err, &dial) && dial.Op == "dial" {
		// Nobody there has seen the request: wait for the next leader.
		return a, fmt.Errorf("%w: the leader at %s does not answer: %s", ErrUnavailable, url, nodehttp.Reason(err))
	}
	if err != nil {
		return a, fmt.Errorf("%w: ask the leader at %s: %s", ErrOutcomeUnknown, url, nodehttp.Reason(err))
	}
	defer resp.Body.Close()
	// The caller may be anybody, and so may be what answers: none of its words go
	// back unless it is of this cluster.
	if resp.StatusCode != http.StatusOK || !answeredBy(resp, cluster) {
		return a, fmt.Errorf("%w: what answers at %s, where the leader should be, is not a member of this cluster (HTTP status %d)", ErrUnavailable, url, resp.StatusCode)
	}
	if err := nodehttp.DecodeJSON(resp.Body, changeAnswerBytesMax, &a); err != nil {
		return a, fmt.Errorf("%w: read the leader's answer: %w", ErrOutcomeUnknown, err)
	}
	return a, a.err()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other side sees a broken body
}

// paceBodies puts every body of a handler under a deadline, read or not: net/http reads
// what a handler leaves.
func (n *Node) paceBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r) // a deadline would end the request when it is over
			return
		}
		host := remoteHost(r)
		b := &pacedBody{ReadCloser: r.Body, control: http.NewResponseController(w), idle: n.bodyIdle, latest: time.Now().Add(peerBodyTotal), budget: n.budget, host: host}
		b.extend()
		defer b.release()
		r.Body = b
		next.ServeHTTP(w, r)
	})
}
