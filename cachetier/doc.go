// Package cachetier is the read side of oncekv: cache nodes that answer from memory, from
// one another, or from the database, and the list of live cache nodes that every database
// node keeps.
//
// A key is set once, so a value that was found is right wherever it was read, and a cached
// record never expires. Only "not set" can become wrong; it is never cached. All of that
// holds within one history (era.go).
//
//	node, err := cachetier.New(cachetier.NodeConfig{Name: "c1", URL: url, Nodes: databases})
//	mux.Handle("/peer/", node.PeerHandler())     // other cache nodes ask here
//	go func() { done <- node.Run(ctx) }()        // joins the ring, until ctx ends
//	value, source, err := node.Get(ctx, "app/v1/main.js", kvstore.Linearizable)
//	…
//	cancel()                                     // says goodbye
//	<-done
//	server.Shutdown(…)                           // no more reads
//	node.Close()                                 // ends loads and waits for them
//
// A read that is not in memory asks the key's owner, one of the live cache nodes. The owner,
// or whoever cannot reach it, asks the fastest database node. Loads run through two groups
// of groupcache, which share nothing and hold nothing: one memory is in front of both.
//
// Files, from top to bottom:
//
//	hot.go registry.go              what database nodes have of this package
//	node.go heartbeat.go            a cache node's life
//	peerserve.go                    what it answers to other cache nodes
//	get.go load.go                  reads, and the loads that they share
//	peer.go peerstream.go           asking the owner of a key
//	stats.go state.go               what the files above share: Node, tier, flight
//	collect.go stream.go            values over 1 MiB
//	fetch.go                        asking database nodes
//	membership.go database.go       who is there, and how fast
//	era.go groups.go                histories; groupcache
//	sizes.go record.go pieces.go    records
//	latency.go ring.go errors.go
//
// # Invariants
//
//  1. A found value is the put value, byte for byte. The digest is compared when a record
//     enters a cache, from a database node or from a peer; of a streamed value that is read
//     whole, before its last bytes are handed out, and MiB by MiB once that was right.
//  2. "Not set" is answered only by a lookup that began after the caller's Get did, also
//     through a peer.
//  3. A peer's "not set" is an answer: no second load follows it.
//  4. A forwarded request is never forwarded again.
//  5. N callers of one cold key cost at most one load in a node; of an absent key, two, when
//     some of them come during the first.
//  6. A load belongs to no caller: it has its own deadline, and a caller who leaves disturbs
//     nobody.
//  7. No key is ever stuck: a panic in a getter, the picker or a peer ends that load only.
//  8. An owner that gives no sign of life costs the loads already under way two hedge delays
//     of 25 to 100 ms (or one PeerTimeout, without a stream), and then nothing until it gives
//     one. An owner that stops says so first, answers what it was asked, and costs nothing.
//  9. A put is forwarded to a second database node only if the first cannot have carried out
//     any of it.
//  10. Memory is bounded by CacheBytes, which counts all that a record takes, 64 MiB of
//     larger values being loaded, and 4,096 loads at a time. Large values that will be held
//     take an eighth of CacheBytes on their way.
//  11. An answer is of the history in which the node is when it answers. The rest of a large
//     value that was begun before a move comes from database nodes of the history before.
package cachetier
