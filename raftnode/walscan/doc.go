// Package walscan reads the write-ahead log of a node before anything opens it
// for writing, and decides whether it can be trusted.
//
// It owns one decision: which bytes at the end of an etcd v3.5 WAL directory
// may be thrown away. Everything that was flushed must stay. Only the tail of
// the last segment, written but not yet flushed when the machine stopped, may
// be torn and is then cut off.
//
// etcd's own wal.ReadAll and wal.Repair are too trusting for that. ReadAll takes
// a zero frame header for the end of the log and clears what comes after it.
// Repair takes any record with a zero sector inside it for a torn write, even in
// the middle of a segment. Both lose flushed records without an error. The
// checksum of a record covers neither its type nor its length.
//
// # Use
//
//	report, err := walscan.Check(dir)
//	if err != nil {
//		return err // a *DamageError says which file, which offset, what to do
//	}
//	if report.Torn {
//		if err := walscan.Repair(report); err != nil {
//			return err
//		}
//	}
//	if max(report.LastIndex, report.SnapshotIndex) < applied {
//		return errLogBehindStore
//	}
//	w, err := wal.Open(lg, dir, snapshot) // now safe
//
// # Format
//
// A segment file is named sequence-index.wal, both as 16 hex digits. It holds
// frames, each at an offset divisible by 8, and after the last frame zeros that
// were preallocated:
//
//	8 bytes  little endian: record length in the low 56 bits; if the record is
//	         not a multiple of 8 long, the high byte is 0x80 | padding bytes
//	n bytes  walpb.Record: type, crc, data (protobuf)
//	padding  zeros up to the next multiple of 8
//
// The crc of a record is CRC-32C over the data of all records so far. Every
// segment begins with a record of type crc that repeats the sum reached, and a
// metadata record; both are flushed before the segment gets its name.
//
// # Invariants
//
//  1. Check writes nothing.
//  2. A record with a readable successor is never given up: damage before it is
//     a *DamageError.
//  3. Only the last segment can be torn, and never in its first two records.
//  4. A record that was completely written is never given up: if its data still
//     matches its checksum, or does so after one byte is put right, the damage
//     is a *DamageError and not a torn write.
//  5. A torn tail shows zeros where the record should have bytes: a whole
//     512-byte sector of them, or all of them to the end.
//  6. After Check and Repair, wal.Open and ReadAll return exactly the records
//     Check counted.
//
// # Caveats
//
// A machine that loses power while it flushes several records may keep a later
// one and lose an earlier one. That looks the same as damage to flushed records,
// and Check refuses it: a node that is replaced needlessly is better than a node
// that forgets what it acknowledged.
//
// A last record of which whole sectors turned to zeros after it was flushed
// looks the same as a torn write. So does a log that was cut at the end of a
// record. Compare the report with the applied index of the store to notice.
//
// The directory must not be in use while it is checked.
package walscan
