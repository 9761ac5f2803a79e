package httpapi

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	getsInFlight = 4096 // at a Reader, of all streams: each has a goroutine
	getMisses    = 4096 // absences of one stream that wait to be confirmed
)

// getter finds the values that one session asks for.
type getter interface {
	// begin answers gets that are accepted: at once what it has at hand, and others as
	// they are known.
	begin(gets []frame.Get)
}

// getAnswers is how a codec answers gets.
type getAnswers struct {
	*session
	// add makes an answer, and appends it to out if it may go out in any order. v is
	// nil if err says that there is none. It is called concurrently.
	add func(out []byte, get *frame.Get, v *kvstore.Value, source string, err error) []byte
}

// append counts an answer, and adds it.
func (a *getAnswers) append(out []byte, get *frame.Get, v *kvstore.Value, source string, err error) []byte {
	absent := errors.Is(err, kvstore.ErrNotFound)
	if absent {
		a.counters.Absences.Add(1)
	}
	if absent || err == nil {
		a.counters.Gets.Add(1)
	}
	return a.add(out, get, v, source, err)
}

// tell hands over n answers.
func (a *getAnswers) tell(n int, out []byte) {
	if len(out) > 0 {
		a.out.push(func(tail []byte) []byte { return append(tail, out...) })
	}
	a.answered(n)
}

// fail answers gets with an error.
func (a *getAnswers) fail(gets []frame.Get, err error) {
	var out []byte
	for i := range gets {
		out = a.append(out, &gets[i], nil, "", err)
	}
	a.tell(len(gets), out)
}

// storeGets looks keys up in a DB, as many at once as come at once. Absences are
// confirmed by a goroutine of their own: all that wait share one round, and those that
// come meanwhile share the next. So a value never waits for a round, which without a
// quorum takes long.
type storeGets struct {
	getAnswers
	db   DB
	hot  Memory              // nil: none
	miss *semaphore.Weighted // absences that wait

	mu         sync.Mutex
	misses     []frame.Get
	confirming bool
}

func (g *storeGets) begin(gets []frame.Get) {
	misses := g.find(g.held(gets), false)
	if len(misses) == 0 {
		return
	}
	if err := g.miss.Acquire(g.alive, int64(len(misses))); err != nil {
		g.fail(misses, err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.misses = append(g.misses, misses...)
	if !g.confirming {
		g.confirming = true
		g.start(g.confirmAll)
	}
}

// confirmAll confirms absences, one round after the other, until none wait.
func (g *storeGets) confirmAll() {
	for {
		g.mu.Lock()
		misses := g.misses
		g.misses, g.confirming = nil, len(misses) > 0
		g.mu.Unlock()
		if len(misses) == 0 {
			return
		}
		g.confirm(misses)
		g.miss.Release(int64(len(misses)))
	}
}

func (g *storeGets) confirm(misses []frame.Get) {
	ctx, cancel := context.WithTimeout(g.proposing, g.answer)
	defer cancel()
	if err := g.db.Confirm(ctx); err != nil {
		g.fail(misses, err)
		return
	}
	g.find(misses, true)
}

// held answers gets of values that are in memory, and returns the others in the
// memory of all.
func (g *storeGets) held(gets []frame.Get) (rest []frame.Get) {
	if g.hot == nil {
		return gets
	}
	var out []byte
	rest = gets[:0]
	for i := range gets {
		if len(out) < framedOutBytes {
			if v, found := g.hot.Held(kvstore.Key(gets[i].Key)); found {
				out = g.append(out, &gets[i], v, "", nil)
				continue
			}
		}
		rest = append(rest, gets[i])
	}
	if found := len(gets) - len(rest); found > 0 {
		g.tell(found, out)
	}
	return rest
}

// find answers gets from the local store, and returns those whose absence is
// not confirmed yet.
func (g *storeGets) find(gets []frame.Get, confirmed bool) (misses []frame.Get) {
	for len(gets) > 0 {
		var again []frame.Get
		keys := make([]kvstore.Key, len(gets))
		for i := range gets {
			keys[i] = kvstore.Key(gets[i].Key)
		}
		var out []byte
		done := 0
		g.db.GetMany(keys, func(i int, v *kvstore.Value, err error) {
			get := &gets[i]
			switch {
			case len(out) >= framedOutBytes: // it must wait for room, which is not to be waited for in here
				again = append(again, *get)
				return
			case errors.Is(err, kvstore.ErrNotFound) && !get.Local && !confirmed:
				misses = append(misses, *get)
				return
			}
			done++
			out = g.append(out, get, v, "", err)
			if err == nil && g.hot != nil {
				g.hot.Hold(v)
			}
		})
		if done > 0 {
			g.tell(done, out)
		}
		if gets = again; len(again) > 0 && g.await(g.alive, g.codec.roomy) != nil {
			g.fail(again, kvstore.ErrClosed)
			return misses
		}
	}
	return misses
}

// readerGets asks a Reader for keys, each on a goroutine of its own.
type readerGets struct {
	getAnswers
	from  Reader
	slots *semaphore.Weighted // of all streams
}

func (g *readerGets) begin(gets []frame.Get) {
	for _, get := range gets {
		if err := g.slots.Acquire(g.alive, 1); err != nil {
			g.fail([]frame.Get{get}, err)
			continue
		}
		g.background.Go(func() {
			defer g.slots.Release(1)
			v, source, err := g.get(&get)
			g.tell(1, g.append(nil, &get, v, source, err))
		})
	}
}

var errGetPanicked = errors.New("the get panicked")

func (g *readerGets) get(get *frame.Get) (v *kvstore.Value, source string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			g.panicked(cause)
			err = errGetPanicked
		}
	}()
	key := kvstore.Key(get.Key)
	if err := key.Validate(); err != nil {
		return nil, "", err
	}
	consistency := kvstore.Linearizable
	if get.Local {
		consistency = kvstore.Local
	}
	return g.from.Get(g.proposing, key, consistency) // which has a time limit of its own
}

