// Peers measures oncekv beside etcd and NATS JetStream on this machine: three
// nodes of each on loopback, with data on disk, driven by the same loader through
// each one's own Go client, one after the other in every round; and beside the
// least that an HTTP server in Go can do (package ceiling). Then it fills large
// stores, keeps one busy for long, and measures values that are large.
//
//	cd bench/peers && go run . -parts short -json results/short.json
//
// The tables and pictures of docs/benchmarks.md are made of what such runs have left:
//
//	go run . -results results -docs ../../docs/benchmarks.md
//
// Ratios are taken inside each round, because absolute figures move with the hour;
// what is printed is the median over the rounds. docs/benchmarks.md has the method.
//
// It is a module of its own, so that the product's go.mod does not have to list
// what the peers need. It takes the loops, the recorder and the pictures of the
// product's own internal packages; the callers are here, because each system has
// another, and those over HTTP (rawConn) have to cost next to nothing.
//
// # Caveats
//
//   - All nodes and the loader share one machine. In the short cases all systems
//     run, and an idle one costs the others a little, with its heartbeats.
//   - A peer's Get may promise less: NATS answers from any replica; so does etcd
//     when it is asked serializably. A value that oncekv finds is right anywhere.
//   - Keys stay set, so a later round has a larger store. This is the same for all.
//   - Time of processors, memory and bytes written come from /proc: elsewhere than on
//     Linux they are 0. Times of nodes are counted in hundredths of a second, so short
//     measurements say little about them.
package main
