package kvstore

import (
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// commitBatch is everything that history lacks at one moment between entries.
type commitBatch struct {
	to      appliedState
	meta    []byte   // nil: unchanged
	lineage *History // nil: unchanged
	records []pendingRecord
	ops     []op
	uploads map[uploadID][]byte // new states; nil: no longer open
	bytes   int64

	dropped []bodies.Digest // chunks whose rows were deleted
}

// Commit brings everything applied so far into history, in one transaction
// with the applied index, and returns when it is durable. An error is fatal.
func (s *Store) Commit() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	batch := s.takeBatch()
	if batch == nil {
		return nil
	}
	began := time.Now() // for OnCommit alone; nothing is decided by it
	if err := s.history.Update(batch.write); err != nil {
		return s.failed("commit to history", err)
	}
	s.cfg.OnCommit(time.Since(began))
	counted, err := s.countRecords(batch.records, &batch.to.derived)
	if err != nil {
		return err
	}
	s.finishCommit(batch)
	for i := range counted { // what pended, or was open, and is counted now
		s.bodies.Release(counted[i].Digest)
	}
	s.releaseDropped(batch.dropped)
	return nil
}

// takeBatch returns what history lacks, nil when that is nothing. Chunks that the last
// commit dropped take one more, see releaseDropped. It waits for an entry that is being
// applied.
func (s *Store) takeBatch() *commitBatch {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied.index == s.durable.index && len(s.ops) == 0 && s.meta == nil && len(s.dropped) == 0 {
		return nil
	}
	b := &commitBatch{
		to:      s.applied,
		meta:    s.meta,
		records: s.pending[:len(s.pending):len(s.pending)],
		ops:     s.ops[:len(s.ops):len(s.ops)],
		uploads: make(map[uploadID][]byte, len(s.dirty)),
		bytes:   s.pendingBytes,
	}
	for id := range s.dirty {
		b.uploads[id] = nil
		if u := s.uploads[id]; u != nil {
			b.uploads[id] = encodeUpload(id, u)
		}
	}
	if lineage := s.lineage; lineage.ID != s.kept.ID {
		b.lineage = &lineage
	}
	clear(s.dirty)
	s.meta = nil
	return b
}

// write puts b into history: the records, and the rest in the order it was applied.
func (b *commitBatch) write(tx engine.Tx) error {
	if err := writeRecords(tx, b.records, true); err != nil {
		return err
	}
	for i := range b.ops {
		o := &b.ops[i]
		if o.row == nil {
			dropped, err := deleteChunks(tx, o.key.upload())
			if err != nil {
				return err
			}
			b.dropped = append(b.dropped, dropped...)
		} else if err := tx.Put(engine.BucketChunks, o.key[:], o.row); err != nil {
			return err
		}
	}
	for id, state := range b.uploads { // in any order: each has a key of its own
		var err error
		if state == nil {
			err = tx.Delete(engine.BucketUploads, id[:])
		} else {
			err = tx.Put(engine.BucketUploads, id[:], state)
		}
		if err != nil {
			return err
		}
	}
	if b.lineage != nil {
		if err := writeLineage(tx, b.lineage); err != nil {
			return err
		}
	}
	return writeApplied(tx, &b.to, b.meta)
}

// writeRecords appends records of consecutive revisions, and the checkpoints among them.
// fillUp: the block before them is filled up first.
func writeRecords(tx engine.Tx, records []pendingRecord, fillUp bool) error {
	if len(records) == 0 {
		return nil
	}
	w, err := appendRecords(tx, records[0].rev-1, records[len(records)-1].rev, fillUp)
	if err != nil {
		return err
	}
	for i := range records {
		p := &records[i]
		if err := w.add(p.record); err != nil {
			return err
		}
		if p.kept == nil {
			continue
		}
		k := revisionKey(p.rev)
		if err := tx.Put(engine.BucketCheckpoints, k[:], encodeCheckpoint(p.kept)); err != nil {
			return err
		}
	}
	return w.flush()
}

// rest returns a copy of all but the first n, with room for as many again: to
// let it grow by doubling costs more than to make it.
func rest[T any](all []T, n int) []T {
	left := all[n:]
	return append(make([]T, 0, len(left)+n), left...)
}

// finishCommit forgets what history has now. Readers that looked in memory
// before and find it gone open history after, and see it there.
func (s *Store) finishCommit(b *commitBatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = b.to
	if b.lineage != nil {
		s.kept = *b.lineage
	}
	s.pending = rest(s.pending, len(b.records))
	s.ops = rest(s.ops, len(b.ops))
	for i := range b.ops {
		o := &b.ops[i]
		if o.row == nil {
			if id := o.key.upload(); s.drops[id] > 1 {
				s.drops[id]--
			} else {
				delete(s.drops, id)
			}
		} else if c := s.chunks[o.key]; c != nil && &c[0] == &o.row[0] {
			// The same chunk may pend anew: its upload was dropped and a late
			// repeat opened it again. Forget only what was written here.
			delete(s.chunks, o.key)
		}
	}
	s.pendingBytes -= b.bytes
	s.releaseLocked()
	if s.flushDueLocked() {
		wake(s.wakeFlush)
	}
}

// flushDueLocked reports whether the index lags far enough for a flush: few,
// large flushes write far less than many small ones. mu is held.
func (s *Store) flushDueLocked() bool {
	return s.memtable.frozenBytes() >= s.flushAt
}

// freezeLocked starts a new generation if one is due. at is what history is at the
// end of the memtable. mu is held.
func (s *Store) freezeLocked(at *derived) {
	o := &s.memtable
	if o.active.bytes >= s.cfg.GenerationBytes || o.frozenBytes() < s.flushAt && o.bytes >= s.flushAt {
		o.freeze(at)
	}
}
