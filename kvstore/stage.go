package kvstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/internal/writefault"
)

const (
	// stageBytes is how many bytes of chunks a pull collects before it writes.
	stageBytes = 4 << 20
	// stageBatches is how many batches of records go into history before
	// staging is told: a crash costs no more than these.
	stageBatches = 8
)

// Stage pulls what this store lacks of a snapshot, as Durable of another
// replica gave it: records after its own revision, their chunks, and chunks of
// open uploads; and the bodies that these refer to. fetch asks another replica's Serve,
// fetchBodies its Bodies. When it returns nil, all of it is here and the history digest
// is verified.
//
// Records go to where they will be read, behind the end of history: so an
// install need not copy them. Nobody looks there before the install moves the
// position. A commit that comes meanwhile writes over them; one that was
// refused, or never installed, is written over by what comes later. Everything
// else goes to the staging area: chunks, which must not be in history before
// their record (a repeat of one would seem to be sealed), records in chunks,
// once more, which say what chunks there are, and how far the pull got.
//
// After any other error a later Stage, of this snapshot or a newer one, goes on
// where this one stopped, also after a restart. ErrSnapshotBody means that what
// came was damaged: staging is empty then, pull from another member.
// ErrDiverged means that the snapshot cannot have this store as its past: this
// node must be replaced, unless whoever offered the snapshot lied. Memory is
// bounded by a few MiB.
func (s *Store) Stage(ctx context.Context, snapshot []byte, fetch func(ctx context.Context, query string) (io.ReadCloser, error), fetchBodies bodies.Fetch) error {
	if err := s.err(); err != nil {
		return err
	}
	snap, err := decodeSnapshot(snapshot)
	if err != nil {
		return err
	}
	own, lineage := s.durableHistory()
	if err := checkAncestry(&own, &lineage, snap); err != nil {
		return err
	}
	area, err := s.openStaging()
	if err != nil {
		return err
	}
	resume := s.bodies.Pause() // what is pulled is counted when it is installed
	defer resume()
	st := &stager{store: s, area: area, snap: snap, fetch: fetch, fetchBodies: fetchBodies}
	err = st.run(ctx, snapshot, own)
	if werr := st.writing.wait(); err == nil {
		err = werr
	}
	if cerr := st.area.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close staging: %w", cerr)
	}
	var corrupt *CorruptError
	if errors.Is(err, ErrSnapshotBody) || errors.As(err, &corrupt) && s.err() == nil {
		err = errors.Join(err, s.cfg.RemoveStaging())
	}
	return s.orFatal(err)
}

// orFatal returns err, after making it fatal if it is that of a failed write to
// staging: what staging shows from then on may not be on the disk.
func (s *Store) orFatal(err error) error {
	if errors.Is(err, writefault.Err) {
		return s.fail(err)
	}
	return err
}

func (s *Store) durablePosition() position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.durable
}

// durableHistory returns where history stands, and its identity then.
func (s *Store) durableHistory() (position, History) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.durable, s.kept
}

// checkAncestry refuses a snapshot that cannot have this store as its past.
func checkAncestry(own *position, lineage *History, snap *snapshot) error {
	if own.index >= snap.index {
		return nil
	}
	if id := lineage.ID; !id.IsZero() && id != snap.lineage.ID {
		shared, ok := snap.lineage.shares(id)
		if !ok {
			return fmt.Errorf("%w (history %s here; history %s there, which does not go on from it)", ErrDiverged, id, snap.lineage.ID)
		}
		if shared < own.rev {
			return fmt.Errorf("%w (revision %d of history %s here; history %s there, which went on from that at revision %d)", ErrDiverged, own.rev, id, snap.lineage.ID, shared)
		}
	}
	if own.rev < snap.rev || own.rev == snap.rev && own.tree == snap.tree {
		return nil
	}
	return fmt.Errorf("%w (revision %d, digest %s here; revision %d, digest %s there)", ErrDiverged, own.rev, own.digest(), snap.rev, snap.digest())
}

