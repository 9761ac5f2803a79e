// Package metrics shows a node's figures to Prometheus. Every node has a
// registry of its own, because several nodes may live in one process (and the
// default registry is full of what etcd's packages put there).
//
//	m := metrics.NewDatabase(name, d.figures)
//	raftnode.Config{OnFsync: m.Fsync, OnPropose: m.Proposed, …}
//	httpapi.DatabaseConfig{Traffic: m.Traffic, Metrics: m.Handler(), …}
//
// # Names
//
// Everything begins with oncekv_, in base units: seconds and bytes. What only
// grows ends in _total. The metrics go_… and process_… are the client
// library's own, under the names every dashboard knows; they are about the
// process, so nodes that share one show the same.
//
// # Invariants
//
//  1. No label takes its values from requests: routes are patterns of the
//     router, methods those of the API, statuses classes. The number of series
//     is bounded by the program.
//  2. Figures are taken once a scrape, so that those of one scrape belong
//     together, and nothing is computed when nobody scrapes.
//  3. No value and no key is ever shown.
package metrics
