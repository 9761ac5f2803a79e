package kvstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Verify reads the whole durable history and the index and compares them: every record's
// checksum, every value with its digest, the digest at every checkpoint and at the end,
// and every key, block and filter of the index. A difference is a *CorruptError and fatal.
// It reads in short transactions, may run while the store is used, and returns ctx's error
// when that ends first.
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
	durable, indexed := s.durable.derived, s.memtable.indexedRev
	s.mu.RUnlock()
	var at derived
	for at.rev < durable.rev {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := at.rev + 1
		keys, err := s.scanHistory(&at, min(durable.rev, s.checkpointBefore(at.rev)+s.cfg.CheckpointRevisions))
		if err == nil && at.rev%s.cfg.CheckpointRevisions == 0 {
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

// verifyCheckpoint compares what is kept for a revision with what the records make.
func (s *Store) verifyCheckpoint(at *derived) error {
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
	var list []body
	var revs []Revision
	if err := s.history.View(func(tx engine.Tx) error {
		return scanRecords(tx, first, last, false, func(rev Revision, raw []byte) (bool, error) {
			d, err := checkRecord(tx, raw, rev)
			switch {
			case err != nil:
				return false, err
			case d.kind != bodyInline:
				list, revs = append(list, body{kind: d.kind, upload: d.upload, chunks: d.chunks, size: d.size, sum: d.sum}), append(revs, rev)
			case Digest(sha256.Sum256(d.value)) != d.sum:
				return false, corruptAt(tx, raw, fmt.Sprintf("the value of revision %d does not have the digest %s that its record says", rev, d.sum))
			}
			return true, nil
		})
	}); err != nil {
		return err
	}
	for i, rev := range revs {
		if err := elsewhere(ctx, rev, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// verifyElsewhere reads a value that is not in its record. If one in chunks does not have
// its digest, this store is sound: its chunks are what came in the log.
func (s *Store) verifyElsewhere(ctx context.Context, rev Revision, d *body) error {
	h := sha256.New()
	var buf []byte
	if err := s.references(ctx, d, func(ref bodies.Ref) (err error) {
		buf, err = s.readBody(ref, buf[:0])
		h.Write(buf)
		return err
	}); err != nil {
		return err
	}
	switch sum := Digest(h.Sum(nil)); {
	case sum == d.sum:
	case d.kind == bodyReferred:
		return &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("the value of revision %d does not have the digest %s that its record says", rev, d.sum)}
	default:
		s.logger.Error("a value was damaged before it reached the log, by a version that did not check it there; every node has the damaged value: put it again under another key", "revision", rev, "digest", d.sum, "stored", sum)
	}
	return nil
}

// references calls fn for the bodies of a value, in order. A row says nothing about where
// its chunk begins, so its size is checked too: readers go by the place.
func (s *Store) references(ctx context.Context, d *body, fn func(bodies.Ref) error) error {
	if d.kind == bodyReferred {
		return fn(d.ref())
	}
	for n := range d.chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		var ref bodies.Ref
		err := s.history.View(func(tx engine.Tx) (err error) {
			ref, err = readChunkRow(tx, makeChunkKey(d.upload, n))
			return err
		})
		if want := chunkSize(d.size, n); err == nil && int64(ref.Size) != want {
			err = corruptFile(s.history, fmt.Sprintf("chunk %d of upload %s has %d bytes, its place has %d", n, d.upload, ref.Size, want))
		}
		if err == nil {
			err = fn(ref)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Scrub reads all that the store keeps, about rate bytes a second (0: as fast as it goes):
// history and index as Verify does, and every body once, each compared with its own
// digest. It does not put the chunks of a large value together. A difference is a
// *CorruptError and fatal. It calls progress, if any, now and then on this goroutine. It
// may run while the store is used, one at a time, and returns ctx's error when that ends
// first.
func (s *Store) Scrub(ctx context.Context, rate int64, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(_, _ int64) {}
	}
	history, index, values := s.history.Size(), s.index.Stats().Bytes, s.bodies.Stats()
	total := history + index + values.LiveBytes
	read := int64(0)
	err := s.verify(ctx, s.verifyReferences, func(done, all Revision) error {
		before := read
		read = int64(float64(history) * (float64(done) / float64(all)))
		progress(read, total)
		return pause(ctx, read-before, rate)
	})
	if err != nil {
		return err
	}
	read = 0
	if err := s.verifyIndex(ctx, func(ctx context.Context, n int) error {
		read += int64(n)
		progress(history+min(read, index), total) // it may have grown since
		return pause(ctx, int64(n), rate)
	}); err != nil {
		return err
	}
	files := history + index
	err = s.bodies.Scrub(ctx, rate, func(done, of int64) { progress(files+done, files+of) })
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		return ended
	}
	return s.failed("read all values", s.bodyError(bodies.Digest{}, err))
}

// pause waits as long as n bytes take at a rate; it returns ctx's error when that ends
// first.
func pause(ctx context.Context, n, rate int64) error {
	if rate <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// verifyReferences looks whether the bodies of a value are there, with the size that
// they must have.
func (s *Store) verifyReferences(ctx context.Context, rev Revision, d *body) error {
	return s.references(ctx, d, func(ref bodies.Ref) error {
		size, ok := s.bodies.Size(ref.Digest)
		switch {
		case !ok:
			return s.missingBody(ref.Digest)
		case size != ref.Size:
			return &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("body %s of the value of revision %d has %d bytes, not %d", ref.Digest, rev, size, ref.Size)}
		}
		return nil
	})
}
