package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/budget"
)

const (
	chunksInFlight  = 8 // of one put
	chunksBeside    = 2 // the same, while others put
	othersLast      = time.Second
	abandonTimeout  = 2 * time.Second
	retryPauseFirst = 20 * time.Millisecond
	retryPauseMax   = time.Second
)

// putStream proposes a value that is large or of unknown size: chunks as the body arrives,
// the first with what opens their upload, then a seal. One chunk alone becomes a plain
// put. It stays apart from propose, because it proposes before the body has ended.
func (db *DB) putStream(ctx context.Context, r *PutRequest) (PutResult, error) {
	place := db.intake.hold(db.intake.uploads, r)
	defer place.Close()
	if err := place.Acquire(ctx, 1, db.cfg.InFlightWait); err != nil {
		return PutResult{}, overloaded(err)
	}
	u := &uploading{
		db: db, r: r, body: heldBody{src: r.Body, place: place}, hash: sha256.New(), revision: db.store.Position(),
		last: newTurn(), slots: make(chan struct{}, chunksInFlight),
	}
	u.ended, u.end = context.WithCancelCause(context.Background())
	defer u.end(nil)
	close(u.last.proposed) // nothing comes before the first chunk
	close(u.last.applied)
	first, end, err := u.readChunk(db.intake.waits(ctx, db.cfg.InFlightWait))
	if err != nil {
		return PutResult{}, err
	}
	if end {
		defer first.held.Close()
		return u.putWhole(ctx, first)
	}
	id, err := newUploadID(db.cfg.Now(), db.cfg.Rand)
	if err != nil {
		first.held.Close()
		return PutResult{}, err
	}
	u.id = id
	return u.run(ctx, first)
}

// heldChunk is a chunk, and its memory.
type heldChunk struct {
	data []byte
	held *budget.Holder
}

// uploading is one large put. It is owned by the goroutine of Put, which waits
// for the goroutines that propose its chunks, and for the one that keeps it open.
type uploading struct {
	db   *DB
	r    *PutRequest
	id   uploadID
	body heldBody
	hash hash.Hash
	read int64  // bytes of the body so far
	next uint32 // number of the next chunk
	last *turn  // of the chunk before it
	tail *byte  // first byte of the next chunk, read to see whether there is one

	slots    chan struct{} // one for each chunk being distributed or proposed, and those given up to others
	givenUp  int           // slots
	revision uint64        // that was last seen
	others   time.Time     // when it was seen to change: somebody else puts
	group    sync.WaitGroup
	holding  sync.WaitGroup          // chunks whose memory is not given back yet
	delayed  atomic.Int32            // chunks that wait to be proposed again
	proposed atomic.Uint32           // chunks that were proposed
	ended    context.Context         // by the first failure of a chunk, which is its cause
	end      context.CancelCauseFunc // of it
}

// turn is the place of a chunk in the order of its upload.
type turn struct {
	proposed chan struct{} // closed when the chunk is proposed for the first time
	applied  chan struct{} // closed when it is part of the upload
}

func newTurn() *turn { return &turn{proposed: make(chan struct{}), applied: make(chan struct{})} }

// readChunk reads the next chunk, and reports whether the body ends with it. acquire
// takes memory for it.
func (u *uploading) readChunk(acquire func(*budget.Holder, int64) error) (chunk heldChunk, end bool, err error) {
	var first []byte
	if u.tail != nil {
		first, u.tail = []byte{*u.tail}, nil
	}
	chunk.data, end, chunk.held, err = u.db.intake.readSteps(u.r, &u.body, first, ChunkBytes, acquire)
	if err != nil {
		return chunk, false, err
	}
	if !end { // one byte ahead tells whether there is more
		var one [1]byte
		var n int
		u.body.memory = chunk.held
		n, end, err = fill(&u.body, one[:])
		u.body.memory = nil
		if n == 1 {
			u.tail, end = &one[0], false // the next read finds the end, if this byte was the last
		}
	}
	if err == nil {
		u.hash.Write(chunk.data)
		u.read += int64(len(chunk.data))
		switch limit, size := u.db.cfg.MaxValueBytes, u.r.Size; {
		case u.read > limit || u.read == limit && !end:
			err = &TooLargeError{LimitBytes: limit}
		case size >= 0 && (u.read > size || end != (u.read == size)):
			err = wrongLength(size, u.read)
		}
	}
	if err != nil {
		chunk.held.Close()
		return heldChunk{}, false, err
	}
	return chunk, end, nil
}

