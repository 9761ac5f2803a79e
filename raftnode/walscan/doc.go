// Package walscan reads the write-ahead log of a node before anything opens it
// for writing, and decides whether it can be trusted.
//
// It decides which bytes at the end of an etcd v3.5 WAL directory may be thrown away.
// Everything that was flushed must stay. Only the tail of the last segment, written but
// not yet flushed when the machine stopped, may be torn and is then cut off.
//
// etcd's wal.ReadAll and wal.Repair trust too much. ReadAll takes a zero frame header
// for the end of the log and clears what comes after it. Repair takes any record with a
// zero sector inside for a torn write, even in the middle of a segment. Both lose
// flushed records without an error. A record's checksum covers neither its type nor its
// length.
//
//	report, err := walscan.Check(dir)
//	if err != nil {
//		return err // a *DamageError says which file, which offset, what to do
//	}
//	if err := walscan.Repair(report); err != nil {
//		return err
//	}
//	if max(report.LastIndex, report.SnapshotIndex) < applied {
//		return errLogBehindStore
//	}
//	w, err := wal.Open(lg, dir, snapshot) // now safe
//
// # Format
//
// A segment file is named sequence-index.wal, both as 16 hex digits. It holds frames,
// each at an offset divisible by 8, and then zeros that were preallocated:
//
//	8 bytes  little endian: record length in the low 56 bits; if the record is
//	         not a multiple of 8 long, the high byte is 0x80 | padding bytes
//	n bytes  walpb.Record: type, crc, data (protobuf)
//	padding  zeros up to the next multiple of 8
//
// The crc of a record is CRC-32C over the data of all records so far. Every segment
// begins with a record of type crc that repeats the sum, and a metadata record; both
// are flushed before the segment gets its name.
//
// # Marks
//
// The pages of one write reach the disk in any order, so a power cut may leave holes
// with good records behind them, as damage does. Marks tell the two apart: a node writes
// its state twice, right behind what it has flushed. A hole before a mark was on the
// disk and is damage. In a log with marks, a hole behind the last one is of the last
// write. Logs of older programs have no marks; there a hole is damage.
//
// # Invariants
//
//  1. Check writes nothing.
//  2. A record with a readable successor is given up only in a log with marks, when
//     none follows and whole sectors of it are missing. Otherwise damage before the
//     successor is a *DamageError.
//  3. Only the last segment can be torn, and never in its first two records.
//  4. A record that was completely written is never given up: if its data matches its
//     checksum, or does so after one byte is put right, it is a *DamageError.
//  5. A torn tail shows zeros where the record should have bytes: a whole 512-byte
//     sector of them, or all of them to the end.
//  6. After Check and Repair, wal.Open and ReadAll return exactly the records that
//     Check counted.
//
// A write of which whole sectors turned to zeros after it was flushed, and behind which
// nothing was written, looks like a torn one. A node that stops in order leaves a mark.
// A log that was cut at the end of a record looks whole: compare the report with the
// applied index of the store.
package walscan
