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
// checkpoint and at the end, and that the index leads every key to its revision, with
// every block and filter of it. A difference is a *CorruptError and fatal. It takes as
// long as reading all of that does, in short read transactions, and may run while the
// store is used. It returns ctx's error when that ends first.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.verify(ctx, s.verifyElsewhere, func(_, _ Revision) error { return nil }); err != nil {
		return err
	}
	return s.verifyIndex(ctx, func(ctx context.Context, _ int) error { return ctx.Err() })
}

// verify is Verify with another look at the values that are not in their records.
// after is called each time that some records more are done, of all that there are.
func (s *Store) verify(ctx context.Context, elsewhere func(context.Context, Revision, *body) error, after func(done, all Revision) error) error {
	if err := s.err(); err != nil {
		return err
	}
	s.mu.RLock()
	durable, indexed := s.durable.derived, s.overlay.indexedRev
	s.mu.RUnlock()
	var at derived
	for at.rev < durable.rev {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := at.rev + 1
		keys, err := s.scanHistory(&at, min(durable.rev, s.checkpointBefore(at.rev)+s.cfg.CheckpointRevisions))
		if err == nil {
			err = s.verifyCheckpoint(&at)
		}
		if err == nil {
			err = s.verifyKeys(first, keys, indexed)
		}
		if err == nil {
			err = s.verifyValues(ctx, first, at.rev, elsewhere)
		}
		if err == nil {
			err = after(at.rev, durable.rev)
		}
		if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
			return ended
		}
		if err != nil {
			return s.failed("verify history and index", err)
		}
	}
	return s.checkEnd(&at, &durable)
}

// verifyCheckpoint compares what is kept for a revision, if something is, with what
// the records make.
func (s *Store) verifyCheckpoint(at *derived) error {
	if at.rev%s.cfg.CheckpointRevisions != 0 {
		return nil
	}
	kept, err := s.checkpoint(at.rev)
	if err != nil {
		return err
	}
	if differs := at.difference(&kept); differs != "" {
		return corruptFile(s.history, differs+", as its checkpoint says")
	}
	return nil
}

// verifyKeys looks up keys, which begin with that of revision first, in the index.
func (s *Store) verifyKeys(first Revision, keys []Key, indexed Revision) error {
	for i, key := range keys {
		want := first + Revision(i)
		if want > indexed {
			break
		}
		rev, err := s.indexedRevision([]byte(key))
		if err != nil {
			return err
		}
		if rev != want {
			return s.corruptIndex(fmt.Sprintf("the key of revision %d leads to revision %d", want, rev))
		}
	}
	return nil
}

// verifyIndex looks at all that the index keeps, at the pace of a scrub.
func (s *Store) verifyIndex(ctx context.Context, pace func(ctx context.Context, bytes int) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.index.Verify(ctx, pace)
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		return ended
	}
	return s.failed("verify the index", indexError(err))
}

// verifyValues compares the values from revision first to last with their digests;
// elsewhere does for those that are not in their records.
func (s *Store) verifyValues(ctx context.Context, first, last Revision, elsewhere func(context.Context, Revision, *body) error) error {
	list := make(map[Revision]*body)
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
			case d.kind != bodyInline:
				list[rev] = &body{kind: d.kind, upload: d.upload, chunks: d.chunks, size: d.size, sum: d.sum}
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
		if d := list[rev]; d != nil {
			if err := elsewhere(ctx, rev, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyElsewhere reads a value that is not in its record.
func (s *Store) verifyElsewhere(ctx context.Context, rev Revision, d *body) error {
	if d.kind == bodyChunked {
		return s.verifyChunks(ctx, rev, d)
	}
	return s.verifyBody(rev, d)
}

// verifyBody compares a value that is a body with its digest.
func (s *Store) verifyBody(rev Revision, d *body) error {
	data, err := s.readBody(d.ref(), nil)
	if err == nil && Digest(sha256.Sum256(data)) != d.sum {
		err = &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("the value of revision %d does not have the digest %s that its record says", rev, d.sum)}
	}
	return err
}

// verifyChunks reads a value in chunks. One that is whole and not what its digest
// says is no fault of this store: each chunk is what came in the log.
func (s *Store) verifyChunks(ctx context.Context, rev Revision, d *body) error {
	sum, err := s.sumChunks(ctx, s.history, d)
	if err == nil && sum != d.sum {
		s.logger.Error("a value was damaged before it reached the log, by a version that did not check it there; every node has the damaged value: put it again under another key", "revision", rev, "digest", d.sum, "stored", sum)
	}
	return err
}
