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

// framedMisses is how many absences of one request wait to be confirmed.
const framedMisses = 4096

// framedGets looks the keys of one request up in a DB, as many at once as come
// at once. Found values are answered by read itself. Absences are confirmed
// by run: all that wait share one round, and those that come meanwhile share the
// next. So a value never waits for a round, which without a quorum takes long.
type framedGets struct {
	*framedStream
	db    DB
	hot   Memory              // nil: none
	local bool                // an absence on this node is enough for all
	wait  chan struct{}       // capacity 1: there are misses
	miss  *semaphore.Weighted // that wait
	batch []frame.Get         // read's

	mu     sync.Mutex
	misses []frame.Get
}

func newFramedGets(s *framedStream, db DB, hot Memory, local bool) *framedGets {
	return &framedGets{framedStream: s, db: db, hot: hot, local: local, wait: make(chan struct{}, 1), miss: semaphore.NewWeighted(framedMisses)}
}

func (g *framedGets) take(f *frame.Frame) error {
	get, err := f.Get()
	if err != nil {
		return err
	}
	if err := g.accept(1); err != nil {
		return err
	}
	get.Local = get.Local || g.local
	g.batch = append(g.batch, get)
	if len(g.batch) == framedBatchKeys {
		g.flush()
	}
	return nil
}

// flush looks up what was taken since the last time.
func (g *framedGets) flush() {
	if len(g.batch) == 0 {
		return
	}
	misses := g.find(g.held(g.batch), false)
	clear(g.batch)
	g.batch = g.batch[:0]
	if len(misses) == 0 {
		return
	}
	if err := g.miss.Acquire(g.alive, int64(len(misses))); err != nil {
		g.notConfirmed(misses, err)
		return
	}
	g.mu.Lock()
	g.misses = append(g.misses, misses...)
	g.mu.Unlock()
	wake(g.wait)
}

// run confirms absences, one round after the other.
func (g *framedGets) run() {
	for {
		select {
		case <-g.wait:
		case <-g.finished:
			return
		}
		g.mu.Lock()
		misses := g.misses
		g.misses = nil
		g.mu.Unlock()
		if len(misses) > 0 {
			g.confirm(misses)
			g.miss.Release(int64(len(misses)))
		}
	}
}

func (g *framedGets) confirm(misses []frame.Get) {
	ctx, cancel := context.WithTimeout(g.working, g.answer)
	defer cancel()
	if err := g.db.Confirm(ctx); err != nil {
		g.notConfirmed(misses, err)
		return
	}
	g.find(misses, true)
}

func (g *framedGets) notConfirmed(misses []frame.Get, err error) {
	for i := range misses {
		g.failed(misses[i].ID, err)
	}
}

// held answers gets of values that are in memory, and returns the others in the
// memory of all.
func (g *framedGets) held(gets []frame.Get) (rest []frame.Get) {
	if g.hot == nil {
		return gets
	}
	var out []byte
	rest = gets[:0]
	for i := range gets {
		if len(out) < framedOutBytes {
			if v, found := g.hot.Held(kvstore.Key(gets[i].Key)); found {
				out = appendFound(out, gets[i].ID, v, "")
				continue
			}
		}
		rest = append(rest, gets[i])
	}
	if found := len(gets) - len(rest); found > 0 {
		g.counters.Gets.Add(uint64(found))
		g.answered(found, func(all []byte) []byte { return append(all, out...) })
	}
	return rest
}

// find answers gets from the local store, and returns those whose absence is
// not confirmed yet.
func (g *framedGets) find(gets []frame.Get, confirmed bool) (misses []frame.Get) {
	for len(gets) > 0 {
		var again []frame.Get
		keys := make([]kvstore.Key, len(gets))
		for i := range gets {
			keys[i] = kvstore.Key(gets[i].Key)
		}
		var out []byte
		done, found, absent := 0, 0, 0
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
			switch {
			case err == nil:
				found++
				out = appendFound(out, get.ID, v, "")
				if g.hot != nil {
					g.hot.Hold(v)
				}
			case errors.Is(err, kvstore.ErrNotFound):
				absent++
				out = appendProblem(out, get.ID, absence(kvstore.Key(get.Key)))
			default:
				out = appendProblem(out, get.ID, g.failure(err))
			}
		})
		g.counters.Gets.Add(uint64(found + absent))
		g.counters.Absences.Add(uint64(absent))
		if done > 0 {
			g.answered(done, func(all []byte) []byte { return append(all, out...) })
		}
		if gets = again; len(again) > 0 && g.awaitRoom(func() {}) != nil {
			g.notConfirmed(again, kvstore.ErrClosed)
			return misses
		}
	}
	return misses
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

// framedReads asks a Reader for the keys of one request, each on a goroutine of
// its own.
type framedReads struct {
	*framedStream
	from    Reader
	local   bool
	slots   *semaphore.Weighted // of all requests
	reading sync.WaitGroup
}

func (g *framedReads) take(f *frame.Frame) error {
	get, err := f.Get()
	if err != nil {
		return err
	}
	if err := g.slots.Acquire(g.accepting, 1); err != nil {
		return err
	}
	if err := g.accept(1); err != nil {
		g.slots.Release(1)
		return err
	}
	g.reading.Go(func() {
		defer g.slots.Release(1)
		g.one(&get)
	})
	return nil
}

func (g *framedReads) flush() {}

// run waits: the reads have goroutines of their own.
func (g *framedReads) run() {
	<-g.finished
	g.reading.Wait()
}

var errGetPanicked = errors.New("the get panicked")

func (g *framedReads) one(get *frame.Get) {
	answered := false
	defer func() {
		if cause := recover(); cause != nil {
			g.panicked(cause)
			if !answered {
				g.failed(get.ID, errGetPanicked)
			}
		}
	}()
	v, source, err := g.get(get)
	answered = true
	switch {
	case err == nil:
		g.counters.Gets.Add(1)
		g.answered(1, func(out []byte) []byte { return appendFound(out, get.ID, v, source) })
	case errors.Is(err, kvstore.ErrNotFound):
		g.counters.Gets.Add(1)
		g.counters.Absences.Add(1)
		p := problemFrame(get.ID, absence(kvstore.Key(get.Key)))
		g.answered(1, func(out []byte) []byte { return frame.AppendProblem(out, &p) })
	default:
		g.failed(get.ID, err)
	}
}

func (g *framedReads) get(get *frame.Get) (*kvstore.Value, string, error) {
	key := kvstore.Key(get.Key)
	if err := key.Validate(); err != nil {
		return nil, "", err
	}
	consistency := kvstore.Linearizable
	if get.Local || g.local {
		consistency = kvstore.Local
	}
	return g.from.Get(g.working, key, consistency) // which has a time limit of its own
}
