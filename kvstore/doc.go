// Package kvstore keeps keys that are set once. It owns the state machine
// (Store), the files it lives in, and the put and get of a replicated database
// (DB). It knows neither raft nor HTTP: whoever drives it hands committed
// entries to Store.Apply and implements Log for DB.
//
// # The life of a value
//
//	store, err := kvstore.OpenStoreDir(dir, kvstore.StoreConfig{})
//	go store.Run(ctx)                           // commits and indexes in the background
//	db := kvstore.NewDB(store, log, kvstore.DBConfig{})
//	res, err := db.Put(ctx, kvstore.PutRequest{Key: "k", Body: body, Size: -1})
//	value, err := db.Get(ctx, "k", kvstore.Linearizable)
//
// DB.Put hashes the value. One of less than 16 KiB, BodyBytesMin, it proposes as a
// command, which carries it. From there up to 1 MiB the value is one body (package
// bodies): Log.Distribute brings it to where it is needed, and a command that refers to
// it is proposed then. More is an upload (see below) whose chunks are bodies, and which
// a seal ends. A body is named by its SHA-256, and each node keeps it once: equal values,
// and equal chunks, share one. The log replicates the command and every node calls
// Store.Apply with it, when it has the body. There a value that is not what
// its digest says is refused, by all alike, and the first put of a key in log order
// wins; it becomes the next revision and a record, visible to
// Store.Get at once. Records wait in memory until Store.Commit appends them to
// history in one transaction with the applied index; until then a crash loses
// nothing, because the log gives the entries again. Later, and in bulk, their
// keys are sorted and become a run of the index.
//
//	Apply ──► pending records ──Commit──► history (revision → record)
//	      └─► overlay (key → revision) ──FlushIndex──► index (key → revision)
//
// Nothing is ever changed, so the store is a log with an index that may lag. The
// overlay answers for the keys the index lacks. After a crash it is rebuilt by
// scanning the tail of history; without any index that tail is all of it.
//
// Store.Keys lists keys in byte order: it pins the generations of the overlay,
// merges them with the index, and fills in the rest from history. Store.Changes
// reads history from any revision on, Store.Advanced tells when there is more.
//
// # Files and buckets
//
// A store's directory has history.db and, while a snapshot is pulled, staging.db, both
// bbolt; index, the directory of the index (package keyruns); and values, that of the
// bodies. Versions before had index.db in place of index: it is not read, and removed
// when index has taken its place. Numbers are big endian; "framed" means one format byte and a CRC-32C that also covers the key it is
// stored under.
//
//	history.db  records      last revision of a block → records of consecutive revisions
//	            chunks       upload id 16, number 4  → size 4 and SHA-256 of a chunk, framed
//	            uploads      upload id 16            → open upload: time 8, bytes uvarint, SHA-256 so far; framed
//	            checkpoints  every 1,024th revision  → tree, bytes of values; framed
//	            state        "position"              → sequence uvarint, applied index, term, tree, bytes of values; framed
//	                         "history"               → id of the history, and those that it went on from; framed
//	                         "meta"                  → bytes that belong to the log; framed
//	staging.db  chunks       as in history; the bodies are where they stay already
//	            records      revision                → record in chunks
//	            state        "snapshot", "progress"  → what is pulled and how far
//
// Records lie in blocks, because an element of bbolt's costs 24 bytes and more, and a
// page its unused end. A block of records is a header (format 16,
// CRC-32C, number of records, where each ends) and the records, each framed by
// itself: one can be read and checked without the others. A commit fills up the
// block that the one before it left. A record that is alone in its block is
// stored without a header.
//
// What another version wrote is recognized by the format of the position, which is
// read first, and refused before anything is changed: with level.LaterError, or, if it
// is of before the first release, level.EarlierError.
//
// The index is runs of keys in order, each with its revision; every key is in one of
// them. A flush writes the keys of the overlay as a new run, and the mark up to where
// the index covers history, a revision and the digest there, with the list of the runs.
// Beside that, Run merges runs of about the same size, so that there are few. What each
// costs does not grow with the index. Replicas apply the same, and draw by lot when they
// flush and merge (StoreConfig.Spread): when all do at once, every put waits. While there
// are too many runs, none is flushed: the overlay fills, and Apply pauses.
//
// When history is far ahead of the index, as it is for a fresh replica, its keys
// are sorted in parts of one overlay's worth, which wait in a scratch file
// (sort.tmp) and are merged into one run, in key order.
//
// Behind the revision of the position there may be records that a pull brought
// and no install has made part of history, or that another pull left. Nobody
// reads them; what is written there takes their place.
//
// A record is a header, which says what was put, and how its bytes are kept here:
//
//	header  shape uvarint | [sequence uvarint] | proposer's time 8 | [by] | [meta] | put id | size uvarint | SHA-256 32 | content type | key
//	then    the value's bytes, or upload id 16 and number of chunks uvarint
//
// The first byte of the record's frame tells which: 2 the bytes, 3 chunks, each of
// ChunkBytes but the last, 6 neither: size and SHA-256 of the header name the body. 4 (a
// header whose bytes are retired) and 5 (only the leaf of a header) are reserved, and so
// is what is up to 15; 1 was that of a format before the first release. The shape is 8 times the type, 1 for a put, which is the
// only one so far, plus 1 if there is a by, 2 if there is meta, and 4 if there is a
// sequence that is not 0. By and put id are a length byte and characters; a put id of
// 32 lower-case hex digits is packed into 16 bytes, marked by the length's high bit.
// Meta is a uvarint of its length and, in the order of the names, length byte and
// name, uvarint and value of each. A content type is one byte below 32, the number of
// a common one (contenttype.go); or its length plus 31, up to 254, and its characters;
// or 255, its length less 224, and its characters. A key is a uvarint and its bytes.
// There is one encoding of each record, and decoding refuses every other.
//
// A command is
//
//	level uvarint 1 | kind 1 | sequence uvarint 0 | access revision uvarint 0, and then for kind
//	1 put      header, the value's bytes, less than 16 KiB of them
//	2 chunk    upload id 16, number 4, proposer's time 8, size 4 and SHA-256 of the chunk
//	3 seal     header, upload id 16, number of chunks uvarint
//	4 abandon  upload id 16
//	5 open     upload id 16, proposer's time 8
//	6 refer    header, of a value of 16 KiB to 1 MiB
//
// The level is the one with which that kind came, in that form. A command above the
// level of this program, or of a kind that it does not know, ends the store, before
// anything of its entry is applied: a later version wrote it, and will carry it out. So
// does a record of an unknown type when it is read. Everything else that is wrong with
// a command makes a refusal that is the same on every replica.
//
// The header of the record of revision r is leaf r-1 of a tree as RFC 6962 has it (a
// leaf is hashed behind a byte 0, the two halves of a tree behind a byte 1), and the
// history digest at r is the head of the tree of the first r leaves, at 0 that of none,
// SHA-256 of nothing. Replicas with equal digests at a revision have equal histories up
// to it. A store keeps of the tree what it needs to go on, the heads of its full
// subtrees, one for each bit of r that is set (package merkle): stored as r, which is
// the revision too, in a uvarint, and those heads, the largest subtree first. A put hashes
// its leaf and one node on average; a head, some twelve more, is made when a
// generation of the overlay ends, and when somebody asks.
//
// The tree and the bytes of all values follow from the records alone. One function,
// derived.advance, changes them, whoever brings the records: entries of the log, a
// pull, a scan. So what a snapshot, a checkpoint or a position says of them is checked
// against records.
//
// A history has an id of 128 bits, HistoryID, which Bootstrap gives it, and
// Fork, when a cluster is forced out of another: from there on the same revision may be
// another record elsewhere. What it went on from is kept with it, each with its last
// revision and its head there. Snapshots carry all of that. A store that was restored
// has an origin and no id, and belongs to no log until Bootstrap.
//
// Whoever reads on names the history that his revision is of. If this store went on
// from that one, or if the log confirms that this node is not behind and it is not
// known or not so long, he is told *HistoryChangedError.
//
// Position, snapshot, query and each frame of a stream name a sequence, as commands and
// records do. There is one, 0. Later versions may have more, each with revisions and a
// tree of its own.
//
// # Uploads
//
// A value of more than 1 MiB comes in commands of its own: one that opens an upload,
// together with the first chunk; chunks of 1 MiB, but for the last; and a seal, which
// is a put of what the chunks are. An upload that is not open takes no chunk. Chunks
// are added in their order: one that is there already changes nothing, one that comes
// before it is wanted is refused with ErrChunkOrder. DB.Put has some on their way at a
// time, each distributed beside the others, and proposed right after the one before it. A log may lose one and give the
// others: those are refused, and DB.Put proposes them again when it is there.
//
// So the state of an open upload is small: how many bytes it has, from which follows
// the number of chunks, and SHA-256 so far: the chaining value after the last whole
// block of 64 bytes, and the bytes behind it. It goes into history with the chunks,
// and into snapshots, so that a seal compares the digest and reads no chunk, whatever
// was restarted or installed meanwhile. A seal whose digest is another is refused by
// all alike. Since all have the same chunks, and each of them a checksum, a store
// where the digests differ goes through its own chunks before it refuses: if it was
// its memory that changed a bit of the state, it finds out, and decides as the others.
// A receiver of a snapshot compares the chunks it pulls with the state that came.
//
// A seal closes its upload, whether it sets a key or not; so does an abandon, which
// DB.Put proposes when it fails, and DB.Run when an upload showed no life for
// DBConfig.UploadIdle: no chunk came, and it was not opened again, as DB.Put proposes
// while its body is slow. Each changes the state of the upload, its time at least; what
// that time is decides nothing, for clocks may be wrong. A sealed
// upload cannot be opened again: what is open may be dropped, and its chunks with it.
//
// # What needs a body
//
// A body stays as long as something counts on it. A store counts the records of history
// that refer to each, after the commit that made these durable, together with a mark that
// says up to which revision, and with which head. At a start it counts on from the mark.
// If that is not in its history, because bbolt went back by one transaction, or if the
// bodies lost what they knew, it counts all of history again, which takes a scan.
// Everything else is held, and held anew at a start:
//
//	what pends                  from Apply until it is counted
//	chunks of open uploads      until their record is counted, or for one commit after the one
//	                            that dropped them: bbolt may go back to the rows
//	what DB.Put is proposing    from Log.Distribute until the answer
//	entries of the log          by whoever has the log, see Recovered
//
// While a snapshot is pulled and installed nothing is reclaimed at all, and for ten
// minutes more if a pull breaks off and nobody goes on with it. What loses, and
// what is abandoned, is held by nobody some time, and its room comes back.
//
// # Invariants
//
//  1. A key's record never changes and never goes.
//  2. The applied index moves in the same transaction as the effects of its
//     entries, and a transaction never holds half an entry.
//  3. A revision enters the index only after history has it durably. Otherwise a
//     replay would find the key "already set" and drop an acknowledged put.
//  4. A key leaves the overlay only after its run of the index is durable, and a record
//     leaves memory only after history has it. Readers look in the overlay, then
//     in the index, then in history, so they cannot miss a key.
//  5. Applying is deterministic: the results, the digest and the snapshot depend on
//     the entries alone, not on what was committed, flushed or restarted in between.
//  6. Every record, row and body is checked whenever it is read. A failed check or a
//     failed write is fatal: the store answers nothing else from then on. A value
//     is compared with its digest before it is set, and again when it is pulled.
//     Files are synced when they are opened, so that nothing is built on what only
//     memory has.
//  7. No goroutine waits for a bound while it holds a transaction or a lock, so
//     the work that releases the bound can always run.
//  8. The id of a history changes in the transaction of the entry that names it.
//  9. A snapshot counts only with the last transaction of its install. Records of
//     a pull, or of one that was refused, lie beyond the position and are not seen.
//  10. Every body that a record of history refers to, or a row of an open upload, is
//     here. One that is not ends the store. What Apply answers depends on the entries
//     alone, never on whether a body was here before.
//
// # Memory
//
// StoreConfig bounds what is applied and not committed (PendingBytes) and the
// keys not yet indexed (OverlayBytes): at either bound Apply pauses, one entry
// over at most. DBConfig bounds the bodies of puts (InFlightBytes): they take memory
// as their bytes arrive, an eighth of it is for small ones alone, and when it is
// short the slowest are interrupted. What is distributed takes none any more, but what
// the log holds for members that are slow. At most 1,024 large values are being put
// through a node. A value that is one body is read whole; a reader of a larger one holds
// one chunk, Apply too, a snapshot sender about 1 MiB, a receiver a few; a list what its
// caller asked for. While keys are listed, those not yet indexed are held in order too,
// 24 bytes a key. At most 4,096 uploads are open. Of each key in the index its filter
// and fences take about 2 bytes; nothing else grows with the number of keys.
//
// # Caveats
//
//   - A found value is checked, and so is the block of keys that a key would be in. The
//     way there, fences and filters, is checked when it is read from the disk, and is in
//     memory from then on: where that changes a bit, a key may be "not set". Compare
//     digests between replicas, and delete index to have it rebuilt.
//   - bbolt checks its own two meta pages only. When the newer one is damaged it
//     falls back to the transaction before. An index that then has keys beyond
//     history is refused at the next start, pulled records that are then missing
//     are pulled again, and the log, or another member, must still have the rest.
//   - The bbolt files never shrink. The bodies do: room that nothing needs is given back
//     to the file system, or copied together, within a minute or so.
//   - A list verifies the records it names, with the values of less than 16 KiB in them.
//   - A store whose bodies nobody said Recovered of reclaims nothing.
//   - After an upload was dropped a late repeat of what opened it opens it again, empty;
//     it is dropped anew when it has been idle for UploadIdle.
//   - The clock of the proposer is stored as it is. Times of neighbouring revisions
//     may run backwards.
package kvstore
