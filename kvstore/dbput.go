package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Put sets a key, unless it is set: then the answer is Unchanged for the same bytes,
// Conflict for others. Created means that the put was committed, and applied on this node.
//
// These errors are definite, the put did not set the key and never will: ErrInvalidKey,
// ErrInvalidContentType, ErrInvalidPutID, ErrInvalidMeta, ErrTooLarge, ErrBodyRead,
// ErrDigestMismatch, ErrDiskReserve, ErrOverloaded and ErrUnavailable. After
// ErrOutcomeUnknown the same put may be repeated, with the same PutID if a later Created
// must mean this put.
//
// Memory: up to four times what has arrived of a value of up to 1 MiB, beyond that up to
// eight chunks of 1 MiB; 16 KiB when the key is set already. What is distributed takes
// none. When memory is short, the slowest bodies are interrupted.
func (db *DB) Put(ctx context.Context, r PutRequest) (PutResult, error) {
	if err := db.prepare(&r); err != nil {
		return PutResult{}, err
	}
	winner, err := db.store.lookup(r.Key)
	if err == nil {
		return db.compare(&r, winner, sha256.New(), 0)
	}
	if !errors.Is(err, ErrNotFound) {
		return PutResult{}, err
	}
	if err := db.cfg.Reserve(); err != nil {
		return PutResult{}, err
	}
	if r.Size < 0 || r.Size > ChunkBytes {
		return db.putStream(ctx, &r)
	}
	p := newProposal(db, nil)
	defer p.close()
	n := p.add()
	release, err := n.read(ctx, db, &r)
	if err != nil {
		return PutResult{}, err
	}
	defer release()
	p.propose(ctx, release)
	return n.result()
}

// PutMany is Put for several keys, and much cheaper: it looks the keys up together and
// proposes what is new together, in one entry of the log. It calls each once for every
// put, in any order, on this goroutine, before it returns. Each put has the results and
// errors of Put; of two puts of the same key either may win.
//
// Memory: the values and their metadata once more, 1 MiB of them at a time.
func (db *DB) PutMany(ctx context.Context, puts []SmallPut, each func(i int, r PutResult, err error)) {
	keys, places := make([]Key, 0, len(puts)), make([]int, 0, len(puts))
	valid := DefaultContentType // most have the same as the one before
	for i := range puts {
		if err := db.prepareSmall(&puts[i], valid); err != nil {
			each(i, PutResult{}, err)
			continue
		}
		valid = puts[i].ContentType
		keys, places = append(keys, puts[i].Key), append(places, i)
	}
	rest, err := db.answerSet(puts, keys, places, each)
	if len(rest) > 0 && err == nil {
		err = db.cfg.Reserve()
	}
	if err != nil {
		for _, i := range rest {
			each(i, PutResult{}, err)
		}
		return
	}
	for len(rest) > 0 {
		n, size := together(puts, rest)
		db.putTogether(ctx, puts, rest[:n], size, each)
		rest = rest[n:]
	}
}

// together is how many of the puts at places are proposed together, and the bytes of
// their values and metadata.
func together(puts []SmallPut, places []int) (n int, size int64) {
	for _, i := range places {
		more := int64(len(puts[i].Value) + puts[i].UserMeta.Bytes())
		if n > 0 && size+more > ChunkBytes {
			break
		}
		size += more
		n++
	}
	return n, size
}

// prepareSmall checks a put, and fills in what may be left out. The content type
// valid is known to be that.
func (db *DB) prepareSmall(p *SmallPut, valid string) error {
	r := p.request()
	if p.ContentType == valid {
		r.ContentType = "" // which needs no look
	}
	if err := db.prepare(&r); err != nil {
		return err
	}
	if r.Size > ChunkBytes {
		return &TooLargeError{LimitBytes: ChunkBytes}
	}
	if p.ContentType != valid {
		p.ContentType = r.ContentType
	}
	p.PutID = r.PutID
	return nil
}

// answerSet answers the puts at places whose keys are set, and returns the places of
// the others.
func (db *DB) answerSet(puts []SmallPut, keys []Key, places []int, each func(int, PutResult, error)) ([]int, error) {
	rest, revs := make([]int, 0, len(keys)), make([]Revision, len(keys))
	now, err := db.store.find(keys, revs)
	if err != nil {
		return places, err
	}
	n := 0 // of them are set
	for i, rev := range revs {
		if rev == 0 {
			rest = append(rest, places[i])
			continue
		}
		keys[n], revs[n], places[n] = keys[i], rev, places[i]
		n++
	}
	metas, err := db.store.metas(now, keys[:n], revs[:n])
	for i, at := range places[:n] {
		p, r, err := &puts[at], PutResult{}, err
		if err == nil {
			sum := Digest(sha256.Sum256(p.Value))
			r, err = PutResult{Outcome: outcomeAgainst(&metas[i], p.PutID, &sum), Meta: metas[i]}, checkDigest(p.SHA256, sum)
		}
		if err != nil {
			r = PutResult{}
		}
		each(at, r, err)
	}
	return rest, nil
}