// openStaging opens the staging area; a damaged one is dropped, since all of it
// can be pulled again.
func (s *Store) openStaging() (Engine, error) {
	if s.cfg.OpenStaging == nil || s.cfg.RemoveStaging == nil {
		return nil, errors.New("open staging: the store was opened without a staging area")
	}
	area, err := s.cfg.OpenStaging()
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		s.logger.Warn("staging area is damaged and pulled again", "error", err)
		if err := s.cfg.RemoveStaging(); err != nil {
			return nil, err
		}
		area, err = s.cfg.OpenStaging()
	}
	if err != nil {
		return nil, s.orFatal(fmt.Errorf("open staging: %w", err))
	}
	return area, nil
}

// progress is how far a pull got: every record after base up to last is behind
// the end of history, or has become part of it, and staging holds all chunks.
type progress struct {
	base mark
	last derived
	done bool // chunks of open uploads are there too
}

func encodeProgress(p *progress) []byte {
	b := appendMark(make([]byte, statePrefixBytes), p.base)
	b = appendDerived(b, &p.last)
	if p.done {
		return frameStateAs(progressFormat, keyProgress, append(b, 1))
	}
	return frameStateAs(progressFormat, keyProgress, append(b, 0))
}

func decodeProgress(raw []byte) (p progress, err error) {
	c, err := openStateAs(progressFormat, keyProgress, raw)
	if err != nil {
		return p, err
	}
	p.base, p.last = readMark(&c), readDerived(&c)
	switch c.byte() {
	case 0:
	case 1:
		p.done = true
	default:
		c.fail(errors.New("whether it is done is neither yes nor no"))
	}
	return p, c.end()
}

// readProgress returns what staging holds: the snapshot it was pulled for, nil
// when it is empty, and how far.
func readProgress(area Engine) (snapshot []byte, p progress, err error) {
	err = area.View(func(tx Tx) error {
		raw := tx.Get(BucketState, keyProgress)
		if raw == nil {
			return nil
		}
		if p, err = decodeProgress(raw); err != nil {
			file, off := tx.Where(raw)
			return &CorruptError{File: file, Offset: off, Detail: "the progress of a pull: " + err.Error()}
		}
		snapshot = append([]byte{}, tx.Get(BucketState, keySnapshot)...)
		return nil
	})
	return snapshot, p, err
}

// stager is one call of Stage.
type stager struct {
	store *Store
	area  Engine
	snap  *snapshot
	fetch func(ctx context.Context, query string) (io.ReadCloser, error)

	fetchBodies bodies.Fetch

	progress progress

	records     []stagedRecord // the newest up to progress.last.rev, not yet in history
	recordBytes int64
	writing     background // of records to history, while more are pulled
	batches     int        // in history, of which staging does not know
	puts        []stagedPut
	bytes       int
}

// stagedRecord is a pulled record as it will be stored.
type stagedRecord struct {
	raw  []byte
	kept *derived // what is kept for its revision; nil: nothing
}

type stagedPut struct {
	bucket     Bucket
	key, value []byte
}

func (st *stager) run(ctx context.Context, snapshot []byte, own position) error {
	done, err := st.resume(snapshot, own)
	if err != nil || done {
		return err
	}
	if st.progress.last.rev < st.snap.rev {
		if err := st.pullRecords(ctx); err != nil {
			return errors.Join(err, st.keepProgress(err))
		}
	}
	if differs := st.progress.last.difference(&st.snap.derived); differs != "" && own.rev <= st.snap.rev {
		return fmt.Errorf("%w: %s, as the snapshot says", ErrSnapshotBody, differs)
	}
	if err := st.pullUploads(ctx); err != nil {
		return errors.Join(err, st.keepProgress(err))
	}
	st.progress.done = true
	return st.flush()
}

// keepProgress writes what was pulled before err, unless that is worthless.
func (st *stager) keepProgress(err error) error {
	if errors.Is(err, ErrSnapshotBody) {
		return nil
	}
	return st.flush()
}

