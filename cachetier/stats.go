package cachetier

import (
	"context"
	"fmt"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// Stats returns this node's metrics.
func (n *Node) Stats() api.CacheStats {
	peer, database := n.Latencies()
	var history *api.History
	if id := n.era.Load().text(); id != "" {
		history = &api.History{ID: id}
	}
	return api.CacheStats{
		Name:          n.cfg.Name,
		URL:           n.cfg.URL,
		Role:          api.RoleCache,
		Ready:         n.Ready(n.base) == nil,
		Peers:         len(n.view.Load().ring.nodes) - 1,
		Databases:     len(n.databases.all()),
		UptimeSeconds: n.now().Sub(n.began).Seconds(),
		History:       history,
		CacheFigures:  n.figures(),

		PeerP50Seconds:     peer.P50.Seconds(),
		PeerP99Seconds:     peer.P99.Seconds(),
		DatabaseP50Seconds: database.P50.Seconds(),
		DatabaseP99Seconds: database.P99.Seconds(),
	}
}

// Latencies returns how long loads took that owners answered, and those that database nodes
// answered.
func (n *Node) Latencies() (peer, database Latency) {
	return n.peerLatency.summary(), n.fetcher.latency.summary()
}

func (n *Node) figures() api.CacheFigures {
	memory := n.memory.Stats()
	return api.CacheFigures{
		Gets:          n.counters.gets.Load(),
		Hits:          n.counters.hits.Load(),
		MirroredHits:  n.counters.mirroredHits.Load(),
		PeerLoads:     n.counters.peerLoads.Load(),
		PeerErrors:    n.counters.peerErrors.Load(),
		PeerServed:    n.counters.peerServed.Load(),
		DatabaseLoads: n.fetcher.requests.Load(),
		Absences:      n.counters.absences.Load(),
		Hedges:        n.fetcher.hedges.Load(),
		PeerHedges:    n.counters.peerHedges.Load(),
		Errors:        n.counters.errors.Load(),
		Admissions:    memory.Admissions,
		Unadmitted:    memory.Unadmitted,
		Evictions:     memory.Evictions,
		HistoryMoves:  n.counters.moves.Load(),
		HistoryDrops:  n.counters.dropped.Load(),
		Items:         memory.Items,
		Bytes:         memory.Bytes,
		MirroredBytes: memory.MirroredBytes,
		LimitBytes:    n.cfg.CacheBytes,
	}
}

// Ready returns nil when a database node of this node's history has answered within 3 s and
// this node is not leaving. Otherwise the error says which it is, and what this node tries.
func (n *Node) Ready(context.Context) error {
	if n.leaving.Load() {
		return fmt.Errorf("%w: this cache node is leaving", kvstore.ErrUnavailable)
	}
	known, history := n.databases.all(), n.era.Load().history
	urls := make([]string, len(known))
	elsewhere := false
	for i, d := range known {
		if d.answeredSince(n.now().Add(-answeredWithin)) {
			if d.told() == history {
				return nil
			}
			elsewhere = true
		}
		urls[i] = d.tried()
	}
	if elsewhere {
		return fmt.Errorf("%w: %s", kvstore.ErrUnavailable, n.databases.why(history))
	}
	return fmt.Errorf("%w: no database node has answered within %v; tried %v", kvstore.ErrUnavailable, answeredWithin, urls)
}

// History returns the history that all answers of the node are of, without its parents.
func (n *Node) History() kvstore.History { return kvstore.History{ID: n.era.Load().history} }

// Databases returns the URLs of the database nodes that the node knows.
func (n *Node) Databases() (urls []string) {
	for _, d := range n.databases.all() {
		urls = append(urls, d.url)
	}
	return urls
}

// nearest returns the URLs of the database nodes that may be asked, fastest first.
func (n *Node) nearest() (urls []string) {
	for _, d := range n.databases.preference(n.era.Load().history) {
		urls = append(urls, d.url)
	}
	return urls
}
