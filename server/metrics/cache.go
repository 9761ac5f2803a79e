package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
)

// Cache holds a cache node's metrics.
type Cache struct{ node }

// NewCache makes a cache node's metrics. Every scrape calls stats once, from any
// goroutine, but not before Handler is served.
func NewCache(name string, stats func() api.CacheStats) *Cache {
	c := &Cache{newNode("cache", name)}
	c.registry.MustRegister(&snapshot[api.CacheStats]{take: stats, metrics: cacheMetrics()})
	return c
}

func cacheMetrics() []metric[api.CacheStats] {
	type f = api.CacheStats
	return []metric[f]{
		counter("cache_gets_total", "Reads by clients of this node.", func(n *f) float64 { return float64(n.Gets) }),
		counter("cache_hits_total", "Reads answered from this node's memory.", func(n *f) float64 { return float64(n.Hits) }),
		counter("cache_hits_mirrored_total", "Reads answered from this node's memory with a record that another node owns.", func(n *f) float64 { return float64(n.MirroredHits) }),
		counter("cache_peer_loads_total", "Loads answered by the key's owner.", func(n *f) float64 { return float64(n.PeerLoads) }),
		counter("cache_peer_errors_total", "Loads that the key's owner did not answer, so that the database did.", func(n *f) float64 { return float64(n.PeerErrors) }),
		counter("cache_peer_served_total", "Requests of other cache nodes answered here.", func(n *f) float64 { return float64(n.PeerServed) }),
		counter("cache_database_loads_total", "Requests sent to database nodes by loads, hedges included.", func(n *f) float64 { return float64(n.DatabaseLoads) }),
		counter("cache_gets_absent_total", "Reads of keys that are not set.", func(n *f) float64 { return float64(n.Absences) }),
		counter("cache_hedges_total", "Second requests to the database, sent because the first was slow.", func(n *f) float64 { return float64(n.Hedges) }),
		counter("cache_peer_hedges_total", "Requests to the database, sent because the key's owner was silent.", func(n *f) float64 { return float64(n.PeerHedges) }),
		counter("cache_errors_total", "Reads that failed.", func(n *f) float64 { return float64(n.Errors) }),
		counter("cache_admissions_total", "Records taken into memory.", func(n *f) float64 { return float64(n.Admissions) }),
		counter("cache_unadmitted_total", "Loaded records not taken into memory: read too rarely, or too large.", func(n *f) float64 { return float64(n.Unadmitted) }),
		counter("cache_evictions_total", "Records evicted to make room.", func(n *f) float64 { return float64(n.Evictions) }),
		counter("cache_history_moves_total", "How often this node moved to another history.", func(n *f) float64 { return float64(n.HistoryMoves) }),
		counter("cache_history_drops_total", "Records dropped because this node moved to another history.", func(n *f) float64 { return float64(n.HistoryDrops) }),
		gauge("cache_items", "Records held.", func(n *f) float64 { return float64(n.Items) }),
		gauge("cache_bytes", "Memory that cached records use, overhead included.", func(n *f) float64 { return float64(n.Bytes) }),
		gauge("cache_mirrored_bytes", "The part of oncekv_cache_bytes that records of other owners use.", func(n *f) float64 { return float64(n.MirroredBytes) }),
		gauge("cache_limit_bytes", "Limit of oncekv_cache_bytes.", func(n *f) float64 { return float64(n.LimitBytes) }),
		gauge("cache_ready", "1 while a database node answers.", func(n *f) float64 { return truth(n.Ready) }),
		gauge("cache_peers", "Other cache nodes in the ring.", func(n *f) float64 { return float64(n.Peers) }),
		gauge("cache_databases", "Database nodes known.", func(n *f) float64 { return float64(n.Databases) }),
		gauge("cache_uptime_seconds", "Time since the node started.", func(n *f) float64 { return n.UptimeSeconds }),
	}
}

// WatchLoads shows how long loads take. Every scrape calls take once.
func (c *Cache) WatchLoads(take func() (peer, database cachetier.Latency)) {
	c.registry.MustRegister(&loads{
		take:     take,
		peer:     describe("cache_peer_load_duration_seconds", "Time of a load that the key's owner answered."),
		database: describe("cache_database_load_duration_seconds", "Time of a load from the database, hedges and second tries included."),
	})
}

// loads collects the histograms that the cache tier keeps itself.
type loads struct {
	take           func() (peer, database cachetier.Latency)
	peer, database *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (l *loads) Describe(ch chan<- *prometheus.Desc) {
	ch <- l.peer
	ch <- l.database
}

// Collect implements prometheus.Collector.
func (l *loads) Collect(ch chan<- prometheus.Metric) {
	peer, database := l.take()
	ch <- prometheus.MustNewConstHistogram(l.peer, peer.Count, peer.Sum.Seconds(), peer.Buckets)
	ch <- prometheus.MustNewConstHistogram(l.database, database.Count, database.Sum.Seconds(), database.Buckets)
}
