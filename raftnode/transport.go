package raftnode

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	stats "go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"
	"golang.org/x/time/rate"

	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// transport carries raft's messages. Losing, repeating and reordering them is
// allowed; blocking is not.
type transport interface {
	send(msgs []raftpb.Message)
	// setPeer adds or updates a member; an empty URL removes it.
	setPeer(id ID, url string)
	stop()
}

// receiver is the node as the transport sees it.
type receiver interface {
	receive(m raftpb.Message) error
	isRemoved(id ID) bool
	lost(id ID) // a message to id could not be sent
}

// httpTransport is rafthttp: two streams and a pipeline a member.
type httpTransport struct {
	self     ID
	cluster  ID
	receiver receiver
	t        *rafthttp.Transport
	clients  *peerClients
	logger   *slog.Logger

	mu      sync.Mutex
	peers   map[ID]string
	remotes map[ID]bool // senders that rafthttp was let answer, see answerSender
}

func newHTTPTransport(self, cluster ID, url string, snapDir string, r receiver, errorC chan error, logger *slog.Logger) (*httpTransport, error) {
	zl := zapLogger(logger)
	urls, err := types.NewURLs([]string{url})
	if err != nil {
		return nil, err
	}
	t := &rafthttp.Transport{
		Logger:             zl,
		DialTimeout:        2 * time.Second,
		DialRetryFrequency: rate.Every(100 * time.Millisecond),
		ID:                 types.ID(self),
		URLs:               urls,
		ClusterID:          types.ID(cluster),
		Raft:               raftEnd{r},
		Snapshotter:        snap.New(zl, snapDir),
		ServerStats:        stats.NewServerStats(self.String(), self.String()),
		LeaderStats:        stats.NewLeaderStats(zl, self.String()),
		ErrorC:             errorC,
	}
	if err := t.Start(); err != nil {
		return nil, err
	}
	clients, err := newPeerClients(t)
	if err != nil {
		t.Stop()
		return nil, err
	}
	return &httpTransport{self: self, cluster: cluster, receiver: r, t: t, clients: clients, logger: logger, peers: map[ID]string{}, remotes: map[ID]bool{}}, nil
}

func (h *httpTransport) send(msgs []raftpb.Message) { h.t.Send(msgs) }

func (h *httpTransport) setPeer(id ID, url string) {
	if id == h.self {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old, known := h.peers[id]
	switch {
	case url == "" && known:
		h.t.RemovePeer(types.ID(id))
		delete(h.peers, id)
		return
	case url == "" || old == url:
		return
	case checkForm(url) != nil:
		// rafthttp panics on it. It came in a table that another member sent.
		h.logger.Error("a member's peer URL is not valid; the member cannot be reached", "member", id.String(), "peer_url", url)
		return
	case known:
		h.t.UpdatePeer(types.ID(id), []string{url})
	default:
		h.t.AddPeer(types.ID(id), []string{url})
	}
	h.peers[id] = url
}

func (h *httpTransport) stop() {
	h.t.Stop()
	h.clients.close()
}

// handler serves what other members send. The snapshot path of rafthttp is
// closed: data is pulled here, never pushed.
func (h *httpTransport) handler() http.Handler {
	inner := h.t.Handler()
	mux := http.NewServeMux()
	mux.Handle(rafthttp.RaftSnapshotPrefix, http.NotFoundHandler())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > peerMessageBytesMax {
			http.Error(w, "a raft message is never this large", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, peerMessageBytesMax)
		h.answerSender(r)
		paced := newPacedWriter(w, streamIdle)
		defer paced.end()
		if r.URL.Path == rafthttp.RaftPrefix {
			h.servePosted(paced, r)
			return
		}
		inner.ServeHTTP(paced, r)
	})
	return mux
}

const (
	clusterIDHeader  = "X-Etcd-Cluster-ID"
	senderHeader     = "X-Server-From"
	senderURLsHeader = "X-PeerURLs"
	// remotesMax bounds how many senders that are no members rafthttp answers:
	// each costs goroutines for as long as the node runs.
	remotesMax = 64
)

// answerSender lets rafthttp answer an unknown sender where its request says it is reached:
// it may be a leader that is newer than this node's table. It may also be anybody. rafthttp
// would take any number of them and panic on what is no URL, so it does not see the header.
func (h *httpTransport) answerSender(r *http.Request) {
	urls := r.Header.Get(senderURLsHeader)
	r.Header.Del(senderURLsHeader)
	sender, err := types.IDFromString(r.Header.Get(senderHeader))
	id := ID(sender)
	if err != nil || id == h.self || r.Header.Get(clusterIDHeader) != types.ID(h.cluster).String() || h.receiver.isRemoved(id) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, member := h.peers[id]; member || h.remotes[id] || len(h.remotes) >= remotesMax {
		return
	}
	if url, err := nodeurl.WithPort(urls); err == nil {
		h.remotes[id] = true
		h.t.AddRemote(sender, []string{url})
	}
}

// raftEnd adapts a receiver to rafthttp.
type raftEnd struct{ r receiver }

func (e raftEnd) Process(_ context.Context, m raftpb.Message) error { return e.r.receive(m) }
func (e raftEnd) IsIDRemoved(id uint64) bool                        { return e.r.isRemoved(ID(id)) }
func (e raftEnd) ReportUnreachable(id uint64)                       { e.r.lost(ID(id)) }

// ReportSnapshot tells only of the message's delivery; the core decides about
// snapshots by the receiver's acknowledgement.
func (e raftEnd) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	if status == raft.SnapshotFailure {
		e.r.lost(ID(id))
	}
}

// servePosted takes a message that another member posted, in place of rafthttp's handler.
// That keeps a metric of every remote port and sender, logs each message, and answers what
// the node refuses with a panic.
func (h *httpTransport) servePosted(w http.ResponseWriter, r *http.Request) {
	cluster := types.ID(h.cluster).String()
	w.Header().Set(clusterIDHeader, cluster)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "raft messages are posted", http.StatusMethodNotAllowed)
		return
	}
	if r.Header.Get(clusterIDHeader) != cluster {
		http.Error(w, rafthttp.ErrClusterIDMismatch.Error(), http.StatusPreconditionFailed)
		return
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		status, sentence := bodyFailure(err)
		http.Error(w, sentence, status)
		return
	}
	var m raftpb.Message
	if err := m.Unmarshal(raw); err != nil {
		http.Error(w, "the body is not a raft message", http.StatusBadRequest)
		return
	}
	if err := h.receiver.receive(m); err != nil {
		http.Error(w, "no member of this cluster sends such a message: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// bodyFailure is the answer to a body that could not be read.
func bodyFailure(err error) (status int, sentence string) {
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return http.StatusRequestEntityTooLarge, "a raft message is never this large"
	case errors.Is(err, errBodyMemory):
		return http.StatusServiceUnavailable, err.Error() + "; send it again"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, "the body did not arrive in time"
	}
	return http.StatusBadRequest, "the body broke off"
}
