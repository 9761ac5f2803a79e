package kvstore

import (
	"context"
	"errors"
	"fmt"
)

// CheckpointRevisions is the distance of the revisions whose history digest
// every store keeps, so that replicas can be compared cheaply.
const CheckpointRevisions Revision = 1024

// Verify reads the whole durable history and the index and compares them:
// every record's checksum, every chunk of every value, the digest at
// every checkpoint and at the end, and that the index leads every key to its
// revision. A difference is a *CorruptError and fatal. It takes as long as reading
// both files does, in short read transactions, and may run while the store is
// used. It returns ctx's error when that ends first.
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
			err = s.verifyChunks(ctx, batch)
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

// verifyChunks reads the values of a batch that are in chunks. One that is whole
// and not what its digest says is no fault of this store.
func (s *Store) verifyChunks(ctx context.Context, batch []scannedRecord) error {
	for _, r := range batch {
		if r.chunked == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		sum, err := sumChunks(s.history, r.chunked)
		switch {
		case errors.Is(err, errChunkSize):
			return corruptFile(s.history, fmt.Sprintf("the value of revision %d: %v", r.rev, err))
		case err != nil:
			return err
		case sum != r.chunked.sum:
			// Every chunk is what came in the log, so every replica has the same.
			s.logger.Error("a value was damaged before it came into the log, when seals were not checked yet; every node has it so: put it again under another key", "key", r.key, "revision", r.rev, "digest", r.chunked.sum, "stored", sum)
		}
	}
	return nil
}
