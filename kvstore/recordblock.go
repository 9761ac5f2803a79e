package kvstore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"

	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Records of consecutive revisions lie together in blocks, under the revision of the last:
// alone, each would cost an element of bbolt's and a share of an unfilled page. A record
// that is alone in its block is stored as it is.
//
// A block is its header, and then the records, which keep their own checksums:
// format byte, checksum 4, number of records 2, the end of each 2.
const (
	blockFormat      = 16
	blockFixedBytes  = 1 + 4 + 2
	blockRecordBytes = 2 // of the header, for each record

	// smallBlockBytes is where a block of several records ends if they nearly fill it: two
	// such blocks, with what bbolt adds, fill two pages of 4 KiB, so that a read touches few.
	// For larger records blockBytes is: two fill eight pages.
	smallBlockBytes = (2*4096-16)/2 - 24
	blockBytes      = (8*4096-16)/2 - 24
)

// recordBlock is an engine value of engine.BucketRecords taken apart.
type recordBlock struct {
	last Revision
	ends []byte // nil: data is one record
	data []byte
}

// openBlock checks the header of what is stored under last. Of a record that is
// alone only the format is looked at.
func openBlock(raw []byte, last Revision) (recordBlock, error) {
	switch {
	case len(raw) == 0 || bodyKind(raw[0]) >= bodyInline && bodyKind(raw[0]) <= bodyLast:
		return recordBlock{last: last, data: raw}, nil
	case raw[0] != blockFormat:
		return recordBlock{}, fmt.Errorf("what ends with revision %d has format %d; this program knows %d for a block, and less for a record", last, raw[0], blockFormat)
	}
	if len(raw) < blockFixedBytes {
		return recordBlock{}, fmt.Errorf("the block that ends with revision %d has %d bytes only", last, len(raw))
	}
	n := int(binary.BigEndian.Uint16(raw[5:]))
	header := blockFixedBytes + n*blockRecordBytes
	if header > len(raw) {
		return recordBlock{}, fmt.Errorf("the block that ends with revision %d has %d bytes only", last, len(raw))
	}
	if got, want := binary.BigEndian.Uint32(raw[1:]), recordChecksum(raw[:header], last); got != want {
		return recordBlock{}, fmt.Errorf("the header of the block that ends with revision %d has checksum %08x, its bytes have %08x", last, got, want)
	}
	b := recordBlock{last: last, ends: raw[blockFixedBytes:header], data: raw[header:]}
	if n < 2 || Revision(n) > last || b.end(n-1) != len(b.data) {
		return recordBlock{}, fmt.Errorf("the block that ends with revision %d has %d records and %d bytes of them", last, n, len(b.data))
	}
	return b, nil
}

func (b *recordBlock) end(i int) int { return int(binary.BigEndian.Uint16(b.ends[2*i:])) }

// len is the number of records.
func (b *recordBlock) len() int { return max(1, len(b.ends)/blockRecordBytes) }

func (b *recordBlock) first() Revision { return b.last - Revision(b.len()) + 1 }

// record returns the stored form of record i, which is not checked.
func (b *recordBlock) record(i int) []byte {
	if b.ends == nil {
		return b.data
	}
	start, end := 0, b.end(i)
	if i > 0 {
		start = b.end(i - 1)
	}
	if start > end || end > len(b.data) {
		return nil // which no record is
	}
	return b.data[start:end:end]
}

// openBlockIn is openBlock for a value of tx.
func openBlockIn(tx engine.Tx, key, raw []byte) (recordBlock, error) {
	last, ok := keyRevision(key)
	if !ok {
		return recordBlock{}, corruptAt(tx, raw, fmt.Sprintf("a record has the key %x, which is not a revision", key))
	}
	b, err := openBlock(raw, last)
	if err != nil {
		return recordBlock{}, corruptAt(tx, raw, err.Error())
	}
	return b, nil
}

// recordAt returns the stored form of the record of rev, nil when there is none.
// It is not checked, and aliases the transaction.
func recordAt(tx engine.Tx, rev Revision) ([]byte, error) {
	from := revisionKey(rev)
	key, raw := tx.Seek(engine.BucketRecords, from[:])
	if key == nil {
		return nil, nil
	}
	b, err := openBlockIn(tx, key, raw)
	if err != nil || rev < b.first() || rev > b.last {
		return nil, err
	}
	return b.record(int(rev - b.first())), nil
}

// ascendRecords calls fn for the records from revision from on, in order, until
// it returns false. They are not checked; there may be gaps.
func ascendRecords(tx engine.Tx, from Revision, fn func(rev Revision, raw []byte) (more bool)) error {
	start := revisionKey(from)
	var failed error
	tx.Ascend(engine.BucketRecords, start[:], func(k, v []byte) bool {
		b, err := openBlockIn(tx, k, v)
		if err != nil {
			failed = err
			return false
		}
		first := b.first()
		for i := range b.len() {
			rev := first + Revision(i)
			if rev < from {
				continue
			}
			if !fn(rev, b.record(i)) {
				return false
			}
			from = rev + 1
		}
		return true
	})
	return failed
}

// Bounds of one scan: short, so that writers and other readers are never held up.
const (
	scanRecordsMax = 2000
	scanBytes      = 1 << 20
)

// scanRecords calls fn for the records from one revision to another, without a gap, until
// it returns false or saw enough for one transaction. It does not check them. ahead: the
// scan goes on.
func scanRecords(tx engine.Tx, from, last Revision, ahead bool, fn func(rev Revision, raw []byte) (more bool, err error)) error {
	next, read := from, 0
	var failed error
	err := ascendRecords(tx, from, func(rev Revision, raw []byte) bool {
		if rev != next || rev > last {
			return false
		}
		if ahead && rev == from {
			tx.ReadAhead(raw)
		}
		next++
		read += len(raw)
		more, err := fn(rev, raw)
		failed = err
		return more && err == nil && next-from < scanRecordsMax && read < scanBytes
	})
	if failed == nil && err == nil && next == from {
		_, err = readRecord(tx, from) // says that it is missing
	}
	return cmp.Or(failed, err)
}

