package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// serveMany answers POST /keys in whichever form it comes.
func (b *batches) serveMany(w http.ResponseWriter, r *http.Request) error {
	if !inFrames(r) {
		return b.serve(w, r)
	}
	if err := refuseBatch(r); err != nil {
		return err
	}
	return b.framed.serve(w, r, putting, func(s *framedStream) frameWork { return &framedPuts{framedStream: s, batches: b} })
}

// framedPuts decides the puts of one request, each on a goroutine of its own
// and by the rules of PUT /key/{key}. It shares the budgets of batches.
type framedPuts struct {
	*framedStream
	batches  *batches
	deciding sync.WaitGroup
	now      *together // nil: no frame since the last flush
}

// together is the time limit of the puts that came with one read: a timer and a
// context for all of them.
type together struct {
	ctx    context.Context
	cancel context.CancelFunc
	left   atomic.Int32 // puts that are not decided, and one more until flush
}

func (t *together) done() {
	if t.left.Add(-1) == 0 {
		t.cancel()
	}
}

func (p *framedPuts) take(f *frame.Frame) error {
	put, err := f.Put()
	if err != nil {
		return err
	}
	cost := 2*int64(len(put.Value)) + batchLineBytes
	if err := p.batches.memory.Acquire(p.accepting, cost); err != nil {
		return err
	}
	if err := p.batches.slots.Acquire(p.accepting, 1); err != nil {
		p.batches.memory.Release(cost)
		return err
	}
	release := func() {
		p.batches.slots.Release(1)
		p.batches.memory.Release(cost)
	}
	if err := p.accept(1); err != nil {
		release()
		return err
	}
	put.Value = bytes.Clone(put.Value) // the frame's memory is used again
	if p.now == nil {
		p.now = &together{}
		p.now.ctx, p.now.cancel = context.WithTimeout(p.working, p.answer)
		p.now.left.Store(1)
	}
	now := p.now
	now.left.Add(1)
	p.deciding.Go(func() {
		defer release()
		defer now.done()
		p.decide(now.ctx, &put)
	})
	return nil
}

func (p *framedPuts) flush() {
	if p.now != nil {
		p.now.done()
		p.now = nil
	}
}

// run waits: the puts have goroutines of their own.
func (p *framedPuts) run() {
	<-p.finished
	p.deciding.Wait()
}

var errPutPanicked = errors.New("the put panicked")

// decide puts, and answers.
func (p *framedPuts) decide(ctx context.Context, put *frame.Put) {
	answered := false
	defer func() {
		if cause := recover(); cause != nil {
			p.panicked(cause)
			if !answered {
				p.failed(put.ID, errPutPanicked)
			}
		}
	}()
	created, winner, err := p.put(ctx, put)
	answered = true
	if err != nil {
		p.failed(put.ID, err)
		return
	}
	answer := frame.Set{ID: put.ID, Created: created, Winner: frame.Winner{Revision: uint64(winner.Revision), Size: uint64(winner.Size), Digest: winner.SHA256}}
	p.answered(1, func(out []byte) []byte { return frame.AppendSet(out, &answer) })
}

// put is PUT /key/{key}.
func (p *framedPuts) put(ctx context.Context, put *frame.Put) (created bool, winner *kvstore.Meta, err error) {
	request := kvstore.PutRequest{Key: kvstore.Key(put.Key), PutID: put.PutID, Body: bytes.NewReader(put.Value), Size: int64(len(put.Value))}
	if err := request.Key.Validate(); err != nil {
		return false, nil, err
	}
	if request.ContentType, err = meantContentType(put.ContentType); err != nil {
		return false, nil, err
	}
	if put.PutID != "" {
		if err := checkPutID(put.PutID); err != nil {
			return false, nil, err
		}
	}
	if put.HasDigest {
		request.SHA256 = (*kvstore.Digest)(&put.Digest)
	}
	result, err := p.batches.db.Put(ctx, request)
	if err != nil {
		return false, nil, err
	}
	t := terms{keep: put.Keep, ifNoneMatch: tagList{given: put.IfAbsent, any: put.IfAbsent}}
	created, err = p.batches.judge(request.Key, &result, &t)
	return created, &result.Meta, err
}
