package cachetier

import (
	"context"
	"errors"
	"io"

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
		switch {
		case err == nil:
			return n.value(e, rec), source, nil
		case errors.Is(err, errAbsent):
			n.counters.absences.Add(1)
		case ctx.Err() == nil:
			n.counters.errors.Add(1)
		}
		return nil, "", err
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

// find looks in memory, then loads, through mirror when another node owns the key.
//
// A local read takes what is held, because a found value is always right, and else asks one
// database node by itself. It shares nothing with default reads: their absence means more
// than it asks for, and its own means less than they do. What it finds is not kept, which
// keeps it this simple.
func (n *Node) find(ctx context.Context, e *era, key kvstore.Key, c kvstore.Consistency) (*record, string, error) {
	arrived := n.tick()
	if rec := n.hit(key); rec != nil {
		return rec, sourceHit, nil
	}
	if c == kvstore.Local {
		return n.direct(ctx, e, key)
	}
	t := n.owned
	if _, other := (ownerPicker{n}).PickPeer(string(key)); other {
		t = n.mirror
	}
	rec, source, err := t.load(ctx, e, key, arrived)
	if source == sourceHit {
		n.counters.hits.Add(1)
	}
	return rec, source, err
}

// direct is a read of the database outside of every flight.
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

// value makes a record the caller's. A reader of one without its bytes gets them from
// database nodes, and collects them if they fit an eighth of the memory.
func (n *Node) value(e *era, rec *record) *kvstore.Value {
	if rec.whole() {
		return rec.value
	}
	return kvstore.NewStreamedValue(rec.value.Meta, func(ctx context.Context) io.ReadSeekCloser {
		from := newStreamReader(ctx, n.fetcher, e.history, rec, n.cfg.StreamIdle)
		if rec.value.Size > n.collecting.limit {
			return from
		}
		return &collectingReader{streamReader: from, collector: &n.collecting, memory: n.memory, generation: e.generation, rec: rec}
	})
}

// held returns the record of key if it is in memory. It does not wait.
func (n *Node) held(key kvstore.Key) *record {
	rec, _ := n.memory.Get(string(key))
	return rec
}

// forPeer answers another cache node of the same history, from memory or the database.
// errElsewhere: this node moved meanwhile.
func (n *Node) forPeer(ctx context.Context, e *era, key kvstore.Key) (*record, error) {
	arrived := n.tick()
	rec := n.held(key)
	var err error
	if rec == nil {
		rec, _, err = n.owned.load(ctx, e, key, arrived)
	}
	if n.era.Load() != e {
		return nil, errElsewhere
	}
	return rec, err
}