// blockWriter appends records to engine.BucketRecords in one transaction.
type blockWriter struct {
	tx      engine.Tx
	last    Revision // of records
	records [][]byte // not yet written
	bytes   int
}

// appendRecords returns a writer for the records from after+1 to last, and makes room:
// what lies there was never part of this history, see Stage. With fillUp it fills up the
// block before them, so that blocks get full however little a commit brings.
func appendRecords(tx engine.Tx, after, last Revision, fillUp bool) (*blockWriter, error) {
	var stale [][]byte
	from := revisionKey(after + 1)
	tx.Ascend(engine.BucketRecords, from[:], func(k, _ []byte) bool {
		if rev, ok := keyRevision(k); !ok || rev > last {
			return false
		}
		stale = append(stale, append([]byte(nil), k...))
		return true
	})
	w := &blockWriter{tx: tx, last: after}
	if fillUp && after > 0 {
		if err := w.takeBack(after); err != nil {
			return nil, err
		}
	}
	for _, k := range stale {
		if err := tx.Delete(engine.BucketRecords, k); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// takeBack takes the block that ends with last out, unless it is full.
func (w *blockWriter) takeBack(last Revision) error {
	k := revisionKey(last)
	raw := w.tx.Get(engine.BucketRecords, k[:])
	if raw == nil || blockIsFull(len(raw)) {
		return nil
	}
	b, err := openBlockIn(w.tx, k[:], bytes.Clone(raw))
	if err != nil {
		return err
	}
	w.last = b.first() - 1
	if err := w.addBlock(&b, b.len()); err != nil {
		return err
	}
	return w.tx.Delete(engine.BucketRecords, k[:])
}

// addBlock adds the first n records of a block. It checks them: what is damaged must not
// get a sound header.
func (w *blockWriter) addBlock(b *recordBlock, n int) error {
	for i := range n {
		if _, err := checkRecord(w.tx, b.record(i), b.first()+Revision(i)); err != nil {
			return err
		}
		if err := w.add(b.record(i)); err != nil {
			return err
		}
	}
	return nil
}

// cutBlock writes a block that ends with rev, with what the block that rev lies in
// has up to there. That one stays: it is found for what follows only.
func cutBlock(tx engine.Tx, rev Revision) error {
	from := revisionKey(rev)
	key, raw := tx.Seek(engine.BucketRecords, from[:])
	if key == nil {
		return nil
	}
	b, err := openBlockIn(tx, key, bytes.Clone(raw))
	if err != nil || b.last == rev || b.first() > rev {
		return err
	}
	w := &blockWriter{tx: tx, last: b.first() - 1}
	if err := w.addBlock(&b, int(rev-b.first())+1); err != nil {
		return err
	}
	return w.flush()
}

// blockIsFull tells whether so many bytes fill a block, but for a sixteenth.
func blockIsFull(size int) bool {
	return size <= smallBlockBytes && size >= smallBlockBytes*15/16 || size >= blockBytes*15/16
}

// add appends the record after the last one. raw must not change until the
// transaction ends.
func (w *blockWriter) add(raw []byte) error {
	if len(w.records) > 0 {
		size := blockFixedBytes + w.bytes
		grown := size + len(raw) + blockRecordBytes
		if grown > blockBytes || grown > smallBlockBytes && blockIsFull(size) {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	w.last++
	w.records = append(w.records, raw)
	w.bytes += len(raw) + blockRecordBytes
	return nil
}

// flush writes what was added as a block.
func (w *blockWriter) flush() error {
	if len(w.records) == 0 {
		return nil
	}
	k := revisionKey(w.last)
	value := w.records[0]
	if len(w.records) > 1 {
		value = encodeBlock(w.records, w.last, w.bytes)
	}
	clear(w.records)
	w.records, w.bytes = w.records[:0], 0
	return w.tx.Put(engine.BucketRecords, k[:], value)
}

// encodeBlock makes a block of several records, the last of which has revision
// last. bytes are those of the records and of their part in the header.
func encodeBlock(records [][]byte, last Revision, bytes int) []byte {
	b := make([]byte, blockFixedBytes, blockFixedBytes+bytes)
	b[0] = blockFormat
	binary.BigEndian.PutUint16(b[5:], uint16(len(records)))
	end := 0
	for _, r := range records {
		end += len(r)
		b = binary.BigEndian.AppendUint16(b, uint16(end))
	}
	binary.BigEndian.PutUint32(b[1:], recordChecksum(b, last))
	for _, r := range records {
		b = append(b, r...)
	}
	return b
}

// readRecord reads and checks the record of rev. What it returns aliases the
// transaction.
func readRecord(tx engine.Tx, rev Revision) (body, error) {
	raw, err := recordAt(tx, rev)
	if err != nil {
		return body{}, err
	}
	if raw == nil {
		return body{}, corruptAt(tx, nil, fmt.Sprintf("revision %d is missing", rev))
	}
	return checkRecord(tx, raw, rev)
}

// checkRecord decodes the stored record of rev.
func checkRecord(tx engine.Tx, raw []byte, rev Revision) (body, error) {
	d, err := decodeRecord(raw, rev)
	if _, later := err.(*level.LaterError); later {
		return body{}, err
	}
	if err != nil {
		return body{}, corruptAt(tx, raw, err.Error())
	}
	return d, nil
}
