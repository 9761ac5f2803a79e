package kvstore

import (
	"bytes"
	"errors"
	"fmt"
)

// Install makes a staged snapshot, which Stage returned nil for, this store's
// state: entry index of the log with term and meta. The records are behind the
// end of history already; it moves the chunks there in batches, and only the
// last, with the position, makes all of it count, so that after a crash in the
// middle the same Install starts again. When it
// returns nil every key of the snapshot is visible and staging is gone. A store
// that has applied index already only drops staging. An error is fatal, unless
// nothing was staged.
func (s *Store) Install(index, term uint64, meta, snapshot []byte) error {
	snap, err := decodeSnapshot(snapshot)
	if err != nil {
		return err
	}
	if err := s.Commit(); err != nil {
		return err
	}
	own, lineage := s.durableHistory()
	if own.index >= index {
		return s.dropStaging()
	}
	if err := checkAncestry(&own, &lineage, snap); err != nil {
		return s.fail(err)
	}
	area, err := s.openStaging()
	if err != nil {
		return err
	}
	if err := s.installFrom(area, snap, position{index: index, term: term}, meta, snapshot); err != nil {
		return errors.Join(err, area.Close())
	}
	if err := area.Close(); err != nil {
		return s.failed("close staging", err)
	}
	if err := s.indexTail(&own.derived); err != nil { // nothing was applied since, so the overlay ends there
		return err
	}
	if err := s.countHistory(); err != nil {
		return err
	}
	if err := s.holdUploads(); err != nil {
		return err
	}
	return s.dropStaging()
}

func (s *Store) dropStaging() error {
	if s.cfg.RemoveStaging == nil {
		return nil
	}
	return s.failed("drop staging", s.cfg.RemoveStaging())
}

