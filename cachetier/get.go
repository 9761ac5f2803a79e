package cachetier

import (
	"context"
	"errors"
	"io"

	"github.com/golang/groupcache"

	"github.com/Focinfi/oncekv/kvstore"
)

// Get returns the value of key, and "hit" when it was in memory, "peer" when
// the owner gave it, "load" when a database node did.
//
// kvstore.ErrNotFound means that the key was not set at some moment after Get
// was called; with kvstore.Local, that the one node asked does not have it.
// kvstore.ErrUnavailable means that no database node gave an answer; the text
// says what each one said. kvstore.ErrOverloaded and kvstore.ErrClosed as they
// say. When ctx ends the load goes on for the others, and Get returns ctx's
// error.
//
// A value over 1 MiB is streamed from database nodes by its Open, until it was
// read whole here once and is held, if it fits an eighth of the memory.
func (n *Node) Get(ctx context.Context, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, string, error) {
	n.counters.gets.Add(1)
	if err := key.Validate(); err != nil {
		return nil, "", err
	}
	for {
		e := n.era.Load()
		rec, source, err := n.find(ctx, e, key, c)
		if n.era.Load() != e { // it moved meanwhile: what was found may be of the history that it has left
			if ctx.Err() == nil {
				continue
			}
			err = context.Cause(ctx)
		}
		if err != nil {
			n.countFailure(ctx, err)
			return nil, "", err
		}
		return n.value(e, rec), source, nil
	}
}

// Held returns the value of key if it is in memory. It never waits. A read that
// was found is counted as one by Get is; one that was not, not at all: ask Get.
func (n *Node) Held(key kvstore.Key) (*kvstore.Value, bool) {
	e := n.era.Load()
	rec := n.hit(key)
	if rec == nil || n.era.Load() != e {
		return nil, false
	}
	n.counters.gets.Add(1)
	return n.value(e, rec), true
}

// hit returns the record of key if it is in memory, and counts that.
func (n *Node) hit(key kvstore.Key) *record {
	rec, mirrored := n.memory.Get(string(key))
	if rec == nil {
		return nil
	}
	n.counters.hits.Add(1)
	if mirrored {
		n.counters.mirroredHits.Add(1)
	}
	return rec
}

func (n *Node) countFailure(ctx context.Context, err error) {
	switch {
	case errors.Is(err, errAbsent):
		n.counters.absences.Add(1)
	case ctx.Err() == nil:
		n.counters.errors.Add(1)
	}
}

// find looks in memory, then loads by the key's route.
//
// A local read takes what is held, because a found value is right for ever,
// and else asks one database node by itself. It shares nothing with default
// reads: their absence means more than it asks for, and its own means less
// than they do. What it finds is not kept, which keeps it this simple.
func (n *Node) find(ctx context.Context, e *era, key kvstore.Key, c kvstore.Consistency) (*record, string, error) {
	arrived := n.tick()
	if rec := n.hit(key); rec != nil {
		return rec, sourceHit, nil
	}
	if c == kvstore.Local {
		return n.direct(ctx, e, key)
	}
	rec, source, err := n.load(ctx, e, n.route(key), key, arrived)
	if source == sourceHit {
		n.counters.hits.Add(1)
	}
	return rec, source, err
}

// route says which tier loads the key: mirror when another node owns it.
func (n *Node) route(key kvstore.Key) *tier {
	if _, other := n.picker.PickPeer(string(key)); other {
		return n.mirror
	}
	return n.owned
}

// held returns the record of key if it is in memory. It does not wait.
func (n *Node) held(key kvstore.Key) *record {
	rec, _ := n.memory.Get(string(key))
	return rec
}

// forPeer answers another cache node of the same history: from memory or the
// database. errElsewhere: this node moved meanwhile.
func (n *Node) forPeer(ctx context.Context, e *era, key kvstore.Key) (*record, error) {
	arrived := n.tick()
	rec := n.held(key)
	var err error
	if rec == nil {
		rec, _, err = n.load(ctx, e, n.owned, key, arrived)
	}
	if n.era.Load() != e {
		return nil, errElsewhere
	}
	return rec, err
}

func (n *Node) direct(ctx context.Context, e *era, key kvstore.Key) (*record, string, error) {
	if err := n.enter(); err != nil {
		return nil, "", err
	}
	defer n.leave()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.LoadTimeout)
	defer cancel()
	stop := context.AfterFunc(e.ctx, cancel)
	defer stop()
	raw, err := n.fetcher.fetch(ctx, e, key, kvstore.Local)
	if err != nil {
		return nil, "", err
	}
	rec, err := decodeRecord(key, raw)
	return rec, sourceLoad, err
}

