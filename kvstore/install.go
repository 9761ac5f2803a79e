package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/bodies"
)

// Install makes a staged snapshot, which Stage returned nil for, this store's
// state: entry index of the log with term and meta. The records are behind the
// end of history already; it moves the rows of chunks there in batches, and only the
// last, with the position, makes all of it count, so that after a crash in the
// middle the same Install starts again. Then the bodies that the records refer to are
// counted; after a crash before that, the next start counts them. When it
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
	whole := s.pulls.begin()
	err = s.install(position{index: index, term: term}, snap, meta, snapshot, whole)
	if err != nil {
		s.pulls.end(whole)
		return err
	}
	s.pulls.finish()
	return nil
}

// install is Install of a decoded snapshot. whole tells whether all bodies of staging are
// known to be here; none is forgotten until it is over.
func (s *Store) install(at position, snap *snapshot, meta, snapshot []byte, whole bool) error {
	own, lineage := s.durableHistory()
	if own.index >= at.index {
		return s.dropStaging()
	}
	if err := checkAncestry(&own, &lineage, snap); err != nil {
		return s.fail(err)
	}
	area, err := s.openStaging()
	if err != nil {
		return err
	}
	if err := s.installFrom(area, snap, at, meta, snapshot, whole); err != nil {
		return errors.Join(err, area.Close())
	}
	if err := area.Close(); err != nil {
		return s.failed("close staging", err)
	}
	if err := s.indexTail(&own.derived); err != nil { // nothing was applied since, so the overlay ends there
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
func (s *Store) installFrom(area Engine, snap *snapshot, at position, meta, snapshot []byte, whole bool) error {
	staged, p, err := readProgress(area)
	if err != nil {
		return s.failed("read staging", err)
	}
	staging := p.done && p.last == snap.derived && bytes.Equal(staged, snapshot)
	if staging && !whole {
		if staging, err = s.pullIsWhole(context.Background(), area, s.durablePosition().rev, p.last.rev); err != nil {
			return s.failed("read staging", err)
		}
	}
	if !staging {
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
	s.applied, s.durable = at, at
	s.lineage, s.kept = snap.lineage, snap.lineage
	s.uploads = snap.uploads
	clear(s.dirty)
	s.announceLocked()
	s.mu.Unlock()
	if err := s.countHistory(); err != nil {
		return err
	}
	return s.failed("install snapshot", in.release())
}

// installer is one call of installFrom; the store's commitMu and applyMu are held.
type installer struct {
	store  *Store
	area   Engine
	snap   *snapshot
	sealed map[uploadID]bool // own open uploads that a record of the snapshot seals

	puts    []stagedPut
	bytes   int64
	dropped []bodies.Digest // chunks of own uploads that the snapshot does not have
}

// release gives up what is counted now: the chunks of own uploads that were sealed. Those
// of the uploads that are gone are held for one more commit, see releaseDropped.
func (in *installer) release() error {
	for _, id := range sortedUploads(in.sealed) {
		if err := in.store.history.View(func(tx Tx) error {
			return ascendChunks(tx, id, func(_ chunkKey, ref bodies.Ref) error {
				in.store.bodies.Release(ref.Digest)
				return nil
			})
		}); err != nil {
			return err
		}
	}
	in.store.releaseDropped(in.dropped)
	return nil
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

// moveChunks moves the chunks of a record. All those of an own upload are held until
// they are counted, as if it had been sealed here.
func (in *installer) moveChunks(d *body) error {
	open := in.store.uploads[d.upload] != nil
	if open {
		in.sealed[d.upload] = true
	}
	for n := range d.chunks {
		found, err := in.moveChunk(makeChunkKey(d.upload, n), open, open)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("chunk %d of upload %s is not staged", n, d.upload)
		}
	}
	return nil
}

// moveUpload moves what staging has of an open upload, and holds it. Chunks it lacks are
// in history already, or are gone: see pullUpload.
func (in *installer) moveUpload(id uploadID) error {
	open := in.store.uploads[id] != nil
	for n := range in.snap.uploads[id].count() {
		if _, err := in.moveChunk(makeChunkKey(id, n), open, true); err != nil {
			return err
		}
	}
	return nil
}

// moveChunk moves the row of a chunk. If its upload is open in this store, history may
// have the row, and holds the body then. hold tells whether it has to be held.
func (in *installer) moveChunk(key chunkKey, open, hold bool) (found bool, err error) {
	if open {
		if err := in.store.history.View(func(tx Tx) error {
			found = tx.Get(BucketChunks, key[:]) != nil
			return nil
		}); err != nil || found {
			return found, err
		}
	}
	var ref bodies.Ref
	err = in.area.View(func(tx Tx) (err error) {
		raw := tx.Get(BucketChunks, key[:])
		if found = raw != nil; found {
			ref, err = checkChunkRow(tx, raw, key)
		}
		return err
	})
	if err != nil || !found {
		return false, err
	}
	if hold && !in.store.bodies.Hold(ref.Digest) {
		return false, in.store.missingBody(ref.Digest)
	}
	return true, in.put(BucketChunks, key[:], encodeChunkRow(key, ref))
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
		dropped, err := deleteChunks(tx, id)
		if err != nil {
			return err
		}
		in.dropped = append(in.dropped, dropped...)
	}
	for _, id := range sortedUploads(in.snap.uploads) {
		if err := tx.Put(BucketUploads, id[:], encodeUpload(id, in.snap.uploads[id])); err != nil {
			return err
		}
	}
	return nil
}
