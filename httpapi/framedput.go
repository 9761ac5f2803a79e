package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/Focinfi/oncekv/api"
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
	if b.leads() {
		w.Header().Set(api.HeaderRole, api.RoleLeader)
	}
	return b.framed.serve(w, r, putting, func(s *framedStream) frameWork { return &framedPuts{framedStream: s, batches: b} })
}

const (
	framedGroupPuts  = 1024      // that are put together, at most
	framedGroupBytes = 512 << 10 // of their values, about
)

// framedPuts decides the puts of one request by the rules of PUT /key/{key}. Those
// that came with one read of the body are put together, on a goroutine of their
// own; a group waits for no other. It shares the budgets of batches.
type framedPuts struct {
	*framedStream
	batches  *batches
	deciding sync.WaitGroup
	group    *putGroup // nil: no frame since the last flush
}

// putGroup is puts that are decided together.
type putGroup struct {
	frames   []frame.Put
	answered []bool
	bytes    int   // of values
	cost     int64 // of batches.memory
}

func (p *framedPuts) take(f *frame.Frame) error {
	put, err := f.Put()
	if err != nil {
		return err
	}
	cost := 2*int64(len(put.Value)) + batchLineBytes
	if err := p.admit(cost); err != nil {
		return err
	}
	if err := p.accept(1); err != nil {
		p.batches.release(1, cost)
		return err
	}
	put.Value = bytes.Clone(put.Value) // the frame's memory is used again
	if p.group == nil {
		p.group = &putGroup{}
	}
	g := p.group
	g.frames = append(g.frames, put)
	g.bytes += len(put.Value)
	g.cost += cost
	if len(g.frames) == framedGroupPuts || g.bytes >= framedGroupBytes {
		p.flush()
	}
	return nil
}

// admit takes what a put needs of the budgets. Nobody waits for them who keeps
// others from being decided.
func (p *framedPuts) admit(cost int64) error {
	if p.batches.tryAdmit(cost) {
		return nil
	}
	p.flush()
	return p.batches.admit(p.accepting, cost)
}

func (p *framedPuts) flush() {
	g := p.group
	if g == nil {
		return
	}
	p.group = nil
	p.deciding.Go(func() {
		defer p.batches.release(len(g.frames), g.cost)
		p.decide(g)
	})
}

// run waits: the puts have goroutines of their own.
func (p *framedPuts) run() {
	<-p.finished
	p.deciding.Wait()
}

var errPutPanicked = errors.New("the put panicked")

// decide puts a group, and answers.
func (p *framedPuts) decide(g *putGroup) {
	g.answered = make([]bool, len(g.frames))
	defer func() {
		if cause := recover(); cause != nil {
			p.panicked(cause)
			for i := range g.frames {
				p.answer(g, i, kvstore.PutResult{}, errPutPanicked)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(p.working, p.framedStream.answer)
	defer cancel()
	puts := make([]kvstore.SmallPut, 0, len(g.frames))
	places := make([]int, 0, len(g.frames))
	for i := range g.frames {
		put, err := smallPut(&g.frames[i])
		if err != nil {
			p.answer(g, i, kvstore.PutResult{}, err)
			continue
		}
		puts = append(puts, put)
		places = append(places, i)
	}
	p.batches.db.PutMany(ctx, puts, func(i int, result kvstore.PutResult, err error) { p.answer(g, places[i], result, err) })
}

// smallPut is a put as PUT /key/{key} reads it.
func smallPut(f *frame.Put) (kvstore.SmallPut, error) {
	put := kvstore.SmallPut{Key: kvstore.Key(f.Key), PutID: f.PutID, Value: f.Value}
	if err := put.Key.Validate(); err != nil {
		return put, err
	}
	var err error
	if put.ContentType, err = meantContentType(f.ContentType); err != nil {
		return put, err
	}
	if put.UserMeta, err = kvstore.MakeUserMeta(f.Meta); err != nil {
		return put, err
	}
	if f.PutID != "" {
		if err := api.CheckPutID(f.PutID); err != nil {
			return put, invalid("%v", err)
		}
	}
	if f.HasDigest {
		put.SHA256 = (*kvstore.Digest)(&f.Digest)
	}
	return put, nil
}

// answer answers a put, once.
func (p *framedPuts) answer(g *putGroup, i int, result kvstore.PutResult, err error) {
	if g.answered[i] {
		return
	}
	g.answered[i] = true
	f := &g.frames[i]
	var created bool
	if err == nil {
		c := conditions{keep: f.Keep, ifNoneMatch: tagList{given: f.IfAbsent, any: f.IfAbsent}}
		created, err = p.batches.judge(kvstore.Key(f.Key), &result, &c)
	}
	if err != nil {
		p.failed(f.ID, err)
		return
	}
	winner := &result.Meta
	answer := frame.Set{ID: f.ID, Created: created, Winner: frame.Winner{Revision: uint64(winner.Revision), Size: uint64(winner.Size), Digest: winner.SHA256}}
	p.answered(1, func(out []byte) []byte { return frame.AppendSet(out, &answer) })
}