// resume goes on with what staging holds if that fits, and starts anew
// otherwise. It reports whether everything is there already.
func (st *stager) resume(snapshot []byte, own position) (done bool, err error) {
	old, p, err := readProgress(st.area)
	if err != nil {
		return false, err
	}
	fits := old != nil && p.base.rev <= own.rev && own.rev <= p.last.rev && own.rev <= st.snap.rev
	if fits {
		digest, err := st.store.DigestAt(p.base.rev)
		if err != nil {
			return false, err
		}
		fits = digest == p.base.digest
	}
	if fits {
		if fits, err = st.trim(&p, own); err != nil {
			return false, err
		}
	}
	if !fits {
		if old != nil {
			if err := st.startOver(); err != nil {
				return false, err
			}
		}
		p = progress{base: mark{own.rev, own.digest()}, last: own.derived}
	}
	same := fits && bytes.Equal(old, snapshot)
	p.done = p.done && same
	st.progress = p
	if same {
		return p.done, nil
	}
	st.put(BucketState, keySnapshot, snapshot)
	return false, st.flush()
}

// trim makes p what of it is for this snapshot, which may be older than the one
// that was pulled: then a new leader offers it, and what is too much is left behind
// the end of history. It reports false when the records are not what they should
// be, as after a history that lost its last transaction.
func (st *stager) trim(p *progress, own position) (fits bool, err error) {
	here, err := st.store.pulledTo(own, p.last.rev)
	if err != nil || here != p.last {
		return false, err
	}
	if p.last.rev <= st.snap.rev {
		return true, nil
	}
	here, err = st.store.pulledTo(own, st.snap.rev)
	if err != nil || here != st.snap.derived {
		return false, err
	}
	p.last, p.done = here, false
	return true, st.store.cutPulled(st.snap.rev)
}

// pulledTo returns what the records that lie behind the end of history, own, make of
// it up to revision rev; nothing when they are not all there.
func (s *Store) pulledTo(own position, rev Revision) (at derived, err error) {
	at = own.derived
	if kept := s.checkpointBefore(rev); kept > at.rev {
		at, err = s.checkpoint(kept)
	}
	for err == nil && at.rev < rev {
		_, err = s.scanHistory(&at, rev)
	}
	if _, corrupt := errors.AsType[*CorruptError](err); corrupt {
		return derived{}, nil // nobody counts on them
	}
	return at, err
}

// cutPulled makes a block of pulled records end with revision rev, as a commit
// expects it of the end of history: what follows in the same block it writes over.
func (s *Store) cutPulled(rev Revision) error {
	s.commitMu.Lock() // so that the end stays where it is
	defer s.commitMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	if s.durablePosition().rev >= rev {
		return nil // by a commit of the same records
	}
	return s.failed("cut pulled records", s.history.Update(func(tx Tx) error { return cutBlock(tx, rev) }))
}

// startOver empties staging.
func (st *stager) startOver() error {
	if err := st.area.Close(); err != nil {
		return fmt.Errorf("close staging: %w", err)
	}
	if err := st.store.cfg.RemoveStaging(); err != nil {
		return err
	}
	area, err := st.store.cfg.OpenStaging()
	if err != nil {
		return fmt.Errorf("open staging: %w", err)
	}
	st.area = area
	return nil
}

// pullRecords pulls the records after progress.last.
func (st *stager) pullRecords(ctx context.Context) error {
	have, err := st.partialChunks()
	if err != nil {
		return err
	}
	q := &query{kind: queryRecords, index: st.snap.index, after: st.progress.last.rev, through: st.snap.rev, chunk: have}
	err = st.stream(ctx, q, func(r io.Reader) error {
		return st.readRecords(ctx, r, have)
	})
	if err == nil && st.progress.last.rev != st.snap.rev {
		return fmt.Errorf("%w: it ends at revision %d, not %d", ErrSnapshotBody, st.progress.last.rev, st.snap.rev)
	}
	return err
}

