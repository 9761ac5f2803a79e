package kvstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/Focinfi/oncekv/bodies"
)

// pullUploads pulls what is missing of the open uploads.
func (st *stager) pullUploads(ctx context.Context) error {
	for _, id := range sortedUploads(st.snap.uploads) {
		if err := st.pullUpload(ctx, id, st.snap.uploads[id]); err != nil {
			return err
		}
	}
	return nil
}

// pullUpload pulls the chunks of an open upload that neither this store nor staging
// has. The sender may lack some by now: then it has applied the entry that dropped
// the upload, this store will come to that entry too, and nobody can read them in
// between. So they are not missed. Whoever has the row of a chunk has its body too,
// and if that does not come the row is asked for again, since it may have gone first.
func (st *stager) pullUpload(ctx context.Context, id uploadID, u *upload) error {
	have, err := st.leadingChunks(id, u.count())
	if err != nil {
		return err
	}
	for idle := 0; have < u.count(); {
		refs, serr := st.pullRows(ctx, id, have, u)
		if errors.Is(serr, ErrSnapshotBody) {
			return serr
		}
		err := errors.Join(serr, st.bodies.bring(ctx, slices.Values(refs)))
		n := st.bodies.leading(refs)
		st.putRows(id, have, refs[:n])
		have += uint32(n)
		switch {
		case err != nil:
			return err
		case len(refs) == 0:
			return st.flush()
		case n > 0:
			idle = 0
		default:
			if idle++; idle > 1 {
				return lacking(refs[0], fmt.Sprintf("chunk %d of upload %s", have, id))
			}
		}
	}
	if err := st.flush(); err != nil {
		return err
	}
	return st.verifyUpload(ctx, id, u)
}

// leadingChunks returns how many of the first chunks of an open upload are here.
func (st *stager) leadingChunks(id uploadID, count uint32) (have uint32, err error) {
	goOn := func(tx Tx) error {
		for ; have < count; have++ {
			key := makeChunkKey(id, have)
			raw := tx.Get(BucketChunks, key[:])
			if raw == nil {
				return nil
			}
			ref, err := checkChunkRow(tx, raw, key)
			if err != nil || !st.store.bodies.Has(ref.Digest) {
				return err
			}
		}
		return nil
	}
	if err := st.store.history.View(goOn); err != nil {
		return 0, st.store.failed("read a chunk", err)
	}
	return have, st.area.View(goOn) // what staging has follows what history has
}

// pullRows returns what the chunks of an open upload from number next on refer to, as
// many as the sender has, but none from number count on, which may be there by now.
func (st *stager) pullRows(ctx context.Context, id uploadID, next uint32, u *upload) (refs []bodies.Ref, err error) {
	q := &query{kind: queryChunks, index: st.snap.index, upload: id, chunk: next}
	err = st.stream(ctx, q, func(r *bufio.Reader) error {
		for {
			kind, payload, err := readFrame(r, &st.room)
			if err != nil || kind == frameEnd {
				return err
			}
			if next == u.count() { // it goes on growing there
				if kind != frameChunk {
					return fmt.Errorf("%w: a chunk was expected", ErrSnapshotBody)
				}
				continue
			}
			ref, err := chunkRefOf(kind, payload, makeChunkKey(id, next), u.bytes)
			if err != nil {
				return err
			}
			refs = append(refs, ref)
			next++
		}
	})
	return refs, err
}

// verifyUpload compares the chunks of an open upload, all of which are here, with their
// digest. It goes on from the one that this store has of the first of them; should that
// be what is wrong, it goes through all of them.
func (st *stager) verifyUpload(ctx context.Context, id uploadID, u *upload) error {
	own, err := st.ownUpload(id)
	if err != nil {
		return err
	}
	for _, from := range []*upload{own, newUpload(0)} {
		for n := from.count(); n < u.count() && from.bytes == int64(n)*ChunkBytes; n++ {
			ref, err := st.row(makeChunkKey(id, n))
			if err != nil {
				return err
			}
			if err := st.withBody(ctx, ref, func(data []byte) { from.add(data, 0) }); err != nil {
				return err
			}
		}
		if from.bytes == u.bytes && from.digest() == u.digest() {
			return nil
		}
	}
	return fmt.Errorf("%w: the chunks of upload %s do not have the digest that the snapshot says", ErrSnapshotBody, id)
}

// ownUpload returns what this store has of an upload, which is empty if it is not open
// here.
func (st *stager) ownUpload(id uploadID) (*upload, error) {
	u := newUpload(0)
	err := st.store.history.View(func(tx Tx) (err error) {
		if raw := tx.Get(BucketUploads, id[:]); raw != nil {
			u, err = checkUpload(tx, id, raw)
		}
		return err
	})
	return u, st.store.failed("read an upload", err)
}

// row returns what a chunk refers to whose row is in staging or in the store.
func (st *stager) row(key chunkKey) (ref bodies.Ref, err error) {
	found := false
	err = st.area.View(func(tx Tx) (err error) {
		if raw := tx.Get(BucketChunks, key[:]); raw != nil {
			found = true
			ref, err = checkChunkRow(tx, raw, key)
		}
		return err
	})
	if err == nil && !found {
		ref, found, err = st.store.chunkRef(key)
	}
	if err == nil && !found {
		err = fmt.Errorf("pull a snapshot: chunk %d of upload %s was dropped meanwhile", key.number(), key.upload())
	}
	return ref, err
}
