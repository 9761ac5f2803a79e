package kvstore

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

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

func checkDigest(promised *Digest, sum Digest) error {
	if promised != nil && *promised != sum {
		return fmt.Errorf("%w: sent %s, the body has %s", ErrDigestMismatch, *promised, sum)
	}
	return nil
}

func wrongLength(want, got int64) error {
	return fmt.Errorf("%w: it has %d bytes, %d were announced", ErrBodyRead, got, want)
}
