package kvstore

import (
	"bytes"
	"errors"
	"fmt"
)

// Install makes a staged snapshot, which Stage returned nil for, this store's
// state: entry index of the log with term and meta. It moves the records into
// history in batches; only the last, with the position, makes them count, so
// that after a crash in the middle the same Install starts again. When it
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
	if own := s.durablePosition(); own.index >= index {
		return s.dropStaging()
	} else if err := s.checkAncestry(&own, snap); err != nil {
		return err
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
	if err := s.indexTail(); err != nil {
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

// installFrom moves area into history and takes over the new state.
func (s *Store) installFrom(area Engine, snap *snapshot, at position, meta, snapshot []byte) error {
	staged, p, err := readProgress(area)
	if err != nil {
		return s.failed("read staging", err)
	}
	if !p.done || !bytes.Equal(staged, snapshot) {
		return errors.New("install snapshot: it is not staged; call Stage first")
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	at.rev, at.digest, at.valueBytes = snap.rev, snap.digest, snap.valueBytes
	in := &installer{store: s, area: area, snap: snap, sealed: make(map[uploadID]bool)}
	if err := in.move(&at, meta); err != nil {
		return s.failed("install snapshot", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.durable = at, at
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

// move brings records, chunks and uploads into history, and the position last.
func (in *installer) move(at *position, meta []byte) error {
	own := in.store.durable
	rev, digest := own.rev, own.digest
	for rev < in.snap.rev {
		next, nextDigest, err := in.moveRecords(rev, digest)
		if err != nil {
			return err
		}
		rev, digest = next, nextDigest
	}
	if digest != in.snap.digest {
		return fmt.Errorf("staged records give digest %s at revision %d, the snapshot says %s", digest, rev, in.snap.digest)
	}
	for _, id := range sortedUploads(in.snap.uploads) {
		if err := in.moveUpload(id); err != nil {
			return err
		}
	}
	return in.store.history.Update(func(tx Tx) error {
		if err := in.writePuts(tx); err != nil {
			return err
		}
		if err := in.writeUploads(tx); err != nil {
			return err
		}
		return writePosition(tx, at, meta)
	})
}

// stagedRecord is a copy of a record in staging.
type stagedRecord struct {
	raw    []byte
	digest Digest
}

// moveRecords moves some records after rev, ending with the first in chunks.
func (in *installer) moveRecords(rev Revision, digest Digest) (Revision, Digest, error) {
	first := rev
	var records []stagedRecord
	var chunked body
	err := in.area.View(func(tx Tx) error {
		from := revisionKey(rev + 1)
		read := 0
		var failed error
		tx.Ascend(BucketRecords, from[:], func(k, v []byte) bool {
			if got, ok := keyRevision(k); !ok || got != rev+1 {
				return false
			}
			d, err := checkRecord(tx, v, rev+1)
			if err != nil {
				failed = err
				return false
			}
			rev++
			digest = nextDigest(digest, rev, d.header)
			records = append(records, stagedRecord{append([]byte(nil), v...), digest})
			if d.kind == bodyChunked {
				chunked = body{upload: d.upload, chunks: d.chunks}
			}
			read += len(v)
			return rev < in.snap.rev && d.kind == bodyInline && len(records) < scanRecords && read < scanBytes
		})
		if failed == nil && len(records) == 0 {
			_, failed = readRecord(tx, rev+1)
		}
		return failed
	})
	if err != nil {
		return 0, Digest{}, err
	}
	for i, r := range records {
		at := first + 1 + Revision(i)
		key := revisionKey(at)
		if err := in.put(BucketRecords, key[:], r.raw); err != nil {
			return 0, Digest{}, err
		}
		if at%checkpointEvery == 0 {
			if err := in.put(BucketCheckpoints, key[:], r.digest[:]); err != nil {
				return 0, Digest{}, err
			}
		}
	}
	return rev, digest, in.moveChunks(&chunked)
}

// moveChunks moves the chunks of a record.
func (in *installer) moveChunks(d *body) error {
	if d.chunks > 0 && in.store.uploads[d.upload] != nil {
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
// history already, or will be dropped unread: see pullUploads.
func (in *installer) moveUpload(id uploadID) error {
	u := in.snap.uploads[id]
	for n := range uint32(len(u.have) * 64) {
		if !u.has(n) {
			continue
		}
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
		if _, err := checkChunk(tx, raw, key); err != nil {
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
		if err := deleteChunks(tx, id); err != nil {
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
