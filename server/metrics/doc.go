// Package metrics shows a node's metrics to Prometheus. Every node has a registry of its
// own, because several nodes may run in one process, and etcd's packages fill the default
// one.
//
//	m := metrics.NewDatabase(name, d.figures)
//	raftnode.Config{OnFsync: m.Fsync, OnPropose: m.Proposed, …}
//	httpapi.DatabaseConfig{Traffic: m.Traffic, Metrics: m.Handler(), …}
//
// # Names
//
// Every name begins with oncekv_ and ends in its base unit, seconds or bytes; counters end
// in _total. The client library adds go_… and process_… under the names that dashboards
// know. They describe the process, so nodes in one process show the same.
//
// # Invariants
//
//  1. No label takes its value from a request: routes are patterns of the
//     router, methods those of the API, codes status classes. The program bounds
//     the number of series.
//  2. The state is read once a scrape, so that the metrics of one scrape
//     belong together, and nothing is computed without a scrape.
//  3. No metric shows a key or a value.
package metrics
