package kvstore

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// pulledRecord is a record that came, whose bodies may not be here yet.
type pulledRecord struct {
	raw  []byte
	body body         // of raw
	refs []bodies.Ref // that it refers to; of one in chunks, all in order
}

// portionBytes is how many bytes of records a sender gives at a time. While the bodies
// that they refer to are fetched, no stream waits.
func (s *Store) portionBytes() int { return int(s.cfg.CommitBytes / 2) }

// pullPortion pulls records after progress.last, as many as the sender gives at a time,
// and then what they refer to.
func (st *stager) pullPortion(ctx context.Context) error {
	q := &query{kind: queryRecords, index: st.snap.index, after: st.progress.last.rev, through: st.snap.rev}
	var came []pulledRecord
	err := st.stream(ctx, q, func(r *bufio.Reader) (err error) {
		came, err = st.readPortion(r, st.came[:0])
		return err
	})
	st.came = came
	switch {
	case errors.Is(err, errSnapshotBody):
		return err
	case err == nil && len(came) == 0:
		return fmt.Errorf("%w: it ends at revision %d, not %d", errSnapshotBody, st.progress.last.rev, st.snap.rev)
	}
	return errors.Join(err, st.addPortion(ctx, came)) // what came before a stream broke off counts
}

// readPortion appends records to came, to the end of the stream. If a sender gives much
// more than it should, the rest is asked for anew.
func (st *stager) readPortion(r *bufio.Reader, came []pulledRecord) ([]pulledRecord, error) {
	rev := st.progress.last.rev
	for room := 2*st.store.portionBytes() + itemBytesMax; room > 0; {
		kind, payload, err := readItem(r, &st.room)
		if err != nil || kind == itemEnd {
			return came, err
		}
		p, err := st.readRecord(r, rev+1, kind, payload)
		if err != nil {
			return came, err
		}
		came = append(came, p)
		rev++
		room -= len(p.raw) + pendingOverhead + len(p.refs)*chunkRowBytes
	}
	return came, nil
}

// readRecord checks an item that must be the record of revision rev, and reads the rows
// of its chunks, which follow it.
func (st *stager) readRecord(r *bufio.Reader, rev Revision, kind itemKind, payload []byte) (p pulledRecord, err error) {
	if kind != itemRecord || len(payload) < 8 || rev > st.snap.rev {
		return p, fmt.Errorf("%w: after revision %d something else came than the record that was expected", errSnapshotBody, rev-1)
	}
	if got, _ := keyRevision(payload[:8]); got != rev {
		return p, fmt.Errorf("%w: revision %d came in place of %d", errSnapshotBody, got, rev)
	}
	p.raw = payload[8:]
	if p.body, err = decodeRecord(p.raw, rev); errors.As(err, new(*level.LaterError)) {
		return p, laterStream(fmt.Sprintf("revision %d", rev))
	} else if err != nil {
		return p, fmt.Errorf("%w: %w", errSnapshotBody, err)
	}
	switch p.body.kind {
	case bodyReferred:
		p.refs = []bodies.Ref{p.body.ref()}
	case bodyChunked:
		for n := range p.body.chunks { // a number that nothing stands behind takes no memory
			kind, payload, err := readItem(r, &st.room)
			if err != nil {
				return p, err
			}
			ref, err := chunkRefOf(kind, payload, makeChunkKey(p.body.upload, n), p.body.size)
			if err != nil {
				return p, err
			}
			p.refs = append(p.refs, ref)
		}
	default:
		err = p.checkSum(sha256.Sum256(p.body.value), rev)
	}
	return p, err
}

// checkSum compares what the bytes of a record have with what it says.
func (p *pulledRecord) checkSum(sum Digest, rev Revision) error {
	if sum != p.body.sum {
		return fmt.Errorf("%w: the value of revision %d has digest %s, its record says %s", errSnapshotBody, rev, sum, p.body.sum)
	}
	return nil
}

// chunkRefOf takes apart an item that must be the row of one chunk of a value of size bytes.
func chunkRefOf(kind itemKind, payload []byte, want chunkKey, size int64) (ref bodies.Ref, err error) {
	if kind != itemChunk || len(payload) < chunkKeyBytes {
		return ref, fmt.Errorf("%w: a chunk was expected", errSnapshotBody)
	}
	if key := chunkKey(payload[:chunkKeyBytes]); key != want {
		return ref, fmt.Errorf("%w: chunk %d of upload %s came in place of chunk %d of %s", errSnapshotBody, key.number(), key.upload(), want.number(), want.upload())
	}
	if ref, err = decodeChunkRow(payload[chunkKeyBytes:], want); err != nil {
		return ref, fmt.Errorf("%w: %w", errSnapshotBody, err)
	}
	if place := chunkSize(size, want.number()); int64(ref.Size) != place {
		return ref, fmt.Errorf("%w: chunk %d of upload %s has %d bytes, its place has %d", errSnapshotBody, want.number(), want.upload(), ref.Size, place)
	}
	return ref, nil
}

// refsOf goes through what records refer to.
func refsOf(records []pulledRecord) iter.Seq[bodies.Ref] {
	return func(yield func(bodies.Ref) bool) {
		for i := range records {
			for _, ref := range records[i].refs {
				if !yield(ref) {
					return
				}
			}
		}
	}
}

