package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
)

const (
	freePutBytes  = 4 << 10  // a value up to this is part of what its request costs
	smallPutBytes = 64 << 10 // a value up to this is small

	smallShare = 8 // one part in so many of InFlightBytes is for small values alone

	// uploadsMax is how many large values are being put through this node at a
	// time; below openUploadsMax, so that no node uses it up.
	uploadsMax = 1024
)

// intakeSteps are the buffers that a chunk goes through while its bytes arrive: a full one
// is exchanged for the next. Each size has a share of InFlightBytes, in sixteenths.
// Waiting for the next, a put holds only a smaller one, and with the largest it waits for
// nobody: so puts cannot lock up.
var intakeSteps = [...]struct{ bytes, share int64 }{
	{16 << 10, 1}, {64 << 10, 1}, {256 << 10, 2}, {ChunkBytes, 10},
}

// intake is the memory for bodies, in shares: what is announced takes nothing,
// and slow bodies keep nobody's from being read.
type intake struct {
	small   *budget.Budget
	steps   [len(intakeSteps)]*budget.Budget
	many    *budget.Budget // of PutMany, whose values are in memory anyway
	uploads *budget.Budget // places
	grace   time.Duration
}

func newIntake(bytes int64, grace time.Duration) *intake {
	in := &intake{
		small: budget.New(max(bytes/smallShare, smallPutBytes)), many: budget.New(max(bytes, ChunkBytes)),
		uploads: budget.New(uploadsMax), grace: grace,
	}
	for i, s := range intakeSteps {
		in.steps[i] = budget.New(max(bytes*s.share/16, s.bytes))
	}
	return in
}

// hold returns a holder for a request. One whose body cannot be interrupted never
// gives way.
func (in *intake) hold(b *budget.Budget, r *PutRequest) *budget.Holder {
	if r.Interrupt == nil {
		return b.Hold(r.From, in.grace, func() {})
	}
	return b.Hold(r.From, in.grace, r.Interrupt)
}

// overloaded makes the error of somebody who got no memory: nothing was proposed.
func overloaded(err error) error {
	if errors.Is(err, budget.ErrShort) {
		return ErrOverloaded
	}
	return fmt.Errorf("%w: %w", ErrOverloaded, err)
}

// heldBody is a body whose reader holds memory, and perhaps a place, for as long as
// its sender takes.
type heldBody struct {
	src           io.Reader
	place, memory *budget.Holder // nil: none
}

// Read implements io.Reader.
func (b *heldBody) Read(p []byte) (int, error) {
	for _, h := range [...]*budget.Holder{b.place, b.memory} {
		if h != nil {
			h.Waiting()
		}
	}
	n, err := b.src.Read(p)
	for _, h := range [...]*budget.Holder{b.place, b.memory} {
		if h != nil {
			h.Moved(n)
		}
	}
	return n, err
}

// readSteps returns first, which is short, and what follows in the body, up to size bytes
// together. It takes memory with acquire as they arrive. end: the body was seen to end.
// held has the memory; close it unless there is an error.
func (in *intake) readSteps(r *PutRequest, body *heldBody, first []byte, size int64, acquire func(*budget.Holder, int64) error) (data []byte, end bool, _ *budget.Holder, err error) {
	var held *budget.Holder
	defer func() {
		body.memory = nil
		if err != nil && held != nil {
			held.Close()
		}
	}()
	n := len(first)
	for i, step := range intakeSteps {
		next := in.hold(in.steps[i], r)
		room := min(step.bytes, size)
		if err = acquire(next, room); err != nil {
			next.Close()
			return nil, false, nil, err
		}
		bigger := make([]byte, room)
		if i == 0 {
			copy(bigger, first)
		} else {
			copy(bigger, data)
			held.Close()
		}
		data, held, body.memory = bigger, next, next
		m := 0
		if m, end, err = fill(body, data[n:]); err != nil {
			return nil, false, nil, err
		}
		n += m
		if end || int64(n) == size {
			return data[:n], end, held, nil
		}
	}
	return data, false, held, nil
}

// waits returns how to take memory for a request that holds nothing else.
func (in *intake) waits(ctx context.Context, wait time.Duration) func(*budget.Holder, int64) error {
	return func(h *budget.Holder, n int64) error {
		if err := h.Acquire(ctx, n, wait); err != nil {
			return overloaded(err)
		}
		return nil
	}
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
