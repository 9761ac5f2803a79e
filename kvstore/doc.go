// Package kvstore keeps keys that are set once. It owns the state machine (Store), the
// files it lives in, and the put and get of a replicated database (DB). It knows neither
// raft nor HTTP: its driver hands committed entries to Store.Apply and implements Log.
//
//	store, err := kvstore.OpenStoreDir(dir, kvstore.StoreConfig{})
//	go store.Run(ctx)                           // commits and indexes in the background
//	db := kvstore.NewDB(store, log, kvstore.DBConfig{})
//	res, err := db.Put(ctx, kvstore.PutRequest{Key: "k", Body: body, Size: -1})
//	value, err := db.Get(ctx, "k", kvstore.Linearizable)
//
// DB.Put hashes a value and proposes it as a command: one below 16 KiB inside of the
// command, one up to 1 MiB as a body (package bodies) that Log.Distribute brings to where
// it is needed, more as an upload of chunks that are bodies, ended by a seal. The log
// replicates the command and every node applies it. The first put of a key in log order
// wins: it becomes the next revision and a record, visible to Store.Get at once.
//
//	Apply ──► pending records ──Commit──► history (revision → record)
//	      └─► memtable (key → revision) ──FlushIndex──► index (key → revision)
//
// Nothing is ever changed, so the store is a log with an index that may lag. Until
// Commit a crash loses nothing, because the log gives the entries again. The memtable
// answers for the keys that the index lacks; a start scans the tail of history for it.
//
// FORMATS.md describes the files, records, commands and digests; invariants.go what always
// holds, what bounds the memory, and caveats. Package engine has the bbolt files.
//
// # Rooms
//
// A file uses only files further down:
//
//	run.go open.go serve.go verify.go                  a running store, snapshots sent, scrubbing
//	install.go stage.go pull.go pullbodies.go          snapshots that are pulled
//	dbput.go dbstream.go proposal.go db.go intake.go   put and get of a replicated database
//	begin.go apply.go rebuild.go flush.go commit.go    from the log to history and index
//	changes.go keys.go get.go chunkreader.go           reads
//	bodies.go digests.go lineage.go                    values, digests, identity of a store
//	store.go pullpause.go config.go invariants.go      the store
//	state.go snapstream.go memtable.go history.go      what it keeps beside the records
//	derived.go upload.go command.go recordblock.go     parts of that, commands, blocks of records
//	record.go chunk.go contenttype.go put.go           records, rows of chunks, requests
//	value.go usermeta.go codec.go names.go errors.go   values, encodings, keys, digests
package kvstore
