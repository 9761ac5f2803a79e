package kvstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/bodies"
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
	return s.verify(ctx, &pacer{}, func(Revision, Revision) {})
}

// Scrub is Verify and a look at everything else that lies on the disk for values,
// slowly: it reads rate bytes a second, 0 for as many as it can. progress is told, now
// and then and from this goroutine, about how many bytes are done of all that there
// are. Errors are those of Verify.
func (s *Store) Scrub(ctx context.Context, rate int64, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	st, values := s.Stats(), s.bodies.Stats()
	history := st.HistoryBytes + st.ValueBytes
	total := history + values.LiveBytes + values.DeadBytes
	if err := s.verify(ctx, &pacer{rate: rate}, func(at, last Revision) {
		progress(int64(float64(history)*float64(at)/float64(last)), total)
	}); err != nil {
		return err
	}
	err := s.bodies.Scrub(ctx, rate, func(done, of int64) { progress(min(history+done, total), max(history+of, total)) })
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		return ended
	}
	return s.failed("read all values", s.bodyError(bodies.Digest{}, err))
}

// pacer keeps a reader to a number of bytes a second.
type pacer struct {
	rate int64 // 0: any
	debt int64 // bytes that were read and not waited for
}

// pacerStep is how many bytes go through before a wait.
const pacerStep = 1 << 20

// read waits after n bytes were read.
func (p *pacer) read(ctx context.Context, n int64) error {
	if p.debt += n; p.rate <= 0 || p.debt < min(pacerStep, p.rate) {
		return nil
	}
	timer := time.NewTimer(time.Duration(float64(p.debt) / float64(p.rate) * float64(time.Second)))
	defer timer.Stop()
	p.debt = 0
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verify is Verify at some pace. done hears how far it got.
func (s *Store) verify(ctx context.Context, pace *pacer, done func(at, last Revision)) error {
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
			err = s.verifyValues(ctx, pace, first, at.rev)
		}
		if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
			return ended
		}
		if err != nil {
			return s.failed("verify history and index", err)
		}
		done(at.rev, durable.rev)
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
	return s.index.View(func(tx Tx) error {
		for i, key := range keys {
			want := first + Revision(i)
			if want > indexed {
				break
			}
			rev, err := indexedRevision(tx, []byte(key))
			if err != nil {
				return err
			}
			if rev != want {
				file, _ := tx.Where(nil)
				return &CorruptError{File: file, Offset: -1, Detail: fmt.Sprintf("the key of revision %d leads to revision %d", want, rev)}
			}
		}
		return nil
	})
}

// verifyValues compares the values from revision first to last with their digests.
func (s *Store) verifyValues(ctx context.Context, pace *pacer, first, last Revision) error {
	read := int64(0)
	elsewhere := make(map[Revision]*body) // values that are not in their records
	if err := s.history.View(func(tx Tx) error {
		var failed error
		err := ascendRecords(tx, first, func(rev Revision, raw []byte) bool {
			if rev > last {
				return false
			}
			d, err := checkRecord(tx, raw, rev)
			read += int64(len(raw))
			switch {
			case err != nil:
				failed = err
			case d.kind != bodyInline:
				elsewhere[rev] = &body{kind: d.kind, upload: d.upload, chunks: d.chunks, size: d.size, sum: d.sum}
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
	if err := pace.read(ctx, 2*read); err != nil { // once for the values, once for the rest
		return err
	}
	for rev := first; rev <= last; rev++ {
		var err error
		switch d := elsewhere[rev]; {
		case d == nil:
		case d.kind == bodyChunked:
			err = s.verifyChunks(ctx, pace, rev, d)
		default:
			if err = s.verifyBody(rev, d); err == nil {
				err = pace.read(ctx, d.size)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
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
func (s *Store) verifyChunks(ctx context.Context, pace *pacer, rev Revision, d *body) error {
	sum, err := s.sumChunksAt(ctx, pace, s.history, d)
	if errors.Is(err, errChunkSize) {
		return corruptFile(s.history, fmt.Sprintf("the value of revision %d: %v", rev, err))
	}
	if err == nil && sum != d.sum {
		s.logger.Error("a value was damaged before it came into the log, by a version that did not compare it then; every node has it so: put it again under another key", "revision", rev, "digest", d.sum, "stored", sum)
	}
	return err
}
