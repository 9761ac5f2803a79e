package kvstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// CheckpointRevisions is the distance of the revisions whose history digest
// every store keeps, so that replicas can be compared cheaply.
const CheckpointRevisions Revision = 1024

// Verify reads the whole durable history and the index and compares them:
// every record's checksum, every value with its digest, the digest at every
// checkpoint and at the end, and that the index leads every key to its revision. A
// difference is a *CorruptError and fatal. It takes as long as reading both files
// does, in short read transactions, and may run while the store is used. It returns
// ctx's error when that ends first.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.err(); err != nil {
		return err
	}
	s.mu.RLock()
	durable, indexed := s.durable, s.overlay.indexedRev
	s.mu.RUnlock()
	var at Revision
	var digest Digest
	for at < durable.rev {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch, err := s.scanHistory(at, durable.rev, digest)
		if err == nil {
			err = s.verifyBatch(batch, indexed)
		}
		if err == nil {
			err = s.verifyValues(ctx, at+1, batch[len(batch)-1].rev)
		}
		if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
			return ended
		}
		if err != nil {
			return s.failed("verify history and index", err)
		}
		last := batch[len(batch)-1]
		at, digest = last.rev, last.digest
	}
	if digest != durable.digest {
		return s.failed("verify history and index", corruptFile(s.history, fmt.Sprintf("the records up to revision %d have the digest %s, but %s is stored with them", at, digest, durable.digest)))
	}
	return nil
}

// verifyBatch checks what lies at the revisions of a batch besides the
// records themselves.
func (s *Store) verifyBatch(batch []scannedRecord, indexed Revision) error {
	for _, r := range batch {
		if r.rev%s.cfg.CheckpointRevisions != 0 {
			continue
		}
		kept, err := s.checkpoint(r.rev)
		if err != nil {
			return err
		}
		if kept != r.digest {
			return corruptFile(s.history, fmt.Sprintf("the records up to revision %d have the digest %s, but %s is stored for it", r.rev, r.digest, kept))
		}
	}
	return s.index.View(func(tx Tx) error {
		for _, r := range batch {
			if r.rev > indexed {
				break
			}
			rev, err := indexedRevision(tx, []byte(r.key))
			if err != nil {
				return err
			}
			if rev != r.rev {
				file, _ := tx.Where(nil)
				return &CorruptError{File: file, Offset: -1, Detail: fmt.Sprintf("the key of revision %d leads to revision %d", r.rev, rev)}
			}
		}
		return nil
	})
}

// verifyValues compares the values from revision first to last with their digests.
func (s *Store) verifyValues(ctx context.Context, first, last Revision) error {
	chunked := make(map[Revision]*body)
	if err := s.history.View(func(tx Tx) error {
		var failed error
		err := ascendRecords(tx, first, func(rev Revision, raw []byte) bool {
			if rev > last {
				return false
			}
			d, err := checkRecord(tx, raw, rev)
			switch {
			case err != nil:
				failed = err
			case d.kind == bodyChunked:
				chunked[rev] = &body{upload: d.upload, chunks: d.chunks, size: d.size, sum: d.sum}
			case Digest(sha256.Sum256(d.value)) != d.sum:
				file, off := tx.Where(raw)
				failed = &CorruptError{File: file, Offset: off, Detail: fmt.Sprintf("the value of revision %d does not have the digest %s that its record says", rev, d.sum)}
			}
			return failed == nil
		})
		return errors.Join(failed, err)
	}); err != nil {
		return err
	}
	for rev := first; rev <= last; rev++ {
		if d := chunked[rev]; d != nil {
			if err := s.verifyChunks(ctx, rev, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyChunks reads a value in chunks. One that is whole and not what its digest
// says is no fault of this store: each chunk is what came in the log.
func (s *Store) verifyChunks(ctx context.Context, rev Revision, d *body) error {
	sum, err := sumChunks(ctx, s.history, d)
	if errors.Is(err, errChunkSize) {
		return corruptFile(s.history, fmt.Sprintf("the value of revision %d: %v", rev, err))
	}
	if err == nil && sum != d.sum {
		s.logger.Error("a value was damaged before it came into the log, by a version that did not compare it then; every node has it so: put it again under another key", "revision", rev, "digest", d.sum, "stored", sum)
	}
	return err
}