// load waits for a flight of t. A found value is taken whenever its load began.
// An absence is taken only from a load that began after arrived: an earlier one
// may have looked before a put that the caller knows of. The flight after such a
// one began when it was over, so two rounds are the most there can be.
func (n *Node) load(ctx context.Context, e *era, t *tier, key kvstore.Key, arrived uint64) (*record, string, error) {
	rec, f, err := t.join(e, string(key))
	for {
		if err != nil {
			return nil, "", err
		}
		if rec != nil {
			return rec, sourceHit, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
		if errors.Is(f.err, errAbsent) && f.start < arrived {
			rec, f, err = t.after(f, string(key))
			continue
		}
		return f.rec, f.source, f.err
	}
}

// launch begins a flight of t. Its goroutine is counted in n.loads.
func (n *Node) launch(t *tier, f *flight, key string) error {
	if err := n.enter(); err != nil {
		return err
	}
	go func() {
		defer n.leave()
		n.fly(t, f, key)
	}()
	return nil
}

// fly is the one load of a flight. It always ends the flight, and never hands
// out a panic. What it found is held before the flight is over, so that there
// is no moment between in which another load could begin.
func (n *Node) fly(t *tier, f *flight, key string) {
	defer t.end(f, key)
	defer recovered(n.log, "a load", &f.err)
	ctx, cancel := context.WithTimeout(context.WithValue(f.era.ctx, flightKey{}, f), n.cfg.LoadTimeout)
	defer cancel()
	if before := f.before; before != nil {
		f.before = nil
		select {
		case <-before.done: // soon: the end of its era has ended its context
		case <-ctx.Done():
			f.err = context.Cause(ctx)
			return
		}
	}
	enc := encoded{Sink: groupcache.ByteViewSink(new(groupcache.ByteView))}
	err := t.group.Get(ctx, key, &enc)
	switch {
	case err == nil && len(enc.raw) == 0:
		f.err = errAbsent
	case err == nil:
		f.source = t.source
		f.rec, f.err = decodeRecord(kvstore.Key(key), enc.raw)
	case errors.Is(err, errUnanswered):
		f.rec, f.source, f.err = n.loadBeside(ctx, f.era, kvstore.Key(key), f.pending)
	default:
		f.err = err
	}
	if f.err == nil && f.source == t.source { // else the other tier's flight has done it
		n.memory.Add(f.rec, t == n.mirror, f.era.generation)
	}
}

// getOwned is the getter of the owned group: one read of the database.
func (n *Node) getOwned(ctx context.Context, key string, dest groupcache.Sink) (err error) {
	defer recovered(n.log, "a load from the database", &err)
	raw, err := n.fetcher.fetch(ctx, flightFrom(ctx).era, kvstore.Key(key), kvstore.Linearizable)
	if err != nil {
		return err
	}
	return dest.SetBytes(raw)
}

// getUnmirrored is the getter of the mirror group, which groupcache calls when the owner
// gave no answer. The flight then does the owner's work, and knows who did.
func getUnmirrored(context.Context, string, groupcache.Sink) error { return errUnanswered }

// loadBeside loads from the database while the owner's answer, which pending
// stands for if it is not nil, may still come. The first answer is taken; a
// failure is none, as long as the other side may answer.
func (n *Node) loadBeside(ctx context.Context, e *era, key kvstore.Key, pending *call) (*record, string, error) {
	if pending == nil {
		return n.load(ctx, e, n.owned, key, n.tick())
	}
	type result struct {
		rec    *record
		source string
		err    error
	}
	database := make(chan result, 1)
	loading, cancel := context.WithCancel(ctx) // of the waiting only
	defer cancel()
	n.loads.Go(func() { // a flight is counted while this runs, so Close has not begun to wait
		rec, source, err := n.load(loading, e, n.owned, key, n.tick())
		database <- result{rec, source, err}
	})
	select {
	case r := <-database:
		if r.err == nil || errors.Is(r.err, errAbsent) {
			return r.rec, r.source, r.err
		}
		select {
		case <-pending.Done():
			if rec, err := pending.late(); err == nil || errors.Is(err, errAbsent) {
				return rec, sourcePeer, err
			}
		case <-ctx.Done():
		}
		return nil, "", r.err
	case <-pending.Done():
		if rec, err := pending.late(); err == nil || errors.Is(err, errAbsent) {
			return rec, sourcePeer, err
		}
		r := <-database
		return r.rec, r.source, r.err
	}
}

// value makes a record the caller's.
func (n *Node) value(e *era, rec *record) *kvstore.Value {
	if rec.whole() {
		return rec.value
	}
	return kvstore.NewStreamedValue(rec.value.Meta, func(ctx context.Context) io.ReadSeekCloser { return n.open(ctx, e, rec) })
}