// addPortion brings the bodies of records that came, and stages the records: all before
// the first that lacks a body.
func (st *stager) addPortion(ctx context.Context, came []pulledRecord) error {
	err := st.bodies.bring(ctx, refsOf(came))
	for i := range came {
		p := &came[i]
		if n := st.bodies.leading(p.refs); n < len(p.refs) {
			if err == nil {
				err = lacking(p.refs[n], fmt.Sprintf("revision %d", st.progress.last.rev+1))
			}
			return err
		}
		if aerr := st.addRecord(ctx, p); aerr != nil {
			return errors.Join(err, aerr)
		}
		flush := func() error { return nil }
		if st.recordBytes >= st.store.cfg.CommitBytes {
			flush = st.startRecords
			st.batches++
		}
		if st.puts.bytes >= stageBytes || st.batches >= stageBatches {
			flush = st.flush
		}
		if ferr := flush(); ferr != nil {
			return errors.Join(err, ferr)
		}
	}
	return err
}

// lacking is the end of a pull whose source does not have a body: another one may.
func lacking(ref bodies.Ref, of string) error {
	return fmt.Errorf("pull bodies: the other side does not have body %s of %s: pull from another member", ref.Digest, of)
}

// addRecord stages one record whose bodies are here.
func (st *stager) addRecord(ctx context.Context, p *pulledRecord) error {
	rev := st.progress.last.rev + 1
	if p.body.kind == bodyChunked {
		h := sha256.New()
		for _, ref := range p.refs {
			if err := st.withBody(ctx, ref, func(data []byte) { h.Write(data) }); err != nil {
				return err
			}
		}
		if err := p.checkSum(Digest(h.Sum(nil)), rev); err != nil {
			return err
		}
		key := revisionKey(rev)
		st.puts.add(engine.BucketRecords, key[:], p.raw)
		st.putRows(p.body.upload, 0, p.refs)
	}
	st.progress.last.advance(leafOf(p.body.header), &p.body)
	st.records = append(st.records, pendingRecord{rev, p.raw, st.progress.last.keep(st.store.cfg.CheckpointRevisions)})
	st.recordBytes += int64(len(p.raw)) + pendingOverhead
	return nil
}

// withBody calls fn with the checked bytes of a body that is here.
func (st *stager) withBody(ctx context.Context, ref bodies.Ref, fn func(data []byte)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := st.bodies.read(ctx, ref, st.buf[:0])
	if errors.As(err, new(*bodies.DamageError)) { // something else counts on it
		return st.store.fail(st.store.bodyError(ref.Digest, err))
	}
	if err != nil {
		return err
	}
	st.buf = data
	fn(data)
	return nil
}

// putRows stages the rows of chunks, which begin with number first.
func (st *stager) putRows(id uploadID, first uint32, refs []bodies.Ref) {
	for i, ref := range refs {
		key := makeChunkKey(id, first+uint32(i))
		st.puts.add(engine.BucketChunks, key[:], encodeChunkRow(key, ref))
	}
}

// pullUpload pulls the chunks of an open upload that neither this store nor staging has.
// If the sender lacks some by now it has applied the entry that dropped the upload; this
// store will come to that entry before anybody could read them, so they are not missed. If
// a row comes without its body it is asked for again, since it may have gone first.
func (st *stager) pullUpload(ctx context.Context, id uploadID, u *upload) error {
	have, err := st.leadingChunks(id, u.count())
	if err != nil {
		return err
	}
	for idle := 0; have < u.count(); {
		refs, serr := st.pullRows(ctx, id, have, u)
		if errors.Is(serr, errSnapshotBody) {
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
	goOn := func(tx engine.Tx) error {
		for ; have < count; have++ {
			key := makeChunkKey(id, have)
			ref, found, err := findChunkRow(tx, key)
			if err != nil || !found || !st.store.bodies.Has(ref.Digest) {
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
			kind, payload, err := readItem(r, &st.room)
			if err != nil || kind == itemEnd {
				return err
			}
			if next == u.count() { // it goes on growing there
				if kind != itemChunk {
					return fmt.Errorf("%w: a chunk was expected", errSnapshotBody)
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
// digest. It goes on from this store's own state of it, and begins anew if that is what is
// wrong.
func (st *stager) verifyUpload(ctx context.Context, id uploadID, u *upload) error {
	own := newUpload(0)
	if err := st.store.history.View(func(tx engine.Tx) (err error) {
		if raw := tx.Get(engine.BucketUploads, id[:]); raw != nil {
			own, err = checkUpload(tx, id, raw)
		}
		return err
	}); err != nil {
		return st.store.failed("read an upload", err)
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
	return fmt.Errorf("%w: the chunks of upload %s do not have the digest that the snapshot says", errSnapshotBody, id)
}

// row returns what a chunk refers to whose row is in staging or in the store.
func (st *stager) row(key chunkKey) (bodies.Ref, error) {
	ref, found, err := storedChunk(st.area, key)
	if err == nil && !found {
		ref, found, err = st.store.chunkRef(key)
	}
	if err == nil && !found {
		err = fmt.Errorf("pull a snapshot: chunk %d of upload %s was dropped meanwhile", key.number(), key.upload())
	}
	return ref, err
}