// partialChunks returns how many leading chunks staging has of the record after
// progress.last, which is there only when it is one in chunks.
func (st *stager) partialChunks() (n uint32, err error) {
	rev := st.progress.last.rev + 1
	err = st.area.View(func(tx Tx) error {
		k := revisionKey(rev)
		raw := tx.Get(BucketRecords, k[:])
		if raw == nil {
			return nil
		}
		d, err := checkRecord(tx, raw, rev)
		if err != nil || d.kind != bodyChunked {
			return err
		}
		for n < d.chunks {
			key := makeChunkKey(d.upload, n)
			if tx.Get(BucketChunks, key[:]) == nil {
				return nil
			}
			n++
		}
		return nil
	})
	return n, err
}

// stream opens a query, calls read, and closes.
func (st *stager) stream(ctx context.Context, q *query, read func(r io.Reader) error) error {
	rc, err := st.fetch(ctx, q.String())
	if err != nil {
		return fmt.Errorf("pull a snapshot: %w", err)
	}
	defer rc.Close()
	if err := read(bufio.NewReaderSize(rc, 64<<10)); err != nil {
		return fmt.Errorf("pull a snapshot: %w", err)
	}
	return nil
}

// readRecords stages records, and the chunks that follow one, to the end of the
// stream. Of the first record, have chunks are staged already.
func (st *stager) readRecords(ctx context.Context, r io.Reader, have uint32) error {
	for {
		kind, payload, err := readFrame(r)
		if err != nil {
			return err
		}
		if kind == frameEnd {
			return nil
		}
		if kind != frameRecord {
			return fmt.Errorf("%w: a record was expected after revision %d", ErrSnapshotBody, st.progress.last.rev)
		}
		if err := st.addRecord(ctx, r, payload, have); err != nil {
			return err
		}
		have = 0
		if err := st.flushDue(); err != nil {
			return err
		}
	}
}

// flushDue writes what is due of records. Chunks are written by whoever adds them.
func (st *stager) flushDue() error {
	if st.recordBytes < st.store.cfg.CommitBytes {
		return nil
	}
	if st.batches++; st.batches >= stageBatches {
		return st.flush()
	}
	return st.startRecords()
}

// addRecord stages one record; its chunks from number have on come from r.
func (st *stager) addRecord(ctx context.Context, r io.Reader, payload []byte, have uint32) error {
	rev := st.progress.last.rev + 1
	if len(payload) < 8 || rev > st.snap.rev {
		return fmt.Errorf("%w: no record was expected after revision %d", ErrSnapshotBody, st.progress.last.rev)
	}
	key, raw := payload[:8], payload[8:]
	if got, _ := keyRevision(key); got != rev {
		return fmt.Errorf("%w: revision %d came in place of %d", ErrSnapshotBody, got, rev)
	}
	d, err := decodeRecord(raw, rev)
	if err != nil {
		return unreadable(rev, err)
	}
	sum := Digest(sha256.Sum256(d.value))
	switch d.kind {
	case bodyReferred:
		if err := st.pullBodies(ctx, []bodies.Ref{d.ref()}); err != nil {
			return err
		}
		sum = d.sum
	case bodyChunked:
		st.put(BucketRecords, key, raw)
		if err := st.addChunks(ctx, r, &d, have); err != nil {
			return err
		}
		sum, err = st.store.sumChunks(ctx, st.area, &d)
		if errors.Is(err, errChunkSize) {
			err = fmt.Errorf("%w: %w", ErrSnapshotBody, err)
		}
		if err != nil {
			return err
		}
	}
	if sum != d.sum {
		return fmt.Errorf("%w: the value of revision %d has digest %s, its record says %s", ErrSnapshotBody, rev, sum, d.sum)
	}
	st.progress.last.advance(leafOf(d.header), &d)
	st.records = append(st.records, stagedRecord{raw, st.progress.last.keep(st.store.cfg.CheckpointRevisions)})
	st.recordBytes += int64(len(raw)) + pendingOverhead
	return nil
}

// unreadable is the error of a pulled record that does not decode.
func unreadable(rev Revision, err error) error {
	if errors.As(err, new(*level.LaterError)) {
		return laterStream(fmt.Sprintf("revision %d", rev))
	}
	return fmt.Errorf("%w: %w", ErrSnapshotBody, err)
}

