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
// # Marks
//
// The pages of one write reach the disk in any order, so what a power cut leaves of
// it may have holes with good records behind them, as damage has. Marks tell the two
// apart: a node writes its state twice, right behind whatever it has flushed and
// before anything else. A hole that has a mark behind it was on the disk and is
// damage. In a log that has marks, a hole without one is of the last write, which
// may not have been flushed. Logs of older programs have none; there a hole is damage.
//
// # Invariants
//
//  1. Check writes nothing.
//  2. A record with a readable successor is given up only in a log with marks, when
//     none follows and whole sectors of it are missing. Else damage before the
//     successor is a *DamageError.
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
// A write of which whole sectors turned to zeros after it was flushed, and behind
// which nothing was written since, looks the same as a torn one: without marks a
// record, with them all that was flushed together. A node that stops in order leaves
// a mark. A log that was cut at the end of a record looks whole. Compare the report
// with the applied index of the store to notice.
//
// The directory must not be in use while it is checked.
package walscan
