// Package server makes whole nodes out of the other packages: a Database is a
// store behind raft behind HTTP, a Cache is a cache node behind HTTP, an Admin is
// the admin page behind HTTP. Each is an ordinary value: Start opens its listeners
// and returns, Close stops everything it started and waits for it. The binary,
// `oncekv dev`, tests and benchmarks all use the same three.
//
//	d, err := server.StartDatabase(ctx, server.DatabaseConfig{
//		Name: "n1", DataDir: "data/n1", Listen: "127.0.0.1:11000", PeerListen: "127.0.0.1:12000",
//	})
//	if err != nil { … }
//	defer d.Close(ctx)
//	select {
//	case <-d.Done(): // it stopped by itself
//		return d.Err()
//	case <-ctx.Done():
//	}
//
// # Invariants
//
//  1. A data directory belongs to one process at a time; a second one is
//     refused before it opens it. (All that is read without the lock is the
//     identity, a file that is only ever replaced, to judge a configuration.)
//  2. A node that stops by itself says why in Err, and serves nothing from
//     then on: its listeners are closed before Done is.
//  3. Close takes no longer than its context allows. What it cannot finish in
//     time it breaks off, which is safe: a put without an answer may be
//     repeated, and the write-ahead log replays what the store lacks.
//  4. Nothing here waits for another node to be up before it serves: a
//     database node without a leader answers reads of set keys, and 503 to the
//     rest.
//  5. A configuration that cannot work is a *SettingError, from Check and from
//     Start alike, before anything was made or bound. Where the data belongs to a
//     cluster, how a new one would begin counts for nothing, right or wrong.
//  6. Connections never take the descriptors that a node needs for its files,
//     and those of clients never those of peers: Descriptors divides the limit.
//  7. Every read and write of a listener ends without progress, be it that its
//     handler sets a deadline or not. Only two waits have none: for the end of
//     a connection while a handler is at work on it, and for more on one that
//     was taken over from HTTP, which makes room when room is needed.
//  8. Every listener, that for peers included, answers only to the node's own
//     names (package hosts), so that no web page passes itself off as a node.
package server
