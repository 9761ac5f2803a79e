package kvstore

// # Invariants
//
//  1. A key's record never changes and never goes.
//  2. The applied index moves in the same transaction as the effects of its
//     entries, and a transaction never holds half an entry.
//  3. A revision enters the index only after history has it durably. Otherwise a
//     replay would find the key "already set" and drop an acknowledged put.
//  4. A key leaves the memtable only after its run of the index is durable, and a record
//     leaves memory only after history has it. Readers look in the memtable, then
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
//     a pull, or of one that was refused, lie beyond the applied state and are not seen.
//  10. Every body that a record of history refers to, or a row of an open upload, is
//     here. One that is not ends the store. What Apply answers depends on the entries
//     alone, never on whether a body was here before.
//
// # Memory
//
// StoreConfig bounds what is applied and not committed (PendingBytes) and the keys not
// yet indexed (MemtableBytes): at either bound Apply pauses, one entry over at most.
// DBConfig bounds the bodies of puts (InFlightBytes): they take memory as their bytes
// arrive, an eighth of it is for small ones alone, and when it is short the slowest are
// interrupted. A value of up to 1 MiB is read whole; a reader of a larger one holds one
// chunk, Apply too, a snapshot sender about 1 MiB, a receiver a few. At most 1,024 large
// values are put through a node at a time, and 4,096 uploads are open. The filter and
// fences of the index take about 2 bytes a key; nothing else grows with the keys.
//
// # Caveats
//
//   - A found value is checked, and so is the block of keys that a key would be in. The
//     fences and filters are checked when they are read from the disk, and stay in memory:
//     where that changes a bit, a key may be "not set". Compare digests between replicas,
//     and delete index to have it rebuilt.
//   - bbolt checks its own two meta pages only. When the newer one is damaged it falls
//     back to the transaction before. An index that then has keys beyond history is
//     refused at the next start, and the log, or another member, must have the rest.
//   - The bbolt files never shrink. The bodies do, within a minute or so.
//   - A store whose bodies nobody said Recovered of reclaims nothing.
//   - The clock of the proposer is stored as it is: the times of neighbouring revisions may
//     run backwards.
