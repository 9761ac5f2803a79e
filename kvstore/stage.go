package kvstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/writefault"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

const (
	// stageBytes is how many bytes of rows a pull collects before it writes.
	stageBytes = 4 << 20
	// stageBatches is how many batches of records go into history before
	// staging is told: a crash costs no more than these.
	stageBatches = 8
)

// Stage pulls what this store lacks of a snapshot that Durable of another replica gave:
// the records after its own revision, the rows of chunks, and the bodies. fetch asks
// another replica's Serve, fetchBodies its bodies. When it returns nil all of it is here,
// and the history digest is verified.
//
// Bodies go to where they stay, durable before anything refers to them; none is reclaimed
// until Install has counted them, or nobody has gone on with the pull for ten minutes.
// Records go behind the end of history, where nobody looks before Install; a commit writes
// over them. The staging area has the rest: rows of chunks, which must not be in history
// before their record (a repeat of one would seem to be sealed), the records in chunks
// once more, and the progress.
//
// After an error a later Stage, of this snapshot or a newer one, goes on where this one
// stopped, also after a restart, and may get a missing body from another source. If
// what came was damaged, staging is empty: pull from another member.
// ErrDiverged means that the snapshot cannot have this store as its past: replace this
// node, unless the sender lied. Memory is bounded by a few MiB.
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
	st := &stager{store: s, area: area, snap: snap, fetch: fetch, bodies: bodyPuller{store: s.bodies, fetch: fetchBodies}}
	st.whole = s.pulls.begin()
	defer func() { s.pulls.end(st.whole) }()
	err = st.run(ctx, snapshot, own)
	if werr := st.writing.wait(); err == nil {
		err = werr
	}
	if cerr := st.area.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close staging: %w", cerr)
	}
	var corrupt *CorruptError
	if errors.Is(err, errSnapshotBody) || errors.As(err, &corrupt) && s.err() == nil {
		err = errors.Join(err, s.cfg.RemoveStaging())
	}
	return s.orFatal(err)
}

// orFatal returns err, after making it fatal if it is that of a failed write, to
// staging or of bodies: what they show from then on may not be on the disk.
func (s *Store) orFatal(err error) error {
	if err != nil && (errors.Is(err, writefault.Err) || s.bodies.Err() != nil) {
		return s.fail(err)
	}
	return err
}

// checkAncestry refuses a snapshot that cannot have this store as its past.
func checkAncestry(own *appliedState, lineage *History, snap *snapshot) error {
	if own.index >= snap.index {
		return nil
	}
	if id := lineage.ID; !id.IsZero() && id != snap.lineage.ID {
		shared, ok := snap.lineage.shares(id)
		if !ok {
			return fmt.Errorf("%w (history %s here; history %s there, which does not continue it)", ErrDiverged, id, snap.lineage.ID)
		}
		if shared < own.rev {
			return fmt.Errorf("%w (revision %d of history %s here; history %s there, which continued that from revision %d)", ErrDiverged, own.rev, id, snap.lineage.ID, shared)
		}
	}
	if own.rev < snap.rev || own.rev == snap.rev && own.tree == snap.tree {
		return nil
	}
	return fmt.Errorf("%w (revision %d, digest %s here; revision %d, digest %s there)", ErrDiverged, own.rev, own.digest(), snap.rev, snap.digest())
}

