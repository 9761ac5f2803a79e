package kvstore

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

const (
	// fetchBytes is how many bytes of bodies a pull asks for at a time.
	fetchBytes = 8 << 20
	// syncBytes is how many bytes of bodies a pull appends before it makes them durable.
	syncBytes = 32 << 20
)

// bodyPuller brings the bodies that a pull needs to where they stay.
type bodyPuller struct {
	store *bodies.Store
	fetch bodies.Fetch

	wanted   map[bodies.Digest]int // asked for next, with their sizes
	refs     []bodies.Ref          // the same, in order
	bytes    int                   // of them
	came     map[bodies.Digest]bool
	unsynced int // bytes of those that came
}

// bring fetches the bodies that are not here, and makes them durable. What the other
// side lacks stays away; what came before an error stays here.
func (b *bodyPuller) bring(ctx context.Context, refs iter.Seq[bodies.Ref]) (err error) {
	defer func() { err = errors.Join(err, b.sync(ctx)) }()
	b.came = make(map[bodies.Digest]bool)
	b.forget()
	for ref := range refs {
		if size, here := b.store.Size(ref.Digest); here && size != ref.Size {
			return wrongSize(ref, size)
		} else if _, asked := b.wanted[ref.Digest]; here || asked || b.came[ref.Digest] {
			continue
		}
		if len(b.refs) == bodies.FetchMax || b.bytes+ref.Size > fetchBytes {
			if err := b.fetchWanted(ctx); err != nil {
				return err
			}
		}
		b.wanted[ref.Digest] = ref.Size
		b.refs = append(b.refs, ref)
		b.bytes += ref.Size
	}
	return b.fetchWanted(ctx)
}

// fetchWanted fetches what was collected.
func (b *bodyPuller) fetchWanted(ctx context.Context) error {
	if len(b.refs) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.fetch(ctx, b.refs, b.add); err != nil {
		return fmt.Errorf("pull bodies: %w", err)
	}
	b.forget()
	if b.unsynced < syncBytes {
		return nil
	}
	return b.sync(ctx)
}

func (b *bodyPuller) forget() {
	b.wanted, b.refs, b.bytes = make(map[bodies.Digest]int), nil, 0
}

// add appends a body that came.
func (b *bodyPuller) add(body bodies.Body) error {
	size, asked := b.wanted[body.Digest]
	switch {
	case !asked:
		return fmt.Errorf("%w: body %s came, which was not asked for", errSnapshotBody, body.Digest)
	case size != len(body.Data):
		return wrongSize(bodies.Ref{Digest: body.Digest, Size: size}, len(body.Data))
	}
	if _, err := b.store.Append(body.Digest, body.Data); err != nil {
		return err
	}
	b.came[body.Digest] = true
	b.unsynced += len(body.Data)
	return nil
}

func wrongSize(ref bodies.Ref, size int) error {
	return fmt.Errorf("%w: body %s has %d bytes, but the reference to it says %d", errSnapshotBody, ref.Digest, size, ref.Size)
}

// sync makes what came durable, also when the pull is over.
func (b *bodyPuller) sync(ctx context.Context) error {
	if b.unsynced == 0 {
		return nil
	}
	b.unsynced = 0
	return b.store.Sync(context.WithoutCancel(ctx))
}

// read appends the bytes of a body that is here to buf, checked. If it is damaged it is
// fetched again, unless something counts on it: then the caller ends the store.
func (b *bodyPuller) read(ctx context.Context, ref bodies.Ref, buf []byte) ([]byte, error) {
	data, err := b.store.Read(ref.Digest, buf)
	if err != nil && b.store.Err() == nil {
		b.forget()
		b.wanted[ref.Digest], b.refs = ref.Size, []bodies.Ref{ref}
		if ferr := errors.Join(b.fetchWanted(ctx), b.sync(ctx)); ferr != nil {
			return buf, fmt.Errorf("pull a body again that cannot be read here (%v): %w", err, ferr)
		}
		data, err = b.store.Read(ref.Digest, buf)
	}
	if err == nil && len(data)-len(buf) != ref.Size {
		return buf, wrongSize(ref, len(data)-len(buf))
	}
	return data, err
}

// leading returns how many of the first of refs are here, durably.
func (b *bodyPuller) leading(refs []bodies.Ref) int {
	for i := range refs {
		if size, here := b.store.Size(refs[i].Digest); !here || size != refs[i].Size {
			return i
		}
	}
	return len(refs)
}

// pullIsWhole reports whether every body is here that a record after own up to last, or a
// row of staging, refers to. One may be gone since it was pulled.
func (s *Store) pullIsWhole(ctx context.Context, area engine.Engine, own, last Revision) (bool, error) {
	if whole, err := s.rowsAreWhole(ctx, area); err != nil || !whole {
		return false, err
	}
	for rev := own; rev < last; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		var lacks bool
		err := s.history.View(func(tx engine.Tx) error {
			return scanRecords(tx, rev+1, last, true, func(at Revision, raw []byte) (bool, error) {
				d, err := checkRecord(tx, raw, at)
				rev, lacks = at, err == nil && d.kind == bodyReferred && !s.bodies.Has(d.ref().Digest)
				return !lacks, err
			})
		})
		switch _, corrupt := errors.AsType[*CorruptError](err); {
		case corrupt || lacks: // nobody counts on them
			return false, nil
		case err != nil:
			return false, s.failed("look at pulled records", err)
		}
	}
	return true, nil
}

// rowsAreWhole reports whether every body is here that a row of staging refers to.
func (s *Store) rowsAreWhole(ctx context.Context, area engine.Engine) (whole bool, err error) {
	whole = true
	for from, more := []byte(nil), true; more && whole && err == nil; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := 0
		err = area.View(func(tx engine.Tx) (failed error) {
			tx.Ascend(engine.BucketChunks, from, func(k, raw []byte) bool {
				if len(k) != chunkKeyBytes {
					failed = corruptAt(tx, raw, fmt.Sprintf("the key of a chunk has %d bytes", len(k)))
					return false
				}
				var ref bodies.Ref
				if ref, failed = checkChunkRow(tx, raw, chunkKey(k)); failed != nil {
					return false
				}
				whole = s.bodies.Has(ref.Digest)
				if n++; n == scanRecordsMax {
					from = append(append([]byte(nil), k...), 0) // behind it
				}
				return whole && n < scanRecordsMax
			})
			return failed
		})
		more = n == scanRecordsMax
	}
	return whole, err
}