// getFrames is the codec of frames that are gets.
type getFrames struct {
	frameCodec
	from  getter
	local bool        // an absence on this node is enough for all
	batch []frame.Get // to be looked up at once
}

const framedBatchKeys = 256 // that are looked up at once

func (g *getFrames) next() error {
	f, err := g.fetch()
	if err != nil {
		return err
	}
	get, err := f.Get()
	if err != nil {
		return malformed(err)
	}
	if err := g.accept(1, 0); err != nil {
		return err
	}
	get.Local = get.Local || g.local
	g.batch = append(g.batch, get)
	if len(g.batch) == framedBatchKeys {
		return g.flush()
	}
	return nil
}

func (g *getFrames) flush() error {
	if len(g.batch) > 0 {
		g.from.begin(g.batch)
		clear(g.batch)
		g.batch = g.batch[:0]
	}
	return nil
}

// add answers a get.
func (g *getFrames) add(out []byte, get *frame.Get, v *kvstore.Value, source string, err error) []byte {
	switch {
	case err == nil:
		return appendFound(out, get.ID, v, source)
	case errors.Is(err, kvstore.ErrNotFound):
		return appendProblem(out, get.ID, absence(kvstore.Key(get.Key)))
	}
	return appendProblem(out, get.ID, g.failure(frameFailed, err))
}

// appendFound answers with a value, if it fits a frame.
func appendFound(out []byte, id uint32, v *kvstore.Value, source string) []byte {
	bytes, inline := v.Bytes()
	if !inline || len(bytes) > frame.ValueBytesMax {
		return frame.AppendLarge(out, id)
	}
	return frame.AppendValue(out, &frame.Value{ID: id, Revision: uint64(v.Revision), Time: v.Time.UnixNano(), Digest: v.SHA256,
		Cache: source, ContentType: mediaTypeOf(&v.Meta), By: v.By, Meta: v.UserMeta.Map(), Value: bytes})
}

// absence is the answer about a key that is not set.
func absence(key kvstore.Key) *problem {
	return newProblem(http.StatusNotFound, api.ProblemNotFound, "key %q is not set", string(key))
}