// putWhole puts a value that turned out to be no larger than a chunk.
func (u *uploading) putWhole(ctx context.Context, chunk heldChunk) (PutResult, error) {
	p := newProposal(u.db, nil)
	defer p.close()
	n := p.add()
	n.meta = newMeta(u.r, u.db.cfg.Now(), int64(len(chunk.data)))
	n.meta.SHA256 = Digest(u.hash.Sum(nil))
	if err := checkDigest(u.r.SHA256, n.meta.SHA256); err != nil {
		return PutResult{}, err
	}
	if n.data = chunk.data; n.meta.Size < BodyBytesMin {
		n.data = append(putCommandHeader(&n.meta), chunk.data...)
	}
	p.propose(ctx, chunk.held.Close)
	return n.result()
}

// run proposes chunk after chunk, beginning with the first, then the seal. On failure
// the upload is abandoned, and since no seal was proposed the failure is definite.
func (u *uploading) run(ctx context.Context, first heldChunk) (PutResult, error) {
	arriving, arrived := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { u.keepOpen(arriving) })
	winner, err := u.sendBody(ctx, first)
	u.group.Wait()
	arrived()
	keeper.Wait()
	if err == nil {
		err = u.failure()
	}
	if err == nil && winner == nil {
		err = checkDigest(u.r.SHA256, Digest(u.hash.Sum(nil)))
	}
	if err != nil || winner != nil {
		u.abandon(ctx)
	}
	switch {
	case err != nil:
		return PutResult{}, err
	case winner != nil:
		// Somebody else set the key meanwhile: the rest is only compared, with the byte
		// that was read ahead. If it is slow it still gives way.
		r := *u.r
		r.Body = &u.body
		if u.tail != nil {
			r.Body = io.MultiReader(bytes.NewReader([]byte{*u.tail}), &u.body)
		}
		return u.db.compare(&r, *winner, u.hash, u.read)
	}
	result, err := u.seal(ctx)
	if err != nil && !errors.Is(err, ErrOutcomeUnknown) {
		u.abandon(ctx)
	}
	return result, err
}

// keepOpen opens the upload again after every quarter of UploadIdle in which no chunk was
// proposed, until ctx ends or the put fails: otherwise nobody could tell a slow body from
// a node that is gone.
func (u *uploading) keepOpen(ctx context.Context) {
	ticker := time.NewTicker(u.db.cfg.UploadIdle / 4)
	defer ticker.Stop()
	proposed := uint32(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.ended.Done():
			return
		case <-ticker.C:
		}
		if n := u.proposed.Load(); n != proposed {
			proposed = n
			continue
		}
		if _, err := u.db.propose(ctx, openCommand(u.id, u.db.cfg.Now())); err != nil {
			u.db.cfg.Logger.Debug("upload is not kept open", "upload", u.id, "error", err)
		}
	}
}

