package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// discardBytes is the buffer of a body that is only hashed.
const discardBytes = 16 << 10

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

// newPut is a put whose value is in memory, and what becomes of it.
type newPut struct {
	meta    Meta   // of the put, later of the winner
	data    []byte // the value if that is a body, otherwise the command, which ends with it
	outcome Outcome
	err     error
}

// result is what became of it.
func (n *newPut) result() (PutResult, error) {
	if n.err != nil {
		return PutResult{}, n.err
	}
	return PutResult{Outcome: n.outcome, Meta: n.meta}, nil
}

// newMeta returns what a request says about its value; the digest is not known yet.
func newMeta(r *PutRequest, now time.Time, size int64) Meta {
	return Meta{Key: r.Key, Size: size, ContentType: r.ContentType, Time: now.Round(0).UTC(), PutID: r.PutID, By: r.By, UserMeta: r.UserMeta}
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

// compare reads the rest of a body whose key is set, and says what the put is
// then. h has the first done bytes already.
func (db *DB) compare(r *PutRequest, winner Meta, h hash.Hash, done int64) (PutResult, error) {
	buf := db.buffers.Get().(*[]byte)
	defer db.buffers.Put(buf)
	limit := db.cfg.MaxValueBytes
	n, err := io.CopyBuffer(h, io.LimitReader(r.Body, limit-done+1), *buf)
	switch done += n; {
	case done > limit:
		return PutResult{}, &TooLargeError{LimitBytes: limit}
	case err != nil:
		return PutResult{}, fmt.Errorf("%w: %w", ErrBodyRead, err)
	case r.Size >= 0 && done != r.Size:
		return PutResult{}, wrongLength(r.Size, done)
	}
	sum := Digest(h.Sum(nil))
	if err := checkDigest(r.SHA256, sum); err != nil {
		return PutResult{}, err
	}
	return PutResult{Outcome: outcomeAgainst(&winner, r.PutID, &sum), Meta: winner}, nil
}

func checkDigest(promised *Digest, sum Digest) error {
	if promised != nil && *promised != sum {
		return fmt.Errorf("%w: sent %s, the body has %s", ErrDigestMismatch, *promised, sum)
	}
	return nil
}

func wrongLength(want, got int64) error {
	return fmt.Errorf("%w: it has %d bytes, %d were announced", ErrBodyRead, got, want)
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

// fill reads until buf is full or the body ends. Only io.EOF is an end: net/http says
// io.ErrUnexpectedEOF of a body that broke off, as io.ReadFull does of a short read.
func fill(body io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) {
		m, err := body.Read(buf[n:])
		n += m
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, fmt.Errorf("%w: %w", ErrBodyRead, err)
		}
	}
	return n, false, nil
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

// proposal is puts that are proposed together. It is used again, for it is large.
type proposal struct {
	db   *DB
	puts []newPut
	each func(i int, r PutResult, err error) // nil: there is only one put, which keeps it
}

var proposals = sync.Pool{New: func() any { return new(proposal) }}

func newProposal(db *DB, each func(i int, r PutResult, err error)) *proposal {
	p := proposals.Get().(*proposal)
	p.db, p.each = db, each
	return p
}

func (p *proposal) close() {
	clear(p.puts)
	*p = proposal{puts: p.puts[:0]}
	proposals.Put(p)
}

// add returns room for one put more.
func (p *proposal) add() *newPut {
	p.puts = append(p.puts, newPut{})
	return &p.puts[len(p.puts)-1]
}

// propose proposes the puts and gives each its answer. When the bodies among the values
// are distributed it calls distributed, before it proposes anything.
func (p *proposal) propose(ctx context.Context, distributed func()) {
	var list []bodies.Body
	commands := make([][]byte, len(p.puts))
	for i := range p.puts {
		n := &p.puts[i]
		if commands[i] = n.data; n.meta.Size >= BodyBytesMin {
			list = append(list, bodies.Body{Digest: bodies.Digest(n.meta.SHA256), Data: n.data})
			commands[i] = referCommand(&n.meta)
		}
	}
	if len(list) > 0 {
		drop, err := p.db.distribute(ctx, list)
		if err != nil {
			for i := range p.puts {
				p.puts[i].err = err
				p.answer(i)
			}
			return
		}
		defer drop()
		distributed()
	}
	p.db.log.ProposeMany(ctx, commands, func(i int, result any, err error) {
		p.puts[i].settle(result, err)
		p.answer(i)
	})
}

func (p *proposal) answer(i int) {
	if p.each != nil {
		r, err := p.puts[i].result()
		p.each(i, r, err)
	}
}

// distribute brings bodies to where commands may refer to them, and keeps them from being
// reclaimed here until drop is called. Nothing is proposed, so every error is definite.
func (db *DB) distribute(ctx context.Context, list []bodies.Body) (drop func(), err error) {
	if err := db.log.Distribute(ctx, list); err != nil {
		if isAny(err, ErrUnavailable, ErrOverloaded, ErrDiskReserve) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: nothing was set: %w", ErrUnavailable, err)
	}
	held := make([]bodies.Digest, 0, len(list))
	drop = func() {
		for _, d := range held {
			db.store.bodies.Release(d)
		}
	}
	for i := range list {
		if d := list[i].Digest; db.store.bodies.Hold(d) {
			held = append(held, d)
			continue
		}
		drop()
		return nil, fmt.Errorf("%w: nothing was set: body %s is not here any more", ErrUnavailable, list[i].Digest)
	}
	return drop, nil
}

// settle notes what a log answered to a put or a seal. The meaning is definite, or the
// error says that it is not.
func (n *newPut) settle(result any, err error) {
	if err != nil {
		n.err = classify(err)
		return
	}
	switch result := result.(type) {
	case *pendingRecord: // set by this very command
		n.outcome, n.meta.Revision = Created, result.rev
	case PutResult:
		n.outcome, n.meta = result.Outcome, result.Meta
	case error:
		n.err = fmt.Errorf("nothing was set: %w", result)
		if errors.Is(result, ErrUploadIncomplete) {
			n.err = fmt.Errorf("%w: %w", ErrUnavailable, n.err)
		}
	default:
		n.err = fmt.Errorf("%w: the log answered with a %T", ErrOutcomeUnknown, result)
	}
}

// classify makes every error of a log definite or ErrOutcomeUnknown: whatever a
// log does not vouch for may still be committed.
func classify(err error) error {
	if isAny(err, ErrUnavailable, ErrLevel, ErrOverloaded, ErrDiskReserve, ErrTooLarge, ErrOutcomeUnknown) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

func isAny(err error, list ...error) bool {
	return slices.ContainsFunc(list, func(known error) bool { return errors.Is(err, known) })
}
