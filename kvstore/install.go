package kvstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Install makes a staged snapshot, for which Stage returned nil, this store's state: entry
// index of the log with term and meta. The records are behind the end of history already.
// It moves the rows of chunks there in batches; only the last, with the applied state, makes
// all of it count, so that after a crash the same Install starts again. Then it counts the
// bodies that the records refer to; after a crash before that, the next start does. When
// it returns nil every key of the snapshot is visible and staging is gone. If index is
// applied already it only drops staging. An error is fatal, unless nothing was staged.
func (s *Store) Install(index, term uint64, meta, snapshot []byte) error {
	snap, err := decodeSnapshot(snapshot)
	if err != nil {
		return err
	}
	if err := s.Commit(); err != nil {
		return err
	}
	whole := s.pulls.begin()
	if err := s.install(appliedState{index: index, term: term}, snap, meta, snapshot, whole); err != nil {
		s.pulls.end(whole)
		return err
	}
	s.pulls.finish()
	return nil
}

// install is Install of a decoded snapshot. whole tells whether all bodies of staging are
// known to be here; none is forgotten until it is over.
func (s *Store) install(at appliedState, snap *snapshot, meta, snapshot []byte, whole bool) error {
	own, lineage := s.durableHistory()
	if own.index < at.index {
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
		if err := s.indexTail(&own.derived); err != nil { // nothing was applied since, so the memtable ends there
			return err
		}
	}
	if s.cfg.RemoveStaging == nil {
		return nil
	}
	return s.failed("drop staging", s.cfg.RemoveStaging())
}

// installFrom moves area into history and takes over the new state: what Stage made
// of the records that it pulled. It is verified again when they are indexed.
func (s *Store) installFrom(area engine.Engine, snap *snapshot, at appliedState, meta, snapshot []byte, whole bool) error {
	staged, p, err := readProgress(area)
	if err != nil {
		return s.failed("read staging", err)
	}
	staging := p.done && p.last == snap.derived && bytes.Equal(staged, snapshot)
	if staging && !whole {
		if staging, err = s.pullIsWhole(context.Background(), area, s.durableState().rev, p.last.rev); err != nil {
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
	// The chunks of own uploads that were sealed are counted now. Those of the uploads that
	// are gone are held for one more commit, see releaseDropped.
	for _, id := range sortedUploads(in.sealed) {
		if err := s.history.View(func(tx engine.Tx) error {
			return ascendChunks(tx, id, func(_ chunkKey, ref bodies.Ref) error {
				s.bodies.Release(ref.Digest)
				return nil
			})
		}); err != nil {
			return s.failed("install snapshot", err)
		}
	}
	s.releaseDropped(in.dropped)
	return nil
}

// installer is one call of installFrom; the store's commitMu and applyMu are held.
type installer struct {
	store  *Store
	area   engine.Engine
	snap   *snapshot
	sealed map[uploadID]bool // own open uploads that a record of the snapshot seals

	puts    stagedPuts
	dropped []bodies.Digest // chunks of own uploads that the snapshot does not have
}

// move brings chunks and uploads into history, where the records are already,
// and the applied state last.
func (in *installer) move(at *appliedState, meta []byte) error {
	if err := in.moveSealed(in.store.durable.rev); err != nil {
		return err
	}
	for _, id := range sortedUploads(in.snap.uploads) {
		if err := in.moveChunks(id, in.snap.uploads[id].count(), false); err != nil {
			return err
		}
	}
	return in.store.history.Update(func(tx engine.Tx) error {
		if in.snap.rev > 0 { // a disk that lost what was pulled shows here
			if _, err := readRecord(tx, in.snap.rev); err != nil {
				return err
			}
		}
		if err := in.puts.write(tx); err != nil {
			return err
		}
		if err := in.writeUploads(tx); err != nil {
			return err
		}
		if err := writeLineage(tx, &in.snap.lineage); err != nil {
			return err
		}
		return writeApplied(tx, at, meta)
	})
}

// moveSealed moves the chunks of all records after revision own. What staging has and
// history has not was left by a pull that was given something else.
func (in *installer) moveSealed(own Revision) error {
	for rev, more := own, true; more; {
		var d body
		if err := in.area.View(func(tx engine.Tx) (failed error) {
			more = false
			err := ascendRecords(tx, rev+1, func(at Revision, raw []byte) bool {
				if at > in.snap.rev {
					return false
				}
				found, err := checkRecord(tx, raw, at)
				if err == nil {
					more, err = in.inHistory(at, raw)
				}
				rev, d, failed = at, body{upload: found.upload, chunks: found.chunks}, err
				return !more && err == nil
			})
			return cmp.Or(failed, err)
		}); err != nil {
			return err
		}
		if more {
			if err := in.moveChunks(d.upload, d.chunks, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// inHistory tells whether history has this very record.
func (in *installer) inHistory(rev Revision, raw []byte) (same bool, err error) {
	err = in.store.history.View(func(tx engine.Tx) error {
		stored, err := recordAt(tx, rev)
		same = bytes.Equal(stored, raw)
		return err
	})
	return same, err
}

// moveChunks moves the chunks of a record, which staging must have all, or what it has of
// an open upload: the rest is in history already, or gone, see pullUpload. Chunks of own
// uploads, and of those that stay open, are held until they are counted.
func (in *installer) moveChunks(id uploadID, count uint32, sealed bool) error {
	open := in.store.uploads[id] != nil
	if open && sealed {
		in.sealed[id] = true
	}
	for n := range count {
		found, err := in.moveChunk(makeChunkKey(id, n), open, open || !sealed)
		if err != nil {
			return err
		}
		if !found && sealed {
			return fmt.Errorf("chunk %d of upload %s is not staged", n, id)
		}
	}
	return nil
}

// moveChunk moves the row of a chunk. If its upload is open in this store, history may
// have the row, and holds the body then. hold tells whether it has to be held.
func (in *installer) moveChunk(key chunkKey, open, hold bool) (found bool, err error) {
	if open {
		if _, found, err := storedChunk(in.store.history, key); err != nil || found {
			return found, err
		}
	}
	ref, found, err := storedChunk(in.area, key)
	if err != nil || !found {
		return false, err
	}
	if hold && !in.store.bodies.Hold(ref.Digest) {
		return false, in.store.missingBody(ref.Digest)
	}
	in.puts.add(engine.BucketChunks, key[:], encodeChunkRow(key, ref))
	if in.puts.bytes < in.store.cfg.CommitBytes {
		return true, nil
	}
	return true, in.store.history.Update(in.puts.write)
}

// writeUploads makes the open uploads those of the snapshot. An entry that this store will
// never see dropped the uploads that are neither open nor sealed there.
func (in *installer) writeUploads(tx engine.Tx) error {
	for _, id := range sortedUploads(in.store.uploads) {
		if in.snap.uploads[id] != nil {
			continue
		}
		if err := tx.Delete(engine.BucketUploads, id[:]); err != nil {
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
		if err := tx.Put(engine.BucketUploads, id[:], encodeUpload(id, in.snap.uploads[id])); err != nil {
			return err
		}
	}
	return nil
}
