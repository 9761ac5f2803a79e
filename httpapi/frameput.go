package httpapi

import (
	"bytes"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// putFrames is the codec of frames that are puts, by the rules of PUT /key/{key}.
// Those that came with one read of the body are put together, on a goroutine of their
// own; a group waits for no other.
type putFrames struct {
	frameCodec
	b     *manyPuts
	group frameGroup
}

// frameGroup is puts that are decided together.
type frameGroup struct {
	frames []frame.Put
	bytes  int   // of values
	cost   int64 // of manyPuts.memory
}

func (p *putFrames) next() error {
	f, err := p.fetch()
	if err != nil {
		return err
	}
	put, err := f.Put()
	if err != nil {
		return malformed(err)
	}
	cost := 2*int64(len(put.Value)) + batchLineBytes
	if err := p.b.admit(p.accepting, cost, p.flush); err != nil {
		return err
	}
	if err := p.accept(1, 0); err != nil {
		p.b.release(1, cost)
		return err
	}
	put.Value = bytes.Clone(put.Value) // the frame's memory is used again
	g := &p.group
	g.frames = append(g.frames, put)
	g.bytes += len(put.Value)
	g.cost += cost
	if len(g.frames) == batchGroupLines || g.bytes >= batchGroupBytes {
		return p.flush()
	}
	return nil
}

func (p *putFrames) flush() error {
	g := p.group
	if p.group = (frameGroup{}); len(g.frames) > 0 {
		p.background.Go(func() {
			defer p.b.release(len(g.frames), g.cost)
			p.decide(g.frames)
		})
	}
	return nil
}

// decide puts a group, and answers.
func (p *putFrames) decide(frames []frame.Put) {
	puts := make([]kvstore.SmallPut, 0, len(frames))
	places := make([]int, 0, len(frames))
	for i := range frames {
		put, err := smallPut(&frames[i])
		if err != nil {
			p.failed(frames[i].ID, err)
			continue
		}
		puts, places = append(puts, put), append(places, i)
	}
	p.b.putAll(p.proposing, puts, func(i int, result kvstore.PutResult, err error) { p.decided(&frames[places[i]], &result, err) })
}

// decided answers a put.
func (p *putFrames) decided(f *frame.Put, result *kvstore.PutResult, err error) {
	var created bool
	if err == nil {
		c := conditions{keep: f.Keep, ifNoneMatch: tagList{given: f.IfAbsent, any: f.IfAbsent}}
		created, err = p.b.judge(kvstore.Key(f.Key), result, &c)
	}
	if err != nil {
		p.failed(f.ID, err)
		return
	}
	winner := &result.Meta
	answer := frame.Set{ID: f.ID, Created: created, Winner: frame.Winner{Revision: uint64(winner.Revision), Size: uint64(winner.Size), Digest: winner.SHA256}}
	p.tell(func(out []byte) []byte { return frame.AppendSet(out, &answer) })
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