// installFrom moves area into history and takes over the new state: what Stage made
// of the records that it pulled. It is verified again when they are indexed.
func (s *Store) installFrom(area Engine, snap *snapshot, at position, meta, snapshot []byte) error {
	staged, p, err := readProgress(area)
	if err != nil {
		return s.failed("read staging", err)
	}
	if !p.done || p.last != snap.derived || !bytes.Equal(staged, snapshot) {
		return errors.New("install snapshot: it is not staged; call Stage first")
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	at.derived = p.last
	in := &installer{store: s, area: area, snap: snap, sealed: make(map[uploadID]bool)}
	if err := in.move(&at, meta); err != nil {
		return s.failed("install snapshot", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.durable = at, at
	s.lineage, s.kept = snap.lineage, snap.lineage
	s.uploads = snap.uploads
	clear(s.dirty)
	s.announceLocked()
	return nil
}

// installer is one call of installFrom; the store's applyMu is held.
type installer struct {
	store  *Store
	area   Engine
	snap   *snapshot
	sealed map[uploadID]bool // own open uploads that a record of the snapshot seals

	puts  []stagedPut
	bytes int64
}

// move brings chunks and uploads into history, where the records are already,
// and the position last.
func (in *installer) move(at *position, meta []byte) error {
	if err := in.moveSealed(in.store.durable.rev); err != nil {
		return err
	}
	for _, id := range sortedUploads(in.snap.uploads) {
		if err := in.moveUpload(id); err != nil {
			return err
		}
	}
	return in.store.history.Update(func(tx Tx) error {
		if in.snap.rev > 0 { // a disk that lost what was pulled shows here
			if _, err := readRecord(tx, in.snap.rev); err != nil {
				return err
			}
		}
		if err := in.writePuts(tx); err != nil {
			return err
		}
		if err := in.writeUploads(tx); err != nil {
			return err
		}
		if err := writeLineage(tx, &in.snap.lineage); err != nil {
			return err
		}
		return writePosition(tx, at, meta)
	})
}

// moveSealed moves the chunks of all records after revision own.
func (in *installer) moveSealed(own Revision) error {
	for rev := own; ; {
		next, d, err := in.nextSealed(rev + 1)
		if err != nil || next == 0 {
			return err
		}
		if err := in.moveChunks(d); err != nil {
			return err
		}
		rev = next
	}
}

// nextSealed returns the first record in chunks from revision from on, 0 when
// there is none. What staging has and history has not was left by a pull that
// was given something else.
func (in *installer) nextSealed(from Revision) (rev Revision, d *body, err error) {
	err = in.area.View(func(tx Tx) error {
		var failed error
		err := ascendRecords(tx, from, func(at Revision, raw []byte) bool {
			if at > in.snap.rev {
				return false
			}
			found, err := checkRecord(tx, raw, at)
			if err == nil {
				var same bool
				same, err = in.inHistory(at, raw)
				if err == nil && !same {
					return true
				}
			}
			rev, d, failed = at, &body{upload: found.upload, chunks: found.chunks}, err
			return false
		})
		return errors.Join(failed, err)
	})
	return rev, d, err
}

// inHistory tells whether history has this very record.
func (in *installer) inHistory(rev Revision, raw []byte) (same bool, err error) {
	err = in.store.history.View(func(tx Tx) error {
		stored, err := recordAt(tx, rev)
		same = bytes.Equal(stored, raw)
		return err
	})
	return same, err
}

// moveChunks moves the chunks of a record.
func (in *installer) moveChunks(d *body) error {
	if in.store.uploads[d.upload] != nil {
		in.sealed[d.upload] = true
	}
	for n := range d.chunks {
		found, err := in.moveChunk(makeChunkKey(d.upload, n))
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("chunk %d of upload %s is not staged", n, d.upload)
		}
	}
	return nil
}

// moveUpload moves what staging has of an open upload. Chunks it lacks are in
// history already, or are gone: see pullUpload.
func (in *installer) moveUpload(id uploadID) error {
	for n := range in.snap.uploads[id].count() {
		if _, err := in.moveChunk(makeChunkKey(id, n)); err != nil {
			return err
		}
	}
	return nil
}

func (in *installer) moveChunk(key chunkKey) (found bool, err error) {
	var stored []byte
	err = in.area.View(func(tx Tx) error {
		raw := tx.Get(BucketChunks, key[:])
		if raw == nil {
			return nil
		}
		if _, err := checkChunkRow(tx, raw, key); err != nil {
			return err
		}
		stored = append([]byte(nil), raw...)
		return nil
	})
	if err != nil || stored == nil {
		return false, err
	}
	return true, in.put(BucketChunks, key[:], stored)
}

// put adds one write to the batch and commits the batch when it is large.
func (in *installer) put(b Bucket, key, value []byte) error {
	in.puts = append(in.puts, stagedPut{b, append([]byte(nil), key...), append([]byte(nil), value...)})
	in.bytes += int64(len(key) + len(value) + pendingOverhead)
	if in.bytes < in.store.cfg.CommitBytes {
		return nil
	}
	return in.store.history.Update(in.writePuts)
}

func (in *installer) writePuts(tx Tx) error {
	for _, p := range in.puts {
		if err := tx.Put(p.bucket, p.key, p.value); err != nil {
			return err
		}
	}
	in.puts, in.bytes = nil, 0
	return nil
}

// writeUploads makes the open uploads those of the snapshot. The chunks of an
// upload that is neither open nor sealed there were dropped by an entry that
// this store will never see.
func (in *installer) writeUploads(tx Tx) error {
	for _, id := range sortedUploads(in.store.uploads) {
		if in.snap.uploads[id] != nil {
			continue
		}
		if err := tx.Delete(BucketUploads, id[:]); err != nil {
			return err
		}
		if in.sealed[id] {
			continue
		}
		if _, err := deleteChunks(tx, id); err != nil {
			return err
		}
	}
	for _, id := range sortedUploads(in.snap.uploads) {
		if err := tx.Put(BucketUploads, id[:], encodeUpload(id, in.snap.uploads[id])); err != nil {
			return err
		}
	}
	return nil
}