// openStaging opens the staging area; a damaged one is dropped, since all of it
// can be pulled again.
func (s *Store) openStaging() (engine.Engine, error) {
	if s.cfg.OpenStaging == nil || s.cfg.RemoveStaging == nil {
		return nil, errors.New("open staging: the store was opened without a staging area")
	}
	area, err := s.cfg.OpenStaging()
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		s.logger.Warn("the staging area is damaged and is pulled again", "error", err)
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

// progress is how far a pull got: every record after base up to last is behind the end of
// history or part of it, and every row of chunks in staging, and every body, is here.
type progress struct {
	base mark
	last derived
	done bool // so are those of open uploads, as far as the sender had them
}

func encodeProgress(p *progress) []byte {
	b := appendMark(make([]byte, statePrefixBytes), p.base)
	b = appendDerived(b, &p.last)
	if p.done {
		return encodeState(progressFormat, keyProgress, append(b, 1))
	}
	return encodeState(progressFormat, keyProgress, append(b, 0))
}

func decodeProgress(raw []byte) (p progress, err error) {
	c, err := openState(progressFormat, keyProgress, raw)
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
func readProgress(area engine.Engine) (snapshot []byte, p progress, err error) {
	err = area.View(func(tx engine.Tx) error {
		raw := tx.Get(engine.BucketState, keyProgress)
		if raw == nil {
			return nil
		}
		if p, err = decodeProgress(raw); err != nil {
			return corruptAt(tx, raw, "the progress of a pull: "+err.Error())
		}
		snapshot = append([]byte{}, tx.Get(engine.BucketState, keySnapshot)...)
		return nil
	})
	return snapshot, p, err
}

// stager is one call of Stage.
type stager struct {
	store *Store
	area  engine.Engine
	snap  *snapshot
	fetch func(ctx context.Context, query string) (io.ReadCloser, error)

	progress progress
	whole    bool       // every body that staging names is here, until the pull is over
	bodies   bodyPuller // of those that come
	buf      []byte     // for bodies that are read
	came     []pulledRecord
	room     itemRoom // for items that are read

	records     []pendingRecord // the newest up to progress.last.rev, not yet in history
	recordBytes int64
	inHistory   []pendingRecord // that are being written to history, or have been
	writing     background      // of records to history, while more are pulled
	batches     int             // in history, of which staging does not know
	puts        stagedPuts      // to staging
}

// stagedPuts are writes that wait for their transaction.
type stagedPuts struct {
	list  []stagedPut
	bytes int64
}

type stagedPut struct {
	bucket     engine.Bucket
	key, value []byte
}

func (p *stagedPuts) add(b engine.Bucket, key, value []byte) {
	p.list = append(p.list, stagedPut{b, bytes.Clone(key), value})
	p.bytes += int64(len(key) + len(value) + pendingOverhead)
}

// write writes all of them.
func (p *stagedPuts) write(tx engine.Tx) error {
	for _, w := range p.list {
		if err := tx.Put(w.bucket, w.key, w.value); err != nil {
			return err
		}
	}
	*p = stagedPuts{}
	return nil
}

func (st *stager) run(ctx context.Context, snapshot []byte, own appliedState) error {
	done, err := st.resume(ctx, snapshot, own)
	if err != nil || done {
		return err
	}
	if err := st.pull(ctx, own.rev); errors.Is(err, errSnapshotBody) {
		return err
	} else if err != nil {
		return errors.Join(err, st.flush()) // what was pulled before is kept
	}
	st.progress.done = true
	return st.flush()
}

// pull pulls all that is missing.
func (st *stager) pull(ctx context.Context, own Revision) error {
	for st.progress.last.rev < st.snap.rev {
		if err := st.pullPortion(ctx); err != nil {
			return err
		}
	}
	if differs := st.progress.last.difference(&st.snap.derived); differs != "" && own <= st.snap.rev {
		return fmt.Errorf("%w: %s, as the snapshot says", errSnapshotBody, differs)
	}
	for _, id := range sortedUploads(st.snap.uploads) {
		if err := st.pullUpload(ctx, id, st.snap.uploads[id]); err != nil {
			return err
		}
	}
	return nil
}

// resume goes on with what staging holds if that fits, and starts anew
// otherwise. It reports whether everything is there already.
func (st *stager) resume(ctx context.Context, snapshot []byte, own appliedState) (done bool, err error) {
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
	if fits && !st.whole {
		if fits, err = st.store.pullIsWhole(ctx, st.area, own.rev, p.last.rev); err != nil {
			return false, err
		}
	}
	if !fits {
		if old != nil {
			if err := st.area.Close(); err != nil {
				return false, fmt.Errorf("close staging: %w", err)
			}
			if err := st.store.cfg.RemoveStaging(); err != nil {
				return false, err
			}
			if st.area, err = st.store.cfg.OpenStaging(); err != nil {
				return false, fmt.Errorf("open staging: %w", err)
			}
		}
		p = progress{base: mark{own.rev, own.digest()}, last: own.derived}
	}
	st.whole = true
	same := fits && bytes.Equal(old, snapshot)
	p.done = p.done && same
	st.progress = p
	if same {
		return p.done, nil
	}
	st.puts.add(engine.BucketState, keySnapshot, snapshot)
	return false, st.flush()
}

// trim cuts p to this snapshot, which may be older than the one that was pulled, if a new
// leader offers it: what is too much stays behind the end of history. It reports false
// when the records are not what they should be, as after a history that lost its last
// transaction.
func (st *stager) trim(p *progress, own appliedState) (fits bool, err error) {
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
func (s *Store) pulledTo(own appliedState, rev Revision) (at derived, err error) {
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
	if s.durableState().rev >= rev {
		return nil // by a commit of the same records
	}
	return s.failed("cut pulled records", s.history.Update(func(tx engine.Tx) error { return cutBlock(tx, rev) }))
}

// stream opens a query, calls read, and closes.
func (st *stager) stream(ctx context.Context, q *query, read func(r *bufio.Reader) error) error {
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

// startRecords begins to write the records that were collected.
func (st *stager) startRecords() error {
	if err := st.writing.wait(); err != nil {
		return err
	}
	records := st.records
	clear(st.inHistory) // they are written
	st.records, st.recordBytes, st.inHistory = st.inHistory[:0], 0, records
	return st.writing.start(func() error { return st.store.writePulled(records) })
}

// writePulled writes pulled records behind the end of history. They are blocks of their
// own: what is part of history is not touched.
func (s *Store) writePulled(records []pendingRecord) error {
	s.commitMu.Lock() // so that the end stays where it is
	defer s.commitMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	own := s.durableState().rev
	for len(records) > 0 && records[0].rev <= own { // by a commit of the same records
		records = records[1:]
	}
	if len(records) == 0 {
		return nil
	}
	return s.failed("write pulled records", s.history.Update(func(tx engine.Tx) error { return writeRecords(tx, records, false) }))
}

// flush writes what was collected, and then how far the pull got.
func (st *stager) flush() error {
	if err := errors.Join(st.startRecords(), st.writing.wait()); err != nil {
		return err
	}
	st.batches = 0
	err := st.area.Update(func(tx engine.Tx) error {
		if err := st.puts.write(tx); err != nil {
			return err
		}
		return tx.Put(engine.BucketState, keyProgress, encodeProgress(&st.progress))
	})
	if err != nil {
		return fmt.Errorf("write staging: %w", err)
	}
	return nil
}