// pullBodies pulls those of some bodies that are not here, and makes them durable.
func (st *stager) pullBodies(ctx context.Context, refs []bodies.Ref) error {
	for len(refs) > 0 {
		var missing []bodies.Ref
		for len(refs) > 0 && len(missing) < bodies.FetchMax {
			if !st.store.bodies.Has(refs[0].Digest) {
				missing = append(missing, refs[0])
			}
			refs = refs[1:]
		}
		if len(missing) == 0 {
			return nil
		}
		if err := st.fetchBodies(ctx, missing, func(b bodies.Body) error {
			_, err := st.store.bodies.Append(b.Digest, b.Data)
			return err
		}); err != nil {
			return fmt.Errorf("pull the bodies of a snapshot: %w", err)
		}
		if err := st.store.bodies.Sync(ctx); err != nil {
			return fmt.Errorf("pull the bodies of a snapshot: %w", err)
		}
		for _, ref := range missing {
			if !st.store.bodies.Has(ref.Digest) {
				return fmt.Errorf("pull the bodies of a snapshot: the sender lacks body %s", ref.Digest)
			}
		}
	}
	return nil
}

// addChunks stages chunks have, have+1, … of a record and writes them.
func (st *stager) addChunks(ctx context.Context, r io.Reader, d *body, have uint32) error {
	for n := have; n < d.chunks; n++ {
		key, stored, ref, err := readChunkFrame(r)
		if err != nil {
			return err
		}
		if want := makeChunkKey(d.upload, n); key != want {
			return wrongChunk(key, want)
		}
		if err := st.pullBodies(ctx, []bodies.Ref{ref}); err != nil {
			return err
		}
		st.put(BucketChunks, key[:], stored)
		if st.bytes >= stageBytes {
			if err := st.flush(); err != nil {
				return err
			}
		}
	}
	return st.flush()
}

func wrongChunk(got, want chunkKey) error {
	return fmt.Errorf("%w: chunk %d of upload %s came in place of chunk %d of %s", ErrSnapshotBody, got.number(), got.upload(), want.number(), want.upload())
}

// readChunkFrame reads a frame that must be a sound chunk.
func readChunkFrame(r io.Reader) (key chunkKey, stored []byte, ref bodies.Ref, err error) {
	kind, payload, err := readFrame(r)
	if err != nil {
		return key, nil, ref, err
	}
	return chunkOf(kind, payload)
}

// chunkOf takes apart a frame that must be a sound chunk.
func chunkOf(kind frameKind, payload []byte) (key chunkKey, stored []byte, ref bodies.Ref, err error) {
	if kind != frameChunk || len(payload) < chunkKeyBytes {
		return key, nil, ref, fmt.Errorf("%w: a chunk was expected", ErrSnapshotBody)
	}
	key, stored = chunkKey(payload[:chunkKeyBytes]), payload[chunkKeyBytes:]
	if ref, err = decodeChunkRow(stored, key); err != nil {
		return key, nil, ref, fmt.Errorf("%w: %w", ErrSnapshotBody, err)
	}
	return key, stored, ref, nil
}

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
// between. So they are not missed.
func (st *stager) pullUpload(ctx context.Context, id uploadID, u *upload) error {
	have, err := st.leadingChunks(id, u.count())
	if err != nil {
		return err
	}
	if have < u.count() {
		q := &query{kind: queryChunks, index: st.snap.index, upload: id, chunk: have}
		if err := st.stream(ctx, q, func(r io.Reader) error { return st.readUpload(ctx, r, id, &have, u.count()) }); err != nil {
			return err
		}
		if err := st.flush(); err != nil {
			return err
		}
	}
	if have < u.count() {
		return nil
	}
	return st.verifyUpload(ctx, id, u)
}