// sendBody proposes the chunks of the whole body. It ends early, with the
// winner, when the key turns out to be set.
func (u *uploading) sendBody(ctx context.Context, chunk heldChunk) (winner *Meta, err error) {
	acquire := func(h *budget.Holder, n int64) error { return u.acquireNext(ctx, h, n) }
	for end := false; ; {
		if err := u.send(ctx, chunk); err != nil {
			return nil, err
		}
		if end {
			return nil, nil
		}
		m, err := u.db.store.lookup(u.r.Key)
		if err == nil {
			return &m, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if chunk, end, err = u.readChunk(acquire); err != nil {
			return nil, err
		}
	}
}

// acquireNext takes memory for one more chunk. When there is none it first waits until
// those before gave theirs back: uploads that each hold a chunk and wait for the last
// bytes would lock up.
func (u *uploading) acquireNext(ctx context.Context, h *budget.Holder, n int64) error {
	if h.Try(n) {
		return nil
	}
	u.holding.Wait()
	if err := u.failure(); err != nil {
		return err
	}
	if err := h.Acquire(ctx, n, u.db.cfg.ChunkRetry); err != nil {
		u.group.Wait()
		if failed := u.failure(); failed != nil { // that says more
			return failed
		}
		return fmt.Errorf("%w: nothing was set", overloaded(err))
	}
	return nil
}

// send distributes and proposes a chunk on a goroutine of its own, at most
// chunksInFlight at a time, and gives its memory back when it is distributed.
func (u *uploading) send(ctx context.Context, chunk heldChunk) error {
	if err := u.takeSlot(ctx); err != nil {
		chunk.held.Close()
		return err
	}
	if err := u.failure(); err != nil {
		<-u.slots
		chunk.held.Close()
		return err
	}
	n, before, own := u.next, u.last, newTurn()
	u.next, u.last = n+1, own
	u.holding.Add(1)
	u.group.Go(func() {
		b := bodies.Body{Digest: sha256.Sum256(chunk.data), Data: chunk.data}
		var drop func()
		err := u.repeat(ctx, func() (again bool, err error) {
			drop, err = u.db.distribute(ctx, []bodies.Body{b})
			return repeatable(err, false), err
		})
		chunk.held.Close()
		u.holding.Done()
		if err == nil {
			err = u.add(ctx, n, bodies.Ref{Digest: b.Digest, Size: len(b.Data)}, before, own)
			drop()
		}
		if err != nil {
			u.fail(fmt.Errorf("chunk %d of the value: %w", n, err))
		}
		<-u.slots
	})
	return nil
}

// takeSlot waits for a slot. While others put, it first gives up all but chunksBeside,
// because chunks on their way to the disks delay each fsync of the logs: with eight, 200
// small puts a second took 102 ms at the 99th percentile, with two 40 ms (10 ms without a
// large put), and the large one took as long; alone it takes a third longer with two.
func (u *uploading) takeSlot(ctx context.Context) error {
	now := u.db.cfg.Now()
	if rev := u.db.store.Position(); rev != u.revision {
		u.revision, u.others = rev, now
	}
	give := 0
	if now.Sub(u.others) < othersLast {
		give = chunksInFlight - chunksBeside
	}
	for ; u.givenUp > give; u.givenUp-- {
		<-u.slots
	}
	for taken := false; !taken; {
		select {
		case u.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%w: nothing was set: %w", ErrUnavailable, ctx.Err())
		}
		if taken = u.givenUp == give; !taken {
			u.givenUp++
		}
	}
	return nil
}

// add makes chunk n part of the upload. It is proposed right after the one before it. If
// it comes first all the same, because that one was lost or not taken, it is refused;
// then, as after any failure, it is proposed again when those before it are there.
func (u *uploading) add(ctx context.Context, n uint32, ref bodies.Ref, before, own *turn) error {
	cmd := chunkCommand(u.id, n, u.db.cfg.Now(), ref)
	if err := u.await(ctx, before.proposed); err != nil {
		return err
	}
	inOrder := u.delayed.Load() > 0 // else it would be refused
	if inOrder {
		if err := u.await(ctx, before.applied); err != nil {
			return err
		}
	}
	close(own.proposed)
	u.proposed.Add(1)
	late := false
	err := u.repeat(ctx, func() (again bool, err error) {
		for {
			early, err := u.proposeChunk(ctx, n, cmd)
			if err == nil || early && inOrder || !early && !repeatable(err, true) {
				return false, err
			}
			if !late {
				late = true
				u.delayed.Add(1)
			}
			if waited := u.await(ctx, before.applied); waited != nil {
				return false, waited
			}
			inOrder = true
			if !early {
				return true, err
			}
		}
	})
	if late {
		u.delayed.Add(-1)
	}
	if err == nil {
		close(own.applied)
	}
	return err
}

// await waits until something is done, or the put has failed.
func (u *uploading) await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-u.ended.Done():
		return u.failure()
	case <-ctx.Done():
		return ctx.Err()
	case <-u.db.store.dead:
		return u.db.store.err()
	}
}

