// Peers measures oncekv beside etcd and NATS JetStream on this machine: three nodes of each on
// loopback, with data on disk, driven by the same loader through each one's own Go client, one
// after the other in every round; and beside the least that an HTTP server in Go can do
// (package ceiling). Then it fills large stores, keeps one busy for long, and measures large
// values.
//
//	cd bench/peers && go run . -parts short -json results/short.json
//
// The results of such runs become the tables and pictures of docs/benchmarks.md:
//
//	go run . -results results -docs ../../docs/benchmarks.md
//
// Ratios are computed within each round, because absolute numbers change with the hour; the
// output is the median over the rounds. docs/benchmarks.md describes the method.
//
// It is a module of its own, so that the product's go.mod does not have to list what the peers
// need. It uses the loops, the recorder and the pictures of the product's internal packages.
// The callers are here, because each system has another, and those over HTTP (rawConn) must
// cost next to nothing.
//
// # Caveats
//
//   - All nodes and the loader share one machine. In the short cases all systems
//     run, and the heartbeats of an idle one cost the others a little.
//   - A peer's Get may promise less: NATS answers from any replica, and so does
//     etcd if it is asked for a serializable read. A value that oncekv finds is
//     right anywhere.
//   - Keys stay set, so a later round has a larger store. This is the same for all.
//   - Processor time, memory and bytes written come from /proc: without Linux they
//     are 0. The times of nodes are counted in hundredths of a second, so short
//     measurements say little about them.
package main
