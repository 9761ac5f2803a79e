// Package cachetier is the read side of oncekv: cache nodes that answer from
// memory, from one another, or from the database, and the list of live cache
// nodes that every database node keeps.
//
// It leans on one fact: a key is set once, so a value that was found is right
// for ever, wherever it was read. A cached record never expires and is never
// invalidated. Only "not set" can become wrong, so absence is never cached, and
// is never handed to a caller who came after it was looked up.
//
// That is so within one history. A cluster that is restored or forced begins another
// one, and then nothing that was read before means anything: see Histories.
//
// # The two halves
//
// On a database node, a Registry takes heartbeats and answers them:
//
//	registry := cachetier.NewRegistry(cachetier.RegistryConfig{DBs: cluster.DBs})
//	answer := registry.Heartbeat(heartbeat) // POST /caches
//	nodes := registry.Caches()              // GET /caches
//
// It also has a Hot, a small memory of what it is asked for again and again.
//
// A cache node is a Node. Its life:
//
//	node, err := cachetier.New(cachetier.NodeConfig{
//		Name: "c1", URL: "http://127.0.0.1:5551", Nodes: []string{"http://127.0.0.1:11000"},
//	})
//	mux.Handle("/peer/", node.PeerHandler())     // other cache nodes ask here
//	go func() { done <- node.Run(ctx) }()        // joins the ring, until ctx ends
//	value, source, err := node.Get(ctx, "app/v1/main.js", kvstore.Linearizable)
//	…
//	cancel()                                     // says goodbye
//	<-done
//	server.Shutdown(…)                           // no more reads
//	node.Close()                                 // ends and awaits loads
//
// # How a read goes
//
// Memory first. On a miss the ring (rendezvous hashing over the live nodes)
// names the key's owner. If that is another node and it is up, it is asked over
// the stream to it; else the fastest database node is, a second one when the
// first takes longer than all but one in twenty of its last reads, the others
// when they fail. All callers of a cold key share one load, a flight (flight.go
// tells how and why not groupcache's own).
//
// A stream is one connection that carries the questions of all loads to one
// owner, and many frames in each system call (peerstream.go, peerserve.go, package
// mux). Records over 64 KiB, and nodes that are older than streams, are
// asked for in requests of their own, GET /peer/record. Whoever waits for an
// owner for long pings it: one that is alive answers at once, whatever it loads.
// One that does not is asked no more until it says something, and the database
// is asked beside it.
//
// There are two groupcache groups a node. "owned" loads from the database only,
// "mirror" from owners; an owner answers its peers by way of "owned". So a load
// that a peer waits for never waits for a peer, and two nodes that each believe
// the other to be the owner cannot wait for each other. The groups load and hold
// nothing: groupcache's LRU and its chance of one in ten to mirror are replaced
// by one memory in front of both (memory.go), which finds a record without a
// lock that others wait for, keeps what is asked for again and again, and mirrors
// a record of another owner when it is asked for here: at once as long as memory
// is free, and else when it is asked for again, in a quarter of the memory.
//
// A value over 1 MiB is cached as its header; Value.Open streams it from
// database nodes in ranges and goes on at another node when one fails. Once a
// reader has read such a value to its end here it is held with its bytes, if it
// fits an eighth of the memory (collect.go).
//
// # Histories
//
// A node stands in one history at a time, for an era (era.go). It learns that of its
// database nodes from the answers to heartbeats, with the histories that it went on
// from, and asks only nodes that have its own; each answer names its history, and one
// of another is none. It moves to a history that names its own as one it went on from,
// or when no database node of its own has answered for a minute in which others did, and
// never back.
//
// A move drops all that is held, and ends the era: its loads, which whoever waits for
// them begins anew in the next one, its streams to peers and from them, and the right
// of what they still bring to be held. Between two looks that find the same era there
// was no other one, because none comes back; so who takes something from memory, a load
// or a stream looks before and after.
//
// Questions and answers between cache nodes name the history too. A peer that stands in
// another one refuses (409), is taken out of the ring, and is probed until it has come
// to the same.
//
// # Invariants
//
//  1. A found value is the put value, byte for byte: its digest is compared
//     when a record enters a cache, whether it came from a database node or a
//     peer. A streamed value that is read whole is compared before its last
//     bytes are handed out: with its digest until that was right once, then MiB by MiB.
//  2. "Not set" is answered only by a lookup that began after the caller's Get
//     did, also through a peer: the owner, too, discards what it looked up
//     before the question came.
//  3. A peer's definite "not set" is an answer: no second load follows it.
//  4. A forwarded request is never forwarded again.
//  5. N callers of one cold key cost at most one load in a node; of an absent
//     key, two, when some of them come during the first.
//  6. A load belongs to no caller: it has its own deadline, and a caller who
//     leaves disturbs nobody.
//  7. No key is ever stuck: a panic in the getter, the picker or a peer's getter
//     becomes that load's error.
//  8. An owner that gives no sign of life costs the loads already under way two
//     hedge delays, of 25 to 100 ms each (one PeerTimeout, if it is asked without
//     a stream), and then nothing until it gives one. An owner that stops says so
//     first, answers what it was asked, and costs nothing.
//  9. A put is forwarded to a second database node only if nothing of it can
//     have been carried out by the first.
//  10. Memory is bounded by CacheBytes, 64 MiB of larger values being loaded,
//     and 4,096 loads at a time. CacheBytes counts all that a record takes: the
//     value, its encoding, the key, the table, and what allocations are rounded
//     up to. Large values that will be held take an eighth of it on their way.
//  11. What is answered is of the history in which the node stands when it answers.
//     The rest of a large value that was begun before a move comes from database
//     nodes of the history of before.
//
// # Caveats
//
//   - groupcache's registry is process-wide: its groups are never freed, so what
//     is left of a closed Node, a few KiB, stays; and a process that registers a
//     peer picker of its own with groupcache cannot use this package.
//   - Readers of one large value that is not held yet read it from the database
//     each for himself. Whoever reads one that is held keeps its bytes in memory
//     for as long, though it may be let go meanwhile.
//   - Whether a record is another node's is decided when it is loaded. When nodes
//     come and go, what is held stays where it is until it is let go.
//   - consistency=local reads what is held, and otherwise asks one database
//     node outside of every flight; what it finds is not kept.
//   - A reader that seeks in a streamed value that nobody has read whole here trusts
//     the database nodes' ETag and range for the parts it sees. Later ones compare each
//     whole MiB that they see with what the first reader of the whole saw (pieces.go).
//   - The first load of a value over 1 MiB drops the connection it came on,
//     after the header.
//   - Node.Close does not end readers of streamed values: their context does.
//   - Until a database node has told a history, a node stands in none, and takes
//     answers that name none: those of programs from before histories.
//   - While all database nodes have another history, which has nothing to do with its
//     own, a node serves for a minute what it holds, and nothing else.
//   - The registry believes what it is told; it is for trusted networks. It keeps
//     256 nodes, of one address 64. A peer that it names owns keys only when it has
//     answered once, and at most 32 peers are probed at a time.
package cachetier
