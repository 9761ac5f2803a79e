package kvstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// Scrub reads all that the store keeps, about rate bytes a second (0: as fast as it
// goes): history and index, as Verify does, but of bodies only whether they are there
// with their size; then every body, each once, however many values have it. A difference
// is a *CorruptError and fatal. What Verify does and Scrub does not is to put the chunks
// of a large value together: it compares each with its own digest. progress, if any, is
// told, now and then and from this goroutine, about how many bytes are done of all that
// there are. It may run while the store is used, one at a time, and returns ctx's error
// when that ends first.
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
	if d.kind == bodyReferred {
		return s.verifyReference(rev, d.ref())
	}
	for n := range d.chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		ref, err := s.placedChunk(s.history, d, n)
		if err == nil {
			err = s.verifyReference(rev, ref)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) verifyReference(rev Revision, ref bodies.Ref) error {
	size, ok := s.bodies.Size(ref.Digest)
	switch {
	case !ok:
		return s.missingBody(ref.Digest)
	case size != ref.Size:
		return &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("body %s of the value of revision %d has %d bytes, not %d", ref.Digest, rev, size, ref.Size)}
	}
	return nil
}