// proposeChunk proposes a chunk once, the first together with what opens the upload.
// early: the error means that the chunk came before what it follows.
func (u *uploading) proposeChunk(ctx context.Context, n uint32, chunk []byte) (early bool, err error) {
	commands := [][]byte{chunk}
	if n == 0 {
		commands = [][]byte{openCommand(u.id, u.db.cfg.Now()), chunk}
	}
	var results [2]any
	var errs [2]error
	u.db.log.ProposeMany(ctx, commands, func(i int, result any, err error) { results[i], errs[i] = result, err })
	at := len(commands) - 1
	if refused, _ := results[at].(error); n == 0 && (refused != nil || errs[at] != nil) {
		if unopened, _ := results[0].(error); unopened != nil || errs[0] != nil {
			at = 0 // what became of the opening says why the chunk was refused
		}
	}
	if errs[at] != nil {
		return false, classify(errs[at])
	}
	err, _ = results[at].(error)
	return errors.Is(err, errChunkOrder) || errors.Is(err, ErrUploadIncomplete), err
}

// repeatable reports whether what the log answered with an error is to be proposed
// again: the log did not take it, or nobody knows and a repeat does no harm.
func repeatable(err error, harmless bool) bool {
	return isAny(err, ErrOverloaded, ErrUnavailable) || harmless && errors.Is(err, ErrOutcomeUnknown)
}

// repeat calls once until it says that it need not be called again, or for too long.
func (u *uploading) repeat(ctx context.Context, once func() (again bool, err error)) error {
	deadline := time.NewTimer(u.db.cfg.ChunkRetry)
	defer deadline.Stop()
	for pause := retryPauseFirst; ; pause = min(2*pause, retryPauseMax) {
		again, err := once()
		if !again {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			continue
		case <-deadline.C:
		case <-ctx.Done():
		case <-u.db.store.dead:
		}
		timer.Stop()
		return err
	}
}

// fail notes the first failure of a chunk. Without its seal nothing is set,
// whatever became of the chunk: an unknown outcome is a definite one here.
func (u *uploading) fail(err error) {
	if !isAny(err, ErrOverloaded, ErrTooManyUploads, ErrDiskReserve) {
		err = fmt.Errorf("%w: nothing was set: %v", ErrUnavailable, err)
	}
	u.end(err)
}

// failure returns the first failure of a chunk.
func (u *uploading) failure() error { return context.Cause(u.ended) }

// seal proposes the end of the value, which sets the key.
func (u *uploading) seal(ctx context.Context) (PutResult, error) {
	n := newPut{meta: newMeta(u.r, u.db.cfg.Now(), u.read)}
	n.meta.SHA256 = Digest(u.hash.Sum(nil))
	cmd := sealCommand(&n.meta, u.id, u.next)
	var result any
	err := u.repeat(ctx, func() (again bool, err error) {
		if result, err = u.db.propose(ctx, cmd); err != nil {
			err = classify(err)
		}
		return repeatable(err, false), err
	})
	n.settle(result, err)
	return n.result()
}

// abandon drops the upload, as far as that can be done now, also when the
// client has gone; Run sees to the rest.
func (u *uploading) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	if _, err := u.db.propose(ctx, abandonCommand(u.id)); err != nil {
		u.db.cfg.Logger.Debug("upload is not dropped yet", "upload", u.id, "error", err)
	}
}
