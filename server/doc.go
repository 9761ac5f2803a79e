// Package server assembles whole nodes from the other packages. A Database is a store
// behind Raft behind HTTP, a Cache is a cache node behind HTTP, an Admin is the admin page
// behind HTTP. Start opens a node's listeners and returns; Close stops everything that it
// started and waits for it. The binary, `oncekv dev`, tests and benchmarks all use these
// three.
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
//  1. A data directory belongs to one process at a time; a second process is
//     refused before it opens anything. (Only the identity is read without the
//     lock, to check a configuration. That file is only ever replaced.)
//  2. A node that stops by itself says why in Err and serves nothing from then
//     on: it closes its listeners before Done.
//  3. Close takes no longer than its context allows. It breaks off what it cannot
//     finish, which is safe: a put without an answer may be repeated, and the
//     write-ahead log replays what the store lacks.
//  4. No node waits for another before it serves: without a leader, a database
//     node answers gets of keys that are set, and 503 to the rest.
//  5. A configuration that cannot work is a *SettingError, from Check and from
//     Start alike, before anything is made or bound. Once the data belongs to a
//     cluster, the settings with which a new one begins are ignored, right or
//     wrong.
//  6. Connections never take the descriptors that a node needs for its files,
//     and clients never take those of peers: Descriptors divides the limit.
//  7. Every read and write of a listener ends if there is no progress, whether
//     its handler sets a deadline or not. Only two waits have no deadline: for
//     the end of a connection while a handler works on it, and for more bytes on
//     a hijacked connection, which gives way when others need the room.
//  8. Every listener, including the one for peers, answers only to the node's own
//     names (package hosts), so that no web page can pass itself off as a node.
package server