// putTogether proposes the puts at places, whose values and metadata have so many bytes,
// together.
func (db *DB) putTogether(ctx context.Context, puts []SmallPut, places []int, size int64, each func(int, PutResult, error)) {
	if err := db.intake.many.Acquire(ctx, size, db.cfg.InFlightWait); err != nil {
		err = overloaded(err)
		for _, i := range places {
			each(i, PutResult{}, err)
		}
		return
	}
	defer db.intake.many.Give(size)
	now, proposed := db.cfg.Now(), places[:0]
	p := newProposal(db, func(n int, r PutResult, err error) { each(proposed[n], r, err) })
	defer p.close()
	for _, i := range places {
		s := &puts[i]
		sum := Digest(sha256.Sum256(s.Value))
		if err := checkDigest(s.SHA256, sum); err != nil {
			each(i, PutResult{}, err)
			continue
		}
		n := p.add()
		r := s.request()
		n.meta = newMeta(&r, now, r.Size)
		n.meta.SHA256 = sum
		if n.meta.Size < BodyBytesMin {
			n.data = append(putCommandHeader(&n.meta), s.Value...)
		} else {
			n.data = bytes.Clone(s.Value)
		}
		proposed = append(proposed, i)
	}
	p.propose(ctx, func() {})
}

// read makes n of a request of known size and its body, which it reads to where it is
// proposed from. release gives memory back; call it unless there is an error, more than
// once if need be.
func (n *newPut) read(ctx context.Context, db *DB, r *PutRequest) (release func(), err error) {
	n.meta = newMeta(r, db.cfg.Now(), r.Size)
	var header []byte
	inline := r.Size < BodyBytesMin
	if inline {
		header = putCommandHeader(&n.meta)
	}
	data, end, release, err := db.readSmall(ctx, r, header)
	if err != nil {
		return nil, err
	}
	value := data[len(header):]
	n.meta.SHA256 = sha256.Sum256(value)
	switch {
	case int64(len(value)) < r.Size:
		err = wrongLength(r.Size, int64(len(value)))
	case !end:
		err = expectEnd(r.Body, r.Size)
	}
	if err == nil {
		err = checkDigest(r.SHA256, n.meta.SHA256)
	}
	if err != nil {
		release()
		return nil, err
	}
	if n.data = data; inline {
		appendPutHeader(data[:0], &n.meta) // once more, with the digest
	}
	return release, nil
}

// prepare checks a request and fills in what may be left out.
func (db *DB) prepare(r *PutRequest) error {
	if err := r.Key.Validate(); err != nil {
		return err
	}
	if r.ContentType == "" {
		r.ContentType = DefaultContentType
	}
	if err := validateContentType(r.ContentType); err != nil {
		return err
	}
	if r.Body == nil {
		r.Body = strings.NewReader("")
	}
	if r.Size > db.cfg.MaxValueBytes {
		return &TooLargeError{LimitBytes: db.cfg.MaxValueBytes}
	}
	if err := checkBy(r.By); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidMeta, err)
	}
	if r.PutID != "" {
		return validatePutID(r.PutID)
	}
	id, err := newPutID(db.cfg.Rand)
	r.PutID = id
	return err
}

// readSmall reads a value of known size behind the header of its command, or alone.
// release is as with newPut.read.
func (db *DB) readSmall(ctx context.Context, r *PutRequest, header []byte) (cmd []byte, end bool, release func(), err error) {
	head := len(header)
	if r.Size > smallPutBytes {
		data, end, held, err := db.intake.readSteps(r, &heldBody{src: r.Body}, nil, r.Size, db.intake.waits(ctx, db.cfg.InFlightWait))
		if err != nil {
			return nil, false, nil, err
		}
		return data, end, held.Close, nil
	}
	body, release := r.Body, func() {}
	if r.Size > freePutBytes {
		held := db.intake.hold(db.intake.small, r)
		body, release = &heldBody{src: r.Body, memory: held}, held.Close
		if err := held.Acquire(ctx, r.Size, db.cfg.InFlightWait); err != nil {
			release()
			return nil, false, nil, overloaded(err)
		}
	}
	cmd = slices.Grow(header, int(r.Size))[:head+int(r.Size)]
	n, end, err := fill(body, cmd[head:])
	if err != nil {
		release()
		return nil, false, nil, err
	}
	return cmd[:head+n], end, release, nil
}

// expectEnd makes sure that a body of an announced size ends there.
func expectEnd(body io.Reader, size int64) error {
	var one [1]byte
	n, _, err := fill(body, one[:])
	if n > 0 {
		return fmt.Errorf("%w: more follows after the %d bytes announced", ErrBodyRead, size)
	}
	return err
}
