package raftnode

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/Focinfi/oncekv/internal/nodehttp"
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