// leadingChunks returns how many of the first chunks of an open upload are here.
func (st *stager) leadingChunks(id uploadID, count uint32) (have uint32, err error) {
	for _, engine := range []Engine{st.store.history, st.area} { // what staging has follows what history has
		if err := engine.View(func(tx Tx) error {
			for ; have < count; have++ {
				if key := makeChunkKey(id, have); tx.Get(BucketChunks, key[:]) == nil {
					return nil
				}
			}
			return nil
		}); err != nil {
			return 0, err
		}
	}
	return have, nil
}

// readUpload stages the chunks from number next on to the end of the stream, but none
// from number count on, which may be there by now.
func (st *stager) readUpload(ctx context.Context, r io.Reader, id uploadID, next *uint32, count uint32) error {
	for {
		kind, payload, err := readFrame(r)
		if err != nil {
			return err
		}
		if kind == frameEnd {
			return nil
		}
		key, stored, ref, err := chunkOf(kind, payload)
		if err != nil {
			return err
		}
		if want := makeChunkKey(id, *next); *next < count && key != want {
			return wrongChunk(key, want)
		}
		if *next == count {
			continue
		}
		if err := st.pullBodies(ctx, []bodies.Ref{ref}); err != nil {
			return err
		}
		*next++
		st.put(BucketChunks, key[:], stored)
		if st.bytes >= stageBytes {
			if err := st.flush(); err != nil {
				return err
			}
		}
	}
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
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := st.withChunk(makeChunkKey(id, n), func(data []byte) { from.add(data, 0) }); err != nil {
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

// withChunk calls fn with the checked bytes of a chunk whose row is in staging or in the
// store.
func (st *stager) withChunk(key chunkKey, fn func(data []byte)) error {
	var ref bodies.Ref
	var found bool
	err := st.area.View(func(tx Tx) (err error) {
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
	if err != nil {
		return err
	}
	data, err := st.store.readBody(ref, nil)
	if err == nil {
		fn(data)
	}
	return err
}

func (st *stager) put(b Bucket, key, value []byte) {
	st.puts = append(st.puts, stagedPut{b, append([]byte(nil), key...), value})
	st.bytes += len(key) + len(value) + pendingOverhead
}

// startRecords begins to write the records that were collected.
func (st *stager) startRecords() error {
	records, last := st.records, st.progress.last.rev
	st.records, st.recordBytes = nil, 0
	return st.writing.start(func() error { return st.store.writePulled(records, last) })
}

// writePulled writes pulled records, the last of which has revision last, behind
// the end of history. They are blocks of their own: what is part of history is
// not touched.
func (s *Store) writePulled(records []stagedRecord, last Revision) error {
	s.commitMu.Lock() // so that the end stays where it is
	defer s.commitMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	first := last - Revision(len(records)) + 1
	if own := s.durablePosition().rev; own >= first { // by a commit of the same records
		skip := min(int(own-first+1), len(records))
		first, records = first+Revision(skip), records[skip:]
	}
	if len(records) == 0 {
		return nil
	}
	return s.failed("write pulled records", s.history.Update(func(tx Tx) error { return writeStaged(tx, first, records) }))
}

// writeStaged writes records, the first of which has revision first, and the
// checkpoints among them.
func writeStaged(tx Tx, first Revision, records []stagedRecord) error {
	w, err := appendRecords(tx, first-1, first-1+Revision(len(records)), false)
	if err != nil {
		return err
	}
	for i := range records {
		if err := w.add(records[i].raw); err != nil {
			return err
		}
		if err := writeCheckpoint(tx, records[i].kept); err != nil {
			return err
		}
	}
	return w.flush()
}

// flush writes what was collected, and then how far the pull got.
func (st *stager) flush() error {
	if err := errors.Join(st.startRecords(), st.writing.wait()); err != nil {
		return err
	}
	st.batches = 0
	err := st.area.Update(func(tx Tx) error {
		for _, p := range st.puts {
			if err := tx.Put(p.bucket, p.key, p.value); err != nil {
				return err
			}
		}
		return tx.Put(BucketState, keyProgress, encodeProgress(&st.progress))
	})
	if err != nil {
		return fmt.Errorf("write staging: %w", err)
	}
	st.puts, st.bytes = nil, 0
	return nil
}
